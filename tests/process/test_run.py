from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from aiowsgi.config import Config
from aiowsgi.errors import ApplicationImportError, ConfigError, StartupError
from aiowsgi.process.control import query
from aiowsgi.process.run import run
from tests.process.conftest import WriteFiles
from tests.process.server_process import PATIENCE, connect_unix, wait_until
from tests.raw import RawResponse

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

pytestmark = pytest.mark.usefixtures("own_process")


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def get(path: Path) -> RawResponse:
    """Ask the server on a Unix socket; the application is told its path."""
    with connect_unix(path) as client:
        return client.get(f"/?{path}")


def app_that_stops_its_server(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Ask for the end while this very request runs, and go on once the server listens no more."""
    sigterm()
    wait_until(lambda: not os.path.exists(environ["QUERY_STRING"]), "the end of the Unix socket")
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"first, "
    yield b"last"


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_run_finishes_the_request_that_runs_at_the_signal_and_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loop_name: str
) -> None:
    path = tmp_path / "sock"
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(get, path)
        run(app_that_stops_its_server, uds=str(path), loop=loop_name, threads=1)
    assert response.result().content == b"first, last"
    log = capsys.readouterr().err
    start, signalled, stopped = log.splitlines()
    pattern = (
        rf"aiowsgi \S+ on unix:\S+ \(1 thread, {loop_name}, (h11|httptools), "
        rf"Python {re.escape(sys.version.split()[0])}, pid {os.getpid()}\)"
    )
    assert re.search(pattern, start)
    assert "SIGTERM: " in signalled
    assert "stopped; running requests: 1 finished, 0 abandoned" in stopped
    assert not path.exists()


def test_run_without_uvloop_takes_asyncio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    path = tmp_path / "sock"
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(get, path)
        run(app_that_stops_its_server, uds=str(path))
    assert response.result().status_code == 200
    assert ", asyncio, " in capsys.readouterr().err


def test_run_takes_the_name_of_a_factory(files: WriteFiles) -> None:
    folder = files(
        {
            "made.py": "from tests.process.test_run import app_that_stops_its_server\n"
            "def make(): return app_that_stops_its_server\n"
        }
    )
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(get, folder / "sock")
        run("made:make", factory=True, config=Config(uds=str(folder / "sock")))
    assert response.result().status_code == 200


def test_run_that_abandons_a_request_says_so_and_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, release, stuck = tmp_path / "sock", threading.Event(), threading.Event()
    workers: list[threading.Thread] = []

    def app_that_never_ends(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        workers.append(threading.current_thread())
        stuck.set()
        sigterm()
        release.wait(PATIENCE)
        start_response("200 OK", [])
        return []

    def connect_and_leave() -> None:
        with connect_unix(path) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert stuck.wait(PATIENCE)
            assert client.socket.recv(1) == b""

    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(connect_and_leave)
        try:
            run(app_that_never_ends, uds=str(path), graceful_timeout=0.05)
        finally:
            release.set()
            workers[0].join(PATIENCE)
    assert left.exception() is None or isinstance(left.exception(), ConnectionResetError)
    assert re.search(r"\[WARNING\] stopped; running requests: 0 finished, 1 abandoned\n", capsys.readouterr().err)


@pytest.mark.parametrize("module", [asyncio, uvloop])
def test_run_outside_the_main_thread_serves_without_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    path = tmp_path / "sock"
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    loop = module.new_event_loop()
    monkeypatch.setattr(module, "new_event_loop", lambda: loop)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"from a thread"]

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run, app, uds=str(path), loop=module.__name__)
        assert get(path).content == b"from a thread"
        assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
        loop.call_soon_threadsafe(cancel)
        assert isinstance(ended.exception(PATIENCE), asyncio.CancelledError)
    assert not path.exists()


def test_run_outside_the_main_thread_ends_when_a_drain_is_ordered_and_leaves_the_program_alone(tmp_path: Path) -> None:
    path, control = tmp_path / "sock", tmp_path / "ctl"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert query(str(control), "/drain", order=True) == {"done": "draining"}
        wait_until(lambda: not path.exists(), "the end of the Unix socket")
        start_response("200 OK", [])
        return [b"to the end"]

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run, app, uds=str(path), control=f"unix:{control}")
        assert get(path).content == b"to the end"
        assert ended.result(PATIENCE) is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"workers": 1}, "workers"),
        ({"timeout": 5}, "timeout"),
        ({"max_requests": 100, "reload": True}, "reload"),
        ({"request_timeout": 5, "request_timeout_actions": ["log", "recycle"]}, "request_timeout_actions"),
    ],
)
def test_run_outside_the_main_thread_refuses_what_needs_its_signals(
    tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run, "tests.hosting:hello", uds=str(tmp_path / "sock"), **options)
        with pytest.raises(StartupError, match=f"^{name}: run\\(\\) must be called in the main thread"):
            ended.result(PATIENCE)
    assert not (tmp_path / "sock").exists()


def test_run_with_bad_options_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="threads=0"):
        run(app_that_stops_its_server, threads=0)


def test_run_with_config_and_options_is_refused() -> None:
    with pytest.raises(TypeError, match="threads"):
        run(app_that_stops_its_server, config=Config(), threads=1)


def test_run_with_unknown_application_listens_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ApplicationImportError, match="no_such_module"):
        run("no_such_module", uds=str(tmp_path / "sock"))
    assert not (tmp_path / "sock").exists()


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_run_with_address_in_use_raises_startup_error_and_closes_the_others(tmp_path: Path, loop_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError, match=f"cannot listen on {address}: Address already in use"):
            run(app_that_stops_its_server, bind=[f"unix:{tmp_path}/sock", address], loop=loop_name)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError):
        client.connect(str(tmp_path / "sock"))


def test_run_keeps_the_signal_handlers_of_before(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(get, path)
        run(app_that_stops_its_server, uds=str(path))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
