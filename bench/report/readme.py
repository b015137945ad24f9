"""What the project's README shows of a run: one table, and where aiowsgi loses.

Computed like everything else, not chosen by hand; a test compares the README with the run that it names.

Thread: any. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import FIGURES
from bench.report.markdown import table_lines
from bench.report.text import summary
from bench.results import Results

__all__ = ["OWN_SERVER", "losses", "render"]

#: The server whose losses are listed.
OWN_SERVER = "aiowsgi-httptools"
# Scenario, figure and heading of each column.
_COLUMNS = (
    ("hello", "cpu", "hello, µs"),
    ("browser", "cpu", "browser's head, µs"),
    ("flask_json", "cpu", "Flask JSON, µs"),
    ("body_1mb", "cpu", "1 MB body, µs"),
    ("small_blocks", "cpu", "200 blocks, µs"),
    ("active_1000", "cpu", "1,000 active, µs"),
    ("idle", "each", "idle connection, KB"),
    ("fan_out", "each", "event stream, KB"),
    ("slow_clients", "answered", "answered beside 900 slow clients, %"),
)
_NONE = "–"


def render(results: Results) -> str:
    """Return the README's part, as Markdown."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    machine = results.environment
    yield f"{summary(results)} {machine['cpu']}, {machine['usable_cores']} cores; {machine['python']}."
    yield ""
    columns = [column for column in _COLUMNS if column[0] in results.scenarios]
    rows = []
    for server in results.servers:
        if server == "null":
            continue
        row = [server]
        for scenario, name, _ in columns:
            found = results.cell(scenario, server).estimate(name)
            row.append(_NONE if found is None else FIGURES[name].show(found.median))
        rows.append(row)
    yield from table_lines(["server", *(heading for _, _, heading in columns)], rows)
    yield ""
    lost = list(losses(results))
    yield f"Where `{OWN_SERVER}` is not the best of these, by the first figure of each scenario:"
    yield ""
    yield from (f"- {text}" for text in lost or ["nowhere."])


def losses(results: Results, own: str = OWN_SERVER) -> Iterator[str]:
    """Yield a sentence for each scenario in which another server than aiowsgi does better."""
    for scenario, description in results.scenarios.items():
        figure = FIGURES[description["figures"][0]]
        ours = results.cell(scenario, own).estimate(figure.name)
        if ours is None:
            yield f"{description['title']}: it has no figure, for {results.cell(scenario, own).reason}"
            continue
        better = []
        for server, cell in results.of_scenario(scenario):
            theirs = cell.estimate(figure.name)
            if server == "null" or server.startswith("aiowsgi") or theirs is None:
                continue
            if theirs.median < ours.median if figure.less_is_better else theirs.median > ours.median:
                better.append((theirs.median, server))
        if better:
            names = ", ".join(
                f"{server} {figure.show(value)}" for value, server in sorted(better, reverse=not figure.less_is_better)
            )
            unit = f" {figure.unit}" if figure.unit else ""
            yield f"{description['title']}, {figure.label}: {names}; here {figure.show(ours.median)}{unit}"
