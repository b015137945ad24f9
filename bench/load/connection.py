"""A client's connection in the generator: one request at a time.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from bench.load.http import Answer, BadResponse, ResponseReader

__all__ = ["Connection", "Outcome"]

# What ended a request: an answer, or a word for why there is none.
Outcome = Answer | str


class Connection(asyncio.Protocol):
    """Sends a request and reports what became of it.

    Args:
        on_outcome: called with this connection and the outcome, once for each :meth:`request`.
    """

    __slots__ = ("_on_outcome", "_reader", "_transport", "busy", "deadline", "intended", "lost")

    def __init__(self, on_outcome: Callable[[Connection, Outcome], None]) -> None:
        self._on_outcome = on_outcome
        self._reader = ResponseReader()
        self.busy = False
        self.lost = False
        self.intended = 0.0
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports do the same, but are not instances of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)

    def request(self, data: bytes, intended: float, timeout: float) -> None:
        """Send a request that was due at ``intended``, by ``time.perf_counter``."""
        self.busy, self.intended, self.deadline = True, intended, intended + timeout
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Look for the end of the response."""
        try:
            answer = self._reader.feed(data)
        except (BadResponse, ValueError):
            self.fail("garbled")
            return
        if answer is not None:
            self._end(answer)

    def eof_received(self) -> None:
        """See whether that ends the response; the transport closes."""
        try:
            answer = self._reader.feed_end()
        except BadResponse:
            self.fail("truncated")
            return
        if answer is not None:
            self._end(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a request that is still under way."""
        self.lost = True
        self._end("reset" if exc else "closed")

    def fail(self, why: str) -> None:
        """Give up the connection."""
        self.lost = True
        self._transport.abort()
        self._end(why)

    def close(self) -> None:
        """Close the connection; what is under way is no longer of interest."""
        self.busy, self.lost = False, True
        self._transport.abort()

    def _end(self, outcome: Outcome) -> None:
        if isinstance(outcome, Answer) and not outcome.reusable:
            self.lost = True
            self._transport.close()
        if self.busy:
            self.busy = False
            self._on_outcome(self, outcome)
