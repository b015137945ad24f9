"""``aiowsgi.park``: a response that goes on without a thread.

A WSGI application returns what it has and parks the rest, an asynchronous iterable: its thread is free immediately, and
with eight threads the event loop serves ten thousand such clients. Frameworks and middleware see an ordinary, empty
iterable.

Thread: worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from aiowsgi.errors import ApplicationError

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["park"]


class ParkedBody(Iterator[bytes]):
    """An empty body: what follows it is the server's business."""

    __slots__ = ()

    def __next__(self) -> bytes:
        raise StopIteration

    def close(self) -> None:
        """Do nothing: the asynchronous iterable goes on, and is closed by the loop."""


class SynchronousBody(Iterator[bytes]):
    """The same on a server that cannot park: the calling thread drives the iterable, and is held by it.

    Args:
        iterable: must be able to run in an event loop of its own.
    """

    def __init__(self, iterable: AsyncIterable[bytes]) -> None:
        self._iterable = iterable
        self._iterator: AsyncIterator[bytes] | None = None
        # A factory, so that the loop is not set as the thread's current one.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._closed = False

    def __next__(self) -> bytes:
        if self._closed:
            raise StopIteration
        try:
            return self._runner.run(self._next_block())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next_block(self) -> bytes:
        if self._iterator is None:
            self._iterator = aiter(self._iterable)
        return await anext(self._iterator)

    def close(self) -> None:
        """Close the iterable, once, whether or not it was begun."""
        if not self._closed:
            self._closed = True
            with self._runner:
                self._runner.run(self._close())

    async def _close(self) -> None:
        try:
            if self._iterator is not None and self._iterator is not self._iterable:
                await _aclose(self._iterator)
        finally:
            await _aclose(self._iterable)


async def _aclose(iterable: object) -> None:
    aclose = getattr(iterable, "aclose", None)
    if aclose is not None:
        await aclose()


def park(
    environ: WSGIEnvironment,
    iterable: AsyncIterable[bytes],
    *,
    finish: bool = False,
    content_coding: str = "identity",
) -> Iterator[bytes]:
    """Have the event loop go on with a response when the application is done.

    ::

        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return aiowsgi.park(environ, events())

    The head leaves immediately. Blocks follow as the iterable yields them, no faster than the client takes them.

    Middleware sees an empty body. A Content-Length that it adds for that is dropped. So that no middleware compresses
    the body, ``Accept-Encoding`` is removed from ``environ``.

    An iterable may have a method ``farewell(absence: float) -> bytes``. It is called in the event loop when a drain
    ends the response, and returns a last block, or ``b""``; it must not wait. ``absence`` is how many seconds longer
    than usual the client had better stay away, drawn for it alone, so that clients do not all come back together:
    ``aiowsgi.sse`` makes a ``retry:`` of it.

    Args:
        environ: of the request.
        iterable: yields blocks of ``bytes``; it runs in the server's event loop, in a context without the request's
            context variables, and must never block: a call that does is logged with its line. Its ``aclose()`` is
            called once, when it has ended, the client has gone or the server drains, or if it is never begun.
        finish: what happens when the server drains. False, for a stream of events: the response ends between two
            blocks, as if the iterable had ended, when its turn comes (``drain_rate`` of them in a second); until then
            it goes on. True, for content that is worthless if incomplete: it may go on to its end
            within ``graceful_timeout``, and is cut off visibly after that.
        content_coding: the Content-Encoding that the blocks have and the response declares, ``"gzip"`` for instance.

    Returns:
        The body to return to the server: empty, with a ``close()``. On another WSGI server it streams the iterable
        in the calling thread instead, in an event loop of its own.

    Raises:
        ApplicationError: this response has been parked before, or has ended; also if another server calls the
            application in an event loop, which leaves no way to go on. Only later, in the log: the response has a
            Content-Length other than that of the part that was not parked, or another Content-Encoding.
        TypeError: ``iterable`` is not asynchronously iterable.
    """
    if not hasattr(type(iterable), "__aiter__"):
        raise TypeError(f"park() takes an asynchronous iterable, not {type(iterable).__name__}")
    place: Callable[[AsyncIterable[bytes], bool, str], None] | None = environ.get("aiowsgi.park")
    if place is None:
        if _in_event_loop():
            raise ApplicationError(
                "this server cannot park a response, and calls the application inside of an event loop, where it cannot"
                " be streamed either: serve it with aiowsgi, or with a server that runs applications in threads",
                "aiowsgi.park()",
            )
        return SynchronousBody(iterable)
    place(iterable, finish, content_coding)
    environ.pop("HTTP_ACCEPT_ENCODING", None)
    return ParkedBody()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
