"""``python -m bench capacity``.

Thread: the main thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.capacity import quantities, report
from bench.capacity.figures import load_figures
from bench.capacity.sheet import Demand, Machine, compute
from bench.report.markdown import table_lines

__all__ = ["COUNT", "capacity"]

_WIDTH = 150


class _Quantity(click.ParamType):  # type: ignore[type-arg]  # not generic at run time before click 8.3
    """A number that one of :mod:`bench.capacity.quantities` reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See :class:`click.ParamType`."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


#: Other commands use it too.
COUNT = _Quantity("count", quantities.parse_count)
_RATE = _Quantity("rate", quantities.parse_rate)
_SIZE = _Quantity("size", quantities.parse_size)
_SHARE = _Quantity("share", quantities.parse_share)


@click.command()
@click.option("--connections", type=COUNT, help="Held open by clients: 10k, 1M.")
@click.option("--rps", type=_RATE, default="0", show_default=True, help="Requests per second beside the streams: 50k.")
@click.option("--events", type=_RATE, default="0", show_default=True, help="Sent per second: 100/s, 6/min.")
@click.option(
    "--parked", type=_SHARE, default="100%", show_default=True, help="Share of connections that are event streams."
)
@click.option(
    "--audience", type=_SHARE, default="100%", show_default=True, help="Share of streams that get each event."
)
@click.option("--event-size", type=_SIZE, default="200", show_default=True, help="Bytes of an event.")
@click.option(
    "--delay", type=click.FloatRange(0.01, 60), default=1.0, show_default=True, help="Seconds until all have an event."
)
@click.option(
    "--application", type=click.FloatRange(0), help="µs of processor time that a request takes the application."
)
@click.option("--cores", type=click.IntRange(1, 1024), default=8, show_default=True, help="Of a machine.")
@click.option(
    "--reserved", type=click.IntRange(0, 1024), default=1, show_default=True, help="Of these, not for workers."
)
@click.option("--memory", type=_SIZE, default="32G", show_default=True, help="Of a machine.")
@click.option(
    "--utilisation", type=_SHARE, default="60%", show_default=True, help="Of a worker's core, when it is busiest."
)
@click.option("--memory-share", type=_SHARE, default="75%", show_default=True, help="Of the memory, for all workers.")
@click.option("--spare", type=click.IntRange(0, 1000), default=1, show_default=True, help="Machines that may be away.")
@click.option(
    "--proxies", type=click.IntRange(1, 1000), default=2, show_default=True, help="Addresses of proxies in front."
)
@click.option("--readme", is_flag=True, help="Print the table of the README instead.")
def capacity(readme: bool, connections: int | None, delay: float, **options: Any) -> None:
    """Compute how many machines a number of clients needs, and what to set on them."""
    figures = load_figures()
    if readme:
        header, *compared = report.comparison(figures)
        click.echo("\n".join(table_lines(header, compared)))
        return
    if not connections:
        raise click.UsageError("--connections: is needed, and at least 1")
    names = ("rps", "events", "parked", "audience", "event_size", "application")
    demand = Demand(connections, event_seconds=delay, **{name: options.pop(name) for name in names})
    machine = Machine(**options)
    sheet = compute(demand, machine, figures)
    # For a pipe, rich would assume 80 columns.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for title, rows in (
        ("Needs", report.need_rows(sheet, machine)),
        ("Settings, on each machine", report.setting_rows(sheet)),
        ("Assumptions", report.assumption_rows(demand, machine, figures)),
    ):
        table = Table(
            title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2)
        )
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()
