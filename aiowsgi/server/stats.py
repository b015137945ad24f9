"""A snapshot of what a server does.

Thread: event loop. Made on demand: requests only pay for noting how long they waited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiowsgi.server.protocol import Phase

if TYPE_CHECKING:
    from aiowsgi.server.engine import Engine
    from aiowsgi.server.exchange import Exchange

__all__ = [
    "ConnectionStats",
    "QueueWaitStats",
    "RequestStats",
    "ServerStats",
    "ThreadStats",
    "requests_under_way",
    "take_stats",
    "unsent_count",
]


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """Connections by what they wait for.

    Args:
        idle: for a request.
        reading: for the rest of a request.
        writing: for an answer, or for the client to take it.
        closing: for the client's end, after the last answer.
    """

    idle: int
    reading: int
    writing: int
    closing: int


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Requests by how far they are.

    Args:
        waiting: for a thread.
        running: the application runs, and nothing of its response is out.
        streaming: a part of the response is out, whether a thread makes the rest, the loop or a file.
        parked: of those that stream, the ones that hold no thread (:func:`aiowsgi.park`).
        done: answered whole since the server started; the client may still be taking the last of it.
    """

    waiting: int
    running: int
    streaming: int
    parked: int
    done: int


@dataclass(frozen=True, slots=True)
class ThreadStats:
    """Threads of the pool, which other servers may share.

    Args:
        idle: waiting for a request.
        running: running an application.
        stalled: waiting for a client.
        stuck: still busy with a request that was given up; also counted as running or stalled.
        taking_turns: 1 while they work one after another, since all that they do is compute; else 0.
    """

    idle: int
    running: int
    stalled: int
    stuck: int = 0
    taking_turns: int = 0


@dataclass(frozen=True, slots=True)
class QueueWaitStats:
    """How long the last thousand requests waited for a thread, in seconds; 0.0 where there were none."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class ServerStats:
    """See the parts."""

    connections: ConnectionStats
    requests: RequestStats
    threads: ThreadStats
    queue_wait: QueueWaitStats


_READING = frozenset({Phase.HEAD, Phase.CONTENT})
_WRITING = frozenset({Phase.ANSWERING, Phase.FLUSHING})


def take_stats(engine: Engine) -> ServerStats:
    """Take a snapshot. Event loop."""
    # A request that will be read in a later turn counts as being read.
    phases = [Phase.HEAD if connection.postponed else connection.phase for connection in engine.connections]
    requests = Counter(exchange.phase for exchange in requests_under_way(engine))
    pool = engine.pool.stats()
    waits = sorted(engine.queue_waits.copy())
    return ServerStats(
        ConnectionStats(
            idle=phases.count(Phase.IDLE),
            reading=sum(phase in _READING for phase in phases) + len(engine.openings),
            writing=sum(phase in _WRITING for phase in phases),
            closing=phases.count(Phase.LINGERING),
        ),
        RequestStats(
            waiting=requests["waiting"],
            running=requests["running"],
            streaming=requests["streaming"],
            parked=sum(connection.parked for connection in engine.connections),
            done=engine.completed_count,
        ),
        ThreadStats(
            idle=pool.idle,
            running=pool.running,
            stalled=pool.stalled,
            stuck=engine.stuck_count,
            taking_turns=int(engine.saturation.taking_turns),
        ),
        QueueWaitStats(p50=_quantile(waits, 0.5), p90=_quantile(waits, 0.9), p99=_quantile(waits, 0.99)),
    )


def requests_under_way(engine: Engine) -> set[Exchange]:
    """Return the requests that a worker has not ended, and those whose responses go on without one. Event loop."""
    exchanges = engine.exchanges.copy()
    for connection in engine.connections:
        if connection.exchange is not None:
            exchanges.add(connection.exchange)
    return exchanges


def unsent_count(engine: Engine) -> int:
    """Count the connections whose last response is complete but not yet wholly taken by the kernel. Event loop."""
    return sum(connection.unsent for connection in engine.connections)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
