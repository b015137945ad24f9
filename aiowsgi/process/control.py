"""The commands that look into a running server, ``aiowsgi stats`` and ``stacks``, or control it: ``reload``, ``drain``.

They talk to its control socket (``--control unix:PATH``), whether it is one process or a supervisor with workers.

Thread: the main thread.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from aiowsgi.configuration.addresses import UnixAddress, parse_bind
from aiowsgi.errors import AiowsgiError
from aiowsgi.process.ping import UnixConnection, reason
from aiowsgi.process.statistics import statistics_line, sum_of

__all__ = ["ControlError", "Told", "by_worker", "control_command", "drain", "query", "reload", "stacks", "stats"]

VARIABLE = "AIOWSGI_CONTROL"

# A port with or without a host, or a URL; a path may contain a colon, but hardly in this form.
_OTHER_ADDRESS = re.compile(r"[a-z]+://|[^/]*:[0-9]+$")

_NOT_RELOADED = 1
_ABSENT = (FileNotFoundError, ConnectionRefusedError)

_ADDRESS_HELP = f"\b\nADDRESS is the server's --control, as unix:/run/app.ctl. Default: the variable {VARIABLE}.\n"

Answers = dict[str, Any]
Told = Mapping[str, Any]


class ControlError(AiowsgiError):
    """The control socket does not answer, or says no."""


def query(address: str, path: str, *, order: bool = False, timeout: float = 10.0) -> Answers:
    """Ask a control socket.

    Args:
        address: ``unix:PATH``, or a path.
        path: what is asked for.
        order: the path is an order, not a question.
        timeout: seconds for each step.

    Raises:
        ControlError: there is no answer, or no good one.
    """
    where = _socket_path(address)
    connection = UnixConnection(where, timeout)
    with contextlib.closing(connection):
        try:
            connection.request("POST" if order else "GET", path)
            response = connection.getresponse()
            answers: Answers = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            absent = isinstance(error, _ABSENT)
            hint = ": nothing listens there; the server's --control names its socket" if absent else ""
            raise ControlError(f"{where}: {reason(error)}{hint}") from error
    if "error" in answers:
        raise ControlError(f"{where}: {answers['error']}")
    return answers


def _socket_path(address: str) -> str:
    if not address:
        raise ControlError(f"name the control socket, as unix:/run/app.ctl, or set {VARIABLE}")
    if not address.startswith("unix:") and _OTHER_ADDRESS.match(address):
        raise ControlError(f"{address}: name a Unix socket, as unix:/run/app.ctl")
    try:
        parsed = parse_bind(address if address.startswith("unix:") else f"unix:{address}")
    except ValueError as error:
        raise ControlError(f"{address}: {error}") from error
    assert isinstance(parsed, UnixAddress)
    return parsed.path


def by_worker(workers: Mapping[str, Told]) -> list[tuple[str, Told]]:
    """Return what each worker has told, beside its number, in their order."""
    return sorted(workers.items(), key=lambda item: int(item[0]))


def control_command(name: str, help: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function, whose first argument is the address of a control socket."""

    def decorate(function: Callable[..., None]) -> click.Command:
        settings = {"help_option_names": ["-h", "--help"]}
        argument = click.argument("address", default=lambda: os.environ.get(VARIABLE, ""), metavar="[ADDRESS]")
        return click.command(name, help=f"{help}\n\n{_ADDRESS_HELP}", context_settings=settings)(argument(function))

    return decorate


@control_command("stats", "Print the figures of a server: connections, requests, threads, waiting times.")
@click.option("--json", "as_json", is_flag=True, help="All figures of each worker, as JSON.")
def stats(address: str, as_json: bool) -> None:
    """Do what the help says."""
    answers = query(address, "/stats")
    if as_json:
        click.echo(json.dumps(answers, indent=2))
        return
    all_figures = []
    for number, told in by_worker(answers["workers"]):
        all_figures.append({group: values for group, values in told.items() if isinstance(values, dict)})
        click.echo(f"worker {number}: {statistics_line(all_figures[-1])}")
    if len(all_figures) > 1:
        click.echo(f"all: {statistics_line(sum_of(all_figures))}")


@control_command("stacks", "Print what every thread of a server is doing, and the request that it serves.")
def stacks(address: str) -> None:
    """Do what the help says."""
    for number, told in by_worker(query(address, "/stacks")["workers"]):
        click.echo(f"worker {number}, pid {told['pid']}\n{told['stacks']}\n")


@control_command(
    "reload",
    "Have a supervisor replace its workers one by one, as SIGHUP does, and wait until all serve; exit with 1, and with "
    "the reason, if the reload is given up.",
)
@click.option("--no-wait", is_flag=True, help="Exit as soon as the reload has begun.")
@click.option("--timeout", default=300.0, metavar="SECONDS", help="Wait no longer, and exit with 1. [default: 300]")
def reload(address: str, no_wait: bool, timeout: float) -> None:
    """Do what the help says."""
    answers = query(address, "/reload", order=True)
    click.echo(answers["done"])
    # A process without a supervisor has already done it.
    if no_wait or "under_way" not in answers:
        return
    outcome = _outcome_of_reload(address, timeout)
    if outcome["reload"] == "done":
        click.echo(outcome["text"])
        return
    click.echo(f"aiowsgi: reload {outcome['reload']}: {outcome['text']}", err=True)
    sys.exit(_NOT_RELOADED)


def _outcome_of_reload(address: str, timeout: float) -> Answers:
    """Wait for the end of a reload, during which every worker that could be asked leaves."""
    end = time.monotonic() + timeout
    while (rest := end - time.monotonic()) > 0:
        try:
            answers = query(address, "/reload", timeout=rest)
        except ControlError as error:
            if isinstance(error.__cause__, TimeoutError):
                break
            if not isinstance(error.__cause__, (ConnectionError, http.client.HTTPException)) or isinstance(
                error.__cause__, _ABSENT
            ):
                raise
            continue  # that worker has left without an answer
        if answers["reload"] != "under way":
            return answers
    return {"reload": "under way", "text": f"it has not ended within {timeout:g} s"}


@control_command("drain", "Let a server's requests finish, then end it, as SIGTERM does.")
def drain(address: str) -> None:
    """Do what the help says."""
    click.echo(query(address, "/drain", order=True)["done"])
