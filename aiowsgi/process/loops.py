"""The event loop of a process that serves.

Thread: the main thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiowsgi.errors import StartupError

__all__ = ["LoopFactory", "choose_loop"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def choose_loop(name: str) -> tuple[str, LoopFactory]:
    """The name and the factory of the event loop; no policy is involved."""
    if name == "asyncio":
        return name, asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if name == "uvloop":
            raise StartupError(f"loop=uvloop: uvloop cannot be imported ({error})") from error
        return "asyncio", asyncio.new_event_loop
    return "uvloop", uvloop.new_event_loop
