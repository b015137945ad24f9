"""What a server has to carry, in Falcon."""

from __future__ import annotations

import hashlib
from pathlib import Path
from wsgiref.types import WSGIApplication

import falcon

from .serving import PATIENCE, Probe

__all__ = ["make_application"]


class Hello:
    def on_get(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = f"Hello, {request.get_param('title', default='')}{name}!\n"


class Content:
    def on_put(self, request: falcon.Request, response: falcon.Response) -> None:
        digest = hashlib.sha256()
        while block := request.bounded_stream.read(64 * 1024):
            digest.update(block)
        response.media = {"sha256": digest.hexdigest()}


class Upload:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        for part in request.get_media():
            digest = hashlib.sha256()
            while block := part.stream.read(64 * 1024):
                digest.update(block)
            response.media = {"name": part.filename, "sha256": digest.hexdigest()}


class Cookies:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.set_cookie("first", "1", secure=False)
        response.set_cookie("second", "2", secure=False)
        response.media = {"cookies": request.cookies}


class Streams:
    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def on_get_gated(self, request: falcon.Request, response: falcon.Response) -> None:
        response.stream = self._probe.gated_blocks()

    def on_get_midway(self, request: falcon.Request, response: falcon.Response) -> None:
        response.stream = self._probe.failing_blocks()


class Meeting:
    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def on_get(self, request: falcon.Request, response: falcon.Response, token: str) -> None:
        self._probe.barrier.wait(PATIENCE)
        response.media = {"path": request.path, "header": request.get_header("X-Token"), "token": token}


class File:
    """A file that Falcon passes to the server's ``wsgi.file_wrapper``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.set_stream(self._path.open("rb"), self._path.stat().st_size)


class Broken:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        raise RuntimeError("this view is broken on purpose")


def make_application(folder: Path, probe: Probe) -> WSGIApplication:
    app = falcon.App()
    streams = Streams(probe)
    app.add_route("/hello/{name}", Hello())
    app.add_route("/content", Content())
    app.add_route("/upload", Upload())
    app.add_route("/cookies", Cookies())
    app.add_route("/gated", streams, suffix="gated")
    app.add_route("/midway", streams, suffix="midway")
    app.add_route("/meet/{token}", Meeting(probe))
    app.add_route("/file", File(folder / "file.bin"))
    app.add_route("/broken", Broken())
    return app
