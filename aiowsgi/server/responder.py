"""Requests that the server itself answers: with no thread, no place in the queue, and no application.

Thread: event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiowsgi.http.response import plain_response
from aiowsgi.semantics import RequestHead

__all__ = ["JSON", "TEXT", "OwnRequest", "Responder"]

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class OwnRequest:
    """A request that a :class:`Responder` may answer.

    Args:
        head: of the request.
        persistent: its connection may stay open.
        server_field: the Server field line with its line end, or nothing.
        send: writes an answer; does nothing once the connection is gone.
    """

    __slots__ = ("_persistent", "_send", "_server_field", "head")

    def __init__(
        self, head: RequestHead, persistent: bool, server_field: str, send: Callable[[bytes, bool], None]
    ) -> None:
        self.head = head
        self._persistent = persistent
        self._server_field = server_field
        self._send = send

    def answer(self, status: str, content: bytes, content_type: str = JSON, field_lines: str = "") -> None:
        """Answer, once.

        Args:
            status: ``"200 OK"``.
            content: whole.
            content_type: of it.
            field_lines: further ones, with their line ends.
        """
        data = plain_response(
            status,
            content,
            self.head,
            persistent=self._persistent,
            content_type=content_type,
            server=self._server_field,
            field_lines=field_lines,
        )
        self._send(data, self._persistent)


class Responder(Protocol):
    """Knows which requests are the server's own."""

    def respond(self, request: OwnRequest) -> bool:
        """Answer a request, now or within a bounded time; return whether it is one of the server's own."""
        ...
