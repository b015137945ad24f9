"""The control socket, its commands, and the metrics of several workers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from aiowsgi.process.control import ControlError, query
from aiowsgi.process.ping import UnixConnection
from aiowsgi.process.top import render
from tests.conftest import running_server
from tests.hosting import PATIENCE, Gated, hello, poll, request
from tests.process.server_process import ServerProcess, environment, server_process, wait_until
from tests.raw import RawClient


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text("from tests.hosting import hello as app\n")
    return tmp_path


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "aiowsgi", *arguments],
        cwd=folder,
        env=environment(AIOWSGI_CONTROL="unix:ctl", COLUMNS="120", LINES="30"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def workers(folder: Path, count: int, *options: str) -> Iterator[ServerProcess]:
    arguments = ["app", "-b", "127.0.0.1:0", "--control", "unix:ctl", "--metrics-bind", "unix:metrics", *options]
    if count:
        arguments += ["--workers", str(count)]
    with server_process(folder, *arguments) as server:
        yield server


def pids(folder: Path) -> set[int]:
    """Return the workers' processes; none where one that ends was asked."""
    try:
        return {told["pid"] for told in query(str(folder / "ctl"), "/stats")["workers"].values()}
    except ControlError:
        return set()


def scrape(folder: Path) -> Counter[str]:
    """Return the samples by name and labels; none where a worker that ends was asked."""
    with contextlib.closing(UnixConnection(str(folder / "metrics"), PATIENCE)) as connection:
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return Counter()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return Counter({sample.name + "".join(sample.labels.values()): sample.value for sample in samples})


def send_requests(server: ServerProcess, count: int) -> None:
    for _ in range(count):
        with server.connect() as client:
            assert client.get("/").content == b"hello"


def test_single_process_is_looked_into_and_drained(folder: Path) -> None:
    with workers(folder, 0) as server:
        send_requests(server, 3)
        assert stat.S_IMODE((folder / "ctl").stat().st_mode) == 0o600
        code, output = command(folder, "stats", "--json")
        assert code == 0
        (told,) = json.loads(output)["workers"].values()
        assert (told["pid"], told["requests"]["done"]) == (server.process.pid, 3)
        assert "thread MainThread" in command(folder, "stacks")[1]
        code, output = command(folder, "reload")
        assert (code, "needs a supervisor" in output) == (3, True)
        with pytest.raises(ControlError, match="needs a supervisor"):
            query(str(folder / "ctl"), "/reload")
        assert command(folder, "drain") == (0, "draining\n")
        assert server.wait() == 0
    assert not (folder / "ctl").exists()
    code, output = command(folder, "stats")
    assert (code, "No such file" in output) == (3, True)


ALONE_AND_SUPERVISED = pytest.mark.parametrize("count", [0, 1])


@contextmanager
def waiting(folder: Path, count: int, *options: str) -> Iterator[tuple[ServerProcess, RawClient]]:
    """Run a server with a request that waits for the file ``go``."""
    (folder / "app.py").write_text(
        "import os, time\n"
        "def app(environ, start_response):\n"
        "    print('running', file=environ['wsgi.errors'], flush=True)\n"
        "    while not os.path.exists('go'):\n"
        "        time.sleep(0.01)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'done']\n"
    )
    with workers(folder, count, *options) as server, server.connect() as client:
        client.send(request("/"))
        server.wait_for_log("running")
        yield server, client


def drain(folder: Path) -> None:
    assert query(str(folder / "ctl"), "/drain", order=True) == {"done": "draining"}


@ALONE_AND_SUPERVISED
def test_drain_that_is_ordered_twice_and_then_sigterm_let_the_request_end(folder: Path, count: int) -> None:
    with waiting(folder, count) as (server, client):
        drain(folder)
        drain(folder)
        with pytest.raises(ControlError, match="it is ending" if count else "needs a supervisor"):
            query(str(folder / "ctl"), "/reload", order=True)
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM: running requests may finish")
        drain(folder)
        (folder / "go").touch()
        assert client.receive().content == b"done"
        assert server.wait() == 0
    assert "running requests: 1 finished, 0 abandoned" in server.log
    assert "ending at once" not in server.log


