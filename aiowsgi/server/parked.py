"""The rest of a response that no thread holds: an asynchronous iterable, driven by the event loop.

The application hands it over with :func:`aiowsgi.park`; once its own iterable is exhausted and closed, its thread is
free and the loop goes on here, with backpressure, until the iterable ends, the client goes or the server drains.

Any of these ends the response immediately; the iterable is closed afterwards, which delays nobody.

Thread: event loop; what says which heads it may have, the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiowsgi.bridge.blocking import WatchedCoroutine
from aiowsgi.errors import ApplicationError
from aiowsgi.semantics import ResponseHead
from aiowsgi.wsgi.response import plain_bytes

if TYPE_CHECKING:
    from aiowsgi.server.engine import Engine

__all__ = ["ParkedResponse", "check_content_coding", "check_length_unknown", "discard", "without_length"]

_logger = logging.getLogger("aiowsgi.error")

# What an iterable that never waits may send in one turn of the loop. Arbitrary; below a millisecond of it.
_TURN_SIZE = 64 * 1024
# What a block counts for besides its size.
_BLOCK_COST = 1024
# How long an iterable may take to close. Arbitrary; longer than a transaction takes to be rolled back.
_CLOSE_SECONDS = 10.0


def discard(engine: Engine, iterable: AsyncIterable[bytes]) -> None:
    """Close an iterable that was parked and will not be sent."""
    ParkedResponse(engine, iterable, _send_to_nobody, _send_to_nobody).cancel()


def _send_to_nobody(_: object) -> None:
    pass


class ParkedResponse:
    """One asynchronous iterable on its way to one client.

    It runs in a context of its own, which is empty: whatever handed it to the loop may have been another request.

    Args:
        engine: whose loop drives it.
        iterable: of ``bytes``; its ``aclose()``, if any, is called exactly once.
        on_block: called with each block that is not empty.
        on_end: called once, with ``None`` at the iterable's end or when :meth:`end` asked for it, else with what it
            raised. Not after :meth:`cancel`.
    """

    __slots__ = ("_begun", "_engine", "_iterable", "_on_block", "_on_end", "_over", "_resumed", "_task", "_timer")

    def __init__(
        self,
        engine: Engine,
        iterable: AsyncIterable[bytes],
        on_block: Callable[[bytes], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._engine = engine
        self._iterable = iterable
        self._on_block = on_block
        self._on_end = on_end
        self._resumed: asyncio.Future[None] | None = None
        self._begun = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        # Not by the loop's task factory: an eager one would begin before whoever makes this knows of it.
        self._task = asyncio.Task(
            WatchedCoroutine(self._run()),
            loop=engine.loop,
            name="aiowsgi parked response",
            context=contextvars.Context(),
        )

    def pause(self) -> None:
        """Take no more blocks: the client is behind."""
        if self._resumed is None:
            self._resumed = self._engine.loop.create_future()

    def resume(self) -> None:
        """Go on."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    @property
    def over(self) -> bool:
        """Whether the response has ended."""
        return self._over

    def end(self, absence: float) -> None:
        """End the response immediately, as if the iterable had ended, with its farewell if it has one.

        Args:
            absence: how many seconds longer than usual the client should stay away.
        """
        if not self._over:
            self._say_farewell(absence)
            self._settle(None)
            self._interrupt()

    def _say_farewell(self, absence: float) -> None:
        try:
            farewell = getattr(self._iterable, "farewell", None)
            if farewell is None:
                return
            block = farewell(absence)
            if not isinstance(block, bytes):
                raise TypeError(f"farewell() returned {type(block).__name__}, not bytes")
            block = plain_bytes(block)
        except BaseException as error:  # SystemExit and the like must not end the loop either, nor the drain
            self._log("%r was parked, and has no farewell: %r", error)
        else:
            if block:
                self._on_block(block)

    def cancel(self) -> None:
        """The client is gone."""
        if not self._over:
            self._on_end = _send_to_nobody
            self._settle(None)
            self._interrupt()

    def _interrupt(self) -> None:
        # A task that is cancelled before its first step never takes one, and would close nothing.
        if self._begun:
            self._task.cancel()

    def _settle(self, error: BaseException | None) -> None:
        """The response is over; from now on the iterable has only to close."""
        if self._over:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                self._log_failure(error)
            return
        self._over = True
        engine = self._engine
        self._timer = engine.loop.call_later(_CLOSE_SECONDS, self._give_up)
        engine.closing_tasks.add(self._task)
        self._task.add_done_callback(self._closed)
        self._on_end(error)

    def _closed(self, task: asyncio.Task[None]) -> None:
        engine = self._engine
        if self._timer is not None:
            self._timer.cancel()
        engine.closing_tasks.discard(task)
        if engine.draining:
            engine.wake()

    def _give_up(self) -> None:
        self._task.cancel()
        _logger.error("%r was parked, and has not closed within %g s: cancelled", self._iterable, _CLOSE_SECONDS)

    def _log(self, message: str, error: BaseException) -> None:
        # A log handler that fails must not keep the response from its end, nor the iterable from its close.
        with contextlib.suppress(Exception):
            _logger.error(message, self._iterable, error, exc_info=error)

    def _log_failure(self, error: BaseException) -> None:
        self._log("%r was parked, and failed to close: %r", error)

    async def _run(self) -> None:
        self._begun = True
        iterator = None
        if not self._over:
            try:
                iterator = aiter(self._iterable)
                await self._send_blocks(iterator)
            except GeneratorExit:  # the loop was closed, and the task with it
                raise
            except BaseException as error:  # SystemExit and the like must not end the loop either
                self._settle(error)
            else:
                self._settle(None)
            # What has interrupted it has done so: for whoever closes it, this task is not being cancelled.
            self._task.uncancel()
        if iterator is not None:
            await self._close(iterator)
        if iterator is not self._iterable:
            await self._close(self._iterable)

    async def _send_blocks(self, iterator: AsyncIterator[bytes]) -> None:
        size = 0
        while True:
            try:
                block = await anext(iterator)
            except StopAsyncIteration:
                return
            if self._over:
                return  # it has swallowed its cancellation
            if type(block) is not bytes:
                block = plain_bytes(block, "a block of a parked body")
            if block:
                self._on_block(block)
            size += _BLOCK_COST + len(block)
            if self._resumed is not None:
                await self._resumed
                size = 0
            elif size >= _TURN_SIZE:
                await asyncio.sleep(0)
                size = 0

    async def _close(self, iterable: object) -> None:
        try:
            aclose = getattr(iterable, "aclose", None)
            if aclose is not None:
                await aclose()
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:
            self._log_failure(error)


def check_length_unknown(content_length: int | None) -> None:
    """Refuse a length: nobody counts what was parked, which might exceed the length or fall short of it."""
    if content_length is not None:
        raise ApplicationError(
            f"a parked response has Content-Length: {content_length}, but nobody knows how long it will be; "
            "leave it out, or have whatever added it leave it out",
            "aiowsgi.park()",
        )


def without_length(head: ResponseHead) -> ResponseHead:
    """Return a head that does not say how long its content is."""
    if head.content_length is None:
        return head
    head = copy.copy(head)
    head.content_length = None
    return head


def check_content_coding(head: ResponseHead, coding: str) -> None:
    """Refuse what a receiver could not decode: middleware encodes what passes through it, not what was parked."""
    for name, value in head.fields:
        if name.lower() == "content-encoding" and value.lower() not in (coding, "identity"):
            raise ApplicationError(
                f"a parked response has Content-Encoding: {value}, but what was parked is {coding}: keep middleware "
                f"from encoding, with a Content-Encoding of identity, or call park(..., content_coding={value!r})",
                "aiowsgi.park()",
            )
