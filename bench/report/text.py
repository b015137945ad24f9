"""The sections of a report that are the same in each: how to read it, and what the data does not show.

Thread: any. Pure.
"""

from __future__ import annotations

import datetime
from typing import Any

from bench.environment import warnings
from bench.method.statistics import LEAST_BLOCKS, LEVEL
from bench.report.tables import LIMIT, MARK
from bench.results import Results

__all__ = ["HOW_TO_READ", "NOT_SHOWN", "environment_rows", "summary", "top_warnings"]

HOW_TO_READ = (
    f"A figure is the median of the blocks; in brackets, where there are at least {LEAST_BLOCKS} blocks, its "
    f"{LEVEL:.0%} bootstrap interval over them. A block is one pass over all servers in an order of its own, each in a "
    "fresh process.",
    "CPU per request is the processor time, user and system, of all processes of a server, as the kernel accounts for "
    "it, divided by the requests that were answered. It is the figure to compare by: it depends least on what else the "
    "machine does.",
    "Ratios are taken within each block, to the server that the column names. An interval that includes 1.00 is no "
    "difference.",
    f"{MARK} marks a throughput above {LIMIT:.0%} of what the load generator reached with the null server, which does "
    "nothing: there the generator may be the limit, and the true throughput higher.",
    "A latency under an open loop counts from the moment at which the request was due. A percentile is given only if "
    "at least ten samples lie beyond it.",
    "A server that gave a wrong answer or any error under load has the reason instead of a figure in that scenario. So "
    "has one that cannot do what is asked.",
)

NOT_SHOWN = (
    "Server, load generator and application share one machine and its loopback: there is no network, no TLS, no proxy, "
    "and no real client.",
    "One worker process each (gunicorn sync: as many as threads). How a server scales over processes and cores is not "
    "measured.",
    "Every server runs with its defaults, but for limits that a scenario would run into; each could be tuned further "
    "by those who know it.",
    "The applications are small. Behind an application that takes 50 ms of processor time, all of these servers cost "
    "the same.",
    "One version of each server on one version of Python and one kernel, all named below; tomorrow's may differ.",
    "Speed is not correctness: what each server does with malformed requests, or with the finer points of PEP 3333, is "
    "not a figure here.",
)


def top_warnings(results: Results) -> list[str]:
    """Return the warnings at the top of a report."""
    found = warnings(results.environment)
    run = results.run
    if run["quick"]:
        found.insert(0, "A quick run: few blocks, little warm-up. Good for a look, not for a claim.")
    blocks = {len(cell.blocks) for cell in results.cells.values() if not cell.reason}
    if blocks and max(blocks) < LEAST_BLOCKS:
        found.append(f"Fewer than {LEAST_BLOCKS} blocks were measured: there are no intervals.")
    if not run["finished"]:
        found.insert(0, "The run was interrupted: this is what it had measured.")
    return found


def summary(results: Results) -> str:
    """Return when and how, in a sentence."""
    run = results.run
    begun = datetime.datetime.fromtimestamp(run["started"], datetime.UTC)
    minutes = (run["updated"] - run["started"]) / 60
    kind = "quick run" if run["quick"] else "run"
    blocks = "1 block" if run["blocks"] == 1 else f"{run['blocks']} blocks"
    return (
        f"A {kind} of {begun:%d %B %Y}, {begun:%H:%M} UTC: {len(results.scenarios)} scenarios, "
        f"{len(results.servers) - 1} servers, up to {blocks}, seed {run['seed']}, {minutes:.0f} minutes; "
        f"commit {results.environment['commit'][:12] or 'unknown'}."
    )


def environment_rows(results: Results) -> list[tuple[str, str]]:
    """Return the environment as (name, text)."""
    return [(name.replace("_", " "), _shown(value)) for name, value in results.environment.items()]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