@ALONE_AND_SUPERVISED
def test_second_signal_after_an_ordered_drain_ends_at_once(folder: Path, count: int) -> None:
    with waiting(folder, count) as (server, _):
        drain(folder)
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM: running requests may finish")
        server.signal(signal.SIGINT)
        assert server.wait() == 128 + signal.SIGINT
    assert "SIGINT again: ending at once" in server.log


@ALONE_AND_SUPERVISED
def test_sigint_hastens_an_ordered_drain(folder: Path, count: int) -> None:
    with waiting(folder, count) as (server, _):
        drain(folder)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert "SIGINT: stopping quickly" in server.log
    assert "running requests: 0 finished, 1 abandoned" in server.log


def refuses(server: ServerProcess) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@ALONE_AND_SUPERVISED
def test_sigint_ends_the_delay_of_an_ordered_drain_at_once_and_leaves_requests_their_second(
    folder: Path, count: int
) -> None:
    with waiting(folder, count, "--drain-delay=10m") as (server, client):
        drain(folder)
        assert not refuses(server)
        server.signal(signal.SIGINT)
        wait_until(lambda: refuses(server), "the end of the delay")
        (folder / "go").touch()
        assert client.receive().content == b"done"
        assert server.wait() == 0
    assert "running requests: 1 finished, 0 abandoned" in server.log


@ALONE_AND_SUPERVISED
def test_sigint_ends_the_delay_where_requests_never_have_more_than_a_second(folder: Path, count: int) -> None:
    with waiting(folder, count, "--drain-delay=10m", "--graceful-timeout=1s") as (server, _):
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert "running requests: 0 finished, 1 abandoned" in server.log
    assert "it is killed" not in server.log


@ALONE_AND_SUPERVISED
def test_sigint_after_an_ordered_drain_ends_parked_streams_whole(folder: Path, count: int) -> None:
    (folder / "app.py").write_text(
        "import asyncio, aiowsgi\n"
        "async def events():\n"
        "    yield b'first'\n"
        "    await asyncio.Event().wait()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return aiowsgi.park(environ, events())\n"
    )
    with workers(folder, count, "--drain-delay=10m") as server, server.connect() as client:
        client.send(request("/"))
        wait_until(lambda: b"first" in client.socket.recv(4096, socket.MSG_PEEK), "the beginning of the stream")
        drain(folder)
        server.signal(signal.SIGINT)
        assert client.receive().content == b"first"
        assert server.wait() == 0
    assert "running requests: 1 finished, 0 abandoned" in server.log


def test_signal_for_one_worker_more_while_it_ends_is_not_answered(folder: Path) -> None:
    with waiting(folder, 1) as (server, client):
        drain(folder)
        server.signal(signal.SIGTTIN)
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM: running requests may finish")
        (folder / "go").touch()
        assert client.receive().content == b"done"
        assert server.wait() == 0
    assert "one worker more" not in server.log


def test_metrics_of_workers_are_one_and_never_go_back(folder: Path) -> None:
    with workers(folder, 2) as server:
        send_requests(server, 10)
        before = scrape(folder)
        assert (before["aiowsgi_requests_total2xx"], before["aiowsgi_workers"]) == (10, 2)
        assert before["aiowsgi_worker_restarts_total"] == 0
        os.kill(min(pids(folder)), signal.SIGKILL)
        wait_until(lambda: len(pids(folder)) == 2 and scrape(folder)["aiowsgi_workers"] == 2, "another worker")
        wait_until(lambda: scrape(folder)["aiowsgi_worker_restarts_total"] == 1, "the count of it")
        wait_until(lambda: scrape(folder)["aiowsgi_requests_total2xx"] == 10, "what the dead one has told")
        send_requests(server, 5)  # not told to anybody before the workers end
        old = pids(folder)
        assert command(folder, "reload", "--no-wait") == (0, "reloading, one worker at a time\n")
        wait_until(lambda: len(pids(folder)) == 2 and not pids(folder) & old, "other workers")
        wait_until(
            lambda: scrape(folder)["aiowsgi_requests_total2xx"] == 15, "what the old ones have told at their end"
        )
        wait_until(lambda: scrape(folder)["aiowsgi_worker_restarts_total"] == 3, "the count of them")
        wait_until(lambda: scrape(folder)["aiowsgi_request_duration_seconds_count"] == 15, "their histograms")
        # Its output is no terminal: it ends by itself.
        code, output = command(folder, "top", "--interval", "0.1")
        assert (code, "req/s" in output, output.count("/5000")) == (0, True, 2)
        assert query(str(folder / "ctl"), "/drain", order=True) == {"done": "draining"}
        assert server.wait() == 0


