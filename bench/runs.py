"""A run from order to report: new, or resumed after an interruption.

Thread: the main thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.errors import BenchError
from bench.load.http import Request
from bench.progress import Display, duration
from bench.report import markdown, page, plots
from bench.results import Results
from bench.runner import Plan, Run, describe_scenario, describe_servers
from bench.scenario import Expectation, Scenario
from bench.servers import SERVERS, Server

__all__ = ["Order", "read", "resume", "start", "write_reports"]

_FILE = "results.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be measured, as the command line says it."""

    scenarios: Sequence[Scenario]
    servers: Sequence[Server]
    blocks: int
    seconds: float | None
    seed: int
    baseline: str
    quick: bool


def start(order: Order, folder: Path, environment: dict[str, Any], started: float) -> Results:
    """Measure into a new folder.

    Raises:
        BenchError: it has results already.
    """
    path = folder / _FILE
    if path.exists():
        raise BenchError(f"{path} exists: python -m bench run --resume {folder}")
    scenarios = [
        scenario
        if order.seconds is None or scenario.kind not in ("closed", "latency")
        else dataclasses.replace(scenario, seconds=max(order.seconds, scenario.least_seconds))
        for scenario in order.scenarios
    ]
    results = Results(
        run={
            "started": started,
            "updated": started,
            "finished": False,
            "quick": order.quick,
            "blocks": order.blocks,
            "seed": order.seed,
            "baseline": order.baseline,
        },
        environment=environment,
        servers=describe_servers(order.servers),
        scenarios={scenario.name: describe_scenario(scenario) for scenario in scenarios},
    )
    _measure(Plan(scenarios, order.servers, order.blocks, order.seed, order.quick), results, folder)
    return results


def resume(folder: Path) -> Results:
    """Resume an interrupted run: the same scenarios, servers, blocks and order.

    Raises:
        BenchError: there is none, or one of its servers is no longer known.
    """
    results = read(folder)
    run = results.run
    try:
        servers = [SERVERS[name] for name in results.servers if name != "null"]
    except KeyError as error:
        raise BenchError(f"{folder}: no such server: {error}") from error
    scenarios = [_scenario(values) for values in results.scenarios.values()]
    _measure(Plan(scenarios, servers, run["blocks"], run["seed"], run["quick"]), results, folder)
    return results


def _scenario(values: dict[str, Any]) -> Scenario:
    texts = dict(values)
    texts["request"] = Request(**texts["request"])
    texts["expect"] = Expectation(**texts["expect"])
    for name in ("figures", "needs"):
        texts[name] = tuple(texts[name])
    return Scenario(**texts)


def _measure(plan: Plan, results: Results, folder: Path) -> None:
    console = Console(stderr=True)
    steps = sum(1 for _ in plan.steps())
    try:
        with Display(console, steps, plan.blocks) as display:
            run = Run(plan, results, folder / _FILE, display)
            run.exclude()
            console.print(
                f"{steps} measurements, about {duration(run.seconds_left())}; results in {folder}", highlight=False
            )
            run.measure()
        results.run["finished"] = True
        results.write(folder / _FILE)
    except KeyboardInterrupt:
        console.print(f"interrupted; go on with: python -m bench run --resume {folder}")
        raise
    finally:
        write_reports(results, folder)


def read(folder: Path) -> Results:
    """Read the results of a run's folder, or a file of results."""
    return Results.read(folder / _FILE if folder.is_dir() else folder)


def write_reports(results: Results, folder: Path) -> None:
    """Write the reports beside the results; plots only where there is matplotlib."""
    drawn = plots.draw(results) if plots.available() else []
    if not plots.available():
        click.echo("no plots: matplotlib is not installed: pip install '.[bench]'", err=True)
    if drawn:
        (folder / "plots").mkdir(exist_ok=True)
    for plot in drawn:
        (folder / "plots" / f"{plot.name}.svg").write_text(plots.standalone(plot))
    click.echo(markdown.write(results, folder, drawn))
    click.echo(page.write(results, folder, drawn))
