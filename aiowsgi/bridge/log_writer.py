"""Writes log lines from a thread of its own, so that neither a full disk nor a stalled pipe holds up anything else.

What waits to be written is bounded; beyond that lines are dropped and counted, and the count is logged once the file
takes lines again. A file that was moved or removed is opened anew at its path before the next batch, as
:class:`logging.handlers.WatchedFileHandler` does; so logrotate needs no signal.

Several processes may write to one pipe, be it the workers' standard output. What one write gives to it stays whole only
up to ``PIPE_BUF`` bytes: a pipe, and a socket as systemd's journal has it, gets so much at once, and no part of a line
unless that is longer.

The thread starts with the first line and is a daemon: a file that never takes what it is given does not keep the
process alive. Where no thread can be started, whoever logs writes what the file takes at once. In a copy of the process
(``os.fork``) a writer starts afresh, with what the copy logs.

Thread: any; :meth:`LogWriter._run` and :class:`LogFile` the writer's, if there is one.

Source: logrotate(8); write(2) on ENOSPC; pipe(7) on PIPE_BUF; open(2) on O_NONBLOCK; :mod:`logging.handlers`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from aiowsgi.bridge.affinity import go_anywhere
from aiowsgi.bridge.threads import LOG_THREAD_NAME

__all__ = ["LogFile", "LogWriter"]

_logger = logging.getLogger("aiowsgi.error")

# How many bytes may wait to be written. Arbitrary; the lines of 20,000 requests.
_HELD_SIZE = 4 * 1024 * 1024
# How much is joined for one write, so that a long queue does not double its memory.
_BATCH_SIZE = 256 * 1024
# What a pipe takes without mixing it with what others write. Linux has 4096; POSIX wants at least 512.
_WHOLE_SIZE = getattr(select, "PIPE_BUF", 512)
# Between two attempts to write to a file that refused. Arbitrary.
_RETRY_SECONDS = 1.0


class LogFile:
    """A file that is appended to, or a descriptor that this process has.

    Args:
        path: of the file, which is opened, and created if it is missing. ``None`` for a descriptor.
        fd: the descriptor; it stays open.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | None = None, fd: int = -1) -> None:
        # The process may change to another folder, and the file is looked for later. Not normalised: what .. means
        # after a link is for the system to say.
        self._path = None if path is None else os.path.join(os.getcwd(), path)
        self._fd = fd if self._path is None else self._open(self._path)

    def __str__(self) -> str:
        return self._path or {1: "standard output", 2: "standard error"}.get(self._fd, f"descriptor {self._fd}")

    @staticmethod
    def _open(path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @property
    def is_stream(self) -> bool:
        """Whether it is a pipe or a socket, in which what is written at once may be mixed with what others write."""
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:  # it was closed: writing tells
            return False
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    @staticmethod
    def check(path: str) -> None:
        """Check that a file can be opened, without creating one.

        Only a regular file is opened: opening a FIFO would wait for a reader, or show the reader an end of file.

        Raises:
            OSError: it could not. Some file systems refuse only when a file is really made.
        """
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISREG(mode):
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            elif stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            elif stat.S_ISSOCK(mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
            elif not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        except FileNotFoundError:
            folder = os.path.dirname(os.path.realpath(path))
            if not os.path.isdir(folder):
                raise
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path) from None

    def follow(self) -> bool:
        """Reopen the path if another file is there now, or none; return whether that was so.

        Raises:
            OSError: it cannot be opened; the old file stays.
        """
        if self._path is None:
            return False
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        except PermissionError:  # rights to its folder have been dropped since it was opened
            return False
        if there is not None and os.path.samestat(there, os.fstat(self._fd)):
            return False
        fd, self._fd = self._fd, self._open(self._path)
        os.close(fd)
        return True

    def write(self, data: bytes | memoryview) -> int:
        """Write some of the data; return how much. Blocks."""
        return os.write(self._fd, data)

    def wait_for_room(self, timeout: float | None = None) -> bool:
        """Wait until :meth:`write` does not; return whether that was in time. A pipe then takes a whole line.

        Needed for O_NONBLOCK, too, which whoever shares a descriptor may have set.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(None if timeout is None else 1000 * timeout))

    def close(self) -> None:
        """Close what was opened here."""
        if self._path is not None:
            os.close(self._fd)


class LogWriter:
    """Writes to one file.

    Args:
        file: owned by the writer.
        limit: bytes that may wait to be written.

    Fields guarded by ``_lock``: all but ``_file``, which belongs to the thread once it runs, or to the one that has set
    ``_written_here``, and ``_ending``, an event.
    """

    def __init__(self, file: LogFile, limit: int = _HELD_SIZE) -> None:
        self._file = file
        self._limit = limit
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        """Start empty, without a thread. The lock is new: whoever held the old one at a fork is not in the copy."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._ending = threading.Event()
        self._batches: deque[Sequence[str]] = deque()
        self._held_size = 0
        self._dropped_count = 0
        self._thread: threading.Thread | None = None
        # A thread that logs is writing, because the writer's own cannot be started.
        self._written_here = False

    def put(self, lines: Sequence[str], size: int) -> None:
        """Have lines written, each with its line end; or dropped, if too much waits already.

        Does not wait for the file, but for a disk where there is no thread to do so.

        Args:
            lines: the writer's from now on.
            size: characters in all of them.
        """
        with self._lock:
            if self._ending.is_set() or self._held_size + size > self._limit:
                self._dropped_count += len(lines)
                return
            self._batches.append(lines)
            self._held_size += size
            if not self._has_writer():
                self._thread = threading.Thread(target=self._run, name=LOG_THREAD_NAME, daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no thread can be started, or the interpreter ends: the next line tries again
                    self._thread = None
            has_thread = self._thread is not None
            self._changed.notify_all()
        if not has_thread:
            self._write_here(0.0)

    def flush(self, timeout: float) -> bool:
        """Wait until all lines have been written; return whether they were in time."""
        end = time.monotonic() + timeout
        self._write_here(timeout)
        with self._lock:
            timeout = end - time.monotonic()
            self._changed.wait_for(lambda: not self._held_size or not self._has_writer(), timeout)
            return not self._held_size

    def close(self, timeout: float) -> bool:
        """Write what waits, if the file takes it, and end; return whether that was done in time."""
        with self._lock:
            if self._ending.is_set():
                return True
            self._ending.set()
            thread = self._thread
            self._changed.notify_all()
        if thread is None or not thread.is_alive():
            written = self.flush(timeout)
            with self._lock:
                if self._written_here:  # still: the file is that thread's
                    return False
            self._close_file()
            return written
        thread.join(timeout)
        return not thread.is_alive()

    def _has_writer(self) -> bool:
        """Return whether some thread writes. Under the lock."""
        return self._written_here or (self._thread is not None and self._thread.is_alive())

    def _write_here(self, timeout: float) -> None:
        """Write in the calling thread what the file takes in time, if no other does. The rest waits on."""
        end = time.monotonic() + timeout
        complete = True
        while complete:
            with self._lock:  # looked at again after each batch: whoever logs meanwhile leaves it to this thread
                if not self._batches or self._has_writer():
                    return
                self._written_here = True
                lines = self._batches.popleft()
            written_count, torn_count = 0, 0
            try:
                written_count, torn_count = self._write_lines(lines, end)
            finally:
                count = written_count + torn_count
                complete = count == len(lines)
                with self._lock:
                    self._held_size -= sum(map(len, lines[:count]))
                    rest = lines[count:]
                    if torn_count:  # what follows begins a line of its own
                        self._dropped_count += 1
                        self._held_size += 1
                        rest = ["\n", *rest]
                    if rest:
                        self._batches.appendleft(rest)
                    self._written_here = False
                    self._changed.notify_all()

    def _write_lines(self, lines: Sequence[str], end: float) -> tuple[int, int]:
        """Return how many lines were written, and 1 if a part of the next one was: the file took no more in time."""
        for count, line in enumerate(lines):
            data = _encode(line)
            rest = memoryview(data)
            try:
                self._file.follow()
                while rest and self._file.wait_for_room(max(0.0, end - time.monotonic())):
                    rest = rest[self._file.write(rest[:_WHOLE_SIZE]) :]
            except OSError:
                pass  # tried again with the next line; the thread, once there is one, tells
            if rest:
                return count, int(len(rest) < len(data))
        return len(lines), 0

    def _run(self) -> None:
        go_anywhere()
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._batches or self._ending.is_set())
                lines = self._take()
            if not lines:
                self._close_file()
                return
            text = "".join(lines)
            complete = self._write(_pieces(lines) if self._file.is_stream else (_encode(text),))
            with self._lock:
                self._held_size -= len(text)
                if not complete:
                    self._dropped_count += len(lines)
                dropped_count, self._dropped_count = self._dropped_count, 0
                self._changed.notify_all()
            if dropped_count:
                # A log handler that fails must not end the thread: nobody would write any more.
                with contextlib.suppress(Exception):
                    _logger.warning("%d lines were dropped while %s did not take them", dropped_count, self._file)

    def _close_file(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # a file system of another machine may tell only now what it did not take
            with contextlib.suppress(Exception):
                _logger.error("cannot close %s, its last lines may be lost: %s", self._file, error.strerror)

    def _take(self) -> list[str]:
        """Take what the next write is made of; nothing at the end."""
        lines: list[str] = []
        size = 0
        while self._batches and size < _BATCH_SIZE:
            batch = self._batches.popleft()
            lines.extend(batch)
            size += sum(map(len, batch))
        return lines

    def _write(self, pieces: Iterable[bytes]) -> bool:
        """Write all pieces, however long it takes; return whether that was done before the writer had to end."""
        told = False
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                try:
                    if self._file.follow():  # the new file gets a line of which the old one has a part
                        rest = memoryview(piece)[piece.rfind(b"\n", 0, len(piece) - len(rest)) + 1 :]
                    rest = rest[self._file.write(rest) :]
                except BlockingIOError:  # a pipe that is full is no fault
                    self._file.wait_for_room()
                except OSError as error:
                    if not told:
                        told = True
                        with contextlib.suppress(Exception):
                            _logger.error("cannot write to %s, trying again: %s", self._file, error.strerror)
                    if self._ending.wait(_RETRY_SECONDS):
                        return False
        return True


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Return what is to be written at once, each time: as many lines as stay whole, or a longer one."""
    piece = b""
    for line in map(_encode, lines):
        if piece and len(piece) + len(line) > _WHOLE_SIZE:
            yield piece
            piece = b""
        piece += line
    if piece:
        yield piece


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _begin_anew() -> None:
    for writer in list(_writers):
        writer._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
