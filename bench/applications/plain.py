"""The application to measure with where a framework would get in the way: plain PEP 3333, standard library only.

Each path is one thing that applications do. ``/pid`` identifies the process that serves, and its start; ``/subscribe``
and ``/publish`` are the two ends of a fan-out of events.

Thread: worker.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import FileWrapper

__all__ = ["FILE_SIZE", "application", "busy"]

KiB = 1024
MiB = 1024 * KiB
FILE_SIZE = 10 * MiB

_HELLO = b"Hello, world!"
_BODY = bytes(range(256)) * (4 * KiB)
_BLOCK = bytes(range(256)) * 256
_SMALL = b"<li>one row of a small table</li>\n"
_STARTED = f"{os.getpid()} {time.time_ns()}".encode()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request."""
    route = _ROUTES.get(environ["PATH_INFO"])
    if route is None:
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return [b""]
    return route(environ, start_response)


def _whole(start_response: StartResponse, content: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
    return [content]


def _hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _whole(start_response, _HELLO)


def _body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _whole(start_response, _BODY)


def _stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (_BLOCK for _ in range(160))


def _blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return (_SMALL for _ in range(200))


def _sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(0.010)
    return _whole(start_response, _HELLO)


def busy(seconds: float) -> None:
    """Compute in Python until this thread has used that much processor time.

    Not elapsed time: eight threads that compete for the interpreter lock take eight times as long.
    """
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def _busy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    busy(0.000_5)
    return _whole(start_response, _HELLO)


def _upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    left, content = int(environ["CONTENT_LENGTH"]), environ["wsgi.input"]
    size = 0
    while left:
        block = content.read(min(left, 64 * KiB))
        if not block:
            break
        size += len(block)
        left -= len(block)
    return _whole(start_response, str(size).encode())


def _file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(FILE_SIZE))])
    wrapper: Callable[[IO[bytes], int], Iterable[bytes]] = environ.get("wsgi.file_wrapper", FileWrapper)
    return wrapper(_large_file().open("rb"), 64 * KiB)


def _large_file() -> Path:
    """Return a file of :data:`FILE_SIZE` bytes, made once for all servers of a machine."""
    path = Path(tempfile.gettempdir(), f"bench-{os.getuid()}-{FILE_SIZE}")
    if not path.exists() or path.stat().st_size != FILE_SIZE:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(_BLOCK * (FILE_SIZE // len(_BLOCK)))
        Path(file.name).replace(path)
    return path


def _pid(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _whole(start_response, _STARTED)


class _Events:
    """The events published so far; subscribers wait for more of them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.published: list[bytes] = []

    def publish(self, event: bytes) -> None:
        with self.changed:
            self.published.append(event)
            self.changed.notify_all()

    def stream(self) -> Iterator[bytes]:
        """Yield events as they are published, holding the thread or greenlet that asks."""
        yield b":\n\n"
        seen = len(self.published)
        while True:
            with self.changed:
                while len(self.published) == seen:
                    self.changed.wait()
                new, seen = self.published[seen:], len(self.published)
            yield b"".join(new)


_events = _Events()


def _aiowsgi() -> Any:
    """Return the package; if it is the server it is already loaded, and nothing here imports it."""
    return sys.modules["aiowsgi"]


_channels: dict[str, Any] = {}


def _subscribe(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An open stream: parked if the server can do that, else held by its thread or greenlet."""
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
    if "aiowsgi.park" not in environ:
        return _events.stream()
    parked: Iterable[bytes] = _aiowsgi().park(environ, _aiowsgi().sse(_channel(), environ))
    return parked


def _channel() -> Any:
    with _events.changed:
        if "events" not in _channels:
            _channels["events"] = _aiowsgi().Channel()
        return _channels["events"]


def _publish(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send the current time to all streams, by a clock that all processes share."""
    moment = str(time.monotonic_ns())
    if "aiowsgi.park" in environ:
        _channel().send(moment)
    else:
        _events.publish(f"data: {moment}\n\n".encode())
    return _whole(start_response, _HELLO)


_ROUTES: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "/hello": _hello,
    "/body": _body,
    "/stream": _stream,
    "/blocks": _blocks,
    "/sleep": _sleep,
    "/busy": _busy,
    "/upload": _upload,
    "/file": _file,
    "/pid": _pid,
    "/subscribe": _subscribe,
    "/publish": _publish,
}
