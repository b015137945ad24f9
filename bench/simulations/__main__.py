"""``python -m bench.simulations crowd|parked|sockets``.

Thread: the main thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import click

from bench.capacity.command import COUNT
from bench.capacity.quantities import show_size
from bench.errors import BenchError
from bench.report.markdown import table_lines

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Hold more clients than a machine has sockets for."""


@command.command()
@click.option("--clients", type=COUNT, default="10k", show_default=True, help="Browsers with a stream each.")
@click.option("--workers", type=click.IntRange(2, 64), default=4, show_default=True, help="In the rolling restart.")
def crowd(clients: int, workers: int) -> None:
    """Restart servers, and count how many browsers come back in a second. Takes a minute or two."""
    from bench.simulations.crowd import Restart, simulate

    begun = time.monotonic()
    drain = Restart(clients)
    rolling = Restart(clients, workers, start_seconds=0.5)
    rows = []
    for name, restart in (("drain of one worker", drain), (f"rolling restart of {workers}", rolling)):
        for how, each in (
            ("all at once", dataclasses.replace(restart, drain_rate=0, told=False)),
            (f"in turns, {restart.drain_rate}/s", restart),
            ("in turns, with 1 s for them", dataclasses.replace(restart, graceful_timeout=1.0)),
        ):
            outcome = simulate(each)
            returns = outcome.returns
            rows.append(
                [
                    *(name, how, f"{returns.busiest_second:,}", f"{len(returns.times):,}"),
                    *(f"{outcome.drain_seconds:.1f} s", f"{returns.last:.1f} s"),
                    *(f"{returns.mean_absence:.1f} s", f"{returns.longest_absence:.1f} s"),
                    *(str(outcome.missed), str(outcome.doubled)),
                ]
            )
    header = ["", "streams end", "busiest second", "returns", "drain", "all are back", "away, mean", "longest"]
    click.echo(f"{clients:,} clients; simulated in {time.monotonic() - begun:.0f} s")
    click.echo("\n".join(table_lines([*header, "events missed", "doubled"], rows)))


@command.command()
@click.option("--clients", type=COUNT, default="100k", show_default=True, help="Parked, on one channel.")
@click.option("--events", type=click.IntRange(1, 1000), default=5, show_default=True, help="To all of them.")
def parked(clients: int, events: int) -> None:
    """Measure parked clients on connections in memory, and a tenth as many. Takes about a minute."""
    from bench.simulations.parked import measure

    rows = []
    for count in (max(1, clients // 10), clients):
        cost = measure(count, events)
        rows.append(
            [
                *(f"{count:,}", show_size(cost.idle_size), show_size(cost.parked_size)),
                *_times(cost.park_seconds, cost.event_seconds, cost.delay_seconds),
            ]
        )
    header = ["clients in memory", "idle", "parked", "CPU to come", "CPU per event and client", "to the last one"]
    click.echo("\n".join(table_lines(header, rows)))


@command.command()
@click.option("--clients", type=COUNT, default="9k", show_default=True, help="Parked, on one channel.")
@click.option("--events", type=click.IntRange(1, 1000), default=10, show_default=True, help="To all of them.")
def sockets(clients: int, events: int) -> None:
    """Measure parked clients of a server on sockets, with the kernel's part."""
    from bench.simulations.sockets import measure

    cost = measure(clients, events)
    kernel = show_size(cost.kernel_size) if cost.kernel_size else "unknown"
    header = ["clients on sockets", "idle", "parked", "kernel", "CPU to come", "CPU per event and client"]
    row = [
        *(f"{clients:,}", show_size(cost.idle_size), show_size(cost.parked_size), kernel),
        *_times(cost.park_seconds, cost.event_seconds, cost.delay_seconds),
    ]
    click.echo("\n".join(table_lines([*header, "to the last one"], [row])))


def _times(park_seconds: float, event_seconds: float, delay_seconds: float) -> Iterator[str]:
    yield f"{1e6 * park_seconds:.0f} µs"
    yield f"{1e6 * event_seconds:.1f} µs"
    yield f"{1000 * delay_seconds:.0f} ms"


if __name__ == "__main__":
    try:
        command(prog_name="python -m bench.simulations")
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from error
