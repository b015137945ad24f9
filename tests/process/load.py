"""Steady load from a number of connections, each of whose requests is accounted for."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from tests.process.server_process import PATIENCE, wait_until


class Load:
    """Requests from connections that are kept alive, one after another, for the time of a ``with`` block.

    A connection that the server closes after an answer, or while nothing is asked, is opened anew, as every client
    does. One that it closes at the very moment of the next request is tried again, as every client does, and counted:
    there may be few of those. All else is a failure: a refused connection, an answer that does not come or is cut
    short, a status but 200.
    """

    def __init__(self, host: str, port: int, connection_count: int, *, path: str = "/", pause: float = 0.0) -> None:
        self._host = host
        self._port = port
        self._connection_count = connection_count
        self._request = f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        self._pause = pause
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        #: Answers, by their content.
        self.contents: Counter[str] = Counter()
        self.failures: list[str] = []
        self.retried_count = 0
        self.asked_count = 0

    @property
    def answered_count(self) -> int:
        return sum(self.contents.values())

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(self._connection_count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()

    def wait_for(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = self.answered_count + count
        wait_until(lambda: self.answered_count >= wanted or self.failures, f"{count} more answers")

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask_on() for _ in range(self._connection_count)))

    async def _ask_on(self) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        is_reused = False
        while not self._stopping:
            self.asked_count += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    if reader is None or writer is None or reader.at_eof():
                        if writer is not None:
                            writer.close()
                        reader, writer = await asyncio.open_connection(self._host, self._port)
                        is_reused = False
                    writer.write(self._request)
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
                    content = (await reader.readexactly(int(fields["content-length"]))).decode()
                    is_reused = True
            except (OSError, EOFError, TimeoutError) as error:
                if is_reused and not getattr(error, "partial", b"") and not isinstance(error, TimeoutError):
                    self.retried_count += 1
                    self.asked_count -= 1
                else:
                    self.failures.append(repr(error))
                reader = None
                is_reused = False
                continue
            if head.startswith("HTTP/1.1 200 "):
                self.contents[content] += 1
            else:
                self.failures.append(head)
            if fields.get("connection") == "close":
                writer.close()
                reader = None
            if self._pause:
                await asyncio.sleep(self._pause)
        if writer is not None:
            writer.close()
