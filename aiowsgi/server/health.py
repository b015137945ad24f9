"""An orchestrator's two questions, answered by the event loop: is the process alive, and does it want requests.

The answer needs no thread and no place in the queue, so it comes even when there are none. Alive means that requests
can be answered, now or in a while; if they never will be, the process has to be replaced. Ready means that a request
sent now is welcome.

Thread: event loop.

Source: Kubernetes, "Liveness, Readiness, and Startup Probes"; RFC 9110 section 15.6.4.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiowsgi.server.responder import OwnRequest

if TYPE_CHECKING:
    from aiowsgi.server.engine import Engine

__all__ = ["BROKER_AWAY", "DRAINING", "QUEUE_FULL", "THREADS_STUCK", "Health"]

DRAINING = "draining"
QUEUE_FULL = "queue_full"
THREADS_STUCK = "threads_stuck"
BROKER_AWAY = "broker_away"


class Health:
    """Answers requests for one of two paths.

    Args:
        engine: of the server; its configuration names the paths.
    """

    __slots__ = ("_engine", "_health_path", "_ready_path")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._health_path = engine.config.health_path
        self._ready_path = engine.config.ready_path

    def reasons(self) -> list[str]:
        """Return why requests are not welcome now; nothing where they are."""
        engine = self._engine
        conditions = {
            DRAINING: engine.leaving or engine.draining,
            QUEUE_FULL: engine.intake.full,
            THREADS_STUCK: self._threads_stuck(),
            BROKER_AWAY: any(link.state != "reading" for link in engine.broker_links),
        }
        return [reason for reason, holds in conditions.items() if holds]

    def _threads_stuck(self) -> bool:
        """Return whether requests wait in vain: every thread has been busy with one for longer than any may wait."""
        engine = self._engine
        if not engine.pool.waiting_count:
            return False
        long_ago = engine.clock() - engine.config.queue_timeout
        count = sum(0.0 < exchange.started_at < long_ago for exchange in engine.exchanges.copy())
        threads = engine.pool.stats()
        # A thread that waits for its client, or whose request was given up, has been replaced, up to max_threads.
        return not threads.idle and count - threads.stalled >= max(1, threads.running)

    def respond(self, request: OwnRequest) -> bool:
        """See :class:`~aiowsgi.server.responder.Responder`."""
        head = request.head
        path = head.path
        if (path != self._health_path and path != self._ready_path) or head.method not in ("GET", "HEAD"):
            return False
        reasons = self.reasons()
        # If one path is for both questions, the stricter one counts.
        failed = bool(reasons) if path == self._ready_path else THREADS_STUCK in reasons
        content = json.dumps({"status": "unavailable" if failed else "ok", "reasons": reasons}) + "\n"
        request.answer("503 Service Unavailable" if failed else "200 OK", content.encode())
        return True
