"""A server in memory, its clients and what must always be true of them. The tests choose what happens next.

Nothing here looks at a real clock or at a real socket, and no two threads move at once: the same choices are the same
run. Whatever the engine does in another order than expected is a fault of the engine.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from aiowsgi.bridge.pipes import ResponsePipe
from aiowsgi.server.deadlines import NEVER
from aiowsgi.server.protocol import Phase, Protocol
from aiowsgi.testing import MemoryServer, VirtualLoop
from tests.simulation.applications import Application, Request
from tests.simulation.memory import remains
from tests.simulation.responses import Response, ResponseReader

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["MALFORMED", "Client", "Simulation"]

#: Bytes that no server may take for a request, and the answers that say so.
MALFORMED: tuple[tuple[bytes, frozenset[int]], ...] = (
    (b"GET /list?%d HTTP/1.1\r\n\r\n", frozenset({400})),
    (b"GET /list?%d HTTP/1.1\nHost: test\n\n", frozenset({400})),
    (b"GET /list?%d HTTP/2.0\r\nHost: test\r\n\r\n", frozenset({505})),
    (b"CONNECT /list?%d HTTP/1.1\r\nHost: test\r\n\r\n", frozenset({501})),
    (b"GET /list?%d HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 9000 + b"\r\n\r\n", frozenset({431})),
    (
        b"POST /list?%d HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        frozenset({400}),
    ),
    (b"POST /list?%d HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999\r\n\r\n", frozenset({413})),
)

# Small, so that a few blocks cross every bound.
_KERNEL_SIZE = 3000
_READ_SIZE = 4096
_OPTIONS: dict[str, Any] = {
    "response_buffer": 3000,
    "request_buffer": 2000,
    "request_buffer_total": 64 * 1024,
    "queue_size": 4,
    "header_timeout": 10,
    "body_timeout": 10,
    "body_min_rate": 10,
    "write_timeout": 10,
    "write_min_rate": 10,
    "queue_timeout": 10,
    "keep_alive": 10,
}
#: The shortest time after which the server may cut off a client whose only fault is to be slow: how long it reads on
#: after its last answer.
_PATIENCE = 5.0
#: Blocks of requests are at most this large, and bodies that are handed over whole.
_BLOCK_SIZE = 30_000
_WHOLE_SIZE = 240_000
# See aiowsgi.server.protocol and aiowsgi.server.outlet.
_READ_AHEAD_SIZE = 64 * 1024
_HIGH_WATER_SIZE = 64 * 1024
_FRAMING_SIZE = 1024


class _InterruptingLoop(VirtualLoop):
    """Takes the baton from a worker that wakes the loop, so that anything may happen before it goes on."""

    simulation: Simulation

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:
        handle = super().call_soon_threadsafe(*args, **options)
        if threading.get_ident() != self._thread_id:
            for pool in (self.simulation.server.pool, self.simulation.server.io_pool):
                pool.pause()
        return handle


class _Server(MemoryServer):
    def make_loop(self) -> VirtualLoop:
        return _InterruptingLoop()


class _Log(logging.Handler):
    """Keeps what the server logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


