"""Files of results: whole, of one schema, and gone on with where they end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bench import runner
from bench.errors import BenchError, CellVoid
from bench.kinds.job import Job, Measurement
from bench.kinds.registry import MEASURES
from bench.results import SCHEMA, Cell, Results
from bench.runner import Plan, Run
from bench.scenario import load_scenarios
from bench.servers import SERVERS
from tests.bench.results import made_up


class Watcher:
    """An observer that stops a run after some measurements, as a person would."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.seen: list[tuple[int, str, str]] = []
        self._stop_after = stop_after

    def begins(self, block, scenario, server, seconds_left):
        assert seconds_left > 0
        if len(self.seen) == self._stop_after:
            raise KeyboardInterrupt
        self.seen.append((block, scenario.name, server.name))

    def ends(self, scenario, server, outcome):
        pass


@pytest.fixture
def plan() -> Plan:
    return Plan(load_scenarios(["hello", "steady"]), [SERVERS["wsgiref"], SERVERS["aiowsgi-h11"]], 3, 7, False)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace measurements, and return which ones were asked for: that is what is tested."""
    asked: list[tuple[str, str]] = []

    def measure(job: Job) -> Measurement:
        asked.append((job.scenario.name, job.server.name))
        if (job.scenario.name, job.server.name) == ("steady", "wsgiref"):
            raise CellVoid("3 reset")
        return Measurement(figures={"cpu": 1.0, "throughput": 2.0})

    for kind in MEASURES:
        monkeypatch.setitem(runner.MEASURES, kind, measure)
    return asked


def empty() -> Results:
    results = made_up()
    results.cells.clear()
    return results


def test_results_survive_their_file(tmp_path: Path):
    results = made_up()
    results.write(tmp_path / "results.json")
    again = Results.read(tmp_path / "results.json")
    assert list(again.cells) == list(results.cells)
    for key, cell in results.cells.items():
        assert again.cells[key].reason == cell.reason
        assert again.cell(*key).values("cpu") == pytest.approx(cell.values("cpu"))
        assert again.cell(*key).values("p99") == pytest.approx(cell.values("p99"))
        assert again.cell(*key).histogram("latency").to_json() == cell.histogram("latency").to_json()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace(SCHEMA, "aiowsgi-bench/0"), "schema=aiowsgi-bench/0"),
        (lambda text: text[:-20], "results.json"),
        (lambda text: text.replace('"notes"', '"remarks"', 1), "notes"),
        (lambda text: text.replace('"environment"', '"place"', 1), "environment"),
        (lambda text: "[]", "schema=None"),
    ],
)
def test_file_that_is_not_right_is_refused(tmp_path: Path, change, problem: str):
    path = tmp_path / "results.json"
    made_up().write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(BenchError, match=problem):
        Results.read(path)


def test_run_that_is_interrupted_goes_on_where_it_ended(tmp_path: Path, plan: Plan, measured: list):
    path = tmp_path / "results.json"
    first = Watcher(stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        Run(plan, empty(), path, first).measure()
    assert len(first.seen) == 5
    second = Watcher()
    Run(plan, Results.read(path), path, second).measure()
    everything = [(block, scenario.name, server.name) for block, scenario, server in plan.steps()]
    # Void after its first block: measured once, and not again after the interruption.
    expected = [step for step in everything if step[1:] != ("steady", "wsgiref") or step[0] == 0]
    assert first.seen + second.seen == expected
    assert measured == [step[1:] for step in expected]


def test_cell_with_an_error_under_load_is_void_with_its_reason(tmp_path: Path, plan: Plan, measured: list):
    results = empty()
    Run(plan, results, tmp_path / "results.json", Watcher()).measure()
    cell = results.cell("steady", "wsgiref")
    assert cell.reason == "3 reset"
    assert cell.estimate("cpu") is None
    assert len(results.cell("steady", "aiowsgi-h11").blocks) == 3


def test_server_that_cannot_do_a_scenario_has_its_reason_and_is_not_tried(tmp_path: Path, measured: list):
    results = empty()
    waitress = dataclasses.replace(SERVERS["waitress"], distributions=())  # whether it is installed or not
    plan = Plan(load_scenarios(["idle", "embedding"]), [SERVERS["wsgiref"], waitress], 1, 1, False)
    run = Run(plan, results, tmp_path / "results.json", Watcher())
    run.exclude()
    assert results.cell("idle", "wsgiref").reason == "closes after each response"
    assert results.cell("embedding", "waitress").reason == "cannot run in an asyncio loop"
    before = run.seconds_left()
    run.measure()
    assert before > 0
    assert run.seconds_left() == 0
    assert all(server != "wsgiref" for _, server in measured)


def test_server_that_is_not_installed_has_the_command_that_installs_it(tmp_path: Path, measured: list):
    missing = dataclasses.replace(SERVERS["bjoern"], distributions=("no-such-server",))
    results = empty()
    run = Run(Plan(load_scenarios(["hello"]), [missing], 1, 1, False), results, tmp_path / "results.json", Watcher())
    run.exclude()
    assert results.cell("hello", "bjoern").reason == "not installed: pip install '.[bench-native]'"


def test_results_are_whole_after_each_measurement(tmp_path: Path, plan: Plan, measured: list):
    path = tmp_path / "results.json"

    class Reader(Watcher):
        def ends(self, scenario, server, outcome):
            cell = Results.read(path).cell(scenario.name, server.name)
            assert cell.blocks or cell.reason

    Run(plan, empty(), path, Reader()).measure()
    assert json.loads(path.read_text())["schema"] == SCHEMA


def test_cell_that_was_not_measured_says_so():
    assert empty().cell("hello", "granian").reason == "not measured"
    assert Cell().estimate("cpu") is None
