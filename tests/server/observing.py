"""A server in memory that is observed, and exchanges that have ended without one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from aiowsgi.bridge.disconnection import Disconnection
from aiowsgi.configuration.peers import Peers
from aiowsgi.http.events import Refusal
from aiowsgi.semantics import ConnectionInfo, RequestHead, ResponseHead, variable_name
from aiowsgi.server.observed import UNKNOWN_HEAD, ObservedExchange, Observer
from aiowsgi.server.request_id import RequestIds
from aiowsgi.testing import MemoryServer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

PEER = ConnectionInfo("http", "192.0.2.1", "50000", "192.0.2.80", "80")


def request_ids(header: str | None = None, *trusted: str) -> RequestIds:
    """Return a giver of request ids that trusts Unix sockets' peers and those named."""
    return RequestIds(header, Peers(("unix", *trusted)))


class ObservedServer(MemoryServer):
    """Keeps every exchange as it was when it had ended; its thread may go on to change it."""

    def __init__(self, application: WSGIApplication, ids: RequestIds | None = None, **options: Any) -> None:
        super().__init__(application, **options)
        self.ended: list[ObservedExchange] = []
        self.engine.observer = Observer([self._take], ids or request_ids(), keeps_environ=True)

    def _take(self, exchange: ObservedExchange) -> None:
        self.ended.append(copy.copy(exchange))


def ended_exchange(
    target: str = "/",
    fields: tuple[tuple[str, str], ...] = (),
    response: ResponseHead | None = None,
    connection: ConnectionInfo = PEER,
    **notes: Any,
) -> ObservedExchange:
    """Return a GET that was answered 200, after 2 s in the queue, 0.5 s in a thread and 1.25 s of writing."""
    path, _, query = target.partition("?")
    head = RequestHead(
        "GET", target, path, query, "1.1", {variable_name(name): value for name, value in fields}, 0, True, False
    )
    usual: dict[str, Any] = {
        "response": response or ResponseHead("200 OK", 200, "", 13),
        "status_code": 200 if response is None else response.status_code,
        "sent_size": 13,
        "submitted_at": 100.0,
        "arrived_at": 100.0,
        "started_at": 102.0,
        "handed_over_at": 102.5,
        "ended_at": 103.75,
        "outcome": "complete",
    }
    return _exchange(head, connection, **usual | notes)


def refused_exchange(request_line: str = "", status_code: int = 400) -> ObservedExchange:
    """Return a request that was refused before it could be understood."""
    refusal = Refusal(status_code, "malformed request line")
    refusal.request_line = request_line
    return _exchange(UNKNOWN_HEAD, PEER, status_code=status_code, sent_size=40, refusal=refusal, outcome="refused")


def _exchange(head: RequestHead, connection: ConnectionInfo, **notes: Any) -> ObservedExchange:
    with ObservedServer(lambda environ, start_response: []) as server:
        exchange = ObservedExchange(server.engine, head, connection, {}, Disconnection(), None, lambda exchange: None)
    for name, value in notes.items():
        setattr(exchange, name, value)
    return exchange
