"""``aiowsgi.park``: a response that goes on without a thread.

A WSGI application returns what it has and parks the rest, an asynchronous iterable: its thread is free at once, and the
event loop serves ten thousand such clients on eight threads. Frameworks and middleware see an ordinary, empty iterable.

Thread: worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["park"]


class ParkedBody:
    """An empty body: what follows it is the server's business."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        """Do nothing: the asynchronous iterable goes on, and is closed by the loop."""


class SynchronousBody:
    """The same on a server that cannot park: the calling thread drives the iterable, and is held by it.

    Args:
        iterable: must be content with an event loop of its own.
    """

    def __init__(self, iterable: AsyncIterable[bytes]) -> None:
        self._iterator = aiter(iterable)
        self._runner: asyncio.Runner | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        async def step() -> bytes:
            return await anext(self._iterator)

        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(step())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Close the iterable."""
        runner, self._runner = self._runner, None
        if runner is not None:
            aclose = getattr(self._iterator, "aclose", None)
            try:
                if aclose is not None:
                    runner.run(aclose())
            finally:
                runner.close()


def park(environ: WSGIEnvironment, iterable: AsyncIterable[bytes]) -> Iterator[bytes]:
    """Have the event loop go on with a response when the application is done.

    ::

        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return aiowsgi.park(environ, events())

    Args:
        environ: of the request.
        iterable: yields blocks of ``bytes``; it runs in the server's event loop, so that it must never block. Its
            ``aclose()`` is called when it ends, the client goes or the server drains.

    Returns:
        The body to return to the server: empty, with a ``close()``. On another WSGI server it streams the iterable
        in the calling thread instead, in an event loop of its own.

    Raises:
        ApplicationError: this response has been parked before.
        TypeError: ``iterable`` is not asynchronously iterable.
    """
    if not hasattr(iterable, "__aiter__"):
        raise TypeError(f"park() takes an asynchronous iterable, not {type(iterable).__name__}")
    place: Callable[[AsyncIterable[bytes]], None] | None = environ.get("aiowsgi.park")
    if place is None:
        return cast("Iterator[bytes]", SynchronousBody(iterable))
    place(iterable)
    return cast("Iterator[bytes]", ParkedBody())
