"""What a server has to carry, in Bottle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from wsgiref.types import WSGIApplication

import bottle

from .serving import PATIENCE, Probe

__all__ = ["make_application"]


def make_application(folder: Path, probe: Probe) -> WSGIApplication:
    app = bottle.Bottle()
    request = bottle.request

    @app.get("/hello/<name>")
    def hello(name: str) -> str:
        bottle.response.content_type = "text/plain; charset=utf-8"
        return f"Hello, {request.query.getunicode('title', '')}{name}!\n"

    @app.put("/content")
    def content() -> dict[str, object]:
        digest = hashlib.sha256()
        with request.body as body:  # Bottle leaves its temporary file to the collector, of which Python 3.14 warns
            while block := body.read(64 * 1024):
                digest.update(block)
        return {"sha256": digest.hexdigest()}

    @app.post("/upload")
    def upload() -> dict[str, object]:
        upload = request.files["file"]
        with request.body, upload.file:
            return {"name": upload.filename, "sha256": hashlib.sha256(upload.file.read()).hexdigest()}

    @app.get("/cookies")
    def cookies() -> dict[str, object]:
        bottle.response.set_cookie("first", "1")
        bottle.response.set_cookie("second", "2")
        return {"cookies": dict(request.cookies)}

    @app.get("/gated")
    def gated() -> Iterator[bytes]:
        return probe.gated_blocks()

    @app.get("/midway")
    def midway() -> Iterator[bytes]:
        return probe.failing_blocks()

    @app.get("/file")
    def file() -> bottle.HTTPResponse:
        return bottle.static_file("file.bin", root=str(folder))

    @app.get("/meet/<token>")
    def meet(token: str) -> dict[str, object]:
        probe.barrier.wait(PATIENCE)
        return {"path": request.path, "header": request.headers["X-Token"], "token": token}

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("this view is broken on purpose")

    return app
