"""What a server reports about itself to the outside: plain data, so that it passes through a pipe.

Thread: event loop.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiowsgi.server.stacks import stack_report
from aiowsgi.server.stats import requests_under_way

if TYPE_CHECKING:
    from aiowsgi.server.exchange import Exchange
    from aiowsgi.server.server import Server

__all__ = ["REPORTS", "Answers", "Ask", "report"]

#: Answers of one or several processes, by the worker's number.
Answers = dict[str, Any]
#: Asks all processes for one of :data:`REPORTS`, or to do something; calls the callable that it is given with the
#: answers, now or within a bounded time.
Ask = Callable[[str, Callable[[Answers], object]], object]

REPORTS = ("metrics", "stats", "stacks", "top")

# The oldest are shown: those are the ones that somebody looks for.
_MOST_REQUESTS = 200
_SHOWN_SIZE = 200


def report(server: Server, what: str) -> dict[str, Any]:
    """Return what a server reports about itself.

    Args:
        server: it has been started.
        what: one of :data:`REPORTS`.
    """
    if what == "metrics":
        return {} if server.metrics is None else server.metrics.snapshot().as_fields()
    if what == "stacks":
        return {"pid": os.getpid(), "stacks": stack_report(server.engine)}
    fields: dict[str, Any] = {"pid": os.getpid(), **dataclasses.asdict(server.stats())}
    if what == "top":
        fields |= _activity(server)
    return fields


def _activity(server: Server) -> dict[str, Any]:
    engine = server.engine
    # The oldest first.
    under_way = sorted(requests_under_way(engine), key=lambda exchange: exchange.submitted_at)
    return {
        "clock": engine.clock(),
        "thread_limit": engine.config.threads,
        "queue_size": engine.config.queue_size,
        "urls": list(server.urls),
        "shown": [_request(exchange, engine.clock()) for exchange in under_way[:_MOST_REQUESTS]],
        "hidden": max(0, len(under_way) - _MOST_REQUESTS),
    }


def _request(exchange: Exchange, now: float) -> dict[str, Any]:
    return {
        "id": exchange.identify(),
        "method": exchange.head.method,
        "target": exchange.head.target[:_SHOWN_SIZE],
        "age": now - exchange.submitted_at,
        "phase": exchange.phase,
    }
