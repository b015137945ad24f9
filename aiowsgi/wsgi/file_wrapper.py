"""``wsgi.file_wrapper``: a file as the body of a response.

An iterable of blocks like any other, until the server recognises a real file in it: then :meth:`FileWrapper.detach`
gives a descriptor of its own from the current offset, and no thread has to wait while the client reads.

Thread: worker.

Source: PEP 3333 "Optional Platform-Specific File Handling".
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["FileRegion", "FileWrapper"]


class FileRegion:
    """A descriptor, owned by whoever holds this, and the bytes of it that are content.

    Args:
        fd: of a regular file.
        offset: where the content begins, in bytes.
        size: of the content, in bytes.
    """

    __slots__ = ("fd", "offset", "size")

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


# Only objects whose descriptor has the very bytes that read() returns: a GzipFile has a descriptor, too.
_PLAIN_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom)


class FileWrapper:
    """An iterable over the blocks of a file-like object.

    Args:
        filelike: an object with ``read(size)``; its ``close``, if any, becomes this object's.
        block_size: bytes to read at a time.
    """

    close: Callable[[], object]

    def __init__(self, filelike: Any, block_size: int = 64 * 1024) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def detach(self) -> FileRegion | None:
        """Return what is left to read as a region of a regular file, or ``None`` if it is not one.

        The file-like object stays open and where it is.
        """
        file = self.filelike
        # tempfile.NamedTemporaryFile and the like wrap the real one.
        file = getattr(file, "file", file)
        if type(file) not in _PLAIN_FILES:
            return None
        try:
            offset = file.tell()
            fd = os.dup(file.fileno())
        except (OSError, ValueError):
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return FileRegion(fd, offset, max(0, status.st_size - offset))