def test_reload_is_over_when_its_command_ends(folder: Path) -> None:
    with workers(folder, 1) as server:
        assert server.url
        old = set(server.workers())
        code, output = command(folder, "reload")
        assert (code, output) == (0, "reloading, one worker at a time\nall workers serve: 1 worker\n")
        assert query(str(folder / "ctl"), "/reload") == {"reload": "done", "text": "all workers serve: 1 worker"}
        assert not pids(folder) & old


def test_reload_that_is_given_up_is_exit_1_with_the_reason(folder: Path) -> None:
    with workers(folder, 1) as server:
        assert server.url
        (folder / "app.py").write_text("raise ValueError('no settings')\n")
        code, output = command(folder, "reload")
        assert code == 1
        assert "aiowsgi: reload given up: worker 2 cannot start: " in output
        assert output.endswith("ValueError: no settings\n")
        (folder / "aiowsgi.toml").write_text("threads = 0\n")
        assert query(str(folder / "ctl"), "/reload", order=True)["under_way"]
        assert query(str(folder / "ctl"), "/reload") == {
            "reload": "given up",
            "text": "aiowsgi.toml:1: threads=0: must be at least 1",
        }


def test_reload_that_is_given_up_while_a_worker_is_missing_is_exit_1_too(folder: Path) -> None:
    with workers(folder, 2) as server:
        assert server.url
        (folder / "app.py").write_text("raise ValueError('no settings')\n")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log("worker 3 cannot start, the others serve on")
        code, output = command(folder, "reload", "--timeout=10")
        assert code == 1
        assert "aiowsgi: reload given up: worker " in output
        assert output.endswith("ValueError: no settings\n")


def test_reload_that_is_refused_leaves_the_one_that_is_under_way_and_who_waits_for_it(folder: Path) -> None:
    with workers(folder, 1) as server:
        assert server.url
        importing = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
        (folder / "app.py").write_text(importing + "from tests.hosting import hello as app\n")
        assert query(str(folder / "ctl"), "/reload", order=True)["under_way"]
        with contextlib.closing(UnixConnection(str(folder / "ctl"), PATIENCE)) as connection:
            connection.request("GET", "/reload")
            assert pids(folder)  # who has asked before has been heard as well
            (folder / "aiowsgi.toml").write_text("threads = 0\n")
            with pytest.raises(ControlError, match=r"given up, the one that is under way goes on: .*:1: threads=0:"):
                query(str(folder / "ctl"), "/reload", order=True)
            (folder / "go").touch()
            # The worker that was asked leaves.
            assert json.loads(connection.getresponse().read()) == {"reload": "under way"}
        server.wait_for_log("all workers serve: 1 worker")
        assert query(str(folder / "ctl"), "/reload") == {"reload": "done", "text": "all workers serve: 1 worker"}


def test_reload_that_does_not_end_is_exit_1_when_its_time_is_over_or_the_server_ends(folder: Path) -> None:
    with workers(folder, 1) as server:
        assert server.url
        (folder / "app.py").write_text("import threading\nthreading.Event().wait()\n")
        code, output = command(folder, "reload", "--timeout=0.1")
        assert (code, "aiowsgi: reload under way: it has not ended within 0.1 s\n" in output) == (1, True)
        with contextlib.closing(UnixConnection(str(folder / "ctl"), PATIENCE)) as connection:
            connection.request("GET", "/reload")
            assert pids(folder)  # who has asked before has been heard as well
            server.signal(signal.SIGTERM)
            outcome = json.loads(connection.getresponse().read())
        assert outcome == {"reload": "given up", "text": "the server is ending"}
        assert server.wait() == 0


