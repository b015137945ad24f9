"""What a server has to carry, in Pyramid."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from wsgiref.types import WSGIApplication

with warnings.catch_warnings():
    # WebOb 1.8 imports cgi, which Python 3.11 and 3.12 deprecate, and Pyramid 2.1 pkg_resources, which warns.
    warnings.simplefilter("ignore")
    from pyramid.config import Configurator
    from pyramid.request import Request
    from pyramid.response import FileResponse, Response

from .serving import PATIENCE, Probe

__all__ = ["make_application"]


class InMemoryRequest(Request):
    """WebOb 1.8 copies larger content into a temporary file that it never closes."""

    request_body_tempfile_limit = 64 * 1024 * 1024


def make_application(folder: Path, probe: Probe) -> WSGIApplication:
    def hello(request: Request) -> Response:
        name = request.matchdict["name"]
        return Response(f"Hello, {request.params.get('title', '')}{name}!\n", content_type="text/plain")

    def content(request: Request) -> Response:
        digest = hashlib.sha256()
        while block := request.body_file.read(64 * 1024):
            digest.update(block)
        return Response(json_body={"sha256": digest.hexdigest()})

    def upload(request: Request) -> Response:
        field = request.POST["file"]
        digest = hashlib.file_digest(field.file, "sha256").hexdigest()
        return Response(json_body={"name": field.filename, "sha256": digest})

    def cookies(request: Request) -> Response:
        response = Response(json_body={"cookies": dict(request.cookies)})
        response.set_cookie("first", "1")
        response.set_cookie("second", "2")
        return response

    def gated(request: Request) -> Response:
        return Response(app_iter=probe.gated_blocks())

    def midway(request: Request) -> Response:
        return Response(app_iter=probe.failing_blocks())

    def meet(request: Request) -> Response:
        probe.barrier.wait(PATIENCE)
        return Response(
            json_body={
                "path": request.path,
                "header": request.headers["X-Token"],
                "token": request.matchdict["token"],
            }
        )

    def file(request: Request) -> Response:
        return FileResponse(folder / "file.bin", request=request)

    def broken(request: Request) -> Response:
        raise RuntimeError("this view is broken on purpose")

    with Configurator(request_factory=InMemoryRequest) as config:
        views = {
            "/hello/{name}": hello,
            "/content": content,
            "/upload": upload,
            "/cookies": cookies,
            "/gated": gated,
            "/midway": midway,
            "/meet/{token}": meet,
            "/file": file,
            "/broken": broken,
        }
        for pattern, view in views.items():
            config.add_route(pattern, pattern)
            config.add_view(view, route_name=pattern)
        return config.make_wsgi_app()
