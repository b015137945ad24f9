"""``compare``: its exit code is 1 only where there is no doubt."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import command
from bench.compare import changes, differing
from tests.bench.results import made_up


def compared(tmp_path: Path, old, new, *options: str):
    old.write(tmp_path / "old.json")
    new.write(tmp_path / "new.json")
    result = CliRunner().invoke(
        command, ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options], standalone_mode=False
    )
    assert result.exception is None, result.output
    return result


def test_twice_the_cost_is_worse_and_exits_with_1(tmp_path: Path):
    result = compared(tmp_path, made_up(), made_up(factor=2))
    assert result.return_value == 1
    assert (
        "| hello | waitress | CPU per request, µs | 101 [100, 102] | 202 [200, 204] | 2.00 [1.96, 2.04] | worse |"
        in (result.output)
    )


def test_half_the_cost_is_better_and_exits_with_0(tmp_path: Path):
    result = compared(tmp_path, made_up(factor=2), made_up())
    assert result.return_value == 0
    assert "better" in result.output


def test_change_within_the_threshold_exits_with_0(tmp_path: Path):
    assert compared(tmp_path, made_up(), made_up(factor=1.2), "--threshold", "1.25").return_value == 0
    assert compared(tmp_path, made_up(), made_up(factor=1.2), "--threshold", "1.1").return_value == 1


def test_median_beyond_the_threshold_with_an_interval_that_is_not_exits_with_0(tmp_path: Path):
    new = made_up(factor=1.2)
    for cell in new.cells.values():
        for number, block in cell.blocks.items():
            if number < 2:
                block.figures = dict.fromkeys(block.figures, 1.0)
    assert compared(tmp_path, made_up(), new, "--server", "waitress").return_value == 0


def test_too_few_blocks_for_an_interval_exit_with_0(tmp_path: Path):
    assert compared(tmp_path, made_up(2), made_up(2, factor=5)).return_value == 0


def test_more_is_better_where_the_figure_says_so():
    found = {
        change.server: change
        for change in changes(made_up(), _answering(50.0), 1.1)
        if change.scenario == "slow_clients"
    }
    assert found["waitress"].worse
    assert not found["waitress"].better
    assert "granian" not in found


def _answering(percent: float):
    results = made_up()
    for (scenario, _), cell in results.cells.items():
        if scenario == "slow_clients":
            for block in cell.blocks.values():
                block.figures["answered"] = percent
    return results


def test_another_machine_is_named(tmp_path: Path):
    assert differing(made_up(), made_up(kernel="7.0", usable_cores=4)) == [
        "usable cores: 8 and 4",
        "kernel: 6.1 and 7.0",
    ]
    assert "not the same machine: kernel: 6.1 and 7.0" in compared(tmp_path, made_up(), made_up(kernel="7.0")).output


@pytest.mark.parametrize("name", ["list", "run", "verify", "report", "claims", "compare", "smoke"])
def test_command_has_help(name: str):
    result = CliRunner().invoke(command, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output
