"""How a scope becomes an environ."""

from __future__ import annotations

import contextvars
import wsgiref.validate
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.asgi import ASGIAdapter
from tests.asgi.conftest import returning
from tests.asgi.conversation import Notes, answer, http_scope

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Adapt = Callable[..., ASGIAdapter]


async def environ_of(adapt: Adapt, scope: dict[str, Any], content: bytes = b"") -> dict[str, Any]:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(dict(environ))
        start_response("204 No Content", [])
        return []

    await answer(adapt(application), scope, content)
    environ: dict[str, Any] = notes.take()
    return environ


async def test_scope_with_everything_becomes_an_environ(adapt: Adapt) -> None:
    scope = http_scope("POST", "/a/b", query_string=b"x=1&y=%20", scheme="https")
    scope["headers"] += [(b"content-type", b"text/plain"), (b"content-length", b"3"), (b"x-note", b"caf\xe9")]
    environ = await environ_of(adapt, scope, b"abc")
    assert {key: environ[key] for key in environ if key.isupper()} == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "x=1&y=%20",
        "REQUEST_URI": "/a/b?x=1&y=%20",
        "RAW_URI": "/a/b?x=1&y=%20",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "HTTP_HOST": "test",
        "HTTP_X_NOTE": "caf\xe9",
        "HTTPS": "on",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "4711",
        "SERVER_NAME": "198.51.100.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": environ["SERVER_SOFTWARE"],
    }
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["asgi.scope"] is scope
    assert environ["SERVER_SOFTWARE"].startswith("aiowsgi/")


async def test_environ_and_response_satisfy_the_validator(adapt: Adapt) -> None:
    application = wsgiref.validate.validator(returning([b"valid"], fields=[("Content-Type", "text/plain")]))
    assert (await answer(adapt(application), http_scope()))[2] == b"valid"


@pytest.mark.parametrize(
    ("root_path", "path", "script_name", "path_info"),
    [
        ("/shop", "/shop/list", "/shop", "/list"),  # ASGI since 2023: the path includes root_path
        ("/shop", "/list", "/shop", "/list"),  # before, it did not
        ("/shop", "/shop", "/shop", ""),
        ("/shop", "/shopping", "/shop", "/shopping"),
        ("/shop/", "/shop/list", "/shop", "/list"),
        ("/caf\u00e9", "/caf\u00e9/list", "/caf\xc3\xa9", "/list"),
        (None, "/list", "", "/list"),
    ],
)
async def test_root_path_becomes_script_name_and_leaves_path_info(
    adapt: Adapt, root_path: str | None, path: str, script_name: str, path_info: str
) -> None:
    environ = await environ_of(adapt, http_scope(path="/", raw_path=None) | {"path": path, "root_path": root_path})
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.parametrize(
    ("path", "raw_path", "path_info", "request_uri"),
    [
        ("/caf\u00e9 bar", b"/caf%C3%A9%20bar", "/caf\xc3\xa9 bar", "/caf%C3%A9%20bar"),
        ("/\ufffd", b"/%FF", "/\xff", "/%FF"),  # not UTF-8: only the raw path still knows
        ("/rewritten", b"/sent", "/rewritten", "/rewritten"),  # by a middleware
        ("/100%25", b"/100%2525", "/100%25", "/100%2525"),
        ("/100%", None, "/100%", "/100%25"),
        ("/caf\u00e9", None, "/caf\xc3\xa9", "/caf%C3%A9"),
    ],
)
async def test_path_info_is_the_bytes_that_were_sent(
    adapt: Adapt, path: str, raw_path: bytes | None, path_info: str, request_uri: str
) -> None:
    environ = await environ_of(adapt, http_scope() | {"path": path, "raw_path": raw_path})
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == (path_info, request_uri)


async def test_repeated_fields_are_joined_and_ambiguous_ones_dropped(adapt: Adapt) -> None:
    scope = http_scope()
    scope["headers"] += [
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"accept", b"text/plain"),
        (b"accept", b"text/html"),
        (b"x_forwarded_for", b"spoofed"),
        (b"transfer-encoding", b"chunked"),
    ]
    environ = await environ_of(adapt, scope)
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_ACCEPT"] == "text/plain, text/html"
    assert "HTTP_X_FORWARDED_FOR" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ


@pytest.mark.parametrize(
    ("http_version", "protocol"), [("1.0", "HTTP/1.0"), ("1.1", "HTTP/1.1"), ("2", "HTTP/2.0"), ("3", "HTTP/3.0")]
)
async def test_http_version_becomes_server_protocol(adapt: Adapt, http_version: str, protocol: str) -> None:
    environ = await environ_of(adapt, http_scope(http_version=http_version))
    assert environ["SERVER_PROTOCOL"] == protocol


@pytest.mark.parametrize("server", [None, ("/run/app.sock", None)])
async def test_scope_of_a_unix_socket_is_named_by_host(adapt: Adapt, server: Any) -> None:
    scope = http_scope(server=server, client=None, headers=[(b"host", b"shop.test:8080")])
    environ = await environ_of(adapt, scope)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop.test", "8080")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("", "")


async def test_context_of_the_caller_is_seen_and_not_changed(adapt: Adapt) -> None:
    request_id = contextvars.ContextVar("request_id", default="none")
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(request_id.get())
        request_id.set("the application's")
        start_response("200 OK", [])
        return []

    request_id.set("the middleware's")
    await answer(adapt(application), http_scope())
    assert notes.take() == "the middleware's"
    assert request_id.get() == "the middleware's"


@pytest.mark.parametrize(("threads", "multithread"), [(1, False), (2, True)])
async def test_single_thread_is_not_called_multithreaded(adapt: Adapt, threads: int, multithread: bool) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(environ["wsgi.multithread"])
        start_response("200 OK", [])
        return []

    await answer(adapt(application, threads), http_scope())
    assert notes.take() is multithread
