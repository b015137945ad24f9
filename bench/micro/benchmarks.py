"""The parts of a request's way through the server, each as a function to be called over and over.

Each returns its result, so that a test can check that it does what its name says. Imports ``aiowsgi``: what is timed
here cannot be reached from outside.

Thread: the caller's; the round trips have threads of their own.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from aiowsgi.bridge.pipes import ResponsePipe
from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.config import Config
from aiowsgi.http.connection import HTTPConnection
from aiowsgi.http.parsers import FieldLine, make_head_parser
from aiowsgi.http.policy import RequestPolicy
from aiowsgi.http.response import frame_response, serialize_head
from aiowsgi.semantics import ConnectionInfo, RequestHead, ResponseHead
from aiowsgi.wsgi.environ import base_environ, build_environ, endpoint_environ
from aiowsgi.wsgi.file_wrapper import FileRegion
from aiowsgi.wsgi.run import run_application
from bench.micro.whole import WholeRequests

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["BENCHMARKS", "PARSERS"]

PARSERS = ("h11", "httptools")

HEADS = {
    "small head": b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
    "browser's head": (
        b"GET /articles/2026/11?page=2&sort=new HTTP/1.1\r\n"
        b"Host: www.example.com\r\n"
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
        b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
        b"Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
        b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
        b"Referer: https://www.example.com/articles\r\n"
        b"Connection: keep-alive\r\n"
        b"Cookie: session=5f2b8c1e9a7d4036; csrftoken=b7c1d2e3f4a5968778695a4b3c2d1e0f; theme=dark\r\n"
        b"Upgrade-Insecure-Requests: 1\r\n"
        b"Priority: u=0, i\r\n\r\n"
    ),
}

_CONTENT = b"Hello, world!"
_CONNECTION = ConnectionInfo("http", "192.0.2.7", "51234", "192.0.2.1", "8000")

Benchmark = Callable[[], Any]


def _read(head: bytes, parser_name: str = "h11") -> RequestHead:
    return RequestPolicy(Config()).read_head(head, make_head_parser(parser_name))


def _environ() -> WSGIEnvironment:
    base = base_environ(software="bench", root_path="", multithread=True, multiprocess=False)
    return endpoint_environ(base, _CONNECTION)


def parse(parser_name: str, head: bytes) -> Benchmark:
    """The parser by itself: the field lines of a head."""
    parser = make_head_parser(parser_name)
    line_count = head.count(b"\n") - 2

    def run() -> Iterable[FieldLine]:
        return parser.parse(head, line_count)

    return run


def read_head(parser_name: str, head: bytes) -> Benchmark:
    """The policy around the parser: a head, accepted."""
    policy = RequestPolicy(Config())
    parser = make_head_parser(parser_name)

    def run() -> RequestHead:
        return policy.read_head(head, parser)

    return run


def receive_request(parser_name: str, head: bytes) -> Benchmark:
    """The HTTP layer: bytes in, events out, and on to the next request."""
    connection = HTTPConnection(make_head_parser(parser_name), RequestPolicy(Config()))

    def run() -> object:
        events = connection.receive_data(head)
        connection.start_next_request()
        return events[0]

    return run


def make_environ(head: bytes) -> Benchmark:
    """A request head as environ."""
    base = _environ()
    request = _read(head)

    def run() -> WSGIEnvironment:
        return build_environ(base, _CONNECTION, request, io.BytesIO(), None)

    return run


class RecordingSink:
    """See :class:`aiowsgi.wsgi.response.ResponseSink`; keeps the last response."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.size = 0

    def send_whole(self, head: ResponseHead, blocks: Sequence[bytes], size: int) -> None:
        """Note a whole response."""
        self.head = head
        self.size = size

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        """Note a file."""
        self.head = head
        self.size = region.size
        region.close()

    def send_head(self, head: ResponseHead) -> None:
        """Note the head of a streamed response."""
        self.head = head
        self.size = 0

    def send_block(self, block: bytes) -> None:
        """Count a block."""
        self.size += len(block)

    def check_connected(self) -> None:
        """Do nothing: the client is always connected."""

    def finish(self) -> None:
        """Nothing is left to note."""


