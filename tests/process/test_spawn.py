from __future__ import annotations

import json
import logging
import os
import signal
import sys
import zipfile
from pathlib import Path

import pytest

import aiowsgi
from aiowsgi.config import Config
from aiowsgi.process.messages import message_pipes
from aiowsgi.process.spawn import WorkerProcess, describe_exit
from aiowsgi.process.worker import Order
from tests.process.server_process import connect_unix, server_process


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (0, "exited with code 0"),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-35, "was killed by signal 35"),  # of real time, between those that have names
    ],
)
def test_end_of_a_process_is_told_whatever_has_ended_it(exit_code: int, text: str) -> None:
    assert describe_exit(exit_code) == text


def test_order_has_of_the_module_path_what_python_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", [Path("/a/path"), *path])
    fields = json.loads(json.dumps(Order(1, Config(app="app"), []).as_fields()))
    assert fields["sys_path"] == path


@pytest.mark.skipif(os.name != "posix", reason="there is no supervisor")
def test_process_that_may_not_be_sent_signals_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def kill(pid: int, signum: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    pipe, other = message_pipes()
    process = WorkerProcess(4321, pipe, None)
    monkeypatch.setattr(os, "kill", kill)
    with other, caplog.at_level(logging.ERROR, "aiowsgi.supervisor"):
        assert not process.send_signal(signal.SIGUSR1)
        assert not process.send_signal(signal.SIGKILL)
    pipe.close()
    assert caplog.messages == ["the process 4321 cannot be sent signals: that takes CAP_KILL"]


FROM_WHERE = """
import aiowsgi

def app(environ, start_response):
    start_response("200 OK", [])
    return [aiowsgi.__file__.encode()]
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no supervisor")
def test_worker_starts_from_a_zip_file(tmp_path: Path) -> None:
    package = Path(aiowsgi.__file__).parent
    archive = tmp_path / "all.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
        file.writestr("app.py", FROM_WHERE)
    with server_process(tmp_path, "app", "--uds=sock", "--workers=1", PYTHONPATH=str(archive)) as server:
        with connect_unix(tmp_path / "sock") as client:
            assert client.get("/").content == os.fsencode(archive / "aiowsgi" / "__init__.py")
        server.process.terminate()
        assert server.wait() == 0
