"""Request content on its way to the application: collected before it starts, or streamed while it runs.

Collected content lies in memory, then in a temporary file. If its length is known and may lie in memory, the memory is
reserved in one piece, so that the content is read from where it was received.

The file is written by threads of the I/O pool, never by the loop, a part at a time, while more is received. Reading
from that connection pauses while the file is behind, so that what lies in memory is bounded: by ``request_buffer`` for
a request, by ``request_buffer_total`` over all of them. Content over the total goes straight to files, instead of
waiting for room: memory that a hundred half-sent uploads hold must not keep the hundred-and-first, or each other, from
ending. Where no more files may be open, as :attr:`~aiowsgi.server.engine.Engine.file_left` says, it is refused.
Streamed content never goes to files: over either limit its client waits until the application has read.

What a file costs is mostly the kernel's: a 5 MB upload takes 2.2 ms of CPU in memory and 5 in a file, half of them in
``write``, ``read`` and ``close``. Raise ``request_buffer`` if there is memory.

Thread: event loop, but :meth:`ContentBuffer.open` and what runs in jobs.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

from aiowsgi.bridge.pipes import ContentPipe, add_block
from aiowsgi.errors import ClientDisconnected
from aiowsgi.http.events import Refusal

if TYPE_CHECKING:
    from aiowsgi.server.engine import Engine

__all__ = ["ContentBuffer", "ContentStream", "MemoryBudget", "not_stored"]

_logger = logging.getLogger("aiowsgi.error")

# Below this size, blocks are as good.
_SMALLEST_RESERVED_SIZE = 64 * 1024
# A client gets at most this many times as much memory as it has sent content. Arbitrary; a first read of 16 KB is
# enough for 1 MB.
_RESERVED_RATIO = 128
# POSIX: no fewer than 16. Linux takes 1024.
_MOST_BLOCKS = max(16, os.sysconf("SC_IOV_MAX"))


class MemoryBudget:
    """Bytes of content that all requests together hold in memory. Only the loop counts.

    Args:
        limit: bytes.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def exhausted(self) -> bool:
        """Whether content has to go to files, or to wait for the application that streams it."""
        return self.used >= self.limit


class _Arrival:
    """How much of a request's content has arrived, and when more is due.

    Args:
        engine: its clock and configuration.
    """

    __slots__ = ("_full_since", "_min_rate", "_rate_since", "_timeout", "arrived_at", "error", "size")

    def __init__(self, engine: Engine) -> None:
        # The beginning of the time for which the client owes content.
        self._rate_since = engine.loop.time()
        self._full_since: float | None = None
        self._timeout = engine.config.body_timeout
        self._min_rate = engine.config.body_min_rate
        #: When the head had arrived, by the engine's clock, if there is an observer; else 0.0.
        self.arrived_at = 0.0 if engine.observer is None else engine.clock()
        #: Bytes received.
        self.size = 0
        #: Why the content could not be kept.
        self.error: OSError | None = None

    def due(self, now: float) -> float:
        """Return by when more content must have arrived, if some has arrived now.

        A dribble gains nothing: what counts is the average since the beginning, with the timeout as a grace.
        """
        if self._full_since is not None:
            self._rate_since += now - self._full_since
            self._full_since = None
        if not self._min_rate:
            return now + self._timeout
        return min(now, self._rate_since + self.size / self._min_rate) + self._timeout

    def begin_anew(self, now: float) -> None:
        """Nothing is owed for the time until now: the application did not want any content."""
        self._rate_since = now
        if self._full_since is not None:
            self._full_since = now

    def filled(self, now: float) -> None:
        """Nothing is owed from now until more is :meth:`due`: the client cannot send on."""
        if self._full_since is None:
            self._full_since = now


