"""Running a server as a process of its own, alone or as a supervisor with workers: what precedes serving, and the end.

Alone, the first SIGTERM lets running requests end, SIGINT and SIGQUIT leave them a second for that; a second signal
ends the process immediately; an order at the control socket does not count as a signal (:mod:`aiowsgi.process.ending`).
SIGUSR1 logs every thread's stack, SIGUSR2 a line of figures; on SIGHUP the TLS certificate, if there is one, is read
again; for anything else SIGHUP needs a supervisor, as SIGTTIN and SIGTTOU do.

Thread: the main thread, which becomes the event loop's; signals are received only there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from wsgiref.types import WSGIApplication

import anyio
from anyio.abc import TaskGroup

from aiowsgi.bridge.threads import call_aside, in_main_thread
from aiowsgi.config import Config
from aiowsgi.errors import StartupError
from aiowsgi.process.activation import take_passed_descriptors
from aiowsgi.process.application import load_application
from aiowsgi.process.descriptors import raise_descriptor_limit
from aiowsgi.process.ending import END_SIGNALS, QUICK_SECONDS, Ending, Step
from aiowsgi.process.folders import Folders
from aiowsgi.process.fork_signals import forget_handlers, remember_handlers, remember_wakeup_fd
from aiowsgi.process.hooks import SERVER_HOOKS, Hooks
from aiowsgi.process.log import configure_logs, flush_logs, load_log_config, log_files_untouched
from aiowsgi.process.loops import choose_loop
from aiowsgi.process.memory import keep_freed_memory
from aiowsgi.process.notify import Notifier
from aiowsgi.process.pidfile import PidFile
from aiowsgi.process.privileges import check_privileges, drop_privileges, set_umask
from aiowsgi.process.reload import Reloader
from aiowsgi.process.sockets import warn_of_backlog
from aiowsgi.process.start_line import start_line
from aiowsgi.process.statistics import figures_of, statistics_line
from aiowsgi.process.supervisor import Supervisor
from aiowsgi.process.terminal import Terminal
from aiowsgi.process.title import set_title
from aiowsgi.server import Server
from aiowsgi.server.access_log import check_access_log
from aiowsgi.server.engine import Engine
from aiowsgi.server.stacks import stack_report
from aiowsgi.server.tls_context import has_tls

__all__ = ["check", "exit_at_next_signal", "run"]

_SUPERVISOR_SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGTTIN", "SIGTTOU") if hasattr(signal, name))

# For what is left to do at a second signal: close sockets, remove a socket file. Arbitrary; milliseconds are enough.
FORCED_END_TIMEOUT = 0.25

logger = logging.getLogger("aiowsgi.error")


def run(
    application: WSGIApplication | str,
    *,
    factory: bool = False,
    config: Config | None = None,
    reread: Callable[[], Config] | None = None,
    config_file: Path | None = None,
    **options: Any,
) -> None:
    """Serve an application until SIGTERM or SIGINT; after SIGTERM, running requests may finish.

    Where an option asks for a supervisor, ``workers`` above all, this process watches over others that serve. If the
    application is given by its name, they import it; otherwise they are forked with it.

    At a second signal the process ends immediately, with 128 plus the signal's number as its exit code.

    Outside the main thread no signal is received, and there can be no supervisor: the server is ended by ``aiowsgi
    drain``, if there is a ``control`` socket, or by the end of the process.

    Args:
        application: a WSGI application, or its name as on the command line.
        factory: the name is a factory's, to be called without arguments.
        config: the settings, instead of ``options``.
        reread: reads the settings again, at SIGHUP.
        config_file: watched if ``reload`` is on.
        options: fields of :class:`~aiowsgi.config.Config`.

    Raises:
        ConfigError: options break their rules.
        ApplicationImportError: the named application cannot be loaded.
        HookError: a hook cannot be loaded, or ``on_starting`` or ``worker_init`` has failed.
        StartupError: it cannot listen, the loop or parser is not installed, or an option needs the main thread; nothing
            is left listening.
    """
    if config is None:
        config = Config(**options)
    elif options:
        raise TypeError(f"run() takes a config or options, not both: {', '.join(options)}")
    option = "reload" if config.reload else config.supervisor_option
    if option and not in_main_thread():
        raise StartupError(f"{option}: run() must be called in the main thread, where signals are received")
    folders = Folders()
    folders.enter(config)
    descriptors = take_passed_descriptors()
    config = _with_passed_sockets(folders.resolved(config), descriptors)
    name = application if isinstance(application, str) else None  # a configuration that is read anew may name another
    loaded: Any = application if name is None else None
    config = dataclasses.replace(config, app=name, factory=factory or config.factory)
    pid_file = PidFile(config.pid)
    try:
        notifier = Notifier()

        def read_again() -> Config:
            return config if reread is None else _with_passed_sockets(folders.resolved(reread()), descriptors)

        with _stacks_before_serving():
            if config.reload:
                _reload(config, read_again, folders, config_file)
            # The first process of a container has to wait for others' children too, which a server cannot do.
            elif option or (os.getpid() == 1 and in_main_thread()):
                forced_by = _supervise(loaded, config, read_again, folders, notifier)
                if forced_by:
                    pid_file.close()
                    _end_process(forced_by)
            else:
                _serve_alone(loaded, config, notifier, pid_file)
    finally:
        pid_file.close()
        flush_logs()


def check(config: Config) -> None:
    """Do all that precedes listening, and no more; only what the application itself does may leave a trace.

    Args:
        config: its ``app`` names the application.

    Raises:
        ApplicationImportError: the application cannot be loaded.
        ConfigError: logging cannot be configured.
        HookError: a hook cannot be loaded.
        StartupError: a folder, a user, a certificate, a log's file, the loop or the parser is missing.
    """
    folders = Folders()
    folders.enter(config)
    config = folders.resolved(config)
    Hooks(config)
    check_privileges(config)
    assert config.app is not None  # Sources would have missed it
    application = load_application(config.app, factory=config.factory)
    _, loop_factory = choose_loop(config.loop)

    async def start_without_listening() -> None:
        try:
            server = Server(application, check_access_log(config).for_own_process(), shared_sockets=[])
            await server.start()
        except OSError as error:
            raise StartupError(error.strerror or str(error)) from error
        await server.shutdown(0)

    with log_files_untouched():
        load_log_config(config)
        anyio.run(start_without_listening, backend_options={"loop_factory": loop_factory})


def exit_at_next_signal() -> None:
    """Let a signal end the process while it waits for what the application left behind, such as threads."""

    def end(signum: int, frame: object) -> None:
        _end_process(signum)

    for signum in END_SIGNALS:
        signal.signal(signum, end)


@contextlib.contextmanager
def _stacks_before_serving() -> Iterator[None]:
    """Have SIGUSR1 tell where an import is that hangs, until the application or the server has a handler for it."""
    if not hasattr(signal, "SIGUSR1") or not in_main_thread() or signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL:
        yield
        return

    def dump(signum: int, frame: FrameType | None) -> None:
        _log_stacks(None, frame)

    signal.signal(signal.SIGUSR1, dump)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGUSR1) is dump:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def _log_stacks(engine: Engine | None, frame: FrameType | None) -> None:
    text = stack_report(engine, frame)
    call_aside(lambda: logger.warning("SIGUSR1, all threads:\n%s", text))


def _with_passed_sockets(config: Config, descriptors: Sequence[int]) -> Config:
    """Listen on the sockets that systemd passes, if any: then the unit says where, not the configuration."""
    if not descriptors:
        return config
    bind = tuple(f"fd://{descriptor}" for descriptor in descriptors)
    return dataclasses.replace(config, bind=bind, host=None, port=None, uds=None)


def _supervise(
    loaded: WSGIApplication | None,
    config: Config,
    reread: Callable[[], Config],
    folders: Folders,
    notifier: Notifier,
) -> int:
    choose_loop(config.loop)  # so that a loop that is not installed is reported here
    with Hooks(config, SERVER_HOOKS).around("on_starting", "on_exit"):
        if config.app is not None and config.preload:
            loaded = load_application(config.app, factory=config.factory)
        configure_logs(config)
        raise_descriptor_limit()
        return Supervisor(config, loaded=loaded, reread=reread, folders=folders, notifier=notifier).run()


def _reload(config: Config, reread: Callable[[], Config], folders: Folders, config_file: Path | None) -> None:
    if config.app is None:
        raise StartupError("reload: the application must be given by its name, or it could not be imported anew")
    choose_loop(config.loop)
    configure_logs(config)
    raise_descriptor_limit()
    files = [] if config_file is None else [config_file]
    with Hooks(config, SERVER_HOOKS).around("on_starting", "on_exit"):
        Reloader(config, reread=reread, folders=folders, files=files).run()


def _serve_alone(application: WSGIApplication, config: Config, notifier: Notifier, pid_file: PidFile) -> None:
    hooks = Hooks(config)
    with hooks.around("on_starting", "on_exit"):
        umask = set_umask(config)  # as in a worker: for all but the sockets
        with hooks.around("worker_init", "worker_exit"):
            if config.app is not None:
                application = load_application(config.app, factory=config.factory)
            loop_name, loop_factory = choose_loop(config.loop)
            config = configure_logs(config)
            set_title("server", config.name, config.app or "aiowsgi")
            raise_descriptor_limit()
            keep_freed_memory()
            alone = _Alone(application, config, umask, loop_name, notifier, pid_file, hooks)
            anyio.run(alone.serve, backend_options={"loop_factory": loop_factory})


class _Alone:
    """A server that has its process to itself."""

    def __init__(
        self,
        application: WSGIApplication,
        config: Config,
        socket_umask: int | None,
        loop_name: str,
        notifier: Notifier,
        pid_file: PidFile,
        hooks: Hooks,
    ) -> None:
        self._server = Server(application, config.for_own_process())
        self._server.alone = True
        self._server.socket_umask = socket_umask
        self._server.on_order = self._ordered
        self._loop_name = loop_name
        self._notifier = notifier
        self._pid_file = pid_file
        self._hooks = hooks
        self._terminal = Terminal()
        self._ending = Ending(logger)
        # Steps that are asked for and have not been taken yet.
        self._steps: asyncio.Queue[Step] = asyncio.Queue()

    async def serve(self) -> None:
        server = self._server
        with contextlib.ExitStack() as stack:
            signals: AsyncIterator[signal.Signals] | None = None
            # Not the main thread: RuntimeError from asyncio, ValueError from uvloop.
            with contextlib.suppress(RuntimeError, ValueError):
                # Before listening: as soon as the port is open, a signal may come.
                stack.enter_context(self._reports())
                signals = stack.enter_context(anyio.open_signal_receiver(*END_SIGNALS))
                stack.callback(forget_handlers)
                remember_handlers(END_SIGNALS)
            try:
                await server.start()
            except OSError as error:
                raise StartupError(error.strerror or str(error)) from error
            drop_privileges(server.config)
            warn_of_backlog(server.config.backlog)
            logger.info("%s", start_line(server.urls, server.config.threads, self._loop_name, server.parser_name))
            self._hooks.call("worker_ready", server.urls)
            self._notifier.ready("serving")
            if self._notifier.watchdog_interval:
                self._give_sign_of_life()
            async with anyio.create_task_group() as tasks:
                if signals is not None:
                    tasks.start_soon(self._follow_signals, signals)
                tasks.start_soon(self._take_steps, tasks)
                await server.serve_until_shutdown()
                tasks.cancel_scope.cancel()
            report = await server.shutdown()
            level = logging.WARNING if report.abandoned else logging.INFO
            text = "stopped; running requests: %d finished, %d abandoned"
            logger.log(level, text, report.completed, report.abandoned)

    def _give_sign_of_life(self) -> None:
        self._notifier.watchdog()
        asyncio.get_running_loop().call_later(self._notifier.watchdog_interval, self._give_sign_of_life)

    @contextlib.contextmanager
    def _reports(self) -> Iterator[None]:
        """Answer the signals that do not end the process."""
        loop = asyncio.get_running_loop()
        previous: dict[int, Any] = {}
        if hasattr(signal, "SIGUSR1"):
            # Not through the loop, which may be what is stuck.
            previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._dump)
        added = []
        if hasattr(signal, "SIGUSR2"):
            loop.add_signal_handler(signal.SIGUSR2, self._log_statistics)
            added.append(signal.SIGUSR2)
            remember_wakeup_fd()
        for signum in _SUPERVISOR_SIGNALS:
            # A signal that is ignored now was ignored before: nohup(1) does that. Then it is only handled if there is
            # something for it to do.
            if signal.getsignal(signum) is signal.SIG_IGN:
                if signum != signal.SIGHUP or not has_tls(self._server.config):
                    continue
                previous[signum] = signal.SIG_IGN
            loop.add_signal_handler(signum, self._asked_of_supervisor, signum)
            added.append(signum)
        remember_handlers((*previous, *added))
        try:
            yield
        finally:
            for signum in added:
                loop.remove_signal_handler(signum)
            for number, handler in previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _dump(self, signum: int, frame: FrameType | None) -> None:
        _log_stacks(self._server.engine if self._server.urls else None, frame)

    def _asked_of_supervisor(self, signum: signal.Signals) -> None:
        if signum == signal.SIGHUP and self._terminal.is_closed:
            self._end(self._ending.ordered("SIGHUP"))
        elif signum == signal.SIGHUP and has_tls(self._server.config):
            self._reload_tls()
        else:
            logger.warning("%s: needs a supervisor, which --workers starts, even with 1", signal.Signals(signum).name)

    def _ordered(self, what: str) -> dict[str, Any]:
        """Do what is asked for at the control socket."""
        if what == "drain":
            self._end(self._ending.ordered("drain"))
            return {"done": "draining"}
        if what == "reloaded" or not has_tls(self._server.config):
            return {"error": "a reload needs a supervisor, which --workers starts, even with 1"}
        if not self._reload_tls():
            return {"error": "the certificate could not be read again; the log says why"}
        return {"done": "the certificate was read again; the application needs a supervisor, which --workers starts"}

    def _reload_tls(self) -> bool:
        """Read the certificate again, and have systemd know when that is over."""
        if not self._server.urls:  # it starts, and says so later
            return self._server.reload_tls()
        self._notifier.reloading()
        done = self._server.reload_tls()
        self._notifier.ready("serving" if done else "reload failed")
        return done

    def _log_statistics(self) -> None:
        if self._server.urls:
            logger.info("%s", statistics_line(figures_of(self._server.stats())))

    async def _follow_signals(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for signum in signals:
            step = self._ending.signalled(signum)
            if step is Step.FORCE:
                await self._end_at_once(signum)
            self._end(step)

    def _end(self, step: Step) -> None:
        """Begin the end, or bring it forward; before the server has started, this takes effect once it has."""
        if step is not Step.GO_ON:
            self._notifier.stopping()
            self._steps.put_nowait(step)

    async def _take_steps(self, tasks: TaskGroup) -> None:
        """Shut the server down, and leave it less time if a further step says so."""
        while True:
            tasks.start_soon(self._take, await self._steps.get())

    async def _take(self, step: Step) -> None:
        if step is Step.HASTEN:
            seconds = min(self._server.config.graceful_timeout, QUICK_SECONDS)
            await self._server.shutdown(seconds, serve_on=False)
        else:
            await self._server.shutdown()

    async def _end_at_once(self, signum: signal.Signals) -> NoReturn:
        with anyio.move_on_after(FORCED_END_TIMEOUT, shield=True):
            await self._server.shutdown(graceful=0)
        self._pid_file.close()
        _end_process(signum)


def _end_process(signum: int) -> NoReturn:
    flush_logs()
    # Not sys.exit(): it would wait for the application's threads. 128 + N is the shell's code for signal N.
    os._exit(128 + signum)
