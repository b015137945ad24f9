"""The rest of a response that no thread holds: an asynchronous iterable, driven by the event loop.

The application hands it over with :func:`aiowsgi.park`; once its own iterable is exhausted and closed, its thread is
free and the loop goes on here, with backpressure, until the iterable ends, the client goes or the server drains.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiowsgi.errors import ApplicationError

if TYPE_CHECKING:
    from aiowsgi.server.engine import Engine

__all__ = ["ParkedResponse", "discard"]


def discard(engine: Engine, iterable: AsyncIterable[bytes]) -> None:
    """Close an iterable that was parked and will not be sent."""
    aclose = getattr(iterable, "aclose", None)
    if aclose is not None:
        task = engine.loop.create_task(aclose())
        engine.closing_tasks.add(task)
        task.add_done_callback(engine.closing_tasks.discard)


class ParkedResponse:
    """One asynchronous iterable on its way to one client.

    Args:
        engine: whose loop drives it.
        iterable: of ``bytes``; its ``aclose()``, if any, is called exactly once.
        on_block: called with each block that is not empty.
        on_end: called once, with ``None`` at the iterable's end or when :meth:`end` asked for it, else with what it
            raised. Not after :meth:`cancel`.
    """

    __slots__ = ("_ending", "_iterator", "_on_block", "_on_end", "_resumed", "_task")

    def __init__(
        self,
        engine: Engine,
        iterable: AsyncIterable[bytes],
        on_block: Callable[[bytes], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._iterator: AsyncIterator[bytes] = aiter(iterable)
        self._on_block = on_block
        self._on_end: Callable[[BaseException | None], None] | None = on_end
        self._resumed: asyncio.Future[None] | None = None
        self._ending = False
        self._task = engine.loop.create_task(self._run(), name="aiowsgi parked response")

    def pause(self) -> None:
        """Take no more blocks: the client is behind."""
        if self._resumed is None:
            self._resumed = self._task.get_loop().create_future()

    def resume(self) -> None:
        """Go on."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    def end(self) -> None:
        """End the response here and now, as if the iterable had ended."""
        self._ending = True
        self._task.cancel()

    def cancel(self) -> None:
        """The client is gone."""
        self._on_end = None
        self._task.cancel()

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            try:
                await self._send_blocks()
            finally:
                aclose = getattr(self._iterator, "aclose", None)
                if aclose is not None:
                    await aclose()
        except asyncio.CancelledError as cancelled:
            if not self._ending:
                error = cancelled
        except BaseException as raised:  # SystemExit and the like must not end the loop either
            error = raised
        if self._on_end is not None:
            self._on_end(error)

    async def _send_blocks(self) -> None:
        async for block in self._iterator:
            if not isinstance(block, bytes):
                raise ApplicationError(
                    f"a block of a parked body is {type(block).__name__}, not bytes",
                    'PEP 3333 "A Note On String Types"',
                )
            if block:
                self._on_block(block)
            if self._resumed is not None:
                await self._resumed
