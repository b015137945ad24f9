"""``aiowsgi.sse``: a channel as a browser's ``EventSource`` reads it.

Thread: event loop, but for :func:`sse`, which any thread calls.

Source: HTML Living Standard, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from aiowsgi.channel import Channel, Subscription

__all__ = ["EventStream", "sse"]

# The standard recommends a comment "every 15 seconds or so": proxies give up on a connection that is silent.
_KEEP_ALIVE_SECONDS = 15.0
_COMMENT = b":\n\n"
# Used in a farewell if no ``retry`` was given. Browsers wait for 3 s or 5 s; the drawn delay is added.
_RETURN_SECONDS = 1.0
# Events that have come in together are sent together, up to this size. Arbitrary; what the transport holds.
_JOIN_SIZE = 64 * 1024


def sse(
    channel: Channel,
    environ: WSGIEnvironment,
    *,
    retry: float | None = None,
    keep_alive: float | None = _KEEP_ALIVE_SECONDS,
) -> EventStream:
    """Frame a channel's events as ``text/event-stream``.

    A browser that comes back says which event it has seen last, and is given those after it: see
    :meth:`Channel.subscribe`.

    ::

        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        return aiowsgi.park(environ, aiowsgi.sse(channel, environ))

    Args:
        channel: whose events.
        environ: of the request; only ``HTTP_LAST_EVENT_ID`` is read.
        retry: seconds after which a browser that has lost the connection comes back; ``None`` leaves it to the browser,
            which keeps what a drain has told it at the end of a stream, 1 to 3 s as a rule.
        keep_alive: seconds of silence after which a comment is sent, which also reveals a client that has gone;
            ``None`` for never.

    Returns:
        An asynchronous iterable of blocks, for :func:`aiowsgi.park`.

    Raises:
        ValueError: ``retry`` or ``keep_alive`` is out of bounds.
    """
    if keep_alive is not None and not 0 < keep_alive < math.inf:
        raise ValueError(f"keep_alive={keep_alive}: must be more than 0, and finite, or None")
    if retry is not None and not 0 <= retry < math.inf:
        raise ValueError(f"retry={retry}: must be at least 0, and finite, or None")
    last_event_id = environ.get("HTTP_LAST_EVENT_ID")
    subscription = channel.subscribe(last_event_id)
    opening = b"" if retry is None else b"retry: %d\n" % round(retry * 1000)
    place = None if last_event_id else subscription.place
    if place is not None:
        # So that a browser that loses the connection before its first event has an id to come back with, too.
        opening = b"id: %b\n%b" % (place.encode(), opening)
    return EventStream(subscription, (opening or b":\n") + b"\n", keep_alive, retry)


class EventStream(AsyncIterator[bytes]):
    """The blocks of one response.

    Args:
        subscription: is read, and closed with this.
        opening: the first block. There always is one, so that the head leaves immediately on every server.
        keep_alive: see :func:`sse`.
        retry: see :func:`sse`.
    """

    __slots__ = ("_keep_alive", "_opening", "_retry", "_subscription")

    def __init__(
        self, subscription: Subscription, opening: bytes, keep_alive: float | None, retry: float | None = None
    ) -> None:
        self._subscription = subscription
        self._opening = opening
        self._keep_alive = keep_alive
        self._retry = retry

    async def __anext__(self) -> bytes:
        if self._opening:
            opening, self._opening = self._opening, b""
            return opening
        subscription = self._subscription
        event = subscription.take()
        if event is None:
            loop = asyncio.get_running_loop()
            timeout = self._keep_alive
            due = None if timeout is None else loop.time() + timeout
            while await subscription.wait(timeout):
                event = subscription.take()
                if event is not None:
                    break
                if due is not None:  # however often this is woken for nothing
                    timeout = max(0.0, due - loop.time())
            else:
                return _COMMENT
        frame = event.frame()
        return self._join(frame) if subscription.behind else frame

    def _join(self, frame: bytes) -> bytes:
        """Add the frames of the other events that have come in: one write to the client for all."""
        frames = [frame]
        size = len(frame)
        while size < _JOIN_SIZE and self._subscription.behind:
            try:
                event = self._subscription.take()
            except StopAsyncIteration:
                break  # it will be raised again
            if event is None:
                break
            frames.append(event.frame())
            size += len(frames[-1])
        return b"".join(frames)

    def farewell(self, absence: float) -> bytes:
        """Return the last block, when a drain ends the stream: it says how long the browser is to stay away.

        Args:
            absence: seconds on top of ``retry``, drawn for this client.
        """
        seconds = (_RETURN_SECONDS if self._retry is None else self._retry) + absence
        return b"retry: %d\n\n" % round(seconds * 1000)

    async def aclose(self) -> None:
        """End the subscription."""
        await self._subscription.aclose()
