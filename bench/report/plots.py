"""Plots, as SVG that takes its colours for text and lines from the page around it.

One hue for aiowsgi and grey for the others; for lines, the colours of Okabe and Ito with markers and a name at the end
of each line: colour is never the only distinction.

Thread: any. matplotlib draws; where it is missing there are no plots.

Source: M. Okabe and K. Ito, Color Universal Design (2008), for the colours.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.figures import FIGURES
from bench.results import Cell, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["Plot", "available", "draw", "standalone"]

# These stand for the colours of the page, and are replaced by them in the SVG.
_INK, _GRID = "#0a0b0c", "#d1d2d3"
_OWN, _OTHER, _NULL = "#2e86c1", "#939aa5", "#c9ced6"
_LINES = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#8c7a00", "#7f7f9f", "#b07050")
_MARKERS = "osD^vP<>X*"
_PAPER = (
    "<style>svg{color:#1b1f26;background:#fff;--grid:#d5d9e0}"
    "@media (prefers-color-scheme:dark){svg{color:#e6e9ef;background:#14171c;--grid:#3a404b}}"
    "@media print{svg{color:#000;background:#fff;--grid:#d5d9e0}}</style>"
)
_PERCENTILES = (50, 90, 99, 99.9, 99.99)


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot.

    Args:
        name: of its file, without the suffix.
        scenario: the one that it belongs to; empty for a plot over several.
        title: in words.
        svg: the element, for a page that sets ``color`` and ``--grid``.
    """

    name: str
    scenario: str
    title: str
    svg: str


def available() -> bool:
    """Return whether there is matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def standalone(plot: Plot) -> str:
    """Return the plot as a file of its own, light or dark as its reader prefers."""
    return plot.svg.replace(">", f">{_PAPER}", 1)


def draw(results: Results) -> list[Plot]:
    """Return all plots for which there is data."""
    return [*_bars(results), *_ratios(results), *_latencies(results), *_idle(results)]


def _canvas(width: float, height: float, columns: int = 1) -> tuple[Canvas, list[Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["system-ui", "sans-serif", "DejaVu Sans"],
            "font.size": 9,
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK),
        }
    )
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(1, columns, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color=_GRID, linewidth=0.6)
        each.set_axisbelow(True)
    return canvas, list(axes)


def _plot(canvas: Canvas, name: str, scenario: str, title: str) -> Plot:
    import matplotlib as mpl

    buffer = io.StringIO()
    # Ids within the SVG depend on the plot alone, so that files do not change without need.
    with mpl.rc_context({"svg.hashsalt": name}):
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    # A page holds several plots: ids within each begin with the plot's name.
    svg = re.sub(r'((?:id="|xlink:href="#|url\(#))', rf"\g<1>{name}-", svg)
    label = html.escape(title, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return Plot(name, scenario, title, svg)


def _bars(results: Results) -> Iterator[Plot]:
    """The first figure of each scenario, a bar for each server."""
    for name, scenario in results.scenarios.items():
        figure = FIGURES[scenario["figures"][0]]
        found = [(server, cell.estimate(figure.name)) for server, cell in results.of_scenario(name) if cell.blocks]
        rows = sorted(
            ((server, estimate) for server, estimate in found if estimate is not None and server != "null"),
            key=lambda row: row[1].median,
            reverse=figure.less_is_better,
        )
        if not rows:
            continue
        canvas, (axes,) = _canvas(7.2, 0.9 + 0.27 * len(rows))
        medians = [estimate.median for _, estimate in rows]
        most = max(max(medians), *(estimate.high or 0 for _, estimate in rows)) or 1
        axes.barh(range(len(rows)), medians, color=[_colour(server) for server, _ in rows], height=0.68)
        for place, (_, estimate) in enumerate(rows):
            end = estimate.median
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place, place], color=_INK, linewidth=1.2)
                for edge in (estimate.low, estimate.high):
                    axes.plot([edge, edge], [place - 0.16, place + 0.16], color=_INK, linewidth=1.2)
                end = max(end, estimate.high)
            axes.text(end + 0.012 * most, place, figure.show(estimate.median), va="center", ha="left")
        axes.set_yticks(range(len(rows)), [server for server, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.12 * most)
        better = "less is better" if figure.less_is_better else "more is better"
        unit = f", {figure.unit}" if figure.unit else ""
        axes.set_xlabel(f"{figure.label}{unit} ({better})")
        yield _plot(canvas, f"{name}-bars", name, f"{scenario['title']}: {figure.label}{unit}")


def _colour(server: str) -> str:
    if server == "null":
        return _NULL
    return _OWN if server.startswith("aiowsgi") else _OTHER


def _ratios(results: Results) -> Iterator[Plot]:
    """Throughput of aiowsgi's rows against the baseline's, over the scenarios."""
    baseline = results.run["baseline"]
    own = [server for server in results.servers if server.startswith("aiowsgi") and server != baseline]
    rows: list[tuple[str, list[tuple[str, Any]]]] = []
    for name, scenario in reversed(results.scenarios.items()):
        if "throughput" in scenario["figures"]:
            found = [
                (server, results.cell(name, server).ratio("throughput", results.cell(name, baseline))) for server in own
            ]
            if any(estimate for _, estimate in found):
                rows.append((scenario["title"], found))
    if not rows:
        return
    canvas, (axes,) = _canvas(7.2, 1.2 + 0.5 * len(rows))
    offsets = {server: 0.2 * (1 - 2 * place) for place, server in enumerate(own)}
    for place, (_, found) in enumerate(rows):
        for server, estimate in found:
            if estimate is None:
                continue
            height = place + offsets[server]
            marker, colour = ("o", _OWN) if server == own[0] else ("D", "#e69f00")
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [height, height], color=colour, linewidth=1.6)
            axes.plot(
                [estimate.median],
                [height],
                marker=marker,
                color=colour,
                linestyle="",
                label=server if not place else "",
            )
            axes.annotate(
                f"{estimate.median:.2f}",
                (estimate.median, height),
                xytext=(0, 4),
                textcoords="offset points",
                va="bottom",
                ha="center",
                fontsize=7.5,
            )
    axes.axvline(1, color=_INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(*_ratio_ticks(axes.get_xlim()))
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"throughput ÷ that of {baseline} (right of the line: more than it)")
    canvas.legend(loc="outside upper right", ncols=len(own), frameon=False)
    yield _plot(canvas, "throughput-ratios", "", f"Throughput against {baseline}")


def _ratio_ticks(limits: tuple[float, float]) -> tuple[list[float], list[str]]:
    ticks = [0.05, 0.1, 0.2, 0.33, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20]
    ticks = [tick for tick in ticks if limits[0] / 1.1 <= tick <= limits[1] * 1.1]
    return ticks, [f"{tick:g}" for tick in ticks]


def _latencies(results: Results) -> Iterator[Plot]:
    """The distribution of latencies, up to the percentile that the samples support."""
    for name, scenario in results.scenarios.items():
        if scenario["kind"] not in ("open", "latency"):
            continue
        lines = {}
        for server, cell in results.of_scenario(name):
            points = _percentiles(cell)
            if server != "null" and len(points) > 1:
                lines[server] = points
        if not lines:
            continue
        canvas, (axes,) = _canvas(7.2, 4.4)
        _draw_lines(axes, lines)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = [points[-1][0] for points in lines.values()]
        ticks = [percent for percent in _PERCENTILES if 100 / (100 - percent) <= max(ends) * 1.01]
        axes.set_xticks([100 / (100 - percent) for percent in ticks], [f"{percent:g} %" for percent in ticks])
        axes.minorticks_off()
        _logarithmic(axes)
        axes.set_xlabel("share of requests that were quicker (logarithmic in the rest)")
        axes.set_ylabel("latency, ms")
        yield _plot(canvas, f"{name}-latency", name, f"{scenario['title']}: latencies")


def _logarithmic(axes: Axes) -> None:
    """Give a logarithmic axis of latencies enough numbers to read it by."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _percentiles(cell: Cell) -> list[tuple[float, float]]:
    if cell.reason:
        return []
    histogram = cell.histogram("latency")
    points = []
    for latency, share in histogram.cumulative():
        if share >= 0.1 and len(histogram) * (1 - share) >= 10:
            points.append((1 / (1 - share), 1000 * latency))
    return points


