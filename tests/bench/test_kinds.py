"""What measurements make of what they see; and one run of all, in small."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.accounting import Memory, Snapshot, processes
from bench.errors import CellVoid, ServerFailed
from bench.kinds.job import Job, Measurement, OpenLoop
from bench.kinds.overload import recovery
from bench.method.verification import verify
from bench.process import ROOT, free_port, interrupts_deferred, running
from bench.scenario import Expectation, Scenario, load_scenarios
from bench.servers import SERVERS, Launch, Server, program
from bench.smoke import smoke

HELLO = load_scenarios(["hello"])[0]
PLAIN = "bench.applications.plain:application"


def counters(cpu: float, switches: dict[tuple[int, int], int]) -> Snapshot:
    return Snapshot(0.0, cpu, 3, 1, switches)


def test_costs_are_divided_by_requests():
    result = Measurement()
    before = counters(1.0, {(1, 1): 5, (1, 2): 7})
    after = counters(1.5, {(1, 1): 10, (1, 3): 15})
    result.add_costs(before, after, 1000, Memory(2_000_000, 3_000_000, 4_000_000))
    assert result.figures["cpu"] == pytest.approx(500)
    # Five of the first thread; 15 of one that is new; those of one that has ended are lost.
    assert result.figures["switches"] == pytest.approx(0.020)
    assert (result.figures["memory"], result.figures["peak"]) == (2.0, 4.0)


def test_costs_without_a_request_are_void():
    with pytest.raises(CellVoid, match="no request"):
        Measurement().add_costs(counters(1, {}), counters(2, {}), 0, Memory(1, 1, 1))


def seen(latencies: list[float], outcomes: list[int] | None = None) -> OpenLoop:
    at = [number / 100 for number in range(len(latencies))]
    return OpenLoop(at, latencies, outcomes or [0] * len(at), [0.0] * len(at), {})


def test_recovery_is_when_requests_are_quick_again():
    slow_until = [1.0] * 150 + [0.01] * 150
    assert recovery(seen(slow_until), 1.0, 0.05) == pytest.approx(0.5, abs=0.02)
    assert recovery(seen([0.01] * 200), 1.0, 0.05) == 0.0
    assert recovery(seen([1.0] * 200), 1.0, 0.05) is None


def test_recovery_is_not_there_while_requests_fail():
    assert recovery(seen([0.01] * 200, [2] * 200), 1.0, 0.05) is None


def test_share_and_latencies_are_those_of_the_phase():
    loop = seen([0.01] * 100 + [0.1] * 100, [0] * 100 + [1] * 50 + [2] * 50)
    assert loop.share("answered", 0, 1.0) == 100
    assert (loop.share("refused", 1.0), loop.share("failed", 1.0)) == (50, 50)
    assert len(loop.answered(0, 1.0)) == 100
    assert len(loop.answered(1.0)) == 0


def broken(tmp_path: Path, **answer: str) -> Server:
    """Return a server of an application that answers wrongly, served by wsgiref."""
    values = {"status": "200 OK", "type": "text/plain", "length": "13", "content": "Hello, world!"} | answer
    (tmp_path / "broken.py").write_text(
        "def application(environ, start_response):\n"
        f"    length = [('Content-Length', {values['length']!r})] if {values['length']!r} else []\n"
        f"    start_response({values['status']!r}, [('Content-Type', {values['type']!r}), *length])\n"
        f"    return [{values['content']!r}.encode()] if length else iter([b'', {values['content']!r}.encode()])\n"
    )
    return dataclasses.replace(
        SERVERS["wsgiref"],
        command=lambda launch: [*program("serve"), "wsgiref", "broken:application", str(launch.port)],
        variables=lambda launch: {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"type": "text/html"}, "Content-Type 'text/html'"),
        ({"content": "Hello", "length": "5"}, "5 bytes instead of 13"),
        ({"content": "Hello, wurld!"}, "lacks 'Hello, world!'"),
        ({"length": ""}, "no Content-Length"),
        ({"length": "14"}, "wrong answer"),
    ],
)
def test_wrong_answer_is_void_before_it_is_measured(tmp_path: Path, answer: dict[str, str], problem: str):
    with (
        pytest.raises(CellVoid, match=problem),
        running(broken(tmp_path, **answer), Launch(PLAIN, free_port())) as process,
    ):
        verify(process.port, HELLO)


def test_server_that_ends_at_its_start_says_why(tmp_path: Path):
    server = dataclasses.replace(
        SERVERS["wsgiref"], command=lambda launch: [sys.executable, "-c", "raise SystemExit('no such file')"]
    )
    with (
        pytest.raises(ServerFailed, match="ended with 1 at its start: no such file"),
        running(server, Launch(PLAIN, 1)),
    ):
        raise AssertionError("it runs")


def test_server_is_ended_with_all_that_it_has_started(tmp_path: Path):
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN) if sys.argv[1] == 'stubborn' else None\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, 1); time.sleep(600)'])\n"
        "from bench.programs.serve import main\n"
        "sys.argv[1:] = ['wsgiref', 'bench.applications.plain:application', sys.argv[2]]\n"
        "main()\n"
    )
    server = dataclasses.replace(
        SERVERS["wsgiref"], command=lambda launch: [sys.executable, "-c", code, "obliging", str(launch.port)]
    )
    with running(server, Launch(PLAIN, free_port())) as process:
        session = process.process.pid
        assert len(list(processes(session))) == 2
        assert process.snapshot().processes == 2
    assert list(processes(session)) == []


def test_missing_generator_of_wrk_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch):
    from bench.errors import ToolMissing
    from bench.load import wrk

    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolMissing, match="apt-get install wrk"):
        wrk.require()


def test_closed_loop_without_wrk_uses_our_generator_and_says_so(monkeypatch: pytest.MonkeyPatch):
    from bench.kinds import closed

    monkeypatch.setenv("PATH", "/nonexistent")
    scenario: Scenario = dataclasses.replace(HELLO, seconds=0.5, load={"connections": 2}, expect=Expectation(size=13))
    result = closed.measure(Job(scenario, SERVERS["wsgiref"], quick=True))
    assert result.figures["cpu"] > 0
    assert "wrk is not installed" in result.notes[0]


def test_smoke_finds_the_harness_in_order():
    lines = list(smoke())
    assert [line.split(":")[0] for line in lines[:-1]] == [
        *("hello aiowsgi-h11", "hello wsgiref", "hello null"),
        *("steady aiowsgi-h11", "steady wsgiref"),
    ]
    assert re.match(r"reports rendered, \d+ plots; \d+ s in all", lines[-1])


def test_interrupt_waits_until_what_was_started_can_be_ended():
    steps = []

    def start() -> None:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("gone on")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert steps == ["gone on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupted_run_ends_its_server_and_keeps_a_report(tmp_path: Path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bench", "run", "--servers", "wsgiref", "--scenarios", "steady", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "measurements, about" in process.stderr.readline()
        # The moment that there is a server: it must not be left behind, even before the code that ends it is reached.
        children = _until_it_has_a_server(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert f"--resume {out}" in errors.replace("\n", "")
    assert "The run was interrupted" in (out / "report.md").read_text()
    for pid in children:
        assert not Path(f"/proc/{pid}").exists()


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _until_it_has_a_server(pid: int) -> list[int]:
    deadline = time.monotonic() + 20
    while not (children := _children(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return children
