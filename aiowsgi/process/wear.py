"""When a worker has done enough, by its number of requests, its age or its size.

These are checked from time to time, so that requests pay nothing for it, and more often as the limit of requests nears.

Thread: event loop.

Source: proc(5) on statm.
"""

from __future__ import annotations

import os
import random
import sys

from aiowsgi.config import Config
from aiowsgi.configuration.values import Kind, format_value

__all__ = ["Wear", "resident_size"]

_LONGEST_LOOK_SECONDS = 1.0
_SHORTEST_LOOK_SECONDS = 0.01


class Wear:
    """The limits of one worker.

    Args:
        config: sets them.
        now: when the worker began, in seconds of any clock.
    """

    def __init__(self, config: Config, now: float) -> None:
        self._most_requests = 0
        if config.max_requests:
            self._most_requests = config.max_requests + random.randint(0, config.max_requests_jitter)
        self._most_seconds = config.max_worker_age
        self._most_size = config.max_worker_rss
        self._begun_at = now
        self._last_at = now
        self._last_count = 0

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._most_requests or self._most_seconds or self._most_size)

    def reason(self, request_count: int, now: float) -> str | None:
        """Return why the worker is to be replaced, or ``None``."""
        if self._most_requests and request_count >= self._most_requests:
            return f"{request_count} requests"
        if self._most_seconds and now - self._begun_at >= self._most_seconds:
            return f"{now - self._begun_at:.0f} s old"
        if self._most_size:
            size = resident_size()
            if size > self._most_size:
                return f"{size // 2**20} MiB of memory, over {format_value(Kind.SIZE, self._most_size)}"
        return None

    def next_look(self, request_count: int, now: float) -> float:
        """Return in how many seconds to look again."""
        seconds = _LONGEST_LOOK_SECONDS
        if self._most_seconds:
            seconds = min(seconds, self._begun_at + self._most_seconds - now)
        if self._most_requests:
            rate = (request_count - self._last_count) / max(now - self._last_at, 1e-3)
            # Half of the way, since the rate may grow; and soon, while no rate is known.
            seconds = min(seconds, (self._most_requests - request_count) / rate / 2 if rate else 0.1)
        self._last_count, self._last_at = request_count, now
        return max(_SHORTEST_LOOK_SECONDS, seconds)


def resident_size() -> int:
    """Return the memory that this process holds, in bytes; 0 where that cannot be told, be it now or here."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ValueError):
        pass  # not Linux
    except OSError:
        return 0  # no descriptor is left: the next look may have one
    try:
        import resource
    except ImportError:
        return 0
    # The most that it ever held, which is what is left to ask for.
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
