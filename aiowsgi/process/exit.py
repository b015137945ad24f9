"""The end of a process, with its own exit code: at once if it has failed to start, in bounded time if it has served.

An interpreter's end waits for the application's threads, which nobody tells to leave; and its exit code is 120 where
standard output takes no more. Neither may keep a failure from being seen, nor a server from ending that was told to.

Thread: the main thread; what becomes of a slow end, one of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import NoReturn

from aiowsgi.bridge.threads import call_at_slow_end, lasting_threads
from aiowsgi.process.log import flush_logs

__all__ = ["LEAVING_MARGIN_SECONDS", "START_FAILURE", "end_in_time", "end_process", "flush_streams"]

#: The exit code of a server, or of a worker, that could not start; there is no use in trying again.
START_FAILURE = 3

#: Time that a process has once its requests have ended, or a worker beyond its graceful timeout: to close what is left,
#: for the application's threads to end, and for its atexit functions.
LEAVING_MARGIN_SECONDS = 5.0
# Threads that end sooner, as an executor's do that wait for work, are not worth a word.
_UNREMARKABLE_SECONDS = 0.5
# For the last lines of the log to be taken, and what Python has kept back.
_LAST_WORDS_SECONDS = 1.0

_logger = logging.getLogger("aiowsgi.error")


def end_process(exit_code: int) -> NoReturn:
    """End this process as an interpreter's end does, except that it waits for no thread and the exit code is kept."""
    try:
        atexit._run_exitfuncs()
        flush_logs()
        flush_streams()
    finally:
        os._exit(exit_code)


def end_in_time(exit_code: int) -> None:
    """Have this process end with an exit code soon after the interpreter's end has begun, whatever that waits for.

    Nothing happens for as long as the program goes on.
    """

    def end(threads_ended: bool) -> None:
        try:
            what = "functions that atexit calls" if threads_ended else f"threads: {_names_of_threads()}"
            _logger.warning("ending without the application's %s", what)
            flush_logs()
            flush_streams()
        finally:
            os._exit(exit_code)

    call_at_slow_end(
        (_UNREMARKABLE_SECONDS, _say_what_is_waited_for),
        (LEAVING_MARGIN_SECONDS, end),
        # Whoever reads its last words may be what does not go on.
        (LEAVING_MARGIN_SECONDS + _LAST_WORDS_SECONDS, lambda _: os._exit(exit_code)),
    )


def _say_what_is_waited_for(threads_ended: bool) -> None:
    if not threads_ended:
        _logger.info("waiting for the application's threads: %s", _names_of_threads())


def _names_of_threads() -> str:
    return ", ".join(sorted(thread.name for thread in lasting_threads()))


def flush_streams() -> bool:
    """Write what Python has kept back for standard output and error; return whether all of it could be written."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # None in a program that was started with the descriptor closed
                stream.flush()
        except Exception:  # a full disk, a closed pipe; or the application has put something else there
            done = False
    return done
