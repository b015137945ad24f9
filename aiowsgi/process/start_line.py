"""The line with which a server, alone or with workers, tells that it has started.

Thread: any.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from aiowsgi.version import __version__

__all__ = ["start_line"]


def start_line(urls: Sequence[str], threads: int, loop: str, parser: str, *, before: str = "") -> str:
    """Write the line.

    Args:
        urls: where it listens.
        threads: of each process that serves.
        loop: the event loop's name.
        parser: the parser's.
        before: what precedes the number of threads.
    """
    return (
        f"aiowsgi {__version__} on {', '.join(urls)} ({before}{threads} thread{'s' if threads > 1 else ''}, {loop}, "
        f"{parser}, Python {platform.python_version()}, pid {os.getpid()})"
    )
