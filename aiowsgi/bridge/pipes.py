"""The bounded pipes between the event loop and a worker thread: all that either of them waits for the other in.

``ResponsePipe`` carries a streamed response from the worker to the loop, ``ContentPipe`` a request's content from the
loop to the worker. The worker blocks, and is counted as stalled, where the other side is too slow; the loop never does.

Thread: event loop on one side, worker on the other, as each method says. The loop's side says ``feed``,
``feed_end``, ``abort``, ``take``; the worker's side ``read``, ``write``, ``finish``.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import AbstractContextManager

from aiowsgi.errors import ClientDisconnected

__all__ = ["ContentPipe", "ResponsePipe", "add_block"]

# Arbitrary; at this size the objects around the blocks take a hundredth of their memory.
_SMALL_SIZE = 4 * 1024

#: See :meth:`aiowsgi.bridge.pool.Pool.stalled`.
Stalled = Callable[[Callable[[], bool]], AbstractContextManager[None]]


def add_block(blocks: MutableSequence[bytes | bytearray], block: bytes) -> None:
    """Append a block of content, joined to the last one if both are small: a million blocks of a byte take 30 MB."""
    if blocks and len(block) < _SMALL_SIZE and len(blocks[-1]) < _SMALL_SIZE:
        last = blocks[-1]
        if not isinstance(last, bytearray):
            last = blocks[-1] = bytearray(last)
        last += block
    else:
        blocks.append(block)


class ResponsePipe:
    """A streamed response on its way to the loop.

    Args:
        limit: bytes that may lie in the pipe; the block that crosses it is still taken, the next one waits.
        stalled: counts the worker as waiting for a client, in the pool, for the duration of a ``with`` block.
        notify: asks the loop to :meth:`take`.
        portion_size: bytes that are taken at a time.

    Fields guarded by ``_lock``: ``_pieces``, ``_size``, ``_rest``, ``_ended``, ``_aborted``, ``_announced``. Only the
    worker adds to ``_size``, so it may check without the lock whether the pipe is full.
    """

    __slots__ = (
        "_aborted",
        "_announced",
        "_ended",
        "_limit",
        "_lock",
        "_notify",
        "_pieces",
        "_portion_size",
        "_rest",
        "_room",
        "_size",
        "_stalled",
    )

    def __init__(
        self, limit: int, stalled: Stalled, notify: Callable[[], None], portion_size: int = sys.maxsize
    ) -> None:
        self._limit = limit
        self._stalled = stalled
        self._notify = notify
        self._portion_size = portion_size
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._pieces: deque[bytes] = deque()
        # Out of the worker's way, but not taken yet; not a deque at once, which is larger than the pipe.
        self._rest: deque[bytes | memoryview] | None = None
        self._size = 0
        self._ended = False
        self._aborted = False
        self._announced = False  # the loop has been notified and has not taken since

    def _may_go_on(self) -> bool:
        return self._size < self._limit or self._aborted

    def write(self, pieces: Sequence[bytes]) -> None:
        """Add pieces, after waiting for room if the pipe is full. Worker thread.

        Raises:
            ClientDisconnected: the pipe was aborted.
        """
        if self._size >= self._limit:
            # Counted as stalled before the lock is taken: counting may start a thread, and the loop needs the lock.
            with self._stalled(self._may_go_on), self._lock:
                self._room.wait_for(self._may_go_on)
        with self._lock:
            if self._aborted:
                raise ClientDisconnected("the client disconnected before the end of its response")
            self._pieces.extend(pieces)
            self._size += sum(map(len, pieces))
            announce = not self._announced
            self._announced = True
        if announce:
            try:
                self._notify()
            except BaseException:
                with self._lock:
                    self._announced = False  # or nothing that is written after it would be announced
                raise

    def finish(self, pieces: Sequence[bytes] = ()) -> None:
        """End the response, after some last pieces. Worker thread; never waits."""
        with self._lock:
            self._pieces.extend(pieces)
            self._size += sum(map(len, pieces))
            self._ended = True
            announce = not self._announced
            self._announced = True
        if announce:
            self._notify()

    def take(self) -> tuple[list[bytes | memoryview], bool]:
        """Take what lies in the pipe, or a portion if that is less; the loop is asked again for the rest. Event loop.

        Returns:
            The pieces, and whether they are the last.
        """
        with self._lock:
            rest = self._rest
            if not rest:
                pieces: list[bytes | memoryview] = list(self._pieces)
                size, self._size = self._size, 0
                self._pieces.clear()
                self._announced = False
                self._room.notify()
                if size <= self._portion_size:
                    return pieces, self._ended
                rest = self._rest = deque(pieces)
            pieces = _take_portion(rest, self._portion_size)
            if self._ended and not (rest or self._pieces):
                return pieces, True
        self._notify()
        return pieces, False

    def abort(self) -> None:
        """Nobody will take anything more: wake the worker and let it fail. Any thread."""
        with self._lock:
            self._aborted = True
            self._pieces.clear()
            self._rest = None
            self._size = 0
            self._room.notify_all()  # a thread of the application's own may write as well


def _take_portion(rest: deque[bytes | memoryview], portion_size: int) -> list[bytes | memoryview]:
    portion = []
    while rest and portion_size:
        piece = rest.popleft()
        if len(piece) > portion_size:
            view = memoryview(piece)
            rest.appendleft(view[portion_size:])
            piece = view[:portion_size]
        portion.append(piece)
        portion_size -= len(piece)
    return portion


def _tell_nobody() -> None:
    pass


class ContentPipe:
    """A request's content on its way to the worker: a ``wsgi.input`` that may have to wait.

    Args:
        stalled: as for :class:`ResponsePipe`.
        notify: tells the loop that content was taken, so that it can read on, or that the worker waits for some.
        on_first_read: called in the worker before the first wait, or ``None``: sends ``100 Continue``.

    Fields guarded by ``_lock``: ``_blocks``, ``_size``, ``_ended``, ``_error``. ``_current``, ``_position``,
    ``_on_first_read`` and ``_awaited`` belong to the worker until :meth:`discard`; the last is read by any thread. Only
    the worker takes blocks, so it may look for one without the lock.
    """

    def __init__(
        self, stalled: Stalled, notify: Callable[[], None], on_first_read: Callable[[], None] | None = None
    ) -> None:
        self._stalled = stalled
        self._notify = notify
        self._on_first_read = on_first_read
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._blocks: deque[bytes | bytearray] = deque()
        self._size = 0
        self._ended = False
        self._error: OSError | None = None
        self._awaited = False
        self._current = b""  # the block being read
        self._position = 0

    @property
    def size(self) -> int:
        """Bytes that the worker has not taken yet. Any thread; may be a moment old."""
        return self._size

    @property
    def awaited(self) -> bool:
        """Whether the worker is waiting for content. Any thread; may be a moment old."""
        return self._awaited

    def feed(self, block: bytes) -> None:
        """Add content. Event loop."""
        with self._lock:
            if self._error is None:
                add_block(self._blocks, block)
                self._size += len(block)
                self._arrival.notify()

    def feed_end(self) -> None:
        """All content has been fed. Event loop."""
        with self._lock:
            self._ended = True
            self._arrival.notify()

    def abort(self, error: OSError) -> None:
        """No more will come: reads raise ``error`` once what has arrived is read. Any thread."""
        with self._lock:
            if not self._ended and self._error is None:
                self._error = error
                self._arrival.notify()

    def discard(self, error: OSError) -> None:
        """Nobody reads any more: let go of what has arrived, and of whom to tell. Event loop.

        Whoever is told holds the pipe, and an error that was raised holds all that had been read: they would wait for
        the garbage collector.
        """
        with self._lock:
            self._error = error
            self._blocks.clear()
            self._size = 0
            self._arrival.notify()
        self._notify = _tell_nobody
        self._on_first_read = None

    def _may_go_on(self) -> bool:
        return bool(self._blocks) or self._ended or self._error is not None

    def _next_block(self) -> bytes:
        """Return the next block, waiting for it; empty at the end. Worker thread."""
        on_first_read = self._on_first_read
        if on_first_read is not None:
            self._on_first_read = None
            on_first_read()
        if not self._blocks and not self._ended:
            try:
                self._awaited = True
                self._notify()  # from now on the client's time limit runs
                with self._stalled(self._may_go_on), self._lock:
                    self._arrival.wait_for(self._may_go_on)
            finally:
                self._awaited = False
        with self._lock:
            if not self._blocks:
                if self._error is not None:
                    raise self._error
                return b""
            block = self._blocks.popleft()
            self._size -= len(block)
        self._notify()
        return bytes(block)

    def _fill(self) -> bool:
        """Make sure that the current block has unread bytes; return whether it has."""
        if self._position >= len(self._current):
            self._current = self._next_block()
            self._position = 0
        return bool(self._current)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end of the content; all that is left without a size.

        Raises:
            ClientDisconnected: the content was cut short.
        """
        if size is None or size < 0:
            size = -1
        pieces: list[bytes] = []
        missing = size
        while missing != 0 and self._fill():
            stop = len(self._current) if missing < 0 else self._position + missing
            piece = self._current[self._position : stop]
            self._position += len(piece)
            pieces.append(piece)
            if missing > 0:
                missing -= len(piece)
        return b"".join(pieces)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line with its line end, at most ``size`` bytes of it."""
        missing = -1 if size is None or size < 0 else size
        pieces: list[bytes] = []
        while missing != 0 and self._fill():
            stop = len(self._current) if missing < 0 else min(len(self._current), self._position + missing)
            line_end = self._current.find(b"\n", self._position, stop)
            if line_end >= 0:
                stop = line_end + 1
            piece = self._current[self._position : stop]
            self._position = stop
            pieces.append(piece)
            if line_end >= 0:
                break
            if missing > 0:
                missing -= len(piece)
        return b"".join(pieces)

    def readlines(self, hint: int | None = None, /) -> list[bytes]:
        """Return lines to the end, or until they have ``hint`` bytes together."""
        lines: list[bytes] = []
        size = 0
        while line := self.readline():
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> ContentPipe:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def close(self) -> None:
        """Do nothing: the content is the server's to release."""
