"""Starting a worker's process: a new interpreter, or a copy of this one.

A new interpreter holds nothing of the supervisor's, so that a reload reads all code again. A copy shares the memory of
the application, which was imported once (``--preload``).

Signals that operators send are held back while a process starts, so that none arrives before its handlers are there.

Thread: the supervisor's.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from wsgiref.types import WSGIApplication

from aiowsgi.bridge.threads import join_threads
from aiowsgi.errors import StartupError
from aiowsgi.process.exit import flush_streams
from aiowsgi.process.messages import MessagePipe, message_pipes
from aiowsgi.process.worker import HELD_BACK_SIGNALS, Order, run_forked

__all__ = ["WorkerProcess", "check_platform", "describe_exit", "fork_worker", "spawn_worker"]

logger = logging.getLogger("aiowsgi.supervisor")

_PROGRAM = Path(__file__).with_name("spawned.py")


class WorkerProcess:
    """A worker's process and the pipe to it."""

    def __init__(self, pid: int, pipe: MessagePipe, popen: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.pipe = pipe
        self._popen = popen
        self._told_of_permission = False
        #: Slots whose sockets it has been given.
        self.slots: set[int] = set()

    def send_signal(self, signum: int) -> bool:
        """Send a signal, and return whether that is allowed.

        The process has not been waited for, so its number is still its own.
        """
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            pass
        except PermissionError:  # it has another user's rights
            if not self._told_of_permission:
                self._told_of_permission = True
                logger.error("the process %d cannot be sent signals: that takes CAP_KILL", self.pid)
            return False
        return True

    def ended(self, exit_code: int) -> None:
        """The process has been waited for."""
        self.pipe.close()
        if self._popen is not None:
            self._popen.returncode = exit_code  # or Popen would warn of a process that nobody has waited for


def describe_exit(exit_code: int) -> str:
    """Say how a process has ended; most real-time signals have no names."""
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}"


def check_platform(*, fork: bool) -> None:
    """Check that this platform can run workers.

    Raises:
        StartupError: it cannot.
    """
    if os.name != "posix":
        raise StartupError(
            "workers: this platform cannot pass sockets on to them; leave out what asks for a supervisor"
        )
    if fork and not hasattr(os, "fork"):
        raise StartupError("preload: this platform cannot fork")
    if not fork and not sys.executable:
        raise StartupError("workers: the path of the Python interpreter is not known, so no worker can be started")


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def spawn_worker(order: Order) -> WorkerProcess:
    """Start a worker in a new interpreter.

    Raises:
        OSError: the process could not be started.
    """
    pipe, other = message_pipes()
    # As multiprocessing does: -O, -W, -X and the like are meant for all processes.
    interpreter_flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # not typed
    if "-P" not in interpreter_flags:
        interpreter_flags.append("-P")  # its script's folder is not one to import from
    if getattr(sys.__stdout__, "write_through", False):
        interpreter_flags.append("-u")  # which is not among them; nothing else makes standard output so
    command = [sys.executable, *interpreter_flags, *_program(), str(other.fileno())]
    try:
        with other, _signals_held_back():
            popen = subprocess.Popen(command, pass_fds=(other.fileno(), *order.descriptors))
    except BaseException:
        pipe.close()
        raise
    pipe.send("start", **order.as_fields())
    return WorkerProcess(popen.pid, pipe, popen)


def _program() -> Sequence[str]:
    """Return what has the interpreter run the worker's program."""
    if _PROGRAM.is_file():
        return [str(_PROGRAM)]
    # The package is in a zip file, whose parts only its own loader can read.
    try:
        source = pkgutil.get_data("aiowsgi.process", _PROGRAM.name)
    except OSError as error:
        raise StartupError(f"workers cannot be started from what lacks {_PROGRAM}: use preload") from error
    assert source is not None  # a loader that cannot read such files has not loaded this module
    return ["-c", source.decode()]


def fork_worker(
    order: Order,
    application: WSGIApplication,
    sockets: Sequence[socket.socket],
    leave_behind: Callable[[], None],
) -> WorkerProcess:
    """Start a worker as a copy of this process.

    Args:
        order: its ``descriptors`` are those of ``sockets``.
        application: what it serves.
        sockets: what it listens on.
        leave_behind: called in the copy, to close what is the supervisor's.

    Raises:
        OSError: the process could not be started.
    """
    pipe, other = message_pipes()
    flush_streams()
    with _signals_held_back():
        try:
            pid = os.fork()
        except BaseException:
            pipe.close()
            other.close()
            raise
        if pid == 0:
            _be_worker(order, application, other, sockets, (pipe.close, leave_behind))
    other.close()
    return WorkerProcess(pid, pipe, None)


def _be_worker(
    order: Order,
    application: WSGIApplication,
    pipe: socket.socket,
    sockets: Sequence[socket.socket],
    endings: Sequence[Callable[[], object]],
) -> None:
    """Be the copy, which ends here: nothing further up the supervisor's stack runs in it."""
    exit_code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in sockets:
            sock.detach()  # its descriptor is the worker's from now on
        for leave_behind in endings:
            leave_behind()
        exit_code = run_forked(order, pipe, application)
        if not exit_code:
            join_threads()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        flush_streams()
        os._exit(exit_code)
