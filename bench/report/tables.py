"""What a report's tables say, as rows of text; Markdown and HTML show the same ones.

Thread: any. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.claims import judge, load_claims
from bench.compare import Change
from bench.figures import FIGURES, Figure
from bench.method.statistics import Estimate
from bench.results import Cell, Results

__all__ = [
    "LIMIT",
    "MARK",
    "Table",
    "change_row",
    "claims_table",
    "interval_text",
    "limited",
    "scenario_table",
    "servers_table",
    "value_text",
]

# Above this share of what the load generator reached with the null server, it may be the generator that was measured.
LIMIT = 0.70
MARK = "†"
_NONE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Args:
        reasons: servers without a figure, and why.
        notes: remarks on single cells.
    """

    header: list[str]
    rows: list[list[str]]
    reasons: list[tuple[str, str]]
    notes: list[str]


def value_text(figure: Figure, found: Estimate | None) -> str:
    """Return a figure with its interval."""
    if found is None:
        return _NONE
    return figure.show(found.median) + interval_text(figure, found)


def interval_text(figure: Figure, found: Estimate) -> str:
    """Return the interval, in brackets; nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    low, high = figure.show(found.low), figure.show(found.high)
    # Counts that are the same in all blocks need no interval.
    return "" if not figure.digits and low == high else f" [{low}, {high}]"


def limited(results: Results, scenario: str, cell: Cell) -> bool:
    """Return whether the load generator may have been the limit of a cell's throughput."""
    own, null = cell.estimate("throughput"), results.cell(scenario, "null").estimate("throughput")
    return own is not None and null is not None and own.median > LIMIT * null.median


def scenario_table(results: Results, scenario: str, baseline: str) -> Table:
    """Return the table of a scenario: best first by its first figure, then those without one, with their reasons."""
    names = results.scenarios[scenario]["figures"]
    figures = [FIGURES[name] for name in names]
    first = figures[0]
    header = ["server", *(_heading(figure) for figure in figures), f"{first.label} ÷ {baseline}"]
    ranked: list[tuple[bool, float, list[str]]] = []
    reasons: list[tuple[str, str]] = []
    notes: list[str] = []
    for server, cell in results.of_scenario(scenario):
        found = cell.estimate(first.name)
        if cell.reason or not cell.blocks:
            reasons.append((server, cell.reason or "not measured yet"))
            continue
        notes.extend(f"{server}: {note}" for note in cell.notes())
        row = [server]
        for figure in figures:
            text = value_text(figure, cell.estimate(figure.name))
            if figure.name == "throughput" and server != "null" and limited(results, scenario, cell):
                text += f" {MARK}"
            row.append(text)
        ratio = cell.ratio(first.name, results.cell(scenario, baseline))
        row.append(value_text(Figure("", "", "", digits=2), ratio))
        rank = found.median if found else float("inf")
        ranked.append((server == "null", rank if first.less_is_better else -rank, row))
    rows = [row for _, _, row in sorted(ranked, key=lambda each: each[:2])]
    return Table(header, rows, reasons, notes)


def _heading(figure: Figure) -> str:
    return f"{figure.label}, {figure.unit}" if figure.unit else figure.label


def claims_table(results: Results) -> Table:
    """Return what the run says about each claim."""
    ratio = Figure("", "", "", digits=2)
    rows, reasons, others = [], [], 0
    for claim in load_claims():
        verdict = judge(results, claim)
        if verdict.estimate is None:
            if results.scenarios.keys() >= set(claim.scenarios):
                reasons.append((claim.text, verdict.reason))
            else:
                others += 1
            continue
        aim = _NONE if claim.aim is None else f"{claim.aim:g}"
        rows.append([claim.text, claim.bound, aim, value_text(ratio, verdict.estimate), verdict.word])
    if others:
        reasons.append((f"{others} more", "their scenarios are not part of this run"))
    return Table(["claim", "bound", "aim", "measured", "so it"], rows, reasons, [])


def change_row(change: Change) -> list[str]:
    """Return how a figure has changed, as a row of ``compare``."""
    word = "worse" if change.worse else "better" if change.better else ""
    return [
        change.scenario,
        change.server,
        _heading(change.figure),
        value_text(change.figure, change.old),
        value_text(change.figure, change.new),
        value_text(Figure("", "", "", digits=2), change.ratio),
        word,
    ]


def servers_table(results: Results) -> Table:
    """Return the servers: versions, mapping and command."""
    rows = []
    for name, server in results.servers.items():
        versions = ", ".join(f"{name} {version}" for name, version in server["versions"].items()) or _NONE
        rows.append([name, versions, server["mapping"], " ".join(server["command"])])
    return Table(["server", "versions", "what threads and processes become", "command"], rows, [], [])