def _hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_CONTENT)))])
    return [_CONTENT]


def _blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return (_CONTENT for _ in range(200))


def run_hello() -> Benchmark:
    """PEP 3333 for a small application: its call, its head's validation, its list."""
    environ = build_environ(_environ(), _CONNECTION, _read(HEADS["small head"]), io.BytesIO(), None)
    sink = RecordingSink()

    def run() -> RecordingSink:
        run_application(_hello, environ, sink)
        return sink

    return run


def run_blocks() -> Benchmark:
    """PEP 3333 for a generator of 200 small blocks."""
    environ = build_environ(_environ(), _CONNECTION, _read(HEADS["small head"]), io.BytesIO(), None)
    sink = RecordingSink()

    def run() -> RecordingSink:
        run_application(_blocks, environ, sink)
        return sink

    return run


def serialize_response() -> Benchmark:
    """A response head on the wire, its framing decided."""
    request = _read(HEADS["small head"])
    head = ResponseHead("200 OK", 200, "Content-Type: text/plain; charset=utf-8\r\n", len(_CONTENT))

    def run() -> bytes:
        framing = frame_response(request, head, len(_CONTENT), True)
        return serialize_head(request, head, *framing, "")

    return run


class _Round:
    """A job whose end can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._done = threading.Semaphore(0)

    def run(self) -> None:
        self.count += 1
        self._done.release()

    def wait(self) -> int:
        self._done.acquire()
        return self.count


def pool_round_trip() -> Benchmark:
    """One job to an idle thread and back: two switches between threads."""
    pool = ThreadPool(1)
    job = _Round()

    def run() -> int:
        pool.submit(job)
        return job.wait()

    return run


def pool_batch() -> Benchmark:
    """64 jobs at once, as a turn of the loop hands them over, and the wait for the last."""
    pool = ThreadPool(8)
    last = _Round()

    def run() -> int:
        for _ in range(63):
            pool.submit(_NOTHING)
        pool.submit(last)
        return last.wait()

    return run


class _Nothing:
    def run(self) -> None:
        pass


_NOTHING = _Nothing()


def pipe_round_trip() -> Benchmark:
    """200 small blocks through the pipe of a streamed response, taken at once."""

    def stalled(ready: Callable[[], bool]) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def run() -> tuple[list[bytes | memoryview], bool]:
        pipe = ResponsePipe(256 * 1024, stalled, lambda: None)
        for _ in range(200):
            pipe.write((_CONTENT,))
        pipe.finish()
        return pipe.take()

    return run


def whole_requests(parser_name: str, head: bytes) -> Benchmark:
    """64 requests that arrive together, from their bytes to those of their responses."""
    server = WholeRequests(_hello, parser_name, 64)

    def run() -> list[bytes]:
        return server.ask(head)

    return run


def _benchmarks() -> dict[str, Callable[[], Benchmark]]:
    made: dict[str, Callable[[], Benchmark]] = {}
    for head_name, head in HEADS.items():
        for parser_name in PARSERS:
            made[f"{parser_name}: parse a {head_name}"] = partial(parse, parser_name, head)
            made[f"{parser_name}: read a {head_name}"] = partial(read_head, parser_name, head)
            made[f"{parser_name}: receive a {head_name}"] = partial(receive_request, parser_name, head)
            made[f"{parser_name}: 64 whole requests with a {head_name}"] = partial(whole_requests, parser_name, head)
        made[f"build environ of a {head_name}"] = partial(make_environ, head)
    made["run hello"] = run_hello
    made["run 200 blocks"] = run_blocks
    made["serialize a response head"] = serialize_response
    made["pool: one job and back"] = pool_round_trip
    made["pool: 64 jobs"] = pool_batch
    made["pipe: 200 blocks"] = pipe_round_trip
    return made


#: Name to the function that prepares what is timed.
BENCHMARKS = _benchmarks()