def ask_control(path: Path, method: str, target: str) -> tuple[int, Any]:
    connection = UnixConnection(str(path), PATIENCE)
    connection.request(method, target)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def test_control_socket_in_a_program_tells_and_leaves_the_program_alone(tmp_path: Path) -> None:
    application = Gated()
    path = tmp_path / "ctl"
    with (
        running_server(application, control=f"unix:{path}", threads=1) as server,
        server.connect() as first,
        server.connect() as second,
    ):
        first.send(request("/a[bold]"))
        poll(lambda: application.running)
        second.send(request("/b"))
        poll(lambda: ask_control(path, "GET", "/stats")[1]["workers"]["0"]["requests"]["waiting"] == 1)
        (told,) = ask_control(path, "GET", "/top")[1]["workers"].values()
        assert [(each["method"], each["target"], each["phase"]) for each in told["shown"]] == [
            ("GET", "/a[bold]", "running"),
            ("GET", "/b", "waiting"),
        ]
        status, stacks = ask_control(path, "GET", "/stacks")
        assert (status, "'/a[bold]'" in stacks["workers"]["0"]["stacks"]) == (200, True)
        for method, target in (("POST", "/stats"), ("GET", "/drain"), ("GET", "/"), ("PUT", "/reload")):
            assert ask_control(path, method, target)[0] == 404
        assert ask_control(path, "POST", "/drain")[0] == 409
        application.open()
        assert first.receive().content == second.receive().content == b"let go"
    assert not path.exists()


def test_socket_that_is_no_control_socket_is_told(tmp_path: Path) -> None:
    with running_server(hello, bind=[f"unix:{tmp_path}/app"]), pytest.raises(ControlError, match="Expecting value"):
        query(str(tmp_path / "app"), "/stats")
    with pytest.raises(ControlError, match="name the control socket"):
        query("", "/stats")


def refusal(address: str) -> str:
    with pytest.raises(ControlError) as caught:
        query(address, "/stats")
    return str(caught.value)


def test_socket_where_nobody_listens_is_told_with_what_names_it(tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    hint = "nothing listens there; the server's --control names its socket"
    assert refusal(f"unix:{path}") == f"{path}: No such file or directory: {hint}"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert refusal(str(path)) == f"{path}: Connection refused: {hint}"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8131", "localhost:80", "[::1]:80", ":80", "http://localhost/", "fd://3"]
)
def test_address_that_is_no_unix_socket_is_told_what_is_one(address: str) -> None:
    assert refusal(address) == f"{address}: name a Unix socket, as unix:/run/app.ctl"


def told(number: int, done: int, clock: float, **requests: Any) -> dict[str, Any]:
    return {
        "pid": 1000 + number,
        "connections": {"idle": 7, "reading": 0, "writing": 1, "closing": 0},
        "requests": {"waiting": 3, "running": 1, "streaming": 0, "done": done},
        "threads": {"idle": 0, "running": 2, "stalled": 0, "stuck": number},
        "queue_wait": {"p50": 0.0005, "p90": 0.1, "p99": 2.5},
        "clock": clock,
        "thread_limit": 2,
        "queue_size": 3,
        "urls": ["http://127.0.0.1:8000"],
        "shown": requests.get("shown", []),
        "hidden": requests.get("hidden", 0),
    }


def shown(width: int, height: int, workers: dict[str, Any], earlier: dict[str, Any]) -> str:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed below
    console.print(render(workers, earlier, (width, height)))
    console.file.close()
    return console.export_text()


def test_top_shows_rates_sums_and_the_oldest_requests() -> None:
    slow = {"id": "1-1", "method": "GET", "target": "/[red]slow", "age": 4000.0, "phase": "running"}
    quick = {"id": "0-1", "method": "POST", "target": "/quick", "age": 0.0123, "phase": "waiting"}
    workers = {"1": told(1, 300, 12.0, shown=[slow], hidden=5), "0": told(0, 110, 12.0, shown=[quick])}
    earlier = {"0": told(0, 100, 10.0), "1": told(1, 100, 10.0)}
    text = shown(120, 40, workers, earlier)
    lines = [line.split() for line in text.splitlines()]
    assert ["0", "1000", "5", "110", "2/2", "0", "0", "0", "3/3", "0.5", "ms", "2.5", "s", "8", "7"] in lines
    assert ["all", "105", "410", "4", "0", "0", "1", "6", "16", "14"] in lines
    assert lines.index(["1", "1:06:40", "running", "GET", "/[red]slow", "1-1"]) < lines.index(
        ["0", "12.3", "ms", "waiting", "POST", "/quick", "0-1"]
    )
    assert "and 5 more" in text


def test_top_fits_a_narrow_terminal() -> None:
    text = shown(80, 24, {"1": told(1, 1, 2.0)}, {})
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