def _idle(results: Results) -> Iterator[Plot]:
    """Memory and p99 against the number of idle connections."""
    for name, scenario in results.scenarios.items():
        if scenario["kind"] != "idle":
            continue
        series = {
            key: {
                server: points
                for server, cell in results.of_scenario(name)
                if not cell.reason and len(points := _medians(cell, key)) > 1
            }
            for key in ("memory", "p99")
        }
        if not series["memory"]:
            continue
        canvas, (left, right) = _canvas(9.6, 4.2, columns=2)
        for axes, key, label in ((left, "memory", "memory (PSS), MB"), (right, "p99", "p99 of quick requests, ms")):
            _draw_lines(axes, series[key])
            axes.set_xlabel("idle connections")
            axes.set_ylabel(label)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if series["p99"]:
            right.set_yscale("log")
            _logarithmic(right)
        yield _plot(canvas, f"{name}-steps", name, f"{scenario['title']}: memory and latency against their number")


def _medians(cell: Cell, key: str) -> list[tuple[float, float]]:
    steps: dict[float, list[float]] = {}
    for block in cell.blocks.values():
        for step, value in block.series.get(key, []):
            steps.setdefault(step, []).append(value)
    return [(step, statistics.median(values)) for step, values in sorted(steps.items())]


def _draw_lines(axes: Axes, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Draw a line for each server, its name at the end: aiowsgi's in its own hue, and thicker."""
    others = [server for server in lines if not server.startswith("aiowsgi")]
    for server, points in lines.items():
        own = server.startswith("aiowsgi")
        place = others.index(server) if not own else 0
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            color=_OWN if own else _LINES[place % len(_LINES)],
            linewidth=2.4 if own else 1.2,
            linestyle="--" if server == "aiowsgi-h11" else "-",
            marker=_MARKERS[place % len(_MARKERS)] if not own else "s",
            markersize=4,
            markevery=max(1, len(x) // 8),
            zorder=3 if own else 2,
            label=server,
        )
    # Names beside the plot, in the order of the lines' ends, where a reader looks for them.
    order = sorted(range(len(lines)), key=lambda place: -list(lines.values())[place][-1][1])
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=8,
        handlelength=2.4,
    )