def not_stored(error: OSError) -> Refusal:
    """Log why content could not be kept, and return the answer."""
    # A log handler that fails must not cost the client its answer.
    with contextlib.suppress(Exception):
        _logger.error("cannot store request content: %s", error)
    # A want of descriptors passes, RFC 9110 §15.6.4; a full disk seldom does.
    status_code = 503 if error.errno in (errno.EMFILE, errno.ENFILE) else 500
    return Refusal(status_code, "the request content could not be stored")


class ContentBuffer(_Arrival):
    """The content of one request, collected.

    Args:
        engine: its configuration says how much is held in memory, its I/O pool writes the file.
        on_written: called by the loop when reading may go on, and when the content has become complete.
    """

    __slots__ = (
        "_blocks",
        "_budget",
        "_ended",
        "_engine",
        "_file",
        "_held_size",
        "_memory",
        "_memory_limit",
        "_on_written",
        "_spilled",
        "_view",
        "_write_size",
        "released",
    )

    def __init__(self, engine: Engine, on_written: Callable[[], None]) -> None:
        super().__init__(engine)
        self._engine = engine
        self._memory_limit = engine.config.request_buffer
        self._budget = engine.content_budget
        self._on_written = on_written
        self._blocks: list[bytes | bytearray] = []
        self._held_size = 0  # bytes in memory: in _blocks, in _memory, or in the hands of a write
        # What reserve() has provided, with room for all of the content, and a view to write to it. No file then.
        self._memory: BinaryIO | None = None
        self._view: memoryview | None = None
        self._file: io.FileIO | None = None
        self._spilled = False  # the content goes to a file
        self._write_size = 0  # bytes in the hands of a write; there is one at a time
        self._ended = False
        #: Nobody reads the content any more; set by the loop.
        self.released = False

    @property
    def complete(self) -> bool:
        """All content has arrived and lies where :meth:`open` finds it."""
        return self._ended and not self._write_size

    @property
    def full(self) -> bool:
        """Read no more from the connection until ``on_written``: the file is behind."""
        return self._write_size > 0 and (self._ended or self._over_limits)

    @property
    def _over_limits(self) -> bool:
        return self._held_size > self._memory_limit or self._budget.exhausted

    @property
    def total_size(self) -> int | None:
        """Bytes of content, once it is complete."""
        return self.size if self._ended else None

    #: The loop alone reads from the client.
    awaited = True

    def append(self, block: bytes) -> None:
        """Add content that has arrived."""
        room = self.room
        if room is not None:
            room[: len(block)] = block
            self.size += len(block)
            return
        add_block(self._blocks, block)
        self.size += len(block)
        self._held_size += len(block)
        self._budget.used += len(block)
        if self._over_limits and not self._spilled:
            if self._engine.file_left:
                self._spilled = True
                self._engine.content_files.add(self)
            else:
                self.error = OSError(errno.EMFILE, "the last file descriptors are kept for the application")
        self._spill()

    def end(self) -> None:
        """All content has arrived."""
        self._ended = True
        self._release_view()

    def reserve(self, missing_size: int) -> bool:
        """Provide memory in one piece for all of the content, so that it is written to where it will be read from.

        With blocks that are joined at its end, a 1 MB upload takes a fifth longer.

        Args:
            missing_size: bytes that have not arrived; 0 if unknown.

        Returns:
            Whether it did: not twice, not for content that goes to a file, nor for a client that announces much and has
            sent little, nor when all requests together already hold much.
        """
        if self._memory is not None or not missing_size:
            return False
        size = self.size + missing_size
        if not _SMALLEST_RESERVED_SIZE <= size <= min(self._memory_limit, self.size * _RESERVED_RATIO):
            return False
        budget = self._budget
        if self._spilled or budget.used + missing_size > budget.limit // 2:
            return False
        # BytesIO takes over bytes that nobody else holds, and read() without a size returns them as they are.
        memory = io.BytesIO(bytes(size))
        self._memory, self._view = memory, memory.getbuffer()
        blocks, self._blocks = self._blocks, []
        position = 0
        for block in blocks:
            self._view[position : position + len(block)] = block
            position += len(block)
        self._held_size += missing_size
        budget.used += missing_size
        return True

    @property
    def room(self) -> memoryview | None:
        """The reserved memory that is still to be written; ``None`` if there is none, or no longer."""
        return None if self._view is None else self._view[self.size :]

    def received(self, size: int) -> None:
        """Content has been written to :attr:`room`."""
        self.size += size

    def _release_view(self) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None

    def _spill(self) -> None:
        """Have what has arrived written, if it goes to a file; what arrives during that is for the next write."""
        if self._spilled and self._blocks and not self._write_size and self.error is None:
            blocks, self._blocks = self._blocks, []
            self._write_size = self._held_size
            self._engine.io_pool.submit(_Write(self, blocks, self._held_size))

    def write(self, blocks: list[bytes | bytearray]) -> None:
        """Write blocks to the file. I/O thread."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="aiowsgi-", buffering=0)  # noqa: SIM115 - closed by release()
        _write_all(self._file.fileno(), blocks)

    def written(self, size: int, error: OSError | None) -> None:
        """A write has ended."""
        self._write_size = 0
        self._budget.used -= size
        self._held_size -= size
        self.error = error
        if self.released:
            self._close_file()
            return
        self._spill()
        self._on_written()

    def notify(self, job: _Write | _Close) -> None:
        """Bring the end of a job back to the loop. I/O thread."""
        self._engine.wakeup.notify(job)

    def open(self) -> BinaryIO:
        """Return the content as a file at its beginning. Worker thread; only once, and only when complete."""
        if self._memory is not None:
            return self._memory
        if self._file is None:
            blocks, self._blocks = self._blocks, []
            return io.BytesIO(blocks[0] if len(blocks) == 1 else b"".join(blocks))
        self._file.seek(0)
        return io.BufferedReader(self._file)

    def release(self) -> None:
        """Give back memory and file. Nobody reads the content any more."""
        if self.released:
            return
        self.released = True
        self._release_view()
        self._memory = None
        self._budget.used -= self._held_size - self._write_size  # written() gives back the rest
        self._held_size = self._write_size
        self._blocks = []
        if not self._write_size:
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None and not file.closed:
            try:
                self._engine.io_pool.submit(_Close(self, file))  # deleting a large file takes time
                return
            except RuntimeError:  # the server has ended
                _close(file)
        self.file_closed()

    def file_closed(self) -> None:
        """The content takes no descriptor any more."""
        if self._spilled:
            self._engine.content_files.discard(self)
            self._engine.wake()


def _write_all(fd: int, blocks: Sequence[bytes | bytearray]) -> None:
    """Write blocks to a file, many with one call: with a call for each, a 5 MB upload takes a seventh longer.

    So the kernel can allocate space and memory for larger pieces than the network happened to bring.
    """
    pending: list[bytes | bytearray | memoryview] = list(blocks)
    while pending:
        size = os.writev(fd, pending[:_MOST_BLOCKS])
        count = 0
        while count < len(pending) and size >= len(pending[count]):
            size -= len(pending[count])
            count += 1
        del pending[:count]
        if size:
            pending[0] = memoryview(pending[0])[size:]


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # what could not be written before cannot be now, and nobody wants it
        file.close()


class _Close:
    """A job: close the file of content that the application will not read."""

    __slots__ = ("_content", "_file")

    def __init__(self, content: ContentBuffer, file: BinaryIO) -> None:
        self._content = content
        self._file = file

    def run(self) -> None:
        """Worker thread of the I/O pool."""
        _close(self._file)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._content.notify(self)

    def wake(self) -> None:
        """Event loop."""
        self._content.file_closed()


class _Write:
    """A job: write a part of a request's content to its file."""

    __slots__ = ("_blocks", "_content", "_error", "_size")

    def __init__(self, content: ContentBuffer, blocks: list[bytes | bytearray], size: int) -> None:
        self._content = content
        self._blocks = blocks
        self._size = size
        # Until it is: whatever meets the thread, MemoryError too, must not leave a hole in the content.
        self._error: OSError | None = OSError("it was not written")

    def run(self) -> None:
        """Worker thread of the I/O pool, which logs what is no ``OSError``."""
        try:
            if not self._content.released:  # its client may have gone while this waited
                self._content.write(self._blocks)
            self._error = None
        except OSError as error:
            self._error = error
        finally:
            self._blocks = []
            self._content.notify(self)

    def wake(self) -> None:
        """Event loop."""
        self._content.written(self._size, self._error)


