"""One worker: a server in a process that a supervisor watches over.

It imports the application, serves on the sockets that it was given, reports that it is alive, and leaves when told to,
when its own limits are reached, or when its supervisor is gone.

Thread: the main thread, which becomes the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any
from wsgiref.types import WSGIApplication

import anyio

from aiowsgi.bridge.threads import call_aside
from aiowsgi.config import Config
from aiowsgi.errors import AiowsgiError, StartupError
from aiowsgi.process.application import load_application
from aiowsgi.process.descriptors import raise_descriptor_limit
from aiowsgi.process.exit import START_FAILURE
from aiowsgi.process.fork_signals import remember_handlers, remember_wakeup_fd
from aiowsgi.process.hooks import WORKER_HOOKS, Hooks
from aiowsgi.process.log import configure_logs, flush_logs
from aiowsgi.process.loops import choose_loop
from aiowsgi.process.memory import keep_freed_memory
from aiowsgi.process.messages import Message, MessagePipe
from aiowsgi.process.module import application_error, summary
from aiowsgi.process.privileges import drop_privileges
from aiowsgi.process.statistics import figures_of, statistics_line
from aiowsgi.process.title import set_title
from aiowsgi.process.wear import Wear
from aiowsgi.server import Server
from aiowsgi.server.control import ControlResponder
from aiowsgi.server.drain import DrainReport
from aiowsgi.server.exposition import MetricsResponder
from aiowsgi.server.reports import Answers, report
from aiowsgi.server.stacks import shortened, stack_report

__all__ = ["HELD_BACK_SIGNALS", "Order", "heartbeat_interval", "run_forked", "run_spawned"]

logger = logging.getLogger("aiowsgi.supervisor")

# At least this many heartbeats fit into the silence that is allowed.
_HEARTBEATS = 4
_LONGEST_HEARTBEAT_SECONDS = 1.0
# For its last message to be taken; well below what the supervisor gives it to end.
_LAST_WORDS_SECONDS = 1.0
# Beyond the graceful timeout, for a worker whose supervisor is gone: nothing else would end it.
_ORPHAN_MARGIN_SECONDS = 5

#: Signals that a terminal or an operator may send to all processes, and that are the supervisor's business.
_IGNORED_NAMES = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTTIN", "SIGTTOU")
#: Signals that a worker does not get before it has installed its handlers.
HELD_BACK_SIGNALS = frozenset(
    getattr(signal, name) for name in (*_IGNORED_NAMES, "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker has to know.

    Args:
        number: of the worker, among all that there have been.
        config: every setting; its ``app`` is ``None`` if the worker is forked with an application that has no name.
        descriptors: of the sockets that it listens on.
    """

    number: int
    config: Config
    descriptors: Sequence[int]

    def as_fields(self) -> dict[str, Any]:
        """Return it as values for JSON, with whatever else a new interpreter needs."""
        return {
            "number": self.number,
            "config": vars(self.config),
            "sockets": list(self.descriptors),
            # Python finds modules by texts alone, and leaves out whatever else is there.
            "sys_path": [entry for entry in sys.path if isinstance(entry, str)],
            "argv": sys.argv,
        }

    @classmethod
    def from_message(cls, message: Message) -> Order:
        """Read what :meth:`as_fields` wrote."""
        return cls(message["number"], Config(**message["config"]), message["sockets"])


def run_spawned(message: Message, fd: int, unread: bytes) -> int:
    """Be a worker in an interpreter of its own; return its exit code.

    Args:
        message: the supervisor's first.
        fd: the worker's end of the message pipe.
        unread: what has been read of later messages.
    """
    order = Order.from_message(message)
    return _Worker(order, MessagePipe(socket.socket(fileno=fd), unread)).run(None)


def run_forked(order: Order, sock: socket.socket, application: WSGIApplication) -> int:
    """Be a worker in a copy of the supervisor; return the exit code for its process."""
    return _Worker(order, MessagePipe(sock)).run(application)


def heartbeat_interval(timeout: float) -> float:
    """Return the seconds between two heartbeats, if a silence of ``timeout`` is allowed; 0 allows any."""
    return min(_LONGEST_HEARTBEAT_SECONDS, timeout / _HEARTBEATS) if timeout else _LONGEST_HEARTBEAT_SECONDS


