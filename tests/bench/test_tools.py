"""What tools and the kernel say, read from what they really said; a field that is missing is no zero."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from bench.accounting import memory, parse_fields, parse_stat, snapshot
from bench.errors import MissingField
from bench.load.wrk import parse_result

OUTPUTS = pathlib.Path(__file__).parent / "outputs"


def output(name: str) -> str:
    return (OUTPUTS / name).read_text()


def test_wrk_without_errors_has_its_counts():
    result = parse_result(output("wrk.txt"))
    assert result.duration == pytest.approx(1.020104)
    assert result.requests == 35299
    assert result.bytes == 2753322
    assert result.errors == {}


def test_wrk_with_errors_tells_each_kind():
    assert parse_result(output("wrk_errors.txt")).errors == {"read": 176, "status": 8650}


def test_wrk_without_its_line_of_results_is_refused():
    with pytest.raises(MissingField, match="no line of results"):
        parse_result(output("wrk.txt").partition("wrk-result")[0])


@pytest.mark.parametrize("name", ["duration_us", "requests", "bytes", "connect", "read", "write", "status", "timeout"])
def test_wrk_lacking_a_field_is_refused_by_name(name: str):
    with pytest.raises(MissingField, match=f"wrk: {name}"):
        parse_result(output("wrk.txt").replace(f'"{name}"', '"other"'))


def test_wrk_with_a_line_that_is_cut_is_refused():
    with pytest.raises(MissingField, match="is not JSON"):
        parse_result(output("wrk.txt").rstrip()[:-5])


def test_stat_has_the_processor_time_of_the_process_and_of_its_ended_children():
    stat = parse_stat(output("stat.txt"))
    ticks = os.sysconf("SC_CLK_TCK")
    assert (stat.pid, stat.command, stat.parent, stat.session, stat.threads) == (15044, "python", 15040, 27386, 1)
    assert stat.cpu == pytest.approx((18 + 24) / ticks)
    assert stat.ended_children_cpu == 0


def test_stat_of_a_command_with_spaces_and_parentheses_is_read():
    stat = parse_stat(output("stat.txt").replace("(python)", "(a) b (c" + ")"))
    assert stat.command == "a) b (c"
    assert stat.session == 27386


def test_stat_that_is_too_short_is_refused():
    with pytest.raises(MissingField):
        parse_stat(" ".join(output("stat.txt").split()[:19]))


def test_status_and_rollup_have_their_fields():
    assert parse_fields(output("smaps_rollup.txt"), "Rss", "Pss") == [11148 * 1024, 5493 * 1024]
    switches = parse_fields(output("status.txt"), "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    assert switches == [3690, 6709]


def test_status_lacking_a_field_is_refused_by_name():
    text = output("status.txt").replace("VmHWM", "Other")
    with pytest.raises(MissingField, match="VmHWM"):
        parse_fields(text, "VmHWM")


def test_snapshot_and_memory_of_a_session_are_those_of_its_process():
    # A session of its own, as measured servers have: another one may hold processes that must not be counted.
    program = "print(sum(range(3_000_000)), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        counters = snapshot(process.pid)
        found = memory(process.pid)
        process.communicate(b"\n")
    assert counters.cpu > 0
    assert (counters.processes, counters.threads) == (1, 1)
    assert set(counters.switches) == {(process.pid, process.pid)}
    assert 1_000_000 < found.proportional <= found.resident <= found.peak
    assert process.returncode == 0
    assert snapshot(process.pid).processes == 0
