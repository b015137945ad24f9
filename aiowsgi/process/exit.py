"""The end of a process that has failed to start: at once, and with its own exit code.

An interpreter's end waits for the application's threads, which nobody tells to leave; and its exit code is 120 where
standard output takes no more. Neither may keep a failure from being seen.

Thread: the main thread.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

from aiowsgi.process.log import flush_logs

__all__ = ["START_FAILURE", "end_process", "flush_streams"]

#: The exit code of a server, or of a worker, that could not start; there is no use in trying again.
START_FAILURE = 3


def end_process(exit_code: int) -> NoReturn:
    """End this process as an interpreter's end does, except that it waits for no thread and the exit code is kept."""
    try:
        atexit._run_exitfuncs()
        flush_logs()
        flush_streams()
    finally:
        os._exit(exit_code)


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
