"""The commands: ``python -m bench list|verify|run|report|claims|compare|capacity|smoke``.

Thread: the main thread.
"""

from __future__ import annotations

import datetime
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from bench.capacity.command import capacity
from bench.claims import load_claims
from bench.environment import capture
from bench.errors import BenchError, CellVoid
from bench.process import ROOT, raise_descriptor_limit
from bench.scenario import Scenario, load_scenarios
from bench.servers import BASELINE, ROWS, SERVERS, Server

__all__ = ["command", "main"]

FAILURE = 1
USAGE = 2
INTERRUPTED = 130
_QUICK_BLOCKS = 3
_FULL_BLOCKS = 5
_QUICK_SERVERS = (
    *("aiowsgi-httptools", "aiowsgi-h11", "granian", "uwsgi"),
    *("gunicorn-gthread", "waitress", "cheroot", "uvicorn-a2wsgi"),
)


def main() -> NoReturn:
    """Run the command line, and exit."""
    # SIGTERM is handled like Ctrl-C: servers are ended, results kept.
    signal.signal(signal.SIGTERM, _interrupt)
    raise_descriptor_limit()
    try:
        sys.exit(command.main(prog_name="python -m bench", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except BenchError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(FAILURE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def command() -> None:
    """Measure WSGI servers side by side."""


def _chosen_servers(text: str | None, default: Sequence[str]) -> list[Server]:
    names = text.split(",") if text else list(default)
    for name in names:
        if name not in SERVERS:
            raise BenchError(f"{name}: no such server; there are {', '.join(SERVERS)}")
    return [SERVERS[name] for name in names if name != "null"]


def _chosen_scenarios(text: str | None) -> list[Scenario]:
    return load_scenarios(text.split(",") if text else ())


_servers_option = click.option("--servers", metavar="NAME,...", help="Only these servers.")
_scenarios_option = click.option("--scenarios", metavar="NAME,...", help="Only these scenarios.")


command.add_command(capacity)


@command.command("list")
def list_() -> None:
    """Show servers and scenarios."""
    for server in ROWS:
        try:
            state = ", ".join(f"{name} {version}" for name, version in server.versions().items()) or "built in"
        except CellVoid as error:
            state = str(error)
        click.echo(f"{server.name:20} {state}\n{'':20} {server.mapping}")
    click.echo()
    for scenario in load_scenarios():
        quick = " (also in a quick run)" if scenario.quick is not None else ""
        click.echo(f"{scenario.name:24} {scenario.question}{quick}")


@command.command()
@_servers_option
@_scenarios_option
def verify(servers: str | None, scenarios: str | None) -> None:
    """Check that each server answers each scenario as it should, without measuring anything."""
    from bench.kinds.job import Job

    for scenario in _chosen_scenarios(scenarios):
        for server in _chosen_servers(servers, [row.name for row in ROWS]):
            try:
                server.versions()
                server.require(scenario.needs)
                with Job(scenario, server).running():
                    outcome = "right"
            except CellVoid as error:
                outcome = str(error)
            click.echo(f"{scenario.name:24} {server.name:20} {outcome}")


@command.command()
@click.option("--quick", is_flag=True, help="Five minutes or less: a few scenarios and servers, little care.")
@click.option("--claims", "for_claims", is_flag=True, help="Only what the claims need: their scenarios and servers.")
@_servers_option
@_scenarios_option
@click.option("--blocks", type=click.IntRange(1, 100), help="Passes over all servers.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), help="Length of a closed loop, unless it needs longer.")
@click.option("--seed", type=int, default=1, show_default=True, help="For the order of servers.")
@click.option("--baseline", default=BASELINE, show_default=True, help="The server that ratios refer to.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results; default bench/runs/TIME.")
@click.option("--resume", type=click.Path(path_type=Path, exists=True), help="Folder of an interrupted run to resume.")
def run(
    quick: bool,
    for_claims: bool,
    servers: str | None,
    scenarios: str | None,
    blocks: int | None,
    seconds: float | None,
    seed: int,
    baseline: str,
    out: Path | None,
    resume: Path | None,
) -> None:
    """Measure, and write results.json, report.md and report.html."""
    from bench import runs

    if resume is not None:
        runs.resume(resume)
        return
    default = [row.name for row in ROWS]
    if for_claims:
        every_claim = load_claims()
        named = {name for claim in every_claim for name in (claim.server, claim.against)}
        default = [name for name in default if name in named]
        scenarios = scenarios or ",".join(dict.fromkeys(each for claim in every_claim for each in claim.scenarios))
    every = _chosen_scenarios(scenarios)
    if quick:
        every = [each.for_quick_run() for each in every if each.quick is not None or scenarios]
    chosen = _chosen_servers(servers, _QUICK_SERVERS if quick and not for_claims else default)
    now = datetime.datetime.now(datetime.UTC)
    runs.start(
        runs.Order(
            scenarios=every,
            servers=chosen,
            blocks=blocks or (_QUICK_BLOCKS if quick else _FULL_BLOCKS),
            seconds=seconds,
            seed=seed,
            baseline=baseline,
            quick=quick,
        ),
        out or ROOT / "bench" / "runs" / f"{now:%Y%m%dT%H%M%S}",
        capture(sys.argv[1:]),
        time.time(),
    )


@command.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--readme", is_flag=True, help="Print what the README shows of it instead.")
def report(folder: Path, readme: bool) -> None:
    """Write report.md and report.html of a run's folder anew."""
    from bench import runs
    from bench.report.readme import render

    if readme:
        click.echo(render(runs.read(folder)), nl=False)
        return
    runs.write_reports(runs.read(folder), folder if folder.is_dir() else folder.parent)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def claims(folder: Path) -> None:
    """Print what a run says about the project's claims."""
    from bench import runs
    from bench.report.markdown import table_lines
    from bench.report.tables import claims_table

    table = claims_table(runs.read(folder))
    click.echo("\n".join(table_lines(table.header, table.rows)))
    for text, reason in table.reasons:
        click.echo(f"not measured: {text}: {reason}")


@command.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--threshold", type=click.FloatRange(1.0, 10.0), default=1.10, show_default=True, help="Ratio that counts as worse."
)
@click.option("--server", default="", help="Only this one.")
def compare(old: Path, new: Path, threshold: float, server: str) -> int:
    """Print what has changed from one run to another.

    Exits with 1 only if an interval lies wholly beyond the threshold, on the worse side.
    """
    from bench import runs
    from bench.compare import changes, differing
    from bench.report.markdown import table_lines
    from bench.report.tables import change_row

    before, after = runs.read(old), runs.read(new)
    for difference in differing(before, after):
        click.echo(f"not the same machine: {difference}", err=True)
    found = list(changes(before, after, threshold, server))
    if not found:
        raise BenchError("the runs have no figure in common")
    header = ["scenario", "server", "figure", "old", "new", "new ÷ old", ""]
    click.echo("\n".join(table_lines(header, [change_row(change) for change in found])))
    worse = sum(change.worse for change in found)
    click.echo(f"{worse} worse by more than a factor of {threshold:g}, of {len(found)}")
    return FAILURE if worse else 0


@command.command()
def smoke() -> None:
    """Check the harness itself, in seconds."""
    from bench.smoke import smoke as check

    for line in check():
        click.echo(line)
