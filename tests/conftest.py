"""What the tests share: servers on real sockets, under each loop and each parser."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import settings

from aiowsgi.server import Server
from tests.raw import RawClient

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

# A shell that runs the tests in the background makes them, and whatever they start, ignore interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup(1) does so with hangups: they stay ignored here, but by a handler, which child processes do not inherit.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda signum, frame: None)

# A loaded machine takes its time for an example; what hangs is ended by pytest-timeout.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PARSERS = ("h11", "httptools")


class ServerThread:
    """A server in a thread and an event loop of its own."""

    def __init__(self, server: Server, loop_name: str) -> None:
        self.server = server
        self._loop_name = loop_name
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Future[Any] | None = None
        self._ended = False  # set in the loop, which takes no calls any more
        self._thread = threading.Thread(target=self._run, name="server under test")

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self.server.start()
            self._started.set()
            await self.server.serve_until_shutdown()
            self._ended = True

        try:
            with asyncio.Runner(loop_factory=LOOPS[self._loop_name]) as runner:
                runner.run(serve())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()  # whoever waits for the start finds why there was none

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)
        if self._error is not None:
            self._thread.join(10)
            raise self._error

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a plain function in the server's loop and return what it returns."""

        async def run() -> Any:
            return function()

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def shutdown(self, graceful: float = 5.0) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.server.shutdown(graceful), self._loop).result(graceful + 10)

    def stop(self, graceful: float = 5.0) -> None:
        """Shut down, if nobody has done so, and wait for the end of the loop."""

        def begin() -> None:
            # A test may have shut down by itself: the loop then ends while this is said, and would not run a task.
            if not self._ended:
                self._stopping = asyncio.ensure_future(self.server.shutdown(graceful))

        if self._thread.is_alive():
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(begin)
            self._thread.join(graceful + 10)
        assert not self._thread.is_alive(), f"the server has not ended: {self._stopping}"
        if self._stopping is not None and not self._stopping.cancelled() and self._stopping.done():
            self._stopping.result()
        if self._error is not None:
            raise self._error

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return self.server.port

    def connect(self, timeout: float = 10.0) -> RawClient:
        """Return a raw client that is connected to the server."""
        return RawClient(socket.create_connection(("127.0.0.1", self.port), timeout))


@contextmanager
def running_server(application: WSGIApplication, loop_name: str = "asyncio", **options: Any) -> Iterator[ServerThread]:
    options.setdefault("bind", ["127.0.0.1:0"])
    thread = ServerThread(Server(application, **options), loop_name)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """Return the name of an event loop; a test that takes it runs once under each."""
    return request.param


@pytest.fixture(params=PARSERS)
def parser_name(request: pytest.FixtureRequest) -> str:
    """Return the name of a parser; a test that takes it runs once with each."""
    return request.param


@pytest.fixture
def serve(loop_name: str) -> Iterator[Callable[..., ServerThread]]:
    """Serve WSGI applications on real sockets, under both loops: ``serve(app, **options)``."""
    with ExitStack() as stack:

        def start(application: WSGIApplication, **options: Any) -> ServerThread:
            return stack.enter_context(running_server(application, loop_name, **options))

        yield start


@pytest.fixture
def error_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what ``aiowsgi.error`` logs, at level info and above."""
    caplog.set_level(logging.INFO, "aiowsgi.error")
    return caplog


class _FailingHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        raise OSError("the log fails, on purpose")


@pytest.fixture
def failing_log() -> Iterator[list[str]]:
    """Have a handler of ``aiowsgi.error`` raise at every record, from level debug on; return what it was told."""
    logger = logging.getLogger("aiowsgi.error")
    level = logger.level
    handler = _FailingHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.messages
    logger.removeHandler(handler)
    logger.setLevel(level)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End even if a failed test has left a thread behind, for which Python would wait for ever; show which."""
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        faulthandler.dump_traceback_later(30, exit=True)
