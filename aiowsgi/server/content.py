"""Request content that is collected before the application starts: in memory, then in a temporary file.

The file is written by threads of the I/O pool, never by the loop. While a part is being written, reading from that
connection pauses, so that what lies in memory is bounded: by ``request_buffer`` for a request, by
``request_buffer_total`` over all of them. Content over the total goes to files at once, instead of waiting for room:
memory that a hundred half-sent uploads hold must not keep the hundred-and-first, or each other, from ending.

Thread: event loop, but :meth:`ContentBuffer.open` and what runs in jobs.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from typing import BinaryIO

from aiowsgi.bridge.pool import Pool
from aiowsgi.bridge.wakeup import Wakeup

__all__ = ["ContentBuffer", "MemoryBudget"]


class MemoryBudget:
    """Bytes of content that all requests together hold in memory.

    Args:
        limit: bytes.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def exhausted(self) -> bool:
        """Whether content has to go to files."""
        return self.used >= self.limit


class ContentBuffer:
    """The content of one request.

    Args:
        memory_limit: bytes held in memory before a file is used.
        budget: shared by all requests.
        io_pool: its threads write the file.
        wakeup: brings the end of a write back to the loop.
        on_written: called by the loop when reading may go on, and when the content has become complete.
    """

    __slots__ = (
        "_blocks",
        "_budget",
        "_ended",
        "_file",
        "_held_size",
        "_io_pool",
        "_memory_limit",
        "_on_written",
        "_released",
        "_wakeup",
        "_writing",
        "error",
        "size",
    )

    def __init__(
        self, memory_limit: int, budget: MemoryBudget, io_pool: Pool, wakeup: Wakeup, on_written: Callable[[], None]
    ) -> None:
        self._memory_limit = memory_limit
        self._budget = budget
        self._io_pool = io_pool
        self._wakeup = wakeup
        self._on_written = on_written
        self._blocks: list[bytes] = []
        self._held_size = 0  # bytes in memory: in _blocks, or in the hands of a write
        self._file: BinaryIO | None = None
        self._writing = False
        self._ended = False
        self._released = False
        #: Bytes received.
        self.size = 0
        #: Why the content could not be kept.
        self.error: OSError | None = None

    @property
    def complete(self) -> bool:
        """All content has arrived and lies where :meth:`open` finds it."""
        return self._ended and not self._writing

    @property
    def writing(self) -> bool:
        """A part is being written: read no more from the connection until ``on_written``."""
        return self._writing

    def append(self, block: bytes) -> None:
        """Add content that has arrived."""
        self._blocks.append(block)
        self.size += len(block)
        self._held_size += len(block)
        self._budget.used += len(block)
        if self._held_size > self._memory_limit or self._file is not None or self._budget.exhausted:
            self._spill()

    def end(self) -> None:
        """All content has arrived."""
        self._ended = True

    def _spill(self) -> None:
        if not self._writing and self.error is None:
            self._writing = True
            blocks, self._blocks = self._blocks, []
            self._io_pool.submit(_Write(self, blocks))

    def write(self, blocks: list[bytes]) -> None:
        """Write blocks to the file. I/O thread."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="aiowsgi-")  # noqa: SIM115 - closed by release()
        self._file.writelines(blocks)

    def written(self, size: int, error: OSError | None) -> None:
        """A write has ended."""
        self._writing = False
        self._budget.used -= size
        self._held_size -= size
        self.error = error
        if self._released:
            self._close_file()
            return
        if self._blocks and error is None:
            self._spill()
        if not self._writing:
            self._on_written()

    def open(self) -> BinaryIO:
        """Return the content as a file at its beginning. Worker thread; only once, and only when complete."""
        if self._file is None:
            blocks = self._blocks
            return io.BytesIO(blocks[0] if len(blocks) == 1 else b"".join(blocks))
        self._file.seek(0)
        return self._file

    def release(self) -> None:
        """Give back memory and file. Nobody reads the content any more."""
        if self._released:
            return
        self._released = True
        if not self._writing:
            self._budget.used -= self._held_size
            self._close_file()
        else:
            pending_size = sum(map(len, self._blocks))
            self._budget.used -= pending_size
            self._held_size -= pending_size
        self._blocks = []

    def wake(self) -> None:
        """The worker has done with the content."""
        self.release()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Write:
    """A job: a part of a request's content goes to its file."""

    __slots__ = ("_blocks", "_content", "_error", "_size")

    def __init__(self, content: ContentBuffer, blocks: list[bytes]) -> None:
        self._content = content
        self._blocks = blocks
        self._size = sum(map(len, blocks))
        self._error: OSError | None = None

    def run(self) -> None:
        """Worker thread of the I/O pool."""
        try:
            self._content.write(self._blocks)
        except OSError as error:
            self._error = error
        finally:
            self._blocks = []
            self._content._wakeup.notify(self)

    def wake(self) -> None:
        """Event loop."""
        self._content.written(self._size, self._error)
