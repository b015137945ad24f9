"""``report.html``: one self-contained file for the screen, light or dark, and for paper.

Thread: any. Pure, but for :func:`write`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from bench.report import text
from bench.report.plots import Plot
from bench.report.tables import Table, claims_table, scenario_table, servers_table
from bench.results import Results

__all__ = ["render", "write"]

_VERDICTS = {"holds": "✔ holds", "fails": "✘ fails", "open": "○ open"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f26; --paper: #fff; --soft: #f3f5f8; --grid: #d5d9e0; --accent: #1f6da8;
  --warn: #8a4b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --paper: #14171c; --soft: #1d2128; --grid: #3a404b; --accent: #7fb8e8; --warn: #f0b35a; }
}
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #fff; --grid: #bbb; --accent: #000; --warn: #000; }
  section, figure, table { break-inside: avoid; }
  nav { display: none; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .4rem; }
.question { font-style: italic; margin: 0 0 1rem; }
.warning { border-left: 4px solid var(--warn); background: var(--soft); padding: .6rem 1rem; margin: .5rem 0;
  color: var(--warn); font-weight: 600; }
nav { columns: 3 15rem; margin: 1.5rem 0; font-size: .92rem; }
nav a { display: block; }
a { color: var(--accent); }
.table { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: .32rem .7rem; border-bottom: 1px solid var(--grid); }
th { vertical-align: bottom; border-bottom: 2px solid var(--ink); font-weight: 600; }
th:first-child, td:first-child, .text { text-align: left; }
.numbers td:first-child { white-space: nowrap; }
tr.own td { background: var(--soft); font-weight: 600; }
tr.null td { font-style: italic; opacity: .8; }
.interval { opacity: .72; font-weight: 400; font-size: .92em; white-space: nowrap; }
.fails { color: var(--warn); font-weight: 600; }
figure { margin: 1.2rem 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 52rem; color: var(--ink); }
figure svg text { font-family: system-ui, sans-serif; }
figcaption { font-size: .88rem; opacity: .8; }
.notes { font-size: .88rem; margin: .3rem 0 .3rem; padding-left: 1.2rem; }
.notes-head { font-size: .88rem; font-weight: 600; margin: .8rem 0 0; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
"""


def write(results: Results, folder: Path, plots: Sequence[Plot]) -> Path:
    """Write the report."""
    path = folder / "report.html"
    path.write_text(render(results, plots))
    return path


def render(results: Results, plots: Sequence[Plot]) -> str:
    """Return the page."""
    title = "WSGI servers side by side"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n" + "\n".join(_body(results, plots)) + "\n</html>\n"
    )


def _body(results: Results, plots: Sequence[Plot]) -> Iterator[str]:
    for warning in text.top_warnings(results):
        yield f'<p class="warning">{escape(warning)}</p>'
    yield f"<p>{escape(text.summary(results))}</p>"
    yield from _contents(results)
    yield '<section id="how-to-read"><h2>How to read it</h2>'
    yield from _list(text.HOW_TO_READ)
    yield '</section><section id="claims"><h2>Claims</h2>'
    yield from _table(claims_table(results), "Not decided by this run", words=True)
    yield "</section>"
    yield from _figures(plots, "")
    for name, scenario in results.scenarios.items():
        yield f'<section id="{escape(name)}"><h2>{escape(scenario["title"])}</h2>'
        yield f'<p class="question">{escape(scenario["question"])}</p>'
        yield from _table(scenario_table(results, name, results.run["baseline"]), "No figure")
        yield from _figures(plots, name)
        yield "</section>"
    yield '<section id="not-shown"><h2>What the data does not show</h2>'
    yield from _list(text.NOT_SHOWN)
    yield '</section><section id="servers"><h2>Servers</h2>'
    yield from _table(servers_table(results), "", words=True)
    yield '</section><section id="environment"><h2>Environment</h2>'
    yield from _table(
        Table(["what", "value"], [list(row) for row in text.environment_rows(results)], [], []), "", words=True
    )
    yield "</section>"


def _contents(results: Results) -> Iterator[str]:
    fixed = {"how-to-read": "How to read it", "claims": "Claims"}
    last = {"not-shown": "What the data does not show", "servers": "Servers", "environment": "Environment"}
    scenarios = {name: scenario["title"] for name, scenario in results.scenarios.items()}
    yield "<nav>"
    for name, title in (fixed | scenarios | last).items():
        yield f'<a href="#{escape(name)}">{escape(title)}</a>'
    yield "</nav>"


def _figures(plots: Sequence[Plot], scenario: str) -> Iterator[str]:
    for plot in plots:
        if plot.scenario == scenario:
            yield f"<figure>{plot.svg}<figcaption>{escape(plot.title)}</figcaption></figure>"


def _list(lines: Sequence[str]) -> Iterator[str]:
    yield "<ul>"
    yield from (f"<li>{escape(line)}</li>" for line in lines)
    yield "</ul>"


def _table(table: Table, without: str, *, words: bool = False) -> Iterator[str]:
    if table.rows:
        yield f'<div class="table"><table class="{"words" if words else "numbers"}"><tr>'
        yield "".join(f"<th{_text(words)}>{escape(cell)}</th>" for cell in table.header) + "</tr>"
        for row in table.rows:
            kind = "own" if row[0].startswith("aiowsgi") and not words else "null" if row[0] == "null" else ""
            cells = "".join(_cell(cell, words) for cell in row)
            yield f'<tr class="{kind}">{cells}</tr>'
        yield "</table></div>"
    if table.reasons:
        yield f'<p class="notes-head">{escape(without)}</p><ul class="notes">'
        yield from (f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in table.reasons)
        yield "</ul>"
    if table.notes:
        yield '<p class="notes-head">To be known of single blocks</p><ul class="notes">'
        yield from (f"<li>{escape(note)}</li>" for note in table.notes)
        yield "</ul>"


def _text(words: bool) -> str:
    return ' class="text"' if words else ""


def _cell(cell: str, words: bool) -> str:
    if cell in _VERDICTS:
        return f'<td class="text {cell}">{_VERDICTS[cell]}</td>'
    shown = re.sub(r" (\[[^\]]*\])", r' <span class="interval">\1</span>', escape(cell))
    return f"<td{_text(words)}>{shown}</td>"
