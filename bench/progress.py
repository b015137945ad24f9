"""What a person sees during a run: scenario, server, block, time left; and each block's outcome.

Thread: the main thread; the display has one of its own.
"""

from __future__ import annotations

import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from bench.scenario import Scenario
from bench.servers import Server

__all__ = ["Display", "duration"]


def duration(seconds: float) -> str:
    """Return a time in words."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class Display:
    """A progress bar on a terminal; elsewhere, a line for each block.

    Args:
        steps: how many blocks of cells there are.
    """

    def __init__(self, console: Console, steps: int, blocks: int) -> None:
        self._console = console
        self._blocks = blocks
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[scenario]}[/] {task.fields[server]}, block {task.fields[block]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps, scenario="", server="", block="", left="")
        self._block = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begins(self, block: int, scenario: Scenario, server: Server, seconds_left: float) -> None:
        """Show what is measured now."""
        self._block = block
        self._progress.update(
            self._task,
            scenario=scenario.name,
            server=server.name,
            block=f"{block + 1}/{self._blocks}",
            left=duration(seconds_left),
        )

    def ends(self, scenario: Scenario, server: Server, outcome: str) -> None:
        """Show its outcome."""
        self._progress.advance(self._task)
        now = datetime.datetime.now()
        self._console.print(
            f"{now:%H:%M:%S} {scenario.name:24} {server.name:18} {self._block + 1}/{self._blocks}  {outcome}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
