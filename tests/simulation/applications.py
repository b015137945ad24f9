"""Requests that say what is to become of them, and the application that does it and tells on itself.

Every block of every body carries the number of its request, so that a byte in the wrong place is found.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from aiowsgi import park

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from aiowsgi.testing import StepPool

__all__ = ["KINDS", "Application", "Request"]

_number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=-1)


def text(number: int, size: int) -> bytes:
    """Return ``size`` bytes that belong to the request of that number."""
    word = b"<%d>" % number
    return (word * (size // len(word) + 1))[:size]


class Fault(Exception):
    """What an application raises here."""


class Request:
    """A request, the response that it asks for, and what has become of it.

    Args:
        number: unique.
        kind: one of :data:`KINDS`.
        method: GET, POST or HEAD.
        count: blocks of the response.
        size: bytes of each.
        content_size: bytes of its own content.
        chunked: how that is delimited.
        version: of HTTP.
        expects: it has an ``Expect`` field.
        spoiled: its content ends with something that is no chunk.
    """

    def __init__(
        self,
        number: int,
        kind: str,
        method: str = "GET",
        count: int = 1,
        size: int = 10,
        content_size: int = 0,
        chunked: bool = False,
        version: str = "1.1",
        expects: bool = False,
        spoiled: bool = False,
    ) -> None:
        self.number = number
        self.kind = kind
        self.method = method
        self.count = count
        self.size = size
        self.content_size = content_size
        self.chunked = (chunked or spoiled) and version == "1.1"
        self.version = version
        self.expects = expects and content_size > 0
        self.spoiled = spoiled and self.chunked
        # What the application notes.
        self.call_count = 0
        self.caller: tuple[object, ...] = ()
        self.iterable_count = 0
        self.close_count = 0
        self.parked_count = 0
        self.parked_close_count = 0
        self.failures: list[str] = []  # the simulation's, of all requests

    def fail(self, message: str) -> None:
        """Note that something is not as it must be."""
        self.failures.append(f"{self}: {message}")

    def __repr__(self) -> str:
        return (
            f"Request({self.number}, {self.kind!r}, {self.method!r}, {self.count}, {self.size}, {self.content_size}, "
            f"{self.chunked}, {self.version!r}, {self.expects}, {self.spoiled})"
        )

    @property
    def content(self) -> bytes:
        return text(self.number, self.content_size)

    @property
    def wire(self) -> bytes:
        """The request's bytes."""
        target = f"/{self.kind}?{self.number}"
        lines = [f"{self.method} {target} HTTP/{self.version}", "Host: test"]
        if self.version == "1.0" and self.number % 2:
            lines.append("Connection: keep-alive")
        if self.expects:
            lines.append("Expect: 100-continue")
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.content_size:
            lines.append(f"Content-Length: {self.content_size}")
        head = "\r\n".join([*lines, "", ""]).encode()
        if not self.chunked:
            return head + self.content
        middle = self.content_size // 2
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (self.content[:middle], self.content[middle:]) if part
        )
        return head + chunks + (b"spoiled\r\n" if self.spoiled else b"0\r\n\r\n")

    @property
    def body(self) -> bytes:
        """The content of a whole response."""
        if self.method == "HEAD" or self.kind == "nothing":
            return b""
        bodies = {
            "echo": self.content,
            "early_echo": text(self.number, 10) + self.content,
            "part": self.content[:10],
        }
        if self.kind in bodies:
            return bodies[self.kind]
        return text(self.number, self.size) * self.count

    @property
    def outcomes(self) -> frozenset[str]:
        """What may become of it: ``whole``, ``500``, or ``broken`` off."""
        if self.method == "HEAD":
            return frozenset({"whole", "500", "broken"} if self.kind in _FAILING else {"whole"})
        return _FAILING.get(self.kind, frozenset({"whole"}))


# What ends badly, and how.
_FAILING = {
    "raise_before": frozenset({"500"}),
    "exit": frozenset({"500"}),
    "bad_status": frozenset({"500"}),
    "short_list": frozenset({"500"}),
    "short": frozenset({"broken"}),
    "raise_after": frozenset({"broken"}),
}


class Body:
    """An iterable that notes who closes it, and when."""

    def __init__(self, request: Request, blocks: Iterable[bytes], close: Callable[[], object] = bool) -> None:
        self._request = request
        self._blocks = blocks
        self._close = close
        request.iterable_count += 1

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def close(self) -> None:
        self._request.close_count += 1
        if self._request.close_count > 1:
            self._request.fail("closed more than once")
        if self._request.caller != (threading.get_ident(), _number.get()):
            self._request.fail("closed in another thread or context than it was called in")
        self._close()


