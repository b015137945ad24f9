"""gunicorn's settings: what they become, and what is said of those that cannot be had."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gunicorn.config
import gunicorn.glogging
import pytest

from aiowsgi.config import OPTIONS, Config
from aiowsgi.errors import ApplicationError
from aiowsgi.gunicorn import Worker, _AccessLog, _make_config
from aiowsgi.wsgi.environ import base_environ
from aiowsgi.wsgi.run import run_application
from tests.wsgi.sink import RecordingSink

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [option.variable for option in OPTIONS] + ["SCRIPT_NAME"]:
        monkeypatch.delenv(name, raising=False)


def settings(**values: Any) -> gunicorn.config.Config:
    cfg = gunicorn.config.Config()
    for name, value in values.items():
        cfg.set(name, value)
    return cfg


def config_of(**values: Any) -> Config:
    return _make_config(settings(**values), ("fd://5",))


def test_defaults_of_gunicorn_become_a_config() -> None:
    assert config_of() == Config(
        bind=("fd://5",),
        threads=1,
        max_connections=1000,
        keep_alive=2,
        graceful_timeout=29.5,
        limit_request_line=4094,
        limit_request_fields=100,
        limit_request_field_size=8190,
        forwarded_allow_ips=("127.0.0.1", "::1", "unix"),
        forwarded_parts=(),
    )


@pytest.mark.parametrize(
    ("values", "option", "expected"),
    [
        ({"threads": 12}, "threads", 12),
        ({"worker_connections": 5000}, "max_connections", 5000),
        ({"keepalive": 0}, "keep_alive", 0),
        ({"graceful_timeout": 0}, "graceful_timeout", 0.0),
        ({"backlog": 64}, "backlog", 64),
        ({"limit_request_line": 0}, "limit_request_line", 1024 * 1024),
        ({"limit_request_line": 0}, "limit_request_head", 1024 * 1024 + 2 * 8190),
        ({"limit_request_fields": 0}, "limit_request_fields", 10_000),
        ({"limit_request_fields": 32768}, "limit_request_fields", 10_000),
        ({"limit_request_field_size": 0}, "limit_request_field_size", 8190),
        ({"limit_request_field_size": 100_000}, "limit_request_head", 4094 + 200_000),
        ({"asgi_loop": "asyncio"}, "loop", "asyncio"),
        ({"forwarded_allow_ips": "*"}, "forwarded_allow_ips", ("*", "unix")),
        ({"proxy_protocol": "v2"}, "proxy_protocol", "v2"),
        ({"proxy_protocol": True}, "proxy_protocol", "auto"),
        ({"proxy_allow_ips": "10.0.0.0/8"}, "proxy_allow_from", ("10.0.0.0/8", "unix")),
    ],
)
def test_setting_of_gunicorn_becomes_an_option(values: dict[str, Any], option: str, expected: object) -> None:
    assert getattr(config_of(**values), option) == expected


def test_variables_give_what_gunicorn_has_no_setting_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOWSGI_RESPONSE_BUFFER", "1M")
    monkeypatch.setenv("AIOWSGI_THREADS", "99")
    monkeypatch.setenv("AIOWSGI_BIND", "127.0.0.1:1")
    monkeypatch.setenv("SCRIPT_NAME", "/site/")
    config = config_of(threads=3)
    assert (config.response_buffer, config.threads, config.bind) == (1024 * 1024, 3, ("fd://5",))
    assert config.root_path == "/site"


class Warnings:
    """As much of gunicorn's logger as ``check_config`` uses."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, *arguments: object) -> None:
        self.lines.append(text % arguments)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"protocol": "uwsgi"}, "protocol: this worker speaks HTTP only"),
        ({"limit_request_line": 10}, r"limit.request.line=10: must be at least 64"),
    ],
)
def test_setting_that_cannot_be_honoured_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        Worker.check_config(settings(**values), Warnings())


@pytest.mark.parametrize(
    ("variable", "value"), [("AIOWSGI_METRICS_BIND", "127.0.0.1:9000"), ("AIOWSGI_CONTROL", "unix:/run/app.ctl")]
)
def test_address_that_each_worker_would_listen_on_is_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RuntimeError, match=f"{variable}: each of gunicorn's workers would listen there; leave it out"):
        Worker.check_config(settings(), Warnings())


def test_settings_without_meaning_are_warned_about() -> None:
    def hook(worker: object, request: object) -> None:
        pass

    log = Warnings()
    Worker.check_config(settings(header_map="refuse", pre_request=hook, tmp_upload_dir="/uploads", threads=5), log)
    assert sorted(log.lines) == [
        f"aiowsgi.gunicorn.Worker: the setting {name} has no meaning here"
        for name in ("header_map", "pre_request", "tmp_upload_dir")
    ]


def test_defaults_are_not_warned_about() -> None:
    log = Warnings()
    Worker.check_config(settings(), log)
    assert log.lines == []


def environ_of(method: str = "GET", peer: str = "127.0.0.1", **fields: str) -> WSGIEnvironment:
    base = base_environ(software="test", root_path="", multithread=True, multiprocess=False)
    return base | {
        "REQUEST_METHOD": method,
        "PATH_INFO": "/path",
        "RAW_URI": "/path",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": peer,
        "wsgi.url_scheme": "http",
        **{f"HTTP_{name.upper()}": value for name, value in fields.items()},
    }


