"""Under uvicorn, for real: alone, and mounted in FastAPI and Starlette beside asynchronous routes."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import flask
import httpx
import pytest
import uvicorn
import websockets.exceptions
import websockets.sync.client
from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from aiowsgi.asgi import ASGIAdapter
from tests.asgi.conftest import returning
from tests.asgi.conversation import PATIENCE, Notes, wait_until
from tests.raw import RawClient, Truncated

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class UvicornThread:
    """uvicorn in a thread of its own, on a free port."""

    def __init__(self, application: Any, **options: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            application, log_config=None, timeout_graceful_shutdown=5, ws="websockets-sansio", **options
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> UvicornThread:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()
        assert not self._thread.is_alive()

    def connect(self) -> RawClient:
        return RawClient(socket.create_connection(("127.0.0.1", self.port), PATIENCE))


Serve = Callable[..., UvicornThread]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Run ASGI applications under uvicorn: ``serve(app, **options)``."""
    with contextlib.ExitStack() as stack:

        def start(application: Any, **options: Any) -> UvicornThread:
            return stack.enter_context(UvicornThread(application, **options))

        yield start
    # An adapter that is mounted does not learn of the program's end; it restores the switch interval when collected.
    gc.collect()


parsers = pytest.mark.parametrize("http", ["h11", "httptools"])


def reading(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the number of bytes that were there to read."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d bytes" % len(environ["wsgi.input"].read())]


@parsers
def test_requests_of_a_kept_connection_are_answered(serve: Serve, http: str) -> None:
    server = serve(ASGIAdapter(reading, request_buffer=100_000), http=http)
    with server.connect() as client:
        assert client.get("/").content == b"0 bytes"
        assert client.post(b"x" * 50).content == b"50 bytes"
        assert client.post(b"x" * 1_000_000).content == b"1000000 bytes"
        client.send(
            b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert client.receive().content == b"5 bytes"
        response = client.get("/", method="HEAD")
        assert (response.value("Content-Length"), response.content) == ("7", b"")


@parsers
def test_upload_that_is_cut_short_never_reaches_the_application(serve: Serve, http: str) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(environ["PATH_INFO"])
        return reading(environ, start_response)

    server = serve(ASGIAdapter(application), http=http)
    with server.connect() as client:
        client.send(b"POST /cut HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf")
    with server.connect() as client:
        assert client.get("/whole").content == b"0 bytes"
    assert notes.take() == "/whole"
    assert notes.empty()


@parsers
def test_failure_after_the_head_truncates_visibly(
    serve: Serve, http: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # logging.config, which other tests use, silences every logger that exists before it.
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", False)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise ValueError("broken")

    server = serve(ASGIAdapter(application), http=http)
    with server.connect() as client, pytest.raises((Truncated, ConnectionResetError)):
        client.get("/")
    wait_until(lambda: caplog.records)
    assert [(record.name, record.getMessage()) for record in caplog.records if record.levelname == "ERROR"] == [
        ("uvicorn.error", "Exception in ASGI application\n")
    ]


@parsers
def test_client_that_resets_ends_the_stream_quietly(serve: Serve, http: str, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"more" * 1000
        finally:
            notes.put("closed")

    server = serve(ASGIAdapter(application), http=http)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_until(b"moremore")
        client.reset()
    assert notes.take() == "closed"
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_slow_reader_stops_the_generator(serve: Serve) -> None:
    notes = Notes()
    stopped = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        while not stopped.is_set():
            notes.put(None)
            yield bytes(64 * 1024)

    adapter = ASGIAdapter(application)
    server = serve(adapter)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: adapter.pool.stats().stalled)
        stopped.set()
        # As much as both ends' kernel buffers, the transport and the pipe hold; nothing more while nobody reads.
        made = notes.qsize()
        assert len(client.receive().content) in (made * 64 * 1024, (made + 1) * 64 * 1024)


def flask_app() -> flask.Flask:
    app = flask.Flask("shop")

    @app.get("/")
    def index() -> str:
        return f"{flask.request.script_root} {flask.request.path} {flask.url_for('item', number=3)}"

    @app.get("/items/<int:number>")
    def item(number: int) -> str:
        state = flask.request.environ["asgi.scope"].get("state", {})
        return f"item {number} {state.get('user', 'nobody')}"

    @app.post("/upload")
    def upload() -> str:
        return flask.request.files["file"].read().decode()

    return app


@pytest.fixture(params=["", "/site"])
def root_path(request: pytest.FixtureRequest) -> str:
    """Return the prefix under which a proxy mounts the whole program, and which it removes from paths."""
    return request.param


def test_flask_in_fastapi_lives_beside_async_routes_and_a_websocket(serve: Serve, root_path: str) -> None:
    shop = ASGIAdapter(flask_app())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await shop.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/async")
    async def route() -> dict[str, str]:
        return {"from": "fastapi"}

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text((await websocket.receive_text()).upper())
        await websocket.close()

    app.mount("/shop", shop)
    server = serve(app, root_path=root_path)
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/async").json() == {"from": "fastapi"}
        assert client.get("/shop/").text == f"{root_path}/shop / {root_path}/shop/items/3"
        assert client.get("/shop/items/7").text == "item 7 nobody"
        assert client.post("/shop/upload", files={"file": b"uploaded"}).text == "uploaded"
        assert client.get("/shop/absent").status_code == 404
    address = server.url.replace("http:", "ws:")
    with websockets.sync.client.connect(address + "/echo") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "HELLO"
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        websockets.sync.client.connect(address + "/shop/")
    assert caught.value.response.status_code == 403


async def name_user(request: Request, call_next: Callable[[Request], Any]) -> Response:
    request.state.user = "alice"
    response: Response = await call_next(request)
    response.headers["X-Middleware"] = "seen"
    return response


def test_flask_in_starlette_under_a_middleware_sees_its_state(serve: Serve) -> None:
    app = Starlette(
        routes=[Mount("/shop", ASGIAdapter(flask_app()))],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=name_user)],
    )
    server = serve(app)
    response = httpx.get(f"{server.url}/shop/items/7")
    assert (response.text, response.headers["X-Middleware"]) == ("item 7 alice", "seen")


def test_server_that_ends_lets_the_request_finish_and_ends_the_threads(serve: Serve) -> None:
    notes = Notes()
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(threading.current_thread())
        assert go_on.wait(PATIENCE)
        return returning([b"finished"])(environ, start_response)

    with UvicornThread(ASGIAdapter(application)) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        worker = notes.take()
        server._server.should_exit = True
        go_on.set()
        assert client.receive().content == b"finished"
    worker.join(PATIENCE)
    assert not worker.is_alive()
