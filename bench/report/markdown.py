"""``report.md``.

Thread: any. Pure, but for :func:`write`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.report import text
from bench.report.plots import Plot
from bench.report.tables import Table, claims_table, scenario_table, servers_table
from bench.results import Results

__all__ = ["render", "table_lines", "write"]


def write(results: Results, folder: Path, plots: Sequence[Plot]) -> Path:
    """Write the report; its plots lie in ``plots`` beside it."""
    path = folder / "report.md"
    path.write_text(render(results, plots))
    return path


def render(results: Results, plots: Sequence[Plot]) -> str:
    """Return the report."""
    return "\n".join(_lines(results, plots)) + "\n"


def _lines(results: Results, plots: Sequence[Plot]) -> Iterator[str]:
    yield "# WSGI servers side by side"
    yield ""
    for warning in text.top_warnings(results):
        yield f"> **{warning}**"
        yield ">"
    yield f"> {text.summary(results)}"
    yield ""
    yield "## How to read it"
    yield ""
    yield from (f"- {line}" for line in text.HOW_TO_READ)
    yield ""
    yield "## Claims"
    yield ""
    yield from _table(claims_table(results), "Not decided by this run")
    yield from _figures(plots, "")
    for name, scenario in results.scenarios.items():
        yield f"## {scenario['title']}"
        yield ""
        yield f"*{scenario['question']}* (`{name}`)"
        yield ""
        yield from _table(scenario_table(results, name, results.run["baseline"]), "No figure")
        yield from _figures(plots, name)
    yield "## What the data does not show"
    yield ""
    yield from (f"- {line}" for line in text.NOT_SHOWN)
    yield ""
    yield "## Servers"
    yield ""
    yield from _table(servers_table(results), "")
    yield "## Environment"
    yield ""
    yield from table_lines(["what", "value"], [list(row) for row in text.environment_rows(results)])


def _figures(plots: Sequence[Plot], scenario: str) -> Iterator[str]:
    for plot in plots:
        if plot.scenario == scenario:
            yield f"![{plot.title}](plots/{plot.name}.svg)"
            yield ""


def _table(table: Table, without: str) -> Iterator[str]:
    if table.rows:
        yield from table_lines(table.header, table.rows)
        yield ""
    if table.reasons:
        yield f"{without}:"
        yield ""
        yield from (f"- {name}: {reason}" for name, reason in table.reasons)
        yield ""
    if table.notes:
        yield from (f"- {note}" for note in table.notes)
        yield ""


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table: the first column to the left, numbers to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    numeric = [all(not row[place][:1].isalpha() for row in rows) for place in range(len(header))]
    yield line(header)
    yield "|" + "|".join("---:" if right and place else "---" for place, right in enumerate(numeric)) + "|"
    yield from map(line, rows)