# The access log.


@pytest.fixture
def access_log(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Run an application once; return what gunicorn's own logger writes: ``access_log(application, environ)``."""
    loggers = [logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    path = tmp_path / "access.log"
    access_format = '%(m)s %(U)s %(s)s %(b)s "%(f)s" %({x-answer}o)s'
    log = gunicorn.glogging.Logger(settings(accesslog=str(path), access_log_format=access_format))

    def run(application: WSGIApplication, environ: WSGIEnvironment) -> list[str]:
        sink = RecordingSink()
        with contextlib.suppress(ValueError, ApplicationError):
            run_application(_AccessLog(application, log), environ, sink)
        return path.read_text().splitlines()

    yield run
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


class Closable:
    """An iterable that fails after some blocks, if it is told to."""

    def __init__(self, *blocks: bytes, fails: bool = False) -> None:
        self._blocks = blocks
        self._fails = fails
        self.close_count = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self._blocks
        if self._fails:
            raise ValueError("broken")

    def close(self) -> None:
        self.close_count += 1


@pytest.mark.parametrize(
    ("body", "method", "line"),
    [
        ([b"four", b"five5"], "GET", 'GET /path 200 9 "here" yes'),
        ([b"four"], "HEAD", 'HEAD /path 200 0 "here" yes'),
        (iter([b"one", b"two"]), "GET", 'GET /path 200 6 "here" yes'),
        (Closable(b"some"), "GET", 'GET /path 200 4 "here" yes'),
        (Closable(b"some", fails=True), "GET", 'GET /path 200 4 "here" yes'),
        (Closable(fails=True), "GET", 'GET /path 500 0 "here" -'),
    ],
)
def test_access_log_has_a_line_for_each_kind_of_body(
    access_log: Callable[..., list[str]], body: Iterable[bytes], method: str, line: str
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X-Answer", "yes")])
        return body

    assert access_log(application, environ_of(method, referer="here")) == [line]
    if isinstance(body, Closable):
        assert body.close_count == 1


def test_access_log_counts_what_is_written(access_log: Callable[..., list[str]]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("201 Created", [])
        write(b"written")
        return [b", returned"]

    assert access_log(application, environ_of()) == ['GET /path 201 17 "-" -']


@pytest.mark.parametrize(("fields", "size"), [([], "-"), ([("content-length", "3")], "3")])
def test_access_log_leaves_a_file_to_the_server(
    access_log: Callable[..., list[str]], tmp_path: Path, fields: list[tuple[str, str]], size: str
) -> None:
    file = (tmp_path / "file").open("w+b")
    file.write(b"content")
    file.seek(0)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", fields)
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return body

    assert access_log(application, environ_of()) == [f'GET /path 200 {size} "-" -']
    assert file.closed


def test_access_log_has_a_line_for_an_application_that_raises(access_log: Callable[..., list[str]]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise ValueError("broken")

    assert access_log(application, environ_of()) == ['GET /path 500 0 "-" -']


def test_access_log_takes_exc_info_by_its_name(access_log: Callable[..., list[str]]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [], exc_info=None)
        try:
            raise ValueError("broken")
        except ValueError:
            start_response(status="502 Bad", response_headers=[("X-Answer", "late")], exc_info=sys.exc_info())
        return [b"page"]

    assert access_log(application, environ_of()) == ['GET /path 502 4 "-" late']


class Indexed:
    """Iterable as sequences were before there were iterators."""

    def __getitem__(self, index: int) -> bytes:
        return [b"one", b"two"][index]


@pytest.mark.parametrize(
    ("body", "fields", "method", "line"),
    [
        (Indexed(), [], "GET", 'GET /path 200 6 "-" -'),
        (["text"], [], "GET", 'GET /path 500 0 "-" -'),
        ((b"one", "text"), [], "GET", 'GET /path 500 0 "-" -'),
        (bytearray(b"text"), [], "GET", 'GET /path 500 0 "-" -'),
        ([b"short"], [("content-length", "99")], "GET", 'GET /path 500 0 "-" -'),
        ([b"short"], [("content-length", "99")], "HEAD", 'HEAD /path 200 0 "-" -'),
        ([b"as long"], [("content-length", "7")], "GET", 'GET /path 200 7 "-" -'),
    ],
    ids=["indexed", "text", "text behind bytes", "bytearray", "too short", "HEAD", "as long"],
)
def test_access_log_says_what_the_server_makes_of_a_body(
    access_log: Callable[..., list[str]], body: Any, fields: list[tuple[str, str]], method: str, line: str
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", fields)
        return body

    assert access_log(application, environ_of(method)) == [line]


class Silent:
    """As much of gunicorn's logger as the access log uses."""

    def access(self, *arguments: object) -> None:
        pass


def test_access_log_hides_no_single_block() -> None:
    class One(Closable):
        def __len__(self) -> int:
            return 1

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return One(b"only")

    sink = RecordingSink()
    run_application(_AccessLog(application, Silent()), environ_of(), sink)
    assert sink.names() == ["send_whole"]


@pytest.mark.parametrize(("body", "text"), [(None, "returned None"), ("text", "returned str"), (["text"], "is str")])
def test_access_log_hides_no_wrong_body(body: Any, text: str) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return body

    with pytest.raises(ApplicationError, match=text):
        run_application(_AccessLog(application, Silent()), environ_of(), RecordingSink())
