"""``--reload``: a process that owns the sockets, watches files, and runs one worker, replaced when code changes.

The old worker is gone before the new one starts, so that they never hold one of the application's files or ports at the
same time; connections made in between wait in the sockets' backlog. A worker that cannot start, for example because of
a syntax error, says why, and nothing more happens until the next change.

The first signal that ends it gives the worker :data:`STOP_SECONDS`, and a second one none
(:mod:`aiowsgi.process.ending`). SIGHUP counts as a change, unless the terminal has been closed, which ends it.

Thread: the main thread, which becomes the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from aiowsgi.config import Config
from aiowsgi.errors import AiowsgiError
from aiowsgi.process.changes import Watched, watch, watcher_name, what_to_watch
from aiowsgi.process.ending import END_SIGNALS, Ending, Step
from aiowsgi.process.folders import Folders
from aiowsgi.process.sockets import ListeningSockets
from aiowsgi.process.spawn import WorkerProcess, check_platform, describe_exit, spawn_worker
from aiowsgi.process.start_line import start_line
from aiowsgi.process.terminal import Terminal
from aiowsgi.process.title import set_title
from aiowsgi.process.worker import Order

__all__ = ["Reloader"]

# Time that running requests have when code has changed. Arbitrary: those nearly done finish, a stream is cut.
STOP_SECONDS = 1.0
# This much later, a worker is killed.
STOP_MARGIN_SECONDS = 1.0

# Names of changed files in one line of the log.
_MOST_NAMES = 3

_logger = logging.getLogger("aiowsgi.supervisor")


class Reloader:
    """Runs one worker after another, each from the code as it is at that time.

    Args:
        config: every setting; its ``app`` names the application.
        reread: reads the settings again, since they may come from a file.
        folders: are entered again for every worker.
        files: to be watched besides the code: the configuration file.

    Raises:
        StartupError: it cannot listen, or something that is to be watched does not exist.
    """

    def __init__(
        self,
        config: Config,
        *,
        reread: Callable[[], Config],
        folders: Folders,
        files: Sequence[Path] = (),
    ) -> None:
        check_platform(fork=False)
        self._config = config
        self._reread = reread
        self._folders = folders
        self._watched: Watched = what_to_watch(config, files)
        self._sockets = ListeningSockets(config)
        self._terminal = Terminal()
        self._ending = Ending(_logger)
        self._worker: _Worker | None = None
        self._worker_count = 0
        self._changes: set[str] = set()
        self._stopping = False
        self._news = asyncio.Event()
        self._started = False

    def run(self) -> None:
        """Serve until a signal ends it."""
        try:
            anyio.run(self._run)
        finally:
            self._sockets.close()

    async def _run(self) -> None:
        set_title("reloader", self._config.name, self._config.app or "aiowsgi")
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._receive_signals)
            tasks.start_soon(watch, self._watched, self._changed)
            folders = ", ".join((*self._watched.folders, *self._watched.extra_folders))
            _logger.info("watching %s (%s)", folders, watcher_name())
            if (self._config.workers or 1) > 1:
                _logger.info("workers=%d: while code is reloaded, one serves", self._config.workers)
            try:
                await self._serve()
            finally:
                if self._worker is not None:
                    self._worker.kill()
            tasks.cancel_scope.cancel()

    async def _receive_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*END_SIGNALS, signal.SIGHUP, signal.SIGCHLD) as signals:
            task_status.started()
            async for signum in signals:
                if signum in END_SIGNALS:
                    self._stop(self._ending.signalled(signum))
                elif signum == signal.SIGHUP and self._terminal.is_closed:
                    self._stop(self._ending.ordered("SIGHUP"))
                elif signum == signal.SIGHUP:
                    self._changed(["SIGHUP"])
                if self._worker is not None:
                    self._worker.reap()
                self._news.set()

    def _stop(self, step: Step) -> None:
        if step is Step.FORCE and self._worker is not None:
            self._worker.kill()
        self._stopping = True

    def _changed(self, paths: Sequence[str]) -> None:
        self._changes.update(paths)
        self._news.set()

    async def _until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def _serve(self) -> None:
        while not self._stopping:
            failure = await self._serve_with_one_worker()
            # A change that came in while it failed may be the fix.
            if failure and not self._changes and not self._stopping:
                _logger.error("%s; waiting for the next change, connections wait too", failure)
                await self._until(self._is_over)
                self._say_what_changed()

    def _is_over(self) -> bool:
        return bool(self._changes) or self._stopping

    def _say_what_changed(self) -> None:
        if not self._stopping:
            _logger.info("%s changed: reloading", _names(self._changes))

    async def _serve_with_one_worker(self) -> str:
        """Serve until something changes, and return ``""``; or return why there is no worker any more."""
        _forget_bytecode(self._changes)
        self._changes.clear()
        try:
            if self._worker_count:
                self._take(self._reread())
            worker = self._worker = self._spawn()
        except (AiowsgiError, OSError) as error:
            return str(error)
        await self._until(lambda: self._is_over() or worker.has_ended)
        if worker.has_ended:
            return worker.failure or f"the application's process {worker.end}"
        self._say_what_changed()
        worker.ask_to_leave()
        with anyio.move_on_after(STOP_SECONDS + STOP_MARGIN_SECONDS):
            await self._until(lambda: worker.has_ended)
        worker.kill()
        await self._until(lambda: worker.has_ended)
        return ""

    def _take(self, config: Config) -> None:
        if config.addresses != self._config.addresses:
            _logger.warning("where to listen has changed: that takes a restart")
        if config.app is None:  # the program names it, and what it reads again does not
            config = dataclasses.replace(config, app=self._config.app, factory=self._config.factory)
        self._config = config

    def _spawn(self) -> _Worker:
        self._folders.enter(self._config)
        self._worker_count += 1
        descriptors = [sock.fileno() for sock in self._sockets.for_slot(0)]
        order = Order(self._worker_count, self._config, descriptors)
        return _Worker(spawn_worker(order), self._worker_said)

    def _worker_said(self, worker: _Worker, message: dict[str, Any]) -> None:
        if message.get("type") == "ready":
            text = f"ready in {time.monotonic() - worker.spawned_at:.1f} s"
            if not self._started:
                urls, loop, parser = message["urls"], message["loop"], message["parser"]
                text = start_line(urls, self._config.threads, loop, parser, before="reloading, ")
            _logger.info("%s", text)
            self._started = True


class _Worker:
    """What is known here of the worker's process."""

    def __init__(self, process: WorkerProcess, said: Callable[[_Worker, dict[str, Any]], object]) -> None:
        self._process = process
        self._said = said
        self._ready = False
        self.spawned_at = time.monotonic()
        self.failure = ""
        self.end = ""
        self.has_ended = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process.pipe.fileno(), self._hear)

    def _hear(self) -> None:
        for message in self._process.pipe.receive():
            self._take(message)
        if self._process.pipe.ended:
            self._loop.remove_reader(self._process.pipe.fileno())

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("type") == "failed":
            self.failure = str(message.get("text", ""))
        self._ready = self._ready or message.get("type") == "ready"
        self._said(self, message)

    def ask_to_leave(self) -> None:
        """Let its requests finish, and leave the backlog to the next worker."""
        if self._ready:
            self._process.pipe.send("drain", seconds=STOP_SECONDS, leave_backlog=True, serve_on=False)
        else:  # it may be importing, and listens to nothing else
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it immediately."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGKILL)

    def reap(self) -> None:
        """Take note if the process has ended."""
        if self.has_ended:
            return
        pid, status = os.waitpid(self._process.pid, os.WNOHANG)
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        self.end = describe_exit(code)
        for message in self._process.pipe.receive_all():
            self._take(message)
        with contextlib.suppress(ValueError, OSError):
            self._loop.remove_reader(self._process.pipe.fileno())
        self._process.ended(code)
        self.has_ended = True


def _forget_bytecode(paths: set[str]) -> None:
    """Have changed files compiled again: Python thinks one of the same size, saved in the same second, unchanged."""
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))


def _names(paths: set[str]) -> str:
    """The changed files, as seen from the current folder."""
    shown = [os.path.relpath(path) if os.path.isabs(path) else path for path in sorted(paths)]
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more
