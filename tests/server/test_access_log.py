"""The access log of a server on real sockets: into a file, or to a program's own handlers."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiowsgi import ConfigError, Server
from tests.conftest import ServerThread, running_server
from tests.hosting import ask, hello, poll, run_in_loop

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

LINE = r'127\.0\.0\.1 - - \[[^]]+\] "%s" %s %s "-" "-"\n'


class Records(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Return what a handler of ``aiowsgi.access`` is given."""
    logger = logging.getLogger("aiowsgi.access")
    handler = Records()
    logger.addHandler(handler)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def test_file_has_a_line_for_each_request(serve: Callable[..., ServerThread], tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve(hello, access_logfile=str(path))
    with server.connect() as client:
        assert client.get("/a").status_code == 200
        assert client.get("/b?c", method="HEAD").status_code == 200
        client.send(b"nonsense\r\n\r\n")
        assert client.receive("GET").status_code == 400
    poll(lambda: path.read_text().count("\n") == 3)
    expected = (
        LINE % (r"GET /a HTTP/1\.1", 200, 5)
        + LINE % (r"HEAD /b\?c HTTP/1\.1", 200, 0)
        + LINE % ("nonsense", 400, r"\d+")
    )
    assert re.fullmatch(expected, path.read_text())


def test_lines_of_the_last_moment_are_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with running_server(hello, access_logfile=str(path), log_format="json") as server, server.connect() as client:
        client.get("/last")
    fields = json.loads(path.read_text())
    assert (fields["url.path"], fields["aiowsgi.outcome"]) == ("/last", "complete")


def test_file_that_was_moved_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with running_server(hello, access_logfile=str(path)) as server, server.connect() as client:
        client.get("/before")
        poll(path.read_text)
        path.rename(tmp_path / "access.log.1")
        client.get("/after")
    assert "/before" in (tmp_path / "access.log.1").read_text()
    assert "/after" in path.read_text()


def test_stalled_file_costs_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # Each line has 60,000 characters; a pipe takes one, the writer four million.
        text = "%({user-agent}i)s" * 8
        with (
            running_server(hello, access_logfile=str(path), access_logformat=text) as server,
            server.connect() as client,
        ):
            for _ in range(100):
                assert client.get("/", "User-Agent: " + "a" * 8000).status_code == 200
    finally:
        os.close(reading)


def test_log_that_cannot_be_opened_keeps_the_server_from_starting(loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "access.log"

    async def main() -> None:
        with pytest.raises(OSError, match=r"cannot open the access log .*nowhere"):
            await Server(hello, bind=["127.0.0.1:0"], access_logfile=str(path)).start()

    run_in_loop(loop_name, main)


def test_format_that_is_not_understood_keeps_the_server_from_starting() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"access_logformat=%h: '%h' is not understood"):
            await Server(hello, bind=["127.0.0.1:0"], access_log=True, access_logformat="%h").start()

    run_in_loop("asyncio", main)


def test_handler_of_the_program_gets_a_record_with_the_fields(
    records: list[logging.LogRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"], access_log=True) as server:
            await ask(server.port, "/a?b")

    run_in_loop("asyncio", main)
    (record,) = records
    assert re.fullmatch(LINE % (r"GET /a\?b HTTP/1\.1", 200, 5), record.getMessage() + "\n")
    assert (record.name, record.levelname) == ("aiowsgi.access", "INFO")
    assert getattr(record, "http.response.status_code") == 200
    assert getattr(record, "url.path") == "/a"
    assert capfd.readouterr() == ("", "")


def test_server_in_a_program_writes_nothing_that_nobody_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"], access_log=True) as server:
            await ask(server.port)

    run_in_loop("asyncio", main)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("aiowsgi.access").handlers == []


def test_variable_of_environ_is_what_the_application_made_of_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["REMOTE_USER"] = "al ice"
        return hello(environ, start_response)

    with (
        running_server(application, access_logfile=str(path), access_logformat="%({remote_user}e)s") as server,
        server.connect() as client,
    ):
        client.get("/")
    assert path.read_text() == "al\\x20ice\n"


def test_value_that_cannot_be_shown_costs_no_answer_and_is_told_once(
    tmp_path: Path, error_log: pytest.LogCaptureFixture
) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise ValueError("no")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["x"] = Hostile()
        return hello(environ, start_response)

    path = tmp_path / "access.log"
    with (
        running_server(application, access_logfile=str(path), access_logformat="%({x}e)s") as server,
        server.connect() as client,
    ):
        for _ in range(3):
            assert client.get("/").status_code == 200
    assert error_log.text.count("the access log fails") == 1
