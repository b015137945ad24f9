"""The capacity sheet: numbers as people write them, the file of figures, the arithmetic, and the README's table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from aiowsgi.config import Config
from aiowsgi.event_stream import sse
from aiowsgi.server import dispersal, room
from bench.capacity import report, sheet
from bench.capacity.figures import NAMES, Figure, Figures, load_figures, parse_figures
from bench.capacity.quantities import parse_count, parse_rate, parse_share, parse_size, show_size
from bench.capacity.sheet import Demand, Machine, Sheet, compute
from bench.cli import command
from bench.errors import BenchError
from bench.process import ROOT
from bench.report.markdown import table_lines

# Round ones, so that sums can be done in the head.
ROUND = {
    "idle_connection": 2_000,
    "parked_client": 6_000,
    "socket": 4_000,
    "worker": 100_000_000,
    "request": 20,
    "application": 180,
    "event": 10,
    "arrival": 100,
}


def figures(**changes: float) -> Figures:
    return {name: Figure(value, "what", "how", "date", "machine") for name, value in (ROUND | changes).items()}


def computed(machine: Machine | None = None, **demand: Any) -> Sheet:
    return compute(Demand(**{"connections": 10_000} | demand), machine or Machine(spare=0), figures())


# Numbers.


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_count, "10000", 10_000),
        (parse_count, "10k", 10_000),
        (parse_count, "1.5M", 1_500_000),
        (parse_count, "0.001k", 1),
        (parse_rate, "100/s", 100),
        (parse_rate, "50k", 50_000),
        (parse_rate, "50k/s", 50_000),
        (parse_rate, "6/min", 0.1),
        (parse_rate, "0", 0),
        (parse_size, "512M", 512 * 2**20),
        (parse_size, "200", 200),
        (parse_share, "60%", 0.6),
        (parse_share, "0.6", 0.6),
        (parse_share, "100%", 1),
    ],
)
def test_number_is_read_as_people_write_it(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_count, text) for text in ("", "1m", "1K", "M", "-1", "+1", "1 M", "1e6", "1,000", "0.5", "1.5", "٣")),
        *((parse_count, text) for text in ("nan", "1MM", "1M/s", "9" * 16)),
        *((parse_rate, text) for text in ("", "100/", "100/h", "/s", "100/s/s", "100 /s", "fast", "-1/s")),
        *((parse_size, text) for text in ("32g", "32GB", "0.3", "")),
        *((parse_share, text) for text in ("0", "0%", "101%", "1.1", "60 %", "%", "", "60%%")),
    ],
)
def test_number_that_is_none_is_refused_and_named(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r}: must be ")):
        parse(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (6144, "6 KB"), (3.5 * 2**30, "3.5 GB"), (2**50, "1.02e+03 TB")]
)
def test_size_is_shown_with_the_unit_that_fits(size: float, text: str) -> None:
    assert show_size(size) == text


# Figures.


def test_figures_of_the_project_are_whole() -> None:
    assert load_figures().keys() == NAMES.keys()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[event]", "[evnt]", r"event: missing; evnt: not known"),
        ("value = 10\n", "value = 0\n", r"event: value=0: must be a number above 0"),
        ("value = 10\n", 'value = "10"\n', r"event: value=10: must be a number above 0"),
        ("value = 10\n", "", r"event: .*value"),
        ("value = 10\n", "value = 10\nunit = 1\n", r"event: .*unit"),
        ('how = "event"', 'how = ""', r"event: how: empty"),
        ("[event]", "[event", r"capacity.toml: "),
    ],
)
def test_figures_that_are_not_right_are_refused_by_name(old: str, new: str, problem: str) -> None:
    text = "".join(
        f'[{name}]\nvalue = {value}\nwhat = "a"\nhow = "{name}"\ndate = "a"\nmachine = "a"\n'
        for name, value in ROUND.items()
    )
    assert parse_figures(text).keys() == NAMES.keys()
    with pytest.raises(BenchError, match=problem):
        parse_figures(text.replace(old, new))


# Arithmetic.


def test_processor_time_is_that_of_requests_and_of_events() -> None:
    found = computed(rps=1000, events=100)
    assert found.deliveries == 1_000_000
    assert found.busy_cores == pytest.approx(1000 * 200e-6 + 1_000_000 * 10e-6)
    assert found.workers_for["cpu"] == 17  # 10.2 / 0.6
    assert found.machines_for["workers"] == 3  # 7 of 8 cores
    assert found.workers_each == 6


def test_application_of_ones_own_takes_the_place_of_the_measured_one() -> None:
    assert computed(rps=1000, application=980).busy_cores == pytest.approx(1.0 + 10_000 / 15 * 10e-6)


def test_audience_is_who_gets_an_event() -> None:
    assert computed(events=10, parked=0.5, audience=0.1).deliveries == pytest.approx(5000)


@pytest.mark.parametrize(("events", "comments"), [(0, 10_000 / 15), (0.05, 10_000 / 15), (0.1, 0)])
def test_silent_streams_get_comments(events: float, comments: float) -> None:
    assert computed(events=events).comments == pytest.approx(comments)


def test_memory_is_that_of_clients_sockets_and_workers() -> None:
    found = computed(parked=0.25)
    assert found.memory == 2500 * 6_000 + 7500 * 2_000 + 10_000 * 4_000 + 100_000_000
    assert found.kernel_share == 40_000_000
    assert found.memory_each == found.memory


def test_little_memory_asks_for_more_machines() -> None:
    machine = Machine(memory=400_000_000, memory_share=0.75, spare=0)
    found = computed(machine, connections=100_000)
    assert found.machines_for == {"workers": 1, "memory": 5}  # 100,000 × 10 KB, in 300 MB less a worker each
    assert (found.machines, found.workers_each) == (5, 1)
    assert found.memory_each <= machine.memory * machine.memory_share
    # 20 workers: two on a machine leave room for 10,000 clients each.
    found = computed(machine, connections=100_000, rps=60_000)
    assert (found.machines, found.workers_each) == (11, 2)
    assert found.memory_each <= machine.memory * machine.memory_share


def test_memory_that_has_no_room_for_a_worker_is_refused() -> None:
    with pytest.raises(BenchError, match=r"--memory: 75,000,000 bytes .* of 100,000,000"):
        computed(Machine(memory=100_000_000))


def test_events_in_time_ask_for_more_workers() -> None:
    assert computed(events=1, event_seconds=0.01).workers_for["delay"] == 10
    assert computed(events=1, event_seconds=0.01).event_seconds == pytest.approx(0.01, rel=0.1)
    assert computed().workers_for["delay"] == 1


def test_spare_machine_carries_nothing_that_the_others_could_not() -> None:
    alone, beside = computed(connections=200_000), computed(Machine(spare=1), connections=200_000)
    assert beside.machines == alone.machines + 1
    assert beside.connections_each == alone.connections_each


def test_least_demand_needs_one_worker_on_one_machine() -> None:
    found = computed(connections=1)
    assert (found.machines, found.workers_each, found.listen_addresses) == (1, 1, 1)
    assert (found.backlog, found.packets, found.port_range) == (2048, 1000, False)


def test_limits_have_room_for_what_is_not_spread_evenly() -> None:
    found = computed()
    assert (found.max_connections, found.descriptors, found.tracked) == (13_000, 14_000, 13_000)
    assert found.tcp_memory == (15_000, 20_000, 30_000)


@pytest.mark.parametrize(
    ("connections", "proxies", "addresses", "port_range"),
    [(28_232, 1, 1, False), (28_233, 1, 1, True), (64_512, 1, 1, True), (64_513, 1, 2, True), (64_513, 3, 1, False)],
)
def test_ports_towards_one_machine_are_counted(
    connections: int, proxies: int, addresses: int, port_range: bool
) -> None:
    found = computed(Machine(cores=64, spare=0, proxies=proxies), connections=connections)
    assert found.machines == 1
    assert (found.listen_addresses, found.port_range) == (addresses, port_range)


def test_backlog_holds_the_clients_of_a_machine_that_is_lost() -> None:
    found = computed(Machine(spare=1), connections=10_000)
    assert (found.returns_each, found.backlog) == (10_000, 16_384)
    assert found.returns_seconds == pytest.approx(1.0)
    assert computed(connections=1_000_000).backlog == 65_535


def test_time_to_drain_follows_the_rate_at_which_streams_end() -> None:
    assert computed(connections=10_000).graceful_seconds == 25
    assert computed(connections=40_000).graceful_seconds == 100


@pytest.mark.parametrize("growing", ["connections", "rps", "events"])
def test_more_is_never_had_for_less(growing: str) -> None:
    before = computed(rps=10, events=1)
    for factor in range(2, 50):
        value = {"connections": 10_000, "rps": 10, "events": 1}[growing] * factor**2
        after = computed(**({"rps": 10, "events": 1} | {growing: value}))
        assert after.machines * after.workers_each >= before.machines * before.workers_each
        assert after.memory >= before.memory
        before = after


def test_what_the_sheet_believes_of_the_server_is_so() -> None:
    config = Config()
    assert config.drain_rate == sheet.DRAIN_RATE
    assert config.graceful_timeout == sheet.DEFAULT_GRACEFUL_SECONDS
    assert config.backlog == sheet.DEFAULT_BACKLOG
    assert room._MOST_CONNECTIONS == sheet.MOST_CONNECTIONS
    assert dispersal._SHARE == sheet.DRAIN_SHARE
    assert (sse.__kwdefaults__ or {})["keep_alive"] == sheet.KEEP_ALIVE_SECONDS


# What people see.


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command, ["capacity", *arguments])


def test_command_prints_needs_settings_and_every_assumption() -> None:
    found = run("--connections", "1M", "--rps", "50k", "--events", "100/s")
    assert found.exit_code == 0
    for words in ("Needs", "Settings, on each machine", "Assumptions", "100,000,000/s", "--max-connections", "nr_open"):
        assert words in found.output
    for name, figure in load_figures().items():
        assert name in found.output
        assert figure.date in found.output


def test_command_names_the_option_that_is_wrong() -> None:
    found = run("--connections", "1m")
    assert found.exit_code == 2
    assert "'--connections': '1m': must be a whole number, which k, M or G may follow: 10k, 1.5M" in found.output
    assert "--connections: is needed" in run().output
    assert "--connections: is needed" in run("--connections", "0").output


def test_options_of_the_command_reach_the_sheet() -> None:
    few, many = run("--connections", "1M"), run("--connections", "1M", "--cores", "2", "--memory", "1G", "--spare", "0")
    assert few.output != many.output
    assert "1 of them for the kernel" in many.output
    assert "0 may be away" in many.output


def test_every_field_of_the_sheet_is_shown_or_compared() -> None:
    """None is computed in vain."""
    source = (ROOT / "bench/capacity/report.py").read_text()
    unused = [field.name for field in dataclasses.fields(Sheet) if f".{field.name}" not in source]
    assert unused == []


def test_table_in_readme_is_what_the_sheet_says() -> None:
    readme = (ROOT / "README.md").read_text()
    between = re.search(r"<!-- capacity: .*? -->\n(.*?)<!-- end of capacity -->", readme, re.DOTALL)
    assert between is not None
    header, *rows = report.comparison(load_figures())
    assert between[1].strip() == "\n".join(table_lines(header, rows))
