"""The program of a spawned worker: ``python .../spawned.py FD``, where FD is its end of the message pipe.

It is run by its path and not as a module, so that the current folder does not come before the package's own modules;
from a zip file by its text, with ``-c``.

Thread: the main thread.
"""

from __future__ import annotations

import json
import os
import sys

__all__: list[str] = []


def _read_first_line(fd: int) -> tuple[bytes, bytes]:
    """Return the supervisor's first message, and what has been read beyond it."""
    data = b""
    while b"\n" not in data:
        more = os.read(fd, 64 * 1024)
        if not more:
            sys.exit(0)  # the supervisor has gone without sending anything
        data += more
    line, _, rest = data.partition(b"\n")
    return line, rest


if __name__ == "__main__":
    _fd = int(sys.argv[1])
    _line, _rest = _read_first_line(_fd)
    _message = json.loads(_line)
    for _inherited in (_fd, *_message["sockets"]):
        os.set_inheritable(_inherited, False)  # or programs that the import starts would have them as well
    sys.path[:] = _message["sys_path"]
    sys.argv[:] = _message["argv"]

    from aiowsgi.process.descriptors import open_standard_descriptors

    open_standard_descriptors()  # a program that calls run() may have closed some

    from aiowsgi.process.exit import end_process
    from aiowsgi.process.worker import run_spawned

    try:
        _exit_code = run_spawned(_message, _fd, _rest)
    except Exception as _error:
        sys.excepthook(type(_error), _error, _error.__traceback__)
        _exit_code = 1
    if _exit_code:
        end_process(_exit_code)
    sys.exit(0)