class _Worker:
    def __init__(self, order: Order, pipe: MessagePipe) -> None:
        self._order = order
        self._config = order.config
        self._pipe = pipe
        self._server: Server | None = None
        self._started = False
        #: Seconds that running requests have once it leaves.
        self._graceful_timeout = order.config.graceful_timeout
        self._wear = Wear(order.config, time.monotonic())
        self._shutdowns: set[asyncio.Task[DrainReport]] = set()
        self._hooks = Hooks(order.config, ())  # until they have been imported
        self._tellings: set[asyncio.Task[None]] = set()
        self._asks: dict[int, Callable[[Answers], object]] = {}
        self._ask_count = 0

    def run(self, application: WSGIApplication | None) -> int:
        pipe = self._pipe
        pipe.set_blocking(False)
        # Standard error may be anything, or nothing.
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            faulthandler.enable()
        self._install_handlers()
        try:
            loop_name, loop_factory = choose_loop(self._config.loop)
            drop_privileges(self._config)
            self._hooks = Hooks(self._config, WORKER_HOOKS, worker=self._order.number)
            with self._hooks.around("worker_init", "worker_exit"):
                application = self._prepare(application)
                anyio.run(self._serve, application, loop_name, backend_options={"loop_factory": loop_factory})
        except AiowsgiError as error:
            return self._failed(str(error), error.__cause__ if isinstance(error, StartupError) else None)
        except OSError as error:  # the access log's file, for example: the next worker could not open it either
            if self._started:
                raise
            return self._failed(str(error) if error.filename else error.strerror or str(error), None)
        except (KeyboardInterrupt, SystemExit) as error:
            if self._started:
                raise
            # No signal has interrupted it: SIGINT is the supervisor's, and does nothing here. So the next worker would
            # fare no better.
            text = f"the application or a hook ended its worker before that was ready: {summary(error)}"
            return self._failed(text, application_error(error))
        finally:
            flush_logs()
        return 0

    def _failed(self, text: str, cause: BaseException | None) -> int:
        """Tell the supervisor why there is no server; return the exit code that says so."""
        trace = "".join(traceback.format_exception(cause)) if cause else ""
        self._pipe.send("failed", text=f"{trace}{text}")
        self._pipe.flush_all(_LAST_WORDS_SECONDS)
        return START_FAILURE

    def _install_handlers(self) -> None:
        for name in (*_IGNORED_NAMES, "SIGUSR2"):
            # A function, because the application's own children would inherit SIG_IGN.
            signal.signal(getattr(signal, name), _ignore)
        # Not through the loop, which may be what is stuck.
        signal.signal(signal.SIGUSR1, self._dump_at_signal)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        remember_handlers(HELD_BACK_SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK_SIGNALS)

    def _prepare(self, application: WSGIApplication | None) -> WSGIApplication:
        config = self._config
        if application is None:
            assert config.app is not None  # or it would have been forked
            application = load_application(config.app, factory=config.factory)
        self._config = configure_logs(config)
        set_title(f"worker {self._order.number}", config.name, config.app or "aiowsgi")
        raise_descriptor_limit()
        keep_freed_memory()
        return application

    async def _serve(self, application: WSGIApplication, loop_name: str) -> None:
        loop = asyncio.get_running_loop()
        sockets = _take_sockets(self._order.descriptors)
        server = Server(application, self._config.for_own_process(), shared_sockets=sockets)
        server.alone = True
        server.on_recycle = self._recycle
        await server.start()
        self._server = server
        loop.add_reader(self._pipe.fileno(), self._pipe_readable)
        loop.add_signal_handler(signal.SIGUSR2, self._log_statistics)
        remember_wakeup_fd()
        loop.add_signal_handler(signal.SIGTERM, self._leave_at_signal)
        remember_handlers((signal.SIGTERM, signal.SIGUSR2))
        self._hooks.call("worker_ready", server.urls)
        self._pipe.send("ready", urls=server.urls, loop=loop_name, parser=server.parser_name)
        self._started = True
        self._beat()
        if self._wear.is_limited:
            self._look()
        await server.serve_until_shutdown()
        drained = await server.shutdown()
        self._pipe.send(
            "stopped",
            completed=drained.completed,
            abandoned=drained.abandoned,
            graceful_timeout=self._graceful_timeout,
            done=server.engine.completed_count,
            metrics=report(server, "metrics"),
        )
        self._pipe.flush_all(_LAST_WORDS_SECONDS)  # there may be a long message that the supervisor is still reading
        loop.remove_reader(self._pipe.fileno())
        loop.remove_writer(self._pipe.fileno())

    # What happens unasked.

    def _beat(self) -> None:
        self._pipe.send("heartbeat")
        interval = heartbeat_interval(self._config.silence_timeout)
        asyncio.get_running_loop().call_later(interval, self._beat)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        count = self._started_server.engine.completed_count
        reason = self._wear.reason(count, loop.time())
        if reason is None:
            loop.call_later(self._wear.next_look(count, loop.time()), self._look)
        else:
            self._recycle(reason)

    def _recycle(self, reason: str) -> None:
        """Ask to be replaced; this worker serves on until the other is ready."""
        self._pipe.send("recycle", reason=reason)

    @property
    def _started_server(self) -> Server:
        assert self._server is not None  # every caller runs once the server has started
        return self._server

    # What the supervisor says.

    def _pipe_readable(self) -> None:
        for message in self._pipe.receive():
            kind = message.get("type")
            if kind == "drain":
                self._graceful_timeout = seconds = min(message["seconds"], self._config.graceful_timeout)
                self._leave(seconds, leave_backlog=message["leave_backlog"], serve_on=message["serve_on"])
            elif kind == "listen":
                self._started_server.listen(_take_sockets(self._pipe.take_descriptors(message["count"])))
            elif kind == "dump":
                logger.warning("%s", self._stacks())
            elif kind == "tell":
                self._tell(message["what"], _take_sockets(self._pipe.take_descriptors(message["count"])))
            elif kind == "report":
                fields = report(self._started_server, message["what"])
                if "stacks" in fields:
                    fields["stacks"] = shortened(fields["stacks"], message["size"])
                self._pipe.send("report", census=message["census"], fields=fields)
            elif kind == "answer":
                self._answered(message["ask"], message["answers"])
            elif kind == "statistics":
                figures = figures_of(self._started_server.stats())
                self._pipe.send("statistics", census=message["census"], figures=figures)
        loop = asyncio.get_running_loop()
        if self._pipe.ended:
            loop.remove_reader(self._pipe.fileno())
            self._leave_as_orphan()
        elif self._pipe.unsent:
            loop.add_writer(self._pipe.fileno(), self._pipe_writable)

    def _pipe_writable(self) -> None:
        self._pipe.flush()
        if not self._pipe.unsent:
            asyncio.get_running_loop().remove_writer(self._pipe.fileno())

    def _leave_as_orphan(self) -> None:
        logger.warning("the supervisor is gone: running requests may finish, then this worker leaves")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(self._config.graceful_timeout + self._config.drain_delay) + _ORPHAN_MARGIN_SECONDS)
        self._leave()

    def _leave_at_signal(self) -> None:
        self._pipe.send("leaving")
        self._leave(leave_backlog=True)

    def _leave(self, seconds: float | None = None, *, leave_backlog: bool = False, serve_on: bool = True) -> None:
        """Begin to leave, or have less time for it."""
        shutdown = self._started_server.shutdown(seconds, leave_backlog=leave_backlog, serve_on=serve_on)
        self._shutdowns.add(asyncio.get_running_loop().create_task(shutdown))

    # What people ask.

    def _tell(self, what: str, sockets: list[socket.socket]) -> None:
        """Answer, as all workers do, those who connect to a socket of the supervisor's."""
        responder = MetricsResponder(self._ask) if what == "metrics" else ControlResponder(self._ask)
        telling = self._started_server.tell(responder, Config(threads=1), sockets)
        self._tellings.add(asyncio.get_running_loop().create_task(telling))

    def _ask(self, what: str, answer: Callable[[Answers], object]) -> None:
        """Have the supervisor ask all workers."""
        self._ask_count += 1
        self._asks[self._ask_count] = answer
        self._pipe.send("ask", ask=self._ask_count, what=what)

    def _answered(self, number: int, answers: Answers) -> None:
        answer = self._asks.pop(number, None)
        if answer is not None:
            answer(answers)

    def _dump_at_signal(self, signum: int, frame: FrameType | None) -> None:
        text = self._stacks(frame)

        def log() -> None:
            logger.warning("%s", text)
            flush_logs()  # the next message may be answered with SIGKILL
            self._pipe.send("dumped")

        call_aside(log)

    def _stacks(self, below: FrameType | None = None) -> str:
        engine = None if self._server is None else self._server.engine
        return f"worker {self._order.number}, its threads:\n{stack_report(engine, below)}"

    def _log_statistics(self) -> None:
        logger.info("worker %d: %s", self._order.number, statistics_line(figures_of(self._started_server.stats())))


def _ignore(signum: int, frame: FrameType | None) -> None:
    """The supervisor gets it as well, and says what is to be done."""


def _take_sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    """Make sockets of descriptors that this process owns."""
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in sockets:
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    return sockets
