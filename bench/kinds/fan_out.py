"""Open streams of events: what each costs, and how long an event takes to reach all of them.

They are parked if the server can do that; otherwise each holds a thread or a greenlet, and a server that needs threads
is given enough for all clients. What the clients cost is the memory beyond what the server has at rest with its usual
threads.
"""

from __future__ import annotations

from bench.errors import CellVoid
from bench.kinds.job import MB, Job, Measurement
from bench.method.histogram import Histogram

__all__ = ["measure"]

_CONNECT_TIMEOUT = 30.0
_DELIVERY_TIMEOUT = 10.0
# For the requests besides the streams: those that publish.
_MORE_THREADS = 8


def measure(job: Job) -> Measurement:
    """Measure a block."""
    load_ = job.scenario.load
    clients, events, interval = load_["clients"], load_["events"], load_["interval"]
    with job.running() as (process, _):
        at_rest = process.memory().proportional
    threads = clients + _MORE_THREADS if job.server.stream_threads else job.scenario.threads
    with job.running(threads) as (process, load):
        found = load.do("fan_out_connect", bound=_CONNECT_TIMEOUT + 10, count=clients, timeout=_CONNECT_TIMEOUT)
        if found["subscribed"] < clients:
            raise CellVoid(f"{found['subscribed']:,} of {clients:,} streams were open after {_CONNECT_TIMEOUT:g} s")
        used = process.memory().proportional
        before = process.snapshot()
        answer = load.do(
            "fan_out_publish",
            bound=events * (interval + _DELIVERY_TIMEOUT) + _DELIVERY_TIMEOUT + 10,
            events=events,
            interval=interval,
            timeout=_DELIVERY_TIMEOUT,
        )
        after = process.snapshot()
    if answer["published"] < events:
        raise CellVoid(f"{answer['published']} of {events} events could be published")
    result = Measurement()
    result.add_percentiles(Histogram(answer["delivered"]))
    delivered = len(answer["delivered"])
    result.figures |= {
        "each": 1000 * (used - at_rest) / MB / clients,
        "delivered": 100 * delivered / (clients * events),
        "threads": after.threads,
        "delivery": 1e6 * after.cpu_since(before) / max(1, delivered),
        "memory": used / MB,
    }
    return result
