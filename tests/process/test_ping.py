from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiowsgi.process.ping import ping
from tests.conftest import running_server
from tests.hosting import PATIENCE, hello
from tests.process.server_process import environment

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def answers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(environ["QUERY_STRING"].replace("+", " ") or "200 OK", [])
    return [environ["PATH_INFO"].encode(), b"\x1b[2J\n" * 2]


def test_server_that_answers_is_well_and_its_answer_is_one_line() -> None:
    with running_server(answers) as server:
        assert ping(f"{server.url}/a", "/b", 5) == (True, f"{server.url}/a: 200 OK /a?[2J??[2J")
        assert ping(server.url, "/b", 5)[1].endswith("OK /b?[2J??[2J")
        assert ping(server.url.removeprefix("http://"), "/b", 5)[0]


def test_server_that_is_not_there_is_told_without_a_number(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/sock"
    assert ping(address, "/", 5) == (False, f"{address}: No such file or directory")


@pytest.mark.parametrize("status", ["301 Moved", "404 Not Found", "503 Service Unavailable"])
def test_server_that_answers_anything_else_is_not_well(status: str) -> None:
    with running_server(answers) as server:
        well, line = ping(f"{server.url}/?{status.replace(' ', '+')}", "/", 5)
        assert not well
        assert status in line


@pytest.mark.parametrize("prefix", ["unix:", "unix://"])
def test_unix_socket_is_asked_like_a_port(tmp_path: Path, prefix: str) -> None:
    with running_server(answers, bind=[f"unix:{tmp_path}/socket"]):
        assert ping(f"{prefix}{tmp_path}/socket", "/ready", 5)[0]


def test_nobody_listening_is_not_well(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        well, line = ping(f"http://127.0.0.1:{unused.getsockname()[1]}", "/", 5)
        assert not well
        assert "refused" in line
    assert "No such file" in ping(f"unix:{tmp_path}/none", "/", 5)[1]


def test_server_that_says_nothing_or_nonsense_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        well, line = ping(f"http://127.0.0.1:{silent.getsockname()[1]}", "/", 0.05)
        assert not well
        assert "timed out" in line


@pytest.mark.parametrize("address", ["ftp://a/", "http://", "http://a:port/", "unix:", "http://[::1"])
def test_address_that_is_none_is_named(address: str) -> None:
    well, line = ping(address, "/", 5)
    assert not well
    assert line.startswith(f"{address}: ")


def test_command_exits_with_0_or_1(tmp_path: Path) -> None:
    with running_server(hello, bind=[f"unix:{tmp_path}/socket"]):
        for name, code, output in (("socket", 0, "200 OK hello"), ("none", 1, "No such file")):
            done = subprocess.run(
                [sys.executable, "-m", "aiowsgi", "ping", f"unix:{tmp_path}/{name}", "--path", "/x"],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == code
            assert output in (done.stderr if code else done.stdout)
