"""A file on its way to a client by ``sendfile``: from the page cache to the socket, and through no buffer of ours.

Neither loop's transport offers it: uvloop has no ``sendfile`` at all, and asyncio's runs in the loop, which stands
still while the disk is read. So an I/O thread sends on a duplicate of the socket's descriptor, as much as the kernel
takes; then the loop waits for room, which it could not do on the transport's own descriptor either. Where a file system
or a sandbox has no ``sendfile``, the thread reads and sends by itself.

The transport must hold nothing that is unsent, and nothing may be written to it until the file is sent.

Thread: event loop, but :meth:`SocketFileSender.run`, which is a job of the I/O pool and alone uses the descriptors
while it runs. A sender that is closed during a job is released by the job: the loop may have ended.

Source: sendfile(2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence

from aiowsgi.bridge.fork_sockets import keep_from_forks
from aiowsgi.bridge.pool import Pool
from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.wsgi.file_wrapper import FileRegion

__all__ = ["SocketFileSender"]

# A job sends no more than this, however fast its client is: the next job in the queue is for another client.
_JOB_SIZE = 4 * 1024 * 1024
# What is read at a time where there is no sendfile. Arbitrary; as much as a FileSender reads.
_PIECE_SIZE = 256 * 1024
# "EINVAL or ENOSYS: applications may wish to fall back to read and write", says sendfile(2).
_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class SocketFileSender:
    """Sends a head and one :class:`FileRegion`, which it owns.

    Args:
        head: sent before the file.
        region: what to send.
        sock: a duplicate of the connection's socket, owned by the sender from now on.
        loop: waits for room.
        io_pool: its threads read the disk.
        wakeup: lets the loop know that a job has ended.
        on_blocked: called by the loop when the client has to take something before more can be sent.
        on_room: called by the loop when it has.
        on_end: called by the loop once all is sent, with ``None``; or with what went wrong before that, a
            ``ConnectionError`` or ``TimeoutError`` where it is the client that has gone.
    """

    __slots__ = (
        "__weakref__",
        "_blocked",
        "_closed",
        "_copies",
        "_error",
        "_head",
        "_io_pool",
        "_loop",
        "_offset",
        "_on_blocked",
        "_on_end",
        "_on_room",
        "_region",
        "_released",
        "_running",
        "_socket",
        "_wakeup",
        "missing_size",
    )

    def __init__(
        self,
        head: bytes,
        region: FileRegion,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        io_pool: Pool,
        wakeup: Wakeup,
        on_blocked: Callable[[], None],
        on_room: Callable[[], None],
        on_end: Callable[[OSError | None], None],
    ) -> None:
        self._head = head
        self._region = region
        self._socket = sock
        self._loop = loop
        self._io_pool = io_pool
        self._wakeup = wakeup
        self._on_blocked = on_blocked
        self._on_room = on_room
        self._on_end = on_end
        self._offset = region.offset
        self._running = False
        self._closed = False
        self._released = False
        # There is no sendfile for this file; only the jobs ask.
        self._copies = False
        # How the last job ended.
        self._blocked = False
        self._error: OSError | None = None
        #: Bytes that have not been sent yet.
        self.missing_size = region.size
        keep_from_forks(self)

    def descriptors(self) -> Sequence[int]:
        """See :class:`~aiowsgi.bridge.fork_sockets.SocketHolder`."""
        return (self._socket.fileno(),)

    def send_on(self) -> None:
        """Have the next part sent."""
        self._running = True
        self._io_pool.submit(self)

    def run(self) -> None:
        """Send what the socket takes. I/O thread."""
        self._blocked = False
        try:
            self._send()
        except BlockingIOError:
            self._blocked = True
        except OSError as error:
            self._error = error
        finally:
            if self._closed:
                self._release()
            self._wakeup.notify(self)

    def _send(self) -> None:
        while self._head:
            # MSG_MORE: the head travels with the first of the file.
            size = self._socket.send(self._head, getattr(socket, "MSG_MORE", 0))
            self._head = self._head[size:]
        end = self._offset + min(self.missing_size, _JOB_SIZE)
        while self._offset < end and not self._closed:
            # No more than the job's part: a call for the whole file would go on as long as its client keeps up.
            size = self._send_part(end - self._offset)
            if not size:
                raise OSError("the file became shorter while it was being sent")
            self._offset += size
            self.missing_size -= size

    def _send_part(self, size: int) -> int:
        """Send at most ``size`` bytes from the offset on; return how many the socket has taken, 0 at the file's end."""
        if not self._copies:
            try:
                return os.sendfile(self._socket.fileno(), self._region.fd, self._offset, size)
            except OSError as error:
                if error.errno not in _NO_SENDFILE:
                    raise
                self._copies = True
        piece = os.pread(self._region.fd, min(size, _PIECE_SIZE), self._offset)
        return self._socket.send(piece) if piece else 0

    def wake(self) -> None:
        """See how far the job got."""
        self._running = False
        if self._closed:
            self._release()
        elif self._error is not None or not self.missing_size:
            self._on_end(self._error)
        elif self._blocked:
            self._loop.add_writer(self._socket.fileno(), self._writable)
            self._on_blocked()
        else:
            self.send_on()

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._on_room()
        self.send_on()

    def close(self) -> None:
        """Stop, and release the file and the socket."""
        if not self._closed:
            self._closed = True
            if not self._running:
                self._loop.remove_writer(self._socket.fileno())
                self._release()

    def _release(self) -> None:
        """Close both descriptors, once: by the job, or by the loop while there is none."""
        if not self._released:
            self._released = True
            self._socket.close()
            self._region.close()