class Client:
    """One connection: what it sends, what it expects, what it has got."""

    def __init__(self, simulation: Simulation, port: int) -> None:
        self.simulation = simulation
        self.port = port
        self.connection = simulation.server.connect(peername=("192.0.2.1", port), read_size=_READ_SIZE)
        self.unsent = bytearray()
        self.sent_size = 0
        self.requests: list[Request] = []
        # Where in what is sent each request ends, and the heads of those that expect 100 Continue.
        self.ends: list[int] = []
        self.expecting_head_ends: list[int] = []
        #: Answers to what is not a request, which stands behind all requests.
        self.refusals: frozenset[int] = frozenset()
        #: It need not be answered any more: it misbehaved, it went, or time has passed.
        self.excused = False
        self.ended = False
        self.gone = False
        self.reader = ResponseReader(self._has_content)
        self.checked_count = 0

    def __repr__(self) -> str:
        return f"<Client {self.port} {self.requests} {self.reader.responses}>"

    def _has_content(self, number: int, response: Response) -> bool | None:
        """Tell whether a response has content; ``None`` if the server may or may not have known the method."""
        if number < len(self.requests):
            if self.requests[number].method != "HEAD":
                return True
            return None if response.status_code in (400, 408) else False
        assert self.refusals, f"{self}: a response to nothing"
        assert number == len(self.requests), f"{self}: more than one response to what is no request"
        return True

    # What it does.

    @property
    def open(self) -> bool:
        """Whether the connection is still there, as far as the client has seen."""
        return not (self.gone or self.connection.at_end or self.connection.was_reset)

    @property
    def may_write(self) -> bool:
        """Whether another request may be sent behind the others."""
        spoiled = self.refusals or (self.requests and self.requests[-1].spoiled)
        return self.open and not self.ended and not spoiled

    def write(self, request: Request) -> None:
        """Have a request sent behind all others."""
        self.requests.append(request)
        wire = request.wire
        if request.expects:
            self.expecting_head_ends.append(self.sent_size + len(self.unsent) + wire.index(b"\r\n\r\n") + 4)
        self.unsent += wire
        self.ends.append(self.sent_size + len(self.unsent))
        if request.spoiled:
            self.excused = True

    def write_malformed(self, data: bytes, answers: frozenset[int]) -> None:
        self.refusals = answers
        self.unsent += data
        self.excused = True

    def send(self, size: int) -> None:
        part = self.unsent[:size]
        del self.unsent[:size]
        self.sent_size += len(part)
        if part and not self.gone and not self.connection.sent_end:
            self.connection.send(bytes(part))

    @property
    def polite_size(self) -> int:
        """Bytes to the next place where a client would wait for 100 Continue."""
        ends = (end - self.sent_size for end in self.expecting_head_ends if end >= self.sent_size)
        return next(ends, len(self.unsent))

    def read(self, size: int) -> None:
        if not self.gone:
            self.reader.feed(self.connection.read(size))
            if self.connection.at_end:
                self.reader.feed_end()

    def end(self) -> None:
        """Half a close."""
        if self.unsent or (self.ends and self.ends[-1] > self.sent_size):
            self.excused = True
        self.unsent.clear()
        self.ended = True
        if not self.connection.was_reset:
            self.connection.end()

    def leave(self, reset: bool) -> None:
        self.gone = self.excused = True
        self.unsent.clear()
        if not self.connection.was_reset:
            (self.connection.reset if reset else self.connection.close)()

    @property
    def outstanding_count(self) -> int:
        """How many of its requests have no whole answer."""
        return len(self.requests) - self.checked_count

    @property
    def wait_count(self) -> int:
        """How many of its requests wait two seconds for their client to go."""
        return sum(request.kind == "wait" for request in self.requests)

    # What must be true of it.

    def check(self) -> None:
        """Look at each response that has been completed since the last time."""
        responses = self.reader.responses
        while self.checked_count < len(responses) and responses[self.checked_count].complete:
            self._check_response(self.checked_count, responses[self.checked_count])
            self.checked_count += 1
        if self.checked_count < len(responses):
            self._check_beginning(self.checked_count, responses[self.checked_count])
        if self.checked_count and responses[self.checked_count - 1].closes:
            assert not self.reader._buffer, f"{self}: something after the last response"
            assert len(responses) == self.checked_count, f"{self}: a response after the last one"

    def _check_beginning(self, number: int, response: Response) -> None:
        """A response that is under way is already the right one."""
        if number < len(self.requests) and response.status_code == 200:
            request = self.requests[number]
            assert response.value("x-number") == str(request.number), f"{self}: {response} belongs to another request"
            if request.outcomes == {"whole"}:
                assert request.body.startswith(response.content), f"{self}: {response} is mixed"

    def _check_response(self, number: int, response: Response) -> None:
        assert set(response.interim) <= {100}, f"{self}: {response.interim}"
        assert len(response.interim) <= 1, f"{self}: {response.interim}"
        if number == len(self.requests):
            allowed = self.refusals | ({400, 408} if self.excused else set())
            assert response.status_code in allowed, f"{self}: {response}"
            assert response.closes
            return
        request = self.requests[number]
        assert not response.interim or request.expects, f"{self}: 100 to {request}"
        if response.status_code == 200:
            self._check_beginning(number, response)
            assert self._may_be_whole(request, response), f"{self}: {response} is not that of {request}"
            if response.closes:
                assert self._may_close(request), f"{self}: {response} closes for no reason"
            return
        assert response.closes, f"{self}: {response}"
        assert "x-number" not in response.fields
        if response.status_code == 500:
            assert "500" in request.outcomes or (request.content_size and self.excused), f"{self}: 500 to {request}"
        elif response.status_code == 503:
            assert request.call_count == 0, f"{self}: {request} ran, and was answered 503"
            self.excused = True
        else:
            assert response.status_code in (400, 408), f"{self}: {response}"
            assert self.excused, f"{self}: {response} to {request}"

    def _may_be_whole(self, request: Request, response: Response) -> bool:
        if response.content == request.body and "whole" in request.outcomes:
            return True
        # A drain ends what is parked; a response that ends with the connection looks whole if that is in order.
        parked = request.kind == "parked" and self.simulation.draining
        return parked and request.body.startswith(response.content)

    def _may_close(self, request: Request) -> bool:
        if request.version == "1.0" or self.simulation.draining or not self.simulation.options["keep_alive"]:
            return True
        return self.simulation.stream_body and request.content_size > 0

    def check_answered(self) -> None:
        """Everything has been sent, and everything that was to be read has been read."""
        responses = self.reader.responses
        if self.excused or self.simulation.draining or self._is_rightly_reset():
            return
        for number, request in enumerate(self.requests):
            if number >= len(responses):
                assert responses, f"{self}: no answer"
                assert responses[-1].closes, f"{self}: no answer to {request}"
                return
            if not responses[number].complete:
                broken = "broken" in request.outcomes
                assert broken, f"{self}: {responses[number]} to {request} is not complete"
                assert self.connection.at_end or self.connection.was_reset, f"{self}: {request} goes on for ever"
                return
        assert len(responses) == len(self.requests), f"{self}: too many responses"

    def _is_rightly_reset(self) -> bool:
        """Tell whether a reset, which destroys all that has not been read, was the only way, or the client's own doing.

        A response without a length can be broken off visibly in no other. And a client of HTTP/1.0 that sends something
        behind its only request, RFC 9112 section 9.3, finds the connection closed.
        """
        return self.connection.was_reset and (
            any("broken" in request.outcomes and request.version == "1.0" for request in self.requests)
            or any(request.version == "1.0" for request in self.requests[:-1])
        )


