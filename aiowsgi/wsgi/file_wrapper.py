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
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["FileRegion", "FileWrapper"]


class FileRegion:
    """A file descriptor, owned by the holder of this object, and the part of the file that is content.

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

    def blocks(self, block_size: int = 256 * 1024) -> Iterator[bytes]:
        """Read the content. Blocks on the disk.

        Raises:
            OSError: the file has become shorter, or cannot be read.
        """
        while self.size:
            block = os.pread(self.fd, min(block_size, self.size), self.offset)
            if not block:
                raise OSError("the file became shorter while it was being sent")
            self.offset += len(block)
            self.size -= len(block)
            yield block


_PlainFile = io.FileIO | io.BufferedReader | io.BufferedRandom


def _plain_file(filelike: Any) -> _PlainFile | None:
    """Return the real file whose own ``read()`` is the object's, so that the descriptor has the very bytes it returns.

    A descriptor alone proves nothing: a GzipFile has one, a BufferedReader may wrap something that decodes, and an
    object with an attribute ``file`` may read from that and return something else.
    """
    file: Any
    if type(filelike) is tempfile._TemporaryFileWrapper:
        file = filelike.file
    else:  # the method's owner: Django's File and werkzeug's FileStorage expose the method of the file they hold
        file = getattr(filelike.read, "__self__", None)
    raw = file.raw if type(file) is io.BufferedReader or type(file) is io.BufferedRandom else file
    if type(raw) is not io.FileIO:
        return None
    plain: _PlainFile = file
    return plain


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
        """Return what is left to read as a region of a regular file, or ``None`` if it is not one or seems empty.

        The file-like object stays open and at its position.
        """
        try:
            file = _plain_file(self.filelike)
            if file is None:
                return None
            if type(file) is io.BufferedRandom:
                file.flush()  # a seek() within the buffer leaves written data in it
            offset = file.tell()
            fd = os.dup(file.fileno())
        except (OSError, ValueError):
            return None
        status = os.fstat(fd)
        # A size of 0 may be wrong: files in /proc report it, and have content.
        if not stat.S_ISREG(status.st_mode) or status.st_size <= offset:
            os.close(fd)
            return None
        return FileRegion(fd, offset, status.st_size - offset)
