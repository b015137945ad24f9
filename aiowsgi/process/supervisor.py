"""The process that watches over workers: it binds, starts them, replaces them, and passes signals on.

It has one thread and one wait: for signals, for what workers say and for the next deadline. What is to be done is
decided by :class:`~aiowsgi.process.roster.Roster`, and done here. No application code runs in this process, except with
``--preload``.

SIGTERM drains; SIGINT and SIGQUIT leave requests a second; a second signal of these three ends everything immediately;
an order at the control socket does not count as a signal (:mod:`aiowsgi.process.ending`). SIGHUP reloads; SIGTTIN and
SIGTTOU change the number of workers; SIGUSR1 has workers dump their stacks; SIGUSR2 logs figures.

Thread: the main thread, which is the only one.

Source: signal(7); waitpid(2); gunicorn's signals, https://docs.gunicorn.org/en/stable/signals.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from wsgiref.types import WSGIApplication

from aiowsgi.bridge.threads import thread_names_without_copies
from aiowsgi.config import Config
from aiowsgi.errors import AiowsgiError, StartupError
from aiowsgi.process.actions import (
    Action,
    AskToDrain,
    Finish,
    KeepConfiguration,
    Lend,
    Log,
    ReloadGivenUp,
    SendSignal,
    Settled,
    Spawn,
    StopListening,
    Worker,
)
from aiowsgi.process.census import Censuses, Told
from aiowsgi.process.ending import END_SIGNALS, QUICK_SECONDS, Ending, Step
from aiowsgi.process.exit import START_FAILURE
from aiowsgi.process.folders import Folders
from aiowsgi.process.inside import Inside
from aiowsgi.process.messages import Message
from aiowsgi.process.notify import Notifier
from aiowsgi.process.reload_outcome import ReloadOutcome
from aiowsgi.process.roster import NEVER, Roster
from aiowsgi.process.sockets import ListeningSockets
from aiowsgi.process.spawn import WorkerProcess, check_platform, describe_exit, fork_worker, spawn_worker
from aiowsgi.process.start_line import start_line
from aiowsgi.process.statistics import Figures, statistics_line, sum_of
from aiowsgi.process.terminal import Terminal
from aiowsgi.process.title import set_title
from aiowsgi.process.worker import Order
from aiowsgi.server.reports import REPORTS

__all__ = ["Supervisor"]

logger = logging.getLogger("aiowsgi.supervisor")

# Of what all workers say, to be passed on in one message: that may have four, with what is around it.
_MOST_ANSWER_SIZE = 3 * 1024 * 1024
# epoll_wait(2) takes less than 25 days, a timeout may be longer.
_LONGEST_WAIT_SECONDS = 3600.0
# Who wakes so much later than it wanted to did not run. Arbitrary: more than a busy machine makes of it, as a rule.
_STANDSTILL_SECONDS = 0.25
# SIGHUP also where nohup(1) has it ignored: so a reload is asked for, and one that a logout asks for does no harm.
_SIGNAL_NAMES = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2", "SIGCHLD")


class Supervisor:
    """Starts and replaces workers until a signal or an order ends them.

    Args:
        config: every setting; its ``app`` names the application, until a reload reads another.
        loaded: the application itself, to be forked; ``None`` to spawn workers that import it.
        reread: reads the configuration again.
        folders: are entered again for every worker.
        notifier: tells systemd.
    """

    def __init__(
        self,
        config: Config,
        *,
        loaded: WSGIApplication | None = None,
        reread: Callable[[], Config],
        folders: Folders,
        notifier: Notifier,
    ) -> None:
        check_platform(fork=loaded is not None)
        self._config = config
        #: What a reload that is given up comes back to.
        self._served_config = config
        self._loaded = loaded
        self._reread = reread
        self._folders = folders
        self._notifier = notifier
        self._terminal = Terminal()
        self._ending = Ending(logger)
        self._roster = Roster(
            config.workers or 1, timeout=config.silence_timeout, graceful_timeout=config.graceful_timeout
        )
        self._processes: dict[int, WorkerProcess] = {}
        self._selector = selectors.DefaultSelector()
        # These two are opened by run(), once signals are caught.
        self._sockets: ListeningSockets
        self._inside: Inside
        self._censuses = Censuses()
        self._watchdog_at = NEVER  # until it is ready: systemd does not watch it before
        self._started = False
        self._details: Message = {}
        #: What became of the requests that ran when the end began.
        self._completed_count = 0
        self._abandoned_count = 0
        #: What workers that have left had done since the supervisor began: only figures that never fall.
        self._past_figures: Figures = {"requests": {"done": 0}}
        self._reload_outcome = ReloadOutcome()
        self._finish: Finish | None = None
        self._forced_by = 0

    def run(self) -> int:
        """Serve until a signal ends it.

        Returns:
            The signal that ended everything immediately, or 0.

        Raises:
            StartupError: it cannot listen, or no worker can start.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            signals = stack.enter_context(_caught_signals())
            self._selector.register(signals, selectors.EVENT_READ)
            self._sockets = ListeningSockets(self._config)
            stack.callback(self._sockets.close)
            self._inside = Inside(self._config)
            stack.callback(self._inside.close)
            if self._config.reuse_port:
                self._sockets.for_slot(self._roster.count - 1)
            set_title("supervisor", self._config.name, self._config.app or "aiowsgi")
            if self._loaded is not None:
                _prepare_forks()
            logger.info("starting %s (pid %d)", self._workers_text(), os.getpid())
            self._roster.start(time.monotonic())
            self._act()
            while self._finish is None and not self._forced_by:
                self._turn(signals)
        if self._finish is not None and self._finish.failure:
            raise StartupError(self._finish.failure)
        if not self._forced_by:
            level = logging.WARNING if self._abandoned_count else logging.INFO
            text = "stopped; running requests: %d finished, %d abandoned"
            logger.log(level, text, self._completed_count, self._abandoned_count)
        return self._forced_by

    def _turn(self, signals: socket.socket) -> None:
        """Wait for something, and do what follows from it."""
        self._watch_for_room()
        for key, events in self._wait():
            if key.fileobj is signals:
                self._signals_came(signals.recv(4096))
                continue
            if events & selectors.EVENT_WRITE:
                self._processes[key.data].pipe.flush()
            if events & selectors.EVENT_READ:
                self._listen_to(key.data)
        self._reap()
        now = time.monotonic()
        # Once messages have been read: a worker is not silent just because the supervisor was not running.
        self._roster.tick(now)
        self._censuses.tick(now)
        if now >= self._watchdog_at:
            self._notifier.watchdog()
            self._watchdog_at = now + self._notifier.watchdog_interval
        self._act()

    def _watch_for_room(self) -> None:
        """See to it that what workers could not take yet goes on when they have room."""
        for number, process in self._processes.items():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if process.pipe.unsent else 0)
            with contextlib.suppress(KeyError):  # a worker that speaks no more
                if self._selector.get_key(process.pipe).events != events:
                    self._selector.modify(process.pipe, events, number)

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for something, or for the next deadline; return what there is."""
        begun_at = time.monotonic()
        seconds = self._seconds_to_wait()
        # Twice: where a process was stopped (SIGSTOP, a container's pause) until its time was up, CPython does not look
        # again for what has come meanwhile.
        happened = self._selector.select(seconds) or self._selector.select(0)
        waited_seconds = time.monotonic() - begun_at
        if waited_seconds > seconds + _STANDSTILL_SECONDS:
            self._roster.stood_still(waited_seconds)
        return happened

    def _seconds_to_wait(self) -> float:
        deadline = min(self._roster.deadline, self._watchdog_at, self._censuses.deadline)
        return min(_LONGEST_WAIT_SECONDS, max(0.0, deadline - time.monotonic()))

    def _close(self) -> None:
        for process in self._processes.values():
            process.ended(0)
        self._selector.close()

    # What happens.

    def _signals_came(self, signums: bytes) -> None:
        """Act on those that end it first, and on many SIGHUP as on one: each asks for what is there now."""
        for signum in sorted(signums, key=lambda signum: signum not in END_SIGNALS):
            if signum != signal.SIGHUP:
                self._signalled(signum)
        if signal.SIGHUP in signums:
            self._signalled(signal.SIGHUP)

    def _signalled(self, signum: int) -> None:
        try:
            name = signal.Signals(signum).name
        except ValueError:  # a real-time signal that a preloaded application has a handler for
            return
        if signum in END_SIGNALS:
            step = self._ending.signalled(signum)
            if step is Step.FORCE:
                self._roster.kill()
                self._forced_by = signum
            else:
                self._end(step)
        elif name == "SIGHUP" and self._terminal.is_closed:
            self._end(self._ending.ordered(name))
        elif name == "SIGHUP":
            self._reload()
        elif name in ("SIGTTIN", "SIGTTOU"):
            self._resize(name)
        elif name == "SIGUSR1":
            self._have_stacks_dumped()
        elif name == "SIGUSR2":
            self._gather("statistics", self._log_figures)

    def _have_stacks_dumped(self) -> None:
        for number, process in self._processes.items():
            if self._roster.workers[number].ready_at:
                process.pipe.send("dump")
            else:
                process.send_signal(signal.SIGUSR1)  # it is importing its application, and does not read the pipe

    def _end(self, step: Step) -> None:
        """Begin the end, or bring it forward."""
        if step is Step.GO_ON:
            return
        self._notifier.stopping()
        if self._reload_outcome.under_way:
            self._reload_outcome.end("given up", "the server is ending")
        seconds = self._config.graceful_timeout
        if step is Step.HASTEN:
            self._roster.stop(min(seconds, QUICK_SECONDS), time.monotonic())
        else:
            self._roster.stop(seconds, time.monotonic(), drain_delay=self._config.drain_delay)

    def _resize(self, name: str) -> None:
        if self._roster.stopping:
            return
        if name == "SIGTTOU" and self._roster.count == 1:
            logger.info("SIGTTOU: one worker is the least")
            return
        logger.info("%s: one worker %s", name, "more" if name == "SIGTTIN" else "fewer")
        self._roster.resize(1 if name == "SIGTTIN" else -1, time.monotonic())

    def _reload(self) -> str:
        """Begin a reload; return why it is refused, where another is under way whose end is told instead."""
        if self._roster.stopping:
            return ""
        logger.info("SIGHUP: reloading, one worker at a time")
        self._notifier.reloading()
        try:
            config = self._reread()
        except AiowsgiError as error:
            if self._reload_outcome.under_way:
                text = f"reload given up, the one that is under way goes on: {error}"
                logger.error("%s", text)
                return text
            self._reload_given_up(str(error))
            return ""
        self._reload_outcome.begin()
        if self._roster.proven:  # otherwise it is that of a reload whose first worker still starts
            self._served_config = self._config
        old = self._served_config
        if _where_to_listen(config) != _where_to_listen(old):
            logger.warning("where to listen has changed: that takes a restart")
            config = dataclasses.replace(
                config,
                bind=old.bind,
                host=old.host,
                port=old.port,
                uds=old.uds,
                reuse_port=old.reuse_port,
                metrics_bind=old.metrics_bind,
                control=old.control,
            )
        if self._loaded is not None or config.app is None:  # none is read where a program has named it
            config = dataclasses.replace(config, app=old.app, factory=old.factory)
        # A number of workers that signals have set stays, unless the configuration's has changed.
        count = config.workers or 1 if config.workers != old.workers else None
        self._use(config)
        if self._loaded is not None:
            logger.warning("preload: the application stays as it was imported; for new code restart the supervisor")
        self._roster.reload(time.monotonic(), count)
        return ""

    def _use(self, config: Config) -> None:
        """Have workers start, and be watched, with a configuration."""
        self._config = config
        self._roster.timeout = config.silence_timeout
        self._roster.graceful_timeout = config.graceful_timeout

    def _listen_to(self, number: int) -> None:
        process = self._processes[number]
        for message in process.pipe.receive():
            self._heard(number, process, message)
        if process.pipe.ended:
            self._selector.unregister(process.pipe)

    def _heard(self, number: int, process: WorkerProcess, message: Message) -> None:
        kind = message.get("type")
        self._roster.message(number, message, time.monotonic())
        worker = self._roster.workers.get(number)
        if kind == "ready":
            self._details = message
            for what, sockets in self._inside.sockets.items():
                descriptors = [sock.fileno() for sock in sockets]
                process.pipe.send("tell", what=what, count=len(descriptors), descriptors=descriptors)
            # It may have none, or that of a slot which is gone.
            if worker is not None and self._config.reuse_port:
                self._lend(process, worker.slot)
        elif kind == "statistics":
            self._censuses.add(number, message, message.get("figures", {}))
        elif kind == "report":
            self._censuses.add(number, message, message.get("fields", {}))
        elif kind == "ask":
            self._asked(number, process, message)
        elif kind == "stopped":
            self._inside.worker_told(number, message.get("metrics", {}), last=True)
            self._past_figures["requests"]["done"] += message.get("done", 0)
            self._left(number, message)

    def _left(self, number: int, message: Message) -> None:
        """Take note of what became of a worker's last requests: when all ends, one line reports them together."""
        abandoned = message.get("abandoned", 0)
        if self._roster.stopping:
            self._completed_count += message.get("completed", 0)
            self._abandoned_count += abandoned
        elif abandoned:
            logger.warning(
                "worker %d has left: %d running request%s abandoned after graceful_timeout=%g s",
                number,
                abandoned,
                "" if abandoned == 1 else "s",
                message.get("graceful_timeout", self._config.graceful_timeout),
            )

    def _reap(self) -> None:
        """Take note of the processes that have ended."""
        for number, process in list(self._processes.items()):
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    self._ended(number, os.waitstatus_to_exitcode(status))
        if os.getpid() == 1:
            self._reap_strangers()

    def _reap_strangers(self) -> None:
        """The first process of a container inherits all processes whose parents have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for number, process in list(self._processes.items()):
                    if process.pid == pid:
                        self._ended(number, os.waitstatus_to_exitcode(status))

    def _ended(self, number: int, exit_code: int) -> None:
        process = self._processes[number]
        for message in process.pipe.receive_all():
            self._heard(number, process, message)
        del self._processes[number]
        self._inside.worker_ended(number)
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.pipe)
        process.ended(exit_code)
        self._reload_outcome.forget(number)
        self._censuses.leave_out(number)
        how = f"(pid {process.pid}) {describe_exit(exit_code)}"
        self._roster.ended(number, how, exit_code, time.monotonic())

    # What is done.

    def _act(self) -> None:
        while actions := self._roster.take_actions():
            for action in actions:
                self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Spawn(worker):
                self._spawn(worker)
            case AskToDrain(worker, seconds, leave_backlog, serve_on):
                process = self._processes.get(worker.number)
                if process is not None:
                    self._reload_outcome.put_off(worker.number)
                    process.pipe.send("drain", seconds=seconds, leave_backlog=leave_backlog, serve_on=serve_on)
            case SendSignal(worker, signum):
                process = self._processes.get(worker.number)
                if process is not None and not process.send_signal(signum) and signum == signal.SIGKILL:
                    self._ended(worker.number, -signum)  # as an orphan it leaves once its loop turns again, if ever
            case Lend(worker, slot):
                process = self._processes.get(worker.number)
                if process is not None and self._config.reuse_port:
                    self._lend(process, slot)
            case Log(level, text):
                logger.log(level, "%s", text)
            case StopListening(serve_on):
                self._sockets.close(serve_on=serve_on)
            case KeepConfiguration():
                self._use(self._served_config)
            case ReloadGivenUp(reason):
                self._reload_given_up(reason)
            case Settled():
                self._settled()
            case Finish():
                self._finish = action

    def _spawn(self, worker: Worker) -> None:
        sockets, slots = self._sockets_for(worker)
        descriptors = [sock.fileno() for sock in sockets]
        config = self._config
        worker.timeout = config.silence_timeout  # not that of a reload which has just been given up
        order = Order(worker.number, self._sockets.config_of_workers(config), descriptors)
        try:
            self._folders.enter(config)
            if self._loaded is None:
                process = spawn_worker(order)
            else:
                process = fork_worker(order, self._loaded, sockets, self._leave_behind)
        except StartupError as error:
            worker.failure = str(error)
            self._roster.ended(worker.number, "", START_FAILURE, time.monotonic())
            return
        except OSError as error:
            self._roster.ended(worker.number, f"could not be started: {error.strerror}", 1, time.monotonic())
            return
        process.slots = slots
        self._inside.worker_started(worker.number, worker.slot)
        self._processes[worker.number] = process
        self._selector.register(process.pipe, selectors.EVENT_READ, worker.number)
        logger.debug("%s starts as process %d", worker, process.pid)

    def _leave_behind(self) -> None:
        """Close what is the supervisor's, in a copy of it."""
        self._selector.close()
        for process in self._processes.values():
            process.pipe.close()
        self._sockets.close()
        self._inside.close()

    def _sockets_for(self, worker: Worker) -> tuple[list[socket.socket], set[int]]:
        """Return the sockets that a new worker listens on from its start, and the slots that they belong to.

        With ``reuse_port`` a new slot has no sockets before its worker is ready: they would attract connections. A slot
        that is gone leaves its sockets to another.
        """
        if not self._config.reuse_port:
            return self._sockets.for_slot(0), {worker.slot}
        if worker.slot >= self._sockets.known_count:
            return [], set()
        sockets, slots = list(self._sockets.for_slot(worker.slot)), {worker.slot}
        for slot, left in self._sockets.left_by(self._roster.count):
            if slot % self._roster.count == worker.slot:
                sockets += left
                slots.add(slot)
        return sockets, slots

    def _lend(self, process: WorkerProcess, slot: int) -> None:
        if slot in process.slots or self._roster.stopping:
            return
        process.slots.add(slot)
        descriptors = [sock.fileno() for sock in self._sockets.for_slot(slot)]
        process.pipe.send("listen", count=len(descriptors), descriptors=descriptors)

    def _settled(self) -> None:
        if not self._started:
            self._started = True
            logger.info("%s", self._start_line())
        else:
            logger.info("%s", self._status("all workers serve"))
        self._notifier.ready(self._status("serving"))
        if self._reload_outcome.under_way:
            self._reload_outcome.end("done", self._status("all workers serve"))
        if self._notifier.watchdog_interval:
            self._watchdog_at = min(self._watchdog_at, time.monotonic())

    def _reload_given_up(self, reason: str) -> None:
        serving = any(slot.serving for slot in self._roster.slots)
        logger.error("reload given up%s: %s", ", the workers that serve stay" if serving else "", reason)
        if self._started:
            self._notifier.ready(self._status("reload failed"))
        self._reload_outcome.end("given up", reason)

    def _status(self, what: str) -> str:
        return f"{what}: {self._workers_text()}"

    def _workers_text(self) -> str:
        count = self._roster.count
        return f"{count} worker{'s' if count > 1 else ''}"

    def _start_line(self) -> str:
        urls, loop, parser = self._details["urls"], self._details["loop"], self._details["parser"]
        return start_line(urls, self._config.threads, loop, parser, before=f"{self._workers_text()} with ")

    # What may be asked of a supervisor.

    def _asked(self, number: int, process: WorkerProcess, message: Message) -> None:
        """A worker asks, on behalf of a client of the metrics or the control socket."""
        what = message.get("what")

        def answer(answers: dict[str, Any]) -> None:
            ask = message.get("ask")
            if not process.pipe.send("answer", ask=ask, answers=answers):
                process.pipe.send("answer", ask=ask, answers={"error": "the answer of all workers is too large"})

        def answer_metrics(told: Told) -> None:
            for number, fields in told.items():
                self._inside.worker_told(number, fields)
            answer({"workers": {"all": self._inside.metrics()}})

        if what == "reload" and self._roster.stopping:
            answer({"error": "it is ending, and starts no workers"})
        elif what == "reload" and (refusal := self._reload()):
            answer({"error": refusal})
        elif what == "reload":
            answer({"done": "reloading, one worker at a time", "under_way": True})
        elif what == "reloaded":
            self._reload_outcome.tell(number, answer)
        elif what == "drain":
            answer({"done": "draining"})
            self._end(self._ending.ordered("drain"))
        elif what == "metrics":
            self._gather("report", answer_metrics, what=what)
        elif what in REPORTS:
            self._gather("report", lambda told: answer({"workers": told}), what=what)

    def _gather(self, kind: str, done: Callable[[Told], object], **fields: Any) -> None:
        """Send all workers that serve a message, with the size that each may answer in; call ``done`` with that."""
        serving = [worker.number for worker in self._roster.workers.values() if worker.ready_at]
        census = self._censuses.begin(serving, time.monotonic(), done)
        fields["size"] = _MOST_ANSWER_SIZE // max(1, len(serving))
        for number in serving:
            self._processes[number].pipe.send(kind, census=census, **fields)
        self._censuses.tick(time.monotonic())

    def _log_figures(self, told: Told) -> None:
        count = len(told)
        # What a killed worker had done is not known.
        total = sum_of([*told.values(), self._past_figures])
        logger.info("%d worker%s: %s", count, "" if count == 1 else "s", statistics_line(total))


def _where_to_listen(config: Config) -> tuple[object, ...]:
    return config.addresses, config.reuse_port, config.metrics_bind, config.control


def _prepare_forks() -> None:
    """Look at what the import has left behind, before the process is copied."""
    names = thread_names_without_copies()
    if names:
        logger.warning(
            "preload: importing the application has started threads, which workers will not have: %s", ", ".join(names)
        )
    gc.collect()
    # Else the collector would write its marks into every object, and so have each page of them copied.
    gc.freeze()


@contextlib.contextmanager
def _caught_signals() -> Iterator[socket.socket]:
    """Have the numbers of signals written to a socket, for the duration of a ``with`` block."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signums = [getattr(signal, name) for name in _SIGNAL_NAMES]
    previous: dict[int, Any] = {}
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        for signum in signums:
            previous[signum] = signal.signal(signum, _note)
        yield reader
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(previous_fd)
        reader.close()
        writer.close()


def _note(signum: int, frame: FrameType | None) -> None:
    """The number is in the socket already."""
