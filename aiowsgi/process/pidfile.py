"""The file that holds the number of the process.

The process that holds the file's lock is running. A number alone says nothing: it may be another process's by now, and
in a container it nearly always is.

Anyone who may write in the file's folder could put a link in its place and have root overwrite the link's target: so no
link is followed, and no file is written that has another name as well.

Thread: the main thread.

Source: flock(2); open(2) on O_NOFOLLOW.
"""

from __future__ import annotations

import contextlib
import os
import stat

from aiowsgi.errors import StartupError

try:
    import fcntl
except ImportError:  # a platform without it; then the file is written, and nothing is refused
    fcntl = None  # type: ignore[assignment]  # a module where it exists

__all__ = ["PidFile"]

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class PidFile:
    """A file with this process's number, until it is closed.

    Args:
        path: of the file; ``None`` for no file.

    Raises:
        StartupError: the file belongs to a running process, is a link, or cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._fd = -1
        self._path = ""
        self._pid = os.getpid()
        if path is not None:
            self._path = os.path.abspath(path)
            self._fd = _open(self._path)
            try:
                os.ftruncate(self._fd, 0)
                os.write(self._fd, f"{self._pid}\n".encode())
            except OSError as error:  # such as a disk that is full
                self.close()
                raise StartupError(f"pid={path}: cannot be written: {error.strerror}") from error
            if hasattr(os, "register_at_fork"):
                # The lock belongs to the open file: a fork of this process would still hold it when this one is gone.
                os.register_at_fork(after_in_child=self.close)

    def close(self) -> None:
        """Remove the file, if it is still this process's own. May be called again."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        # A forked worker has this object too, and must leave the supervisor's file alone.
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                if _status_if_same(fd, self._path) is not None:
                    os.unlink(self._path)
        os.close(fd)


def _open(path: str) -> int:
    while True:
        try:
            fd = os.open(path, _FLAGS, 0o644)
        except OSError as error:
            reason = "it is a symbolic link" if os.path.islink(path) else error.strerror
            raise StartupError(f"pid={path}: cannot be written: {reason}") from error
        if fcntl is None:
            return fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise StartupError(f"pid={path}: a server runs already, as process {holder or 'unknown'}") from error
        except OSError as error:
            os.close(fd)
            raise StartupError(f"pid={path}: cannot be locked: {error.strerror}") from error
        there = _status_if_same(fd, path)
        if there is not None and stat.S_ISREG(there.st_mode) and there.st_nlink == 1:
            return fd
        os.close(fd)
        if there is not None:
            raise StartupError(f"pid={path}: cannot be written: it is no regular file, or has another name as well")
        # Its owner has just removed it: try again.


def _status_if_same(fd: int, path: str) -> os.stat_result | None:
    """The status of the file at a path, or ``None`` if that is not the open file."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return None
    return there if os.path.samestat(os.fstat(fd), there) else None
