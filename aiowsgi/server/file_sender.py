"""A file on its way to a client: read in bounded pieces by an I/O thread, written by the loop.

No thread waits for the client. One piece is read ahead of the transport, so that a fast client is never kept waiting by
the disk and a slow one costs two pieces of memory.

Thread: event loop, but :meth:`FileSender.run`, which is a job of the I/O pool.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from aiowsgi.bridge.pool import Pool
from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.wsgi.file_wrapper import FileRegion

__all__ = ["FileSender"]

_PIECE_SIZE = 256 * 1024


class FileSender:
    """Reads one :class:`FileRegion`, which it owns.

    Args:
        region: what to send.
        io_pool: its threads read.
        wakeup: brings what was read back to the loop.
        on_piece: called by the loop with each piece in order; with ``b""`` if the file ends or fails before its time.
    """

    __slots__ = (
        "_closed",
        "_io_pool",
        "_offset",
        "_on_piece",
        "_piece",
        "_reading",
        "_region",
        "_released",
        "_wakeup",
        "missing_size",
    )

    def __init__(self, region: FileRegion, io_pool: Pool, wakeup: Wakeup, on_piece: Callable[[bytes], None]) -> None:
        self._region = region
        self._offset = region.offset
        self._io_pool = io_pool
        self._wakeup = wakeup
        self._on_piece = on_piece
        self._piece = b""
        self._reading = False
        self._closed = False
        self._released = False
        #: Bytes that have not been given out yet.
        self.missing_size = region.size

    def read_on(self) -> None:
        """Have the next piece read, unless one is under way or all has been."""
        if self.missing_size and not self._reading and not self._closed:
            self._reading = True
            self._io_pool.submit(self)

    def run(self) -> None:
        """Read a piece. I/O thread."""
        try:
            self._piece = os.pread(self._region.fd, min(_PIECE_SIZE, self.missing_size), self._offset)
        except OSError:
            self._piece = b""
        finally:
            if self._closed:
                self._release()  # not by the loop, which may have ended
            self._wakeup.notify(self)

    def wake(self) -> None:
        """Give out the piece that was read."""
        self._reading = False
        piece, self._piece = self._piece, b""
        if self._closed:
            self._release()
            return
        self._offset += len(piece)
        self.missing_size -= len(piece)
        self._on_piece(piece)

    def close(self) -> None:
        """Stop, and release the file."""
        if not self._closed:
            self._closed = True
            if not self._reading:
                self._release()

    def _release(self) -> None:
        """Close the descriptor, once: by the job, or by the loop while there is none."""
        if not self._released:
            self._released = True
            self._region.close()
