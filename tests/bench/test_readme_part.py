"""What the README shows of a run: computed from it, losses included."""

from __future__ import annotations

import re
from pathlib import Path

from bench import runs
from bench.report.readme import losses, render
from bench.results import Cell
from tests.bench.results import made_up

ROOT = Path(__file__).resolve().parents[2]


def test_losses_name_who_is_better_and_by_how_much():
    results = made_up()
    assert list(losses(results)) == []
    for block in results.cells["hello", "granian"].blocks.values():
        block.figures["cpu"] = 5.0
    for block in results.cells["slow_clients", "waitress"].blocks.values():
        block.figures["answered"] = 100.0
    assert list(losses(results)) == [
        "Hello, keep-alive, CPU per request: granian 5.0; here 10.1 µs",
        "900 slow clients, quick requests answered: waitress 100; here 99.5 %",
    ]


def test_scenario_without_a_figure_of_ours_is_a_loss():
    results = made_up()
    results.cells["hello", "aiowsgi-httptools"] = Cell(reason="it broke")
    assert list(losses(results)) == ["Hello, keep-alive: it has no figure, for it broke"]


def test_part_has_the_run_a_row_for_each_server_and_no_zero_for_what_is_missing():
    text = render(made_up())
    assert text.startswith("A run of 15 January 2027, 08:00 UTC: 4 scenarios, 3 servers")
    assert "| server | hello, µs | idle connection, KB | answered beside 900 slow clients, % |" in text
    assert "| granian | 14.1 | 14.1 | – |" in text
    assert "| null" not in text
    assert text.endswith("- nowhere.\n")


def test_part_of_the_readme_is_what_its_run_says():
    readme = (ROOT / "README.md").read_text()
    between = re.search(
        r"<!-- python -m bench report (\S+) --readme -->\n(.*?)<!-- end of the run -->", readme, re.DOTALL
    )
    assert between is not None
    assert between[2].strip() == render(runs.read(ROOT / between[1])).strip()