class Simulation:
    """Everything that a run needs, and what may be done next.

    Args:
        batch_size: requests that one turn of the loop reads.
        options: of the server, instead of the usual ones.
    """

    def __init__(self, batch_size: int = 96, **options: Any) -> None:
        self.options = _OPTIONS | options
        self.draining = False
        self.clients: list[Client] = []
        self.requests: dict[int, Request] = {}
        self._failures: list[str] = []
        self._descriptors = _descriptors()
        self._threads = set(threading.enumerate())
        self._log = _Log()
        self._logger = logging.getLogger("aiowsgi.error")
        self._logger.addHandler(self._log)
        self._propagates, self._logger.propagate = self._logger.propagate, False
        application = Application(self._called)
        application.requests = self.requests
        self.server = _Server(application, kernel_size=_KERNEL_SIZE, **self.options)
        self.server.engine.intake.batch_size = batch_size
        self.stream_body = self.server.config.stream_body
        self.server.loop.simulation = self  # type: ignore[attr-defined]  # _Server makes it
        application.pool = self.server.pool
        self._next_port = 50_000

    def _called(self, request: Request, environ: WSGIEnvironment) -> None:
        """Check, in the worker, that the application may be called with this request. The test waits meanwhile."""
        port = int(environ["REMOTE_PORT"])
        client = next(client for client in self.clients if client.port == port)
        if request not in client.requests:
            request.fail(f"came over the connection of {client}")
            return
        end = client.ends[client.requests.index(request)]
        if not self.stream_body and client.sent_size < end:
            request.fail("ran before all of it had been sent")
        open_ports = {connection._info.remote_port for connection in self.server.engine.connections}
        if environ["REMOTE_PORT"] not in open_ports:
            request.fail("ran although its client was known to have gone")

    # What may be done.

    def connect(self) -> Client:
        client = Client(self, self._next_port)
        self._next_port += 1
        self.clients.append(client)
        return client

    def request(self, client: Client, kind: str, **options: Any) -> Request:
        request = Request(len(self.requests), kind, **options)
        request.failures = self._failures
        self.requests[request.number] = request
        client.write(request)
        return request

    def malformed(self, client: Client, which: int) -> None:
        data, answers = MALFORMED[which]
        # A request that must never run: no number of a request that may.
        number = len(self.requests)
        self.requests[number] = Request(number, "list")
        self.requests[number].failures = self._failures
        client.write_malformed(data % number, answers)

    def advance(self, seconds: float) -> None:
        """Let time pass on the loop; no thread moves."""
        for client in self.clients:
            client.age = getattr(client, "age", 0.0) + seconds
            if client.age >= _PATIENCE:
                client.excused = True
        self.server.loop.advance(seconds)

    def drain(self) -> None:
        self.draining = True
        self.server.drain()

    # What must be true.

    def check(self) -> None:
        """Check everything that is true at every moment."""
        for client in self.clients:
            if not client.gone:
                client.check()
        assert not self._failures, self._failures
        for message in self._log.messages:
            assert "internal error" not in message, message
        engine = self.server.engine
        io_pool = self.server.io_pool
        holder_count = len(engine.connections) + len(engine.exchanges) + io_pool.waiting_count + len(io_pool.begun)
        most_size = engine.content_budget.limit + holder_count * (_READ_AHEAD_SIZE + 3 * _READ_SIZE)
        assert 0 <= engine.content_budget.used <= most_size, f"content holds {engine.content_budget.used} bytes"
        held = set().union(*engine.deadlines._buckets.values())
        assert held <= engine.connections, f"{held - engine.connections} are gone, and their deadlines are not"
        at_rest = not self.server.loop.has_ready
        for connection in engine.connections:
            self._check_bounds(connection)
            if at_rest:
                self._check_deadline(connection)

    def _check_bounds(self, connection: Protocol) -> None:
        buffered_size = connection._http.buffered_size
        assert buffered_size <= _READ_AHEAD_SIZE + 3 * _READ_SIZE, f"{connection} has read {buffered_size} bytes ahead"
        unsent_size = connection._transport.get_write_buffer_size()
        assert unsent_size <= _HIGH_WATER_SIZE + _WHOLE_SIZE + _FRAMING_SIZE, f"{connection} holds {unsent_size} bytes"
        exchange = connection._exchange
        pipe: ResponsePipe | None = None if exchange is None else exchange.pipe
        if pipe is not None:
            limit = self.options["response_buffer"] + _BLOCK_SIZE + _FRAMING_SIZE
            assert pipe._size <= limit, f"{connection}: its application is {pipe._size} bytes ahead"
        content = connection._content
        if content is not None and self.stream_body:
            size = content._pipe.size  # type: ignore[union-attr]  # it is a ContentStream
            limit = self.options["request_buffer"] + _READ_AHEAD_SIZE + 3 * _READ_SIZE  # it may have been read ahead
            assert size <= limit, f"{connection}: {size} bytes lie unread"

    def _check_deadline(self, connection: Protocol) -> None:
        """Nobody waits for a client without an end."""
        phase = connection.phase
        content = connection._content
        if phase in (Phase.IDLE, Phase.HEAD, Phase.FLUSHING, Phase.LINGERING):
            owes = True
        elif phase is Phase.CONTENT:
            # The end of a write sets the deadline. Until then others may make the content full, or the contrary.
            owes = content is not None and not content.full and not getattr(content, "_write_size", 0)
        else:
            exchange = connection._exchange
            waiting = exchange is not None and exchange.waiting
            owes = (
                waiting or connection._outlet.paused or (content is not None and content.awaited and not content.full)
            )
        assert not owes or connection.deadline != NEVER, f"{connection} waits for ever"

    # The end.

    def finish(self) -> None:
        """Let every client that is still there get its answers; then let all go, and look what is left."""
        for client in self.clients:
            client.send(len(client.unsent))
        self._rest()
        for _ in range(max((client.wait_count for client in self.clients), default=0)):
            self.server.advance(2.0)
            self._rest()
        for client in self.clients:
            client.check_answered()
        for number, client in enumerate(self.clients):
            if number % 2:
                client.leave(reset=bool(number % 4 == 1))
        self.server.advance(100.0)
        self.check()
        assert not (left := remains(self.server)), left
        for request in self.requests.values():
            assert request.close_count == request.iterable_count, f"{request} was not closed"
            assert request.parked_close_count == request.parked_count, f"{request} was not closed"

    def _rest(self) -> None:
        """Have all clients read until nothing moves."""
        moved = True
        while moved:
            self.server.settle()
            self.check()
            moved = False
            for client in self.clients:
                if not client.gone:
                    moved = moved or client.connection.arrived_size > 0
                    client.read(-1)

    def close(self) -> None:
        """Give everything back; also after a failure."""
        try:
            self.server.close()
        finally:
            self._logger.removeHandler(self._log)
            self._logger.propagate = self._propagates
        threads = {thread for thread in set(threading.enumerate()) - self._threads if thread.name.startswith("step-")}
        assert not threads, f"threads are left: {threads}"
        if self._descriptors is not None:
            assert _descriptors() == self._descriptors, "file descriptors are left open"


def _descriptors() -> int | None:
    """Count the open file descriptors, where the platform tells."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