class ParkedBlocks:
    """An asynchronous iterable that notes that it is closed."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._left = request.count
        request.parked_count += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._left == 0:
            raise StopAsyncIteration
        self._left -= 1
        await asyncio.sleep(0)
        return text(self._request.number, self._request.size)

    async def aclose(self) -> None:
        self._request.parked_close_count += 1
        if self._request.parked_close_count > 1:
            self._request.fail("closed more than once")


class Application:
    """Does what each request says.

    Args:
        on_call: called in the worker with each request that reaches the application.
    """

    def __init__(self, on_call: Callable[[Request, WSGIEnvironment], object]) -> None:
        self._on_call = on_call
        self.requests: dict[int, Request] = {}
        #: Set once the server that runs it is there.
        self.pool: StepPool

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = self.requests[int(environ["QUERY_STRING"])]
        request.call_count += 1
        if request.call_count > 1:
            request.fail("ran more than once")
        _number.set(request.number)
        request.caller = (threading.get_ident(), request.number)
        self._on_call(request, environ)
        self.pool.pause()
        body: Iterable[bytes] = getattr(self, "_" + request.kind)(request, environ, start_response)
        return body

    def _start(self, request: Request, start_response: StartResponse, length: int | None = None) -> Any:
        fields = [("X-Number", str(request.number))]
        if length is not None:
            fields.append(("Content-Length", str(length)))
        return start_response("200 OK", fields)

    def _blocks(self, request: Request, count: int | None = None) -> Iterator[bytes]:
        for _ in range(request.count if count is None else count):
            self.pool.pause()
            yield text(request.number, request.size)

    def _check_content(self, request: Request, content: bytes) -> None:
        if content != request.content or request.spoiled:
            request.fail(f"got {len(content)} bytes of content, and not those that were sent")

    # The kinds.

    def _list(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._start(request, start_response)
        return [text(request.number, request.size)] * request.count

    def _closing_tuple(
        self, request: Request, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        self._start(request, start_response, request.count * request.size)
        return Body(request, tuple(text(request.number, request.size) for _ in range(request.count)))

    def _generator(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._start(request, start_response)
        return Body(request, self._blocks(request))

    def _length(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._start(request, start_response, request.count * request.size)
        return Body(request, self._blocks(request))

    def _write(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = self._start(request, start_response)
        for block in self._blocks(request, request.count - 1):
            write(block)
        return Body(request, self._blocks(request, min(1, request.count)))

    def _nothing(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def blocks() -> Iterator[bytes]:
            for _ in range(request.count):
                self.pool.pause()
                yield b""

        self._start(request, start_response)
        return Body(request, blocks())

    def _read(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._check_content(request, environ["wsgi.input"].read())
        return self._generator(request, environ, start_response)

    def _late_read(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def blocks() -> Iterator[bytes]:
            yield from self._blocks(request)
            self._check_content(request, environ["wsgi.input"].read())

        self._start(request, start_response)
        return Body(request, blocks())

    def _part(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        part = environ["wsgi.input"].read(10)
        self._start(request, start_response)
        return [part]

    def _echo(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def blocks() -> Iterator[bytes]:
            while block := environ["wsgi.input"].read(1000):
                self.pool.pause()
                yield block

        self._start(request, start_response)
        return Body(request, blocks())

    def _early_echo(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def blocks() -> Iterator[bytes]:
            self.pool.pause()
            yield text(request.number, 10)
            while block := environ["wsgi.input"].read(1000):
                yield block

        self._start(request, start_response)
        return Body(request, blocks())

    def _file(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the server, that is the point
        file.write(request.body)
        file.seek(0)
        self._start(request, start_response)
        wrapper = environ["wsgi.file_wrapper"](file)
        request.iterable_count += 1
        close = wrapper.close

        def noted_close() -> None:
            request.close_count += 1
            close()

        wrapper.close = noted_close
        return wrapper  # type: ignore[no-any-return]

    def _wait(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["aiowsgi.disconnected"].wait(2.0)
        return self._generator(request, environ, start_response)

    def _parked(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._start(request, start_response)
        return park(environ, ParkedBlocks(request))

    def _close_raises(
        self, request: Request, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        def fail() -> None:
            raise Fault("close() fails")

        self._start(request, start_response)
        return Body(request, self._blocks(request), fail)

    def _raise_before(
        self, request: Request, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        raise Fault("nothing has been started")

    def _exit(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._start(request, start_response)
        raise SystemExit(os.EX_OK)

    def _raise_after(
        self, request: Request, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        def blocks() -> Iterator[bytes]:
            yield text(request.number, max(1, request.size))
            yield from self._blocks(request)
            raise Fault("a part has been sent")

        self._start(request, start_response)
        return Body(request, blocks())

    def _bad_status(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("2000 NO", [])
        return []

    def _short_list(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._start(request, start_response, request.count * request.size + 1)
        return [text(request.number, request.size)] * request.count

    def _short(self, request: Request, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def blocks() -> Iterator[bytes]:
            yield text(request.number, max(1, request.size))
            yield from self._blocks(request)

        self._start(request, start_response, max(1, request.size) + request.count * request.size + 1)
        return Body(request, blocks())


#: What a request may ask for.
KINDS = tuple(
    name[1:]
    for name in vars(Application)
    if name.startswith("_") and not name.startswith("__") and name not in ("_start", "_blocks", "_check_content")
)
