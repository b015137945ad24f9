"""What every thread does right now: its stack, and the request that it serves.

Which thread serves which exchange is read off the stacks themselves, where the exchange is the ``self`` of its
:meth:`~aiowsgi.server.exchange.Exchange.run`, so that requests pay nothing for it.

Thread: any; also a signal handler of a thread that is stuck.
"""

from __future__ import annotations

import json
import traceback
from types import FrameType

from aiowsgi.bridge.threads import own_thread_id, thread_frames, thread_names
from aiowsgi.server.engine import Engine
from aiowsgi.server.exchange import Exchange

__all__ = ["describe_request", "exchange_of", "shortened", "stack_of", "stack_report"]

# How many frames of a thread are shown, the innermost ones. Arbitrary; a runaway recursion has a thousand.
_MOST_FRAMES = 100
_RUN = Exchange.run.__code__


def exchange_of(frame: FrameType | None) -> Exchange | None:
    """Return the exchange that a stack, given by its innermost frame, is running."""
    while frame is not None:
        if frame.f_code is _RUN:
            exchange = frame.f_locals.get("self")
            return exchange if isinstance(exchange, Exchange) else None
        frame = frame.f_back
    return None


def describe_request(engine: Engine, exchange: Exchange) -> str:
    """Name a request: id, method, target, age, phase."""
    head = exchange.head
    age = engine.clock() - exchange.submitted_at
    # repr(): the target is the client's, and may hold what breaks a line.
    return f"request {exchange.identify()} {head.method} {head.target!r}, {age:.1f} s old, {exchange.phase}"


def stack_of(frame: FrameType) -> str:
    """Return a stack as a traceback shows it, the outermost call first, without the lines that run every request."""
    frames = []
    each: FrameType | None = frame
    while each is not None and each.f_code is not _RUN:
        frames.append(each)
        each = each.f_back
    shown = frames[:_MOST_FRAMES]
    text = "".join(
        traceback.StackSummary.extract(((f, f.f_lineno) for f in reversed(shown)), lookup_lines=True).format()
    )
    hidden_count = len(frames) - len(shown)
    return (f"  ... {hidden_count} more\n" if hidden_count else "") + text.rstrip("\n")


def stack_report(engine: Engine | None = None, below: FrameType | None = None) -> str:
    """Describe all threads of the process.

    Args:
        engine: whose requests are described.
        below: the frame that a signal interrupted in this thread; frames above it belong to the report itself.
    """
    names = thread_names()
    frames = thread_frames()
    parts = []
    own = own_thread_id()
    for ident, frame in frames.items():
        title = f"thread {names.get(ident, 'unknown')} ({ident})"
        if ident == own:
            if below is None:
                parts.append(f"{title}, which writes this")
                continue
            frame = below
        exchange = None if engine is None else exchange_of(frame)
        if engine is not None and exchange is not None:
            title += f": {describe_request(engine, exchange)}"
        parts.append(f"{title}\n{stack_of(frame)}")
    return "\n".join(parts)


def shortened(text: str, most_size: int) -> str:
    """Return a report of a bounded size, with a word of what is missing.

    Args:
        text: the report.
        most_size: bytes that it may have as JSON, nearly.
    """
    size = len(json.dumps(text))
    if size <= most_size:
        return text
    shown_count = len(text) * most_size // size
    return f"{text[:shown_count]}\n... {len(text) - shown_count} more characters: SIGUSR1 has all of it logged"
