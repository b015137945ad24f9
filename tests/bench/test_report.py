"""Reports: what must stand in each, and that nothing of a cell's text is taken for markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from bench.claims import load_claims
from bench.report import markdown, page, plots
from bench.report.tables import MARK, claims_table, scenario_table
from bench.report.text import HOW_TO_READ, NOT_SHOWN, top_warnings
from bench.results import Cell, Results
from tests.bench.results import made_up

needs_matplotlib = pytest.mark.skipif(
    not plots.available(), reason="matplotlib is not installed: pip install '.[bench]'"
)


@pytest.fixture(scope="module")
def drawn() -> list[plots.Plot]:
    return plots.draw(made_up()) if plots.available() else []


def test_scenario_table_ranks_by_its_first_figure_and_gives_intervals_and_paired_ratios():
    table = scenario_table(made_up(), "hello", "granian")
    assert [row[0] for row in table.rows] == ["aiowsgi-httptools", "granian", "waitress", "null"]
    assert table.header[0::6] == ["server", "CPU per request ÷ granian"]
    assert table.rows[0][1] == "10.1 [10.0, 10.2]"
    assert table.rows[0][-1] == "0.71 [0.71, 0.71]"


def test_throughput_near_that_of_the_null_server_is_marked():
    results = made_up()
    for block in results.cells["hello", "null"].blocks.values():
        block.figures["throughput"] = 1e5
    rows = {row[0]: row[2] for row in scenario_table(results, "hello", "granian").rows}
    assert rows["aiowsgi-httptools"].endswith(MARK)  # 100,000 of 100,000
    assert MARK in rows["granian"]  # 71,000
    assert MARK not in rows["waitress"]


def test_cell_without_a_figure_has_its_reason_and_never_a_zero():
    table = scenario_table(made_up(), "slow_clients", "granian")
    assert table.reasons == [("granian", "no <request> was answered")]
    assert "granian" not in [row[0] for row in table.rows]


def test_figure_that_some_blocks_lack_is_not_made_up():
    results = made_up()
    del results.cells["hello", "waitress"].blocks[0].figures["switches"]
    rows = {row[0]: row[3] for row in scenario_table(results, "hello", "granian").rows}
    assert rows["waitress"] == "–"


def test_percentile_that_only_all_blocks_together_support_has_no_interval():
    results = made_up()
    for block in results.cells["steady", "waitress"].blocks.values():
        block.figures.pop("p999", None)
    found = results.cell("steady", "waitress").estimate("p999")
    assert found is not None
    assert found.low is None
    assert found.median == pytest.approx(200, rel=0.05)


def test_claim_holds_only_where_its_whole_interval_does():
    table = claims_table(made_up())
    verdicts = {row[0]: row[-1] for row in table.rows}
    hello = next(claim for claim in load_claims() if claim.scenario == "hello" and claim.against == "granian")
    assert verdicts[hello.text] == "holds"
    worse = made_up()
    for number, block in worse.cells["hello", "aiowsgi-httptools"].blocks.items():
        block.figures["cpu"] = 13 if number < 2 else 15
    assert dict(zip(*_columns(claims_table(worse).rows), strict=True))[hello.text] == "open"
    for block in worse.cells["hello", "aiowsgi-httptools"].blocks.values():
        block.figures["cpu"] = 30
    assert dict(zip(*_columns(claims_table(worse).rows), strict=True))[hello.text] == "fails"


def _columns(rows: list[list[str]]) -> tuple[list[str], list[str]]:
    return [row[0] for row in rows], [row[-1] for row in rows]


def test_claims_that_a_run_does_not_decide_are_named_or_counted():
    results = made_up()
    results.cells["hello", "waitress"] = Cell(reason="3 reset")
    table = claims_table(results)
    *named, (others, _) = table.reasons
    assert named == [(claim.text, "not measured") for claim in load_claims() if claim.against == "waitress"][:1]
    assert others == f"{len(load_claims()) - len(table.rows) - len(named)} more"


@pytest.mark.parametrize(
    ("results", "warning"),
    [
        (made_up(usable_cores=2), "2 cores, fewer than 4"),
        (made_up(dirty=True), "not committed"),
        (made_up(load_average=[7.0, 1.0, 1.0]), "busy"),
        (made_up(2), "no intervals"),
        (made_up(finished=False), "interrupted"),
    ],
)
def test_what_a_reader_must_know_first_stands_at_the_top(results: Results, warning: str):
    for text in (markdown.render(results, []), page.render(results, [])):
        assert warning in text
        assert text.index(warning) < text.index("How to read it")


def test_quiet_machine_with_enough_cores_and_blocks_has_no_warnings():
    assert top_warnings(made_up()) == []


def test_both_reports_have_the_fixed_sections_the_reasons_and_the_environment():
    results = made_up()
    text, html = markdown.render(results, []), page.render(results, [])
    for line in [*HOW_TO_READ, *NOT_SHOWN]:
        assert line in text
        assert line.replace("'", "&#x27;") in html
    for heading in ("Claims", "What the data does not show", "Servers", "Environment", "900 slow clients"):
        assert f"## {heading}" in text
        assert f"<h2>{heading}</h2>" in html
    assert "granian: no <request> was answered" in text
    assert "no &lt;request&gt; was answered" in html
    assert "A &lt;fast&gt; one" in html
    assert "<fast>" not in html


def test_page_is_of_one_piece(drawn: list[plots.Plot]):
    html = page.render(made_up(), drawn)
    assert not re.search(r"<(link|script|img|iframe)\b", html)
    assert not re.search(r"(?:src|href)=\"(?!#)", html)
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media print" in html


@needs_matplotlib
def test_plots_are_drawn_for_all_that_has_data_and_are_well_formed(drawn: list[plots.Plot]):
    names = [plot.name for plot in drawn]
    assert names == [
        *("hello-bars", "steady-bars", "idle-bars", "slow_clients-bars"),
        *("throughput-ratios", "steady-latency", "idle-steps"),
    ]
    for plot in drawn:
        root = ET.fromstring(plots.standalone(plot))
        assert root.get("aria-label") == plot.title
        text = "".join(root.itertext())
        assert "aiowsgi" in text
        assert "prefers-color-scheme:dark" in text


@needs_matplotlib
def test_plots_take_ink_from_the_page_and_label_every_bar(drawn: list[plots.Plot]):
    bars = drawn[0]
    assert "currentColor" in bars.svg
    assert "var(--grid)" in bars.svg
    assert "#0a0b0c" not in bars.svg
    text = "".join(ET.fromstring(bars.svg).itertext())
    for label in ("10.1", "14.1", "101", "granian", "waitress", "less is better"):
        assert label in text
    assert "null" not in text


@needs_matplotlib
def test_names_within_plots_of_a_page_do_not_collide(drawn: list[plots.Plot]):
    html = page.render(made_up(), drawn)
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))
    for reference in re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', html):
        assert f'id="{reference}"' in html


@needs_matplotlib
def test_plots_of_results_without_any_figure_are_none():
    results = made_up()
    results.cells = {key: Cell(reason="nothing") for key in results.cells}
    assert plots.draw(results) == []
