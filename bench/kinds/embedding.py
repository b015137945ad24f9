"""A server as a guest in an asyncio program: how late the host's own timers are while it serves.

Instead of the server's command :mod:`bench.programs.host` is run, with the server in its event loop beside a timer.
"""

from __future__ import annotations

import dataclasses
import http.client
import json

from bench.errors import CellVoid
from bench.kinds.job import Job, Measurement
from bench.kinds.open import TIMEOUT
from bench.method.histogram import Histogram
from bench.servers import Launch, Server, program

__all__ = ["host", "measure"]


def host(server: Server) -> Server:
    """Return the program that has a server as its guest."""

    def command(launch: Launch) -> list[str]:
        return [*program("host"), server.host, launch.application, str(launch.port), str(launch.threads)]

    return dataclasses.replace(server, command=command)


def measure(job: Job) -> Measurement:
    """Measure a block."""
    job = dataclasses.replace(job, server=host(job.server))
    rate = job.scenario.load["rate"]
    with job.running() as (process, load):
        job.open_loop(load, [(rate, 1.0)], TIMEOUT)
        _lags(process.port)
        before = process.snapshot()
        seen = job.open_loop(load, [(rate, job.scenario.seconds)], TIMEOUT)
        after = process.snapshot()
        lags = Histogram(_lags(process.port))
        result = Measurement()
        seen.add_to(result)
        latencies = seen.answered()
        if len(latencies) < len(seen.at):
            raise CellVoid("errors under load: " + ", ".join(result.notes))
        result.add_costs(before, after, len(latencies), process.memory())
        result.add_percentiles(latencies)
        result.histograms["lag"] = lags
        for name, percent in (("lag50", 50), ("lag", 99)):
            value = lags.percentile(percent)
            if value is not None:
                result.figures[name] = 1000 * value
        return result


def _lags(port: int) -> list[float]:
    """Return how late each of the host's timers was since the last call, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/lags")
        lags: list[float] = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CellVoid(f"the host does not report its lags: {error}") from error
    finally:
        connection.close()
    return lags
