"""``aiowsgi top``: workers, threads and requests of a running server, refreshed every second.

Thread: the main thread.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import click

from aiowsgi.process.control import ControlError, Told, by_worker, control_command, query

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["command", "render"]

# Younger requests are not highlighted; older ones are yellow, and then red.
_OLD_SECONDS = 1.0
_VERY_OLD_SECONDS = 10.0
# Besides the requests: frame, title, head of the table of workers, head of the table of requests.
_OTHER_LINES = 12
# Width of the table of workers with all of its columns.
_WIDE_COLUMNS = 110


@control_command("top", "Show what a server is doing, refreshed every second, until q is pressed.")
@click.option("--interval", default=1.0, metavar="SECONDS", help="Between two looks. [default: 1]")
@click.option("--once", is_flag=True, help="Look twice, print, and exit, as it does if its output is not a terminal.")
def command(address: str, interval: float, once: bool) -> None:
    """Do what the help says."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise ControlError("rich is not installed; it is in aiowsgi[top]") from error
    console = Console()
    earlier = query(address, "/top")["workers"]
    with _keys() as keys:
        if once or not sys.stdout.isatty():
            _quit_is_pressed(keys, interval)
            console.print(render(query(address, "/top")["workers"], earlier, console.size))
            return
        with Live(render(earlier, {}, console.size), console=console, screen=True, auto_refresh=False) as live:
            while not _quit_is_pressed(keys, interval):
                now = query(address, "/top")["workers"]
                live.update(render(now, earlier, console.size), refresh=True)
                earlier = now


@contextlib.contextmanager
def _keys() -> Iterator[selectors.BaseSelector]:
    """Have keys read as they are pressed, where there is a keyboard."""
    with selectors.DefaultSelector() as keys:
        if not sys.stdin.isatty():
            yield keys
            return
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        keys.register(sys.stdin, selectors.EVENT_READ)
        try:
            yield keys
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quit_is_pressed(keys: selectors.BaseSelector, seconds: float) -> bool:
    """Wait up to ``seconds``; return whether q was pressed."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        if keys.select(rest) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
            return True
    return False


def render(workers: Mapping[str, Told], earlier: Mapping[str, Told], size: tuple[int, int]) -> RenderableType:
    """Return what is shown.

    Args:
        workers: what each has answered, by its number.
        earlier: what each answered the time before, for the rates.
        size: columns and lines of the terminal.
    """
    from rich.console import Group
    from rich.text import Text

    width, height = size
    ordered = by_worker(workers)
    urls: list[str] = next((told["urls"] for _, told in ordered), [])
    title = Text.assemble(("aiowsgi top", "bold"), f"  {' '.join(urls)}  {time.strftime('%H:%M:%S')}  (q quits)")
    rows = max(3, height - _OTHER_LINES - len(ordered))
    return Group(title, _worker_table(ordered, earlier, width), _request_table(ordered, rows))


def _worker_table(ordered: list[tuple[str, Told]], earlier: Mapping[str, Told], width: int) -> Table:
    from rich import box
    from rich.table import Table

    rates = {number: _rate(told, earlier.get(number)) for number, told in ordered}
    wide = width >= _WIDE_COLUMNS
    # Heading, cell of a worker, sum of all; and whether it is shown: some are only if there is room.
    columns: list[tuple[str, Callable[[str, Told], str], str, bool]] = [
        ("worker", lambda number, told: number, "all", True),
        ("pid", lambda number, told: str(told["pid"]), "", wide),
        ("req/s", lambda number, told: f"{rates[number]:.0f}", f"{sum(rates.values()):.0f}", True),
        ("done", _cell("requests", "done"), _sum_of(ordered, "requests", "done"), wide),
        ("running", _running, _sum_of(ordered, "threads", "running"), True),
        ("idle", _cell("threads", "idle"), _sum_of(ordered, "threads", "idle"), wide),
        ("stalled", _cell("threads", "stalled"), _sum_of(ordered, "threads", "stalled"), True),
        ("stuck", _stuck, _sum_of(ordered, "threads", "stuck"), True),
        ("queue", _queue, _sum_of(ordered, "requests", "waiting"), True),
        ("wait p50", lambda number, told: _duration(told["queue_wait"]["p50"]), "", wide),
        ("wait p99", lambda number, told: _duration(told["queue_wait"]["p99"]), "", True),
        ("conns", _connections, str(sum(sum(told["connections"].values()) for _, told in ordered)), True),
        ("idle", _cell("connections", "idle"), _sum_of(ordered, "connections", "idle"), wide),
    ]
    table = Table(box=box.SIMPLE_HEAD, expand=True, show_footer=len(ordered) > 1)
    shown = [column for column in columns if column[3]]
    for heading, _, total, _ in shown:
        table.add_column(heading, footer=total, justify="right", no_wrap=True)
    for number, told in ordered:
        table.add_row(*(cell(number, told) for _, cell, _, _ in shown))
    return table


def _cell(group: str, name: str) -> Callable[[str, Told], str]:
    return lambda number, told: str(told[group][name])


def _running(number: str, told: Told) -> str:
    return f"{told['threads']['running']}/{told['thread_limit']}"


def _stuck(number: str, told: Told) -> str:
    count = told["threads"]["stuck"]
    return f"[bold red]{count}[/]" if count else "0"


def _queue(number: str, told: Told) -> str:
    text = f"{told['requests']['waiting']}/{told['queue_size']}"
    return f"[bold red]{text}[/]" if told["requests"]["waiting"] >= told["queue_size"] else text


def _connections(number: str, told: Told) -> str:
    return str(sum(told["connections"].values()))


def _sum_of(ordered: list[tuple[str, Told]], group: str, name: str) -> str:
    return str(sum(told[group][name] for _, told in ordered))


def _rate(told: Told, earlier: Told | None) -> float:
    """Return the requests answered per second; 0 for a new worker."""
    if earlier is None or told["clock"] <= earlier["clock"]:
        return 0.0
    done: int = told["requests"]["done"] - earlier["requests"]["done"]
    seconds: float = told["clock"] - earlier["clock"]
    return max(0, done) / seconds


def _request_table(ordered: list[tuple[str, Told]], most_count: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    requests = [(number, request) for number, told in ordered for request in told["shown"]]
    requests.sort(key=lambda item: -item[1]["age"])
    count = len(requests) + sum(told["hidden"] for _, told in ordered)
    shown = requests[:most_count]
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    for name in ("worker", "age", "phase"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("request", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("id", no_wrap=True, overflow="ellipsis", max_width=24)
    for number, request in shown:
        age = request["age"]
        style = "red" if age >= _VERY_OLD_SECONDS else "yellow" if age >= _OLD_SECONDS else ""
        # Text, and not markup: a path may hold brackets.
        line = Text(f"{request['method']} {request['target']}")
        table.add_row(number, _duration(age), request["phase"], line, Text(request["id"]), style=style)
    hidden_count = count - len(shown)
    if hidden_count:
        table.caption = f"and {hidden_count} more"
    return table


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
