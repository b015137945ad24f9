"""The control socket: what goes on inside the server, as JSON, and two orders to it.

It speaks HTTP, so that curl will do: ``GET /stats``, ``/top``, ``/stacks``; ``POST /reload``, ``/drain``. ``GET
/reload`` is answered once no reload is under way, or earlier if the worker that was asked leaves.

Whoever may open the socket may do all of this; the socket's mode decides who may.

Thread: event loop.
"""

from __future__ import annotations

import json

from aiowsgi.server.reports import Answers, Ask
from aiowsgi.server.responder import OwnRequest

__all__ = ["ControlResponder"]

_READS = {"/stats": "stats", "/top": "top", "/stacks": "stacks", "/reload": "reloaded"}
_ORDERS = {"/reload": "reload", "/drain": "drain"}


class ControlResponder:
    """Answers every request of a listener of its own.

    Args:
        ask: asks all processes.
    """

    __slots__ = ("_ask",)

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def respond(self, request: OwnRequest) -> bool:
        """See :class:`~aiowsgi.server.responder.Responder`."""
        head = request.head
        what = (_READS if head.method in ("GET", "HEAD") else _ORDERS if head.method == "POST" else {}).get(head.path)
        if what is None:
            _answer(request, "404 Not Found", {"error": "GET /stats, /top, /stacks or /reload; POST /reload or /drain"})
        else:
            self._ask(what, lambda answers: _answer(request, _status(answers), answers))
        return True


def _status(answers: Answers) -> str:
    return "409 Conflict" if "error" in answers else "200 OK"


def _answer(request: OwnRequest, status: str, fields: Answers) -> None:
    request.answer(status, json.dumps(fields).encode() + b"\n")
