"""``python -m bench.programs.null PORT``: no server at all, to measure the load generator with.

One epoll loop reads whatever comes and answers each request with the same bytes, parsing little more than where it
ends. What a load generator reaches with it is about the most that it can reach with any server on this machine.

The path says how large the answer is: ``/null/13`` has 13 bytes.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import sys

__all__ = ["main"]

_PATH = re.compile(rb" /null/(\d{1,9}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d{1,9})\r\n", re.IGNORECASE)


class _Connection:
    """A connection: what is still to be sent on it, and how much of a request's content is still to come."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.content_left = 0
        self.out = memoryview(b"")

    def receive(self) -> bool:
        """Read once; answer what is complete. False at the end of the connection."""
        data = self.sock.recv(256 * 1024)
        if not data:
            return False
        if self.content_left:
            self.content_left = max(0, self.content_left - len(data))
            return self._answer() if not self.content_left else True
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return True
        length = _LENGTH.search(head + b"\r\n")
        path = _PATH.search(head)
        self.size = int(path[1]) if path else 13
        self.closing = b"onnection: close" in head
        self.content_left = max(0, int(length[1]) - len(rest)) if length else 0
        self.received = b""
        return True if self.content_left else self._answer()

    def _answer(self) -> bool:
        key = self.size, self.closing
        answer = _answers.get(key)
        if answer is None:
            connection = b"Connection: close\r\n" if self.closing else b""
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%bContent-Length: %d\r\n\r\n"
            answer = _answers[key] = head % (connection, self.size) + b"x" * self.size
        self.out = memoryview(answer)
        return self.send()

    def send(self) -> bool:
        """Send what the socket takes. False where the connection is over."""
        with contextlib.suppress(BlockingIOError):
            while self.out:
                self.out = self.out[self.sock.send(self.out) :]
        return bool(self.out) or not self.closing


_answers: dict[tuple[int, bool], bytes] = {}


def main() -> None:
    """Serve until a signal ends the process."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, _Connection] = {}
    while True:
        for descriptor, events in poll.poll():
            if descriptor == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        connections[sock.fileno()] = _Connection(sock)
                        poll.register(sock, select.EPOLLIN)
                continue
            connection = connections[descriptor]
            had_output = bool(connection.out)
            try:
                open_ = connection.send() if events & select.EPOLLOUT else connection.receive()
            except OSError:
                open_ = False
            if not open_:
                del connections[descriptor]
                connection.sock.close()
            elif bool(connection.out) != had_output:
                poll.modify(descriptor, select.EPOLLOUT if connection.out else select.EPOLLIN)


if __name__ == "__main__":
    main()
