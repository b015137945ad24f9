"""An event loop's connections for commands to one broker, opened as they are needed.

Thread: event loop, except where stated otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from aiowsgi.channels.driver import Connector, Wire

__all__ = ["Commands"]

# At most so many.
_COUNT = 4


class Commands:
    """A few connections.

    Args:
        connector: opens them.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._places = asyncio.Semaphore(_COUNT)
        self._free: deque[Wire] = deque()
        self._closed = False
        #: Times that one was asked for.
        self.used_count = 0
        self._lent_count = 0

    @property
    def count(self) -> int:
        """Connections that are open. Any thread."""
        return len(self._free) + self._lent_count

    @property
    def busy(self) -> bool:
        """Whether one is in use."""
        return self._lent_count > 0

    @contextlib.asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """Lend one.

        Raises:
            Away: there is none.
        """
        async with self._places:
            self.used_count += 1
            self._lent_count += 1
            wire = None
            try:
                wire = await self._open()
                yield wire
            finally:
                self._lent_count -= 1
                if wire is not None:
                    if wire.is_open and not self._closed:
                        self._free.append(wire)
                    else:
                        await wire.close()

    async def _open(self) -> Wire:
        while self._free:
            wire = self._free.pop()
            if wire.is_fresh:
                return wire
            await wire.close()
        return await self._connector.connect()

    async def close(self) -> None:
        """Close those that are not in use, and the others once they are given back."""
        self._closed = True
        while self._free:
            await self._free.pop().close()