class ContentStream(_Arrival):
    """The content of one request that the application reads while it arrives (``--stream-body``).

    Its names are those of :class:`ContentBuffer` where they mean the same.

    Over ``request_buffer_total`` it holds what one read has brought. A stream that holds nothing reads on even then: so
    each goes on when its own application reads, and none waits for another.

    Args:
        engine: its configuration says how much may lie unread.
        on_taken: called by the loop after the application has read, or when it wants to.
        expect_continue: the client waits for ``100 Continue``, which is sent at the first read.
    """

    __slots__ = ("_budget", "_ended", "_held_size", "_limit", "_on_taken", "_pipe", "_wakeup", "continue_wanted")

    total_size = None

    def __init__(self, engine: Engine, on_taken: Callable[[ContentStream], None], expect_continue: bool) -> None:
        super().__init__(engine)
        self._limit = engine.config.request_buffer
        self._budget = engine.content_budget
        self._held_size = 0  # bytes in the pipe, as the budget counts them
        self._wakeup = engine.wakeup
        self._on_taken = on_taken
        self._ended = False
        self._pipe = ContentPipe(engine.pool.stalled, self._notify, self._want_continue if expect_continue else None)
        #: ``100 Continue`` is to be sent now. Written by the worker before it notifies the loop.
        self.continue_wanted = False

    @property
    def complete(self) -> bool:
        """All content has arrived."""
        return self._ended

    @property
    def full(self) -> bool:
        """So much is unread that no more is to be read from the connection until ``on_taken``."""
        size = self._pipe.size
        return size > self._limit or (size > 0 and self._budget.exhausted)

    @property
    def awaited(self) -> bool:
        """The application waits for content that the client has not sent."""
        return self._pipe.awaited

    def append(self, block: bytes) -> None:
        """Add content that has arrived."""
        self.size += len(block)
        self._pipe.feed(block)
        self._count()

    def _count(self) -> None:
        """Bring the budget up to date; the worker does not, it notifies the loop of what it has taken."""
        size = self._pipe.size
        self._budget.used += size - self._held_size
        self._held_size = size

    def announce_end(self) -> None:
        """The end has arrived right after the blocks that are about to be added.

        Called before they are: an application that knows how long its content is may answer as soon as it has them, and
        the connection stays open only if nothing more is to come.
        """
        self._ended = True

    def end(self) -> None:
        """All content has arrived."""
        self._ended = True
        self._pipe.feed_end()

    def abort(self, error: OSError) -> None:
        """No more will come: the application's reads raise ``error``."""
        self._pipe.abort(error)

    def open(self) -> BinaryIO:
        """Return the content as a file that blocks. Worker thread."""
        return cast(BinaryIO, self._pipe)

    def _notify(self) -> None:
        self._wakeup.notify(self)

    def _want_continue(self) -> None:
        self.continue_wanted = True
        self._wakeup.notify(self)

    def wake(self) -> None:
        """The application has read, or wants to."""
        self._count()
        self._on_taken(self)

    def release(self) -> None:
        """The exchange will never run, or has ended."""
        self._pipe.discard(ClientDisconnected("the request has ended"))
        self._count()
