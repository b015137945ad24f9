"""Calls from so deep in a recursion that they, or what they call, meet its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["MARGINS", "near_the_limit"]

#: Of calls that are left; more than what is tested here needs.
MARGINS = range(30)


def near_the_limit(margin: int, function: Callable[[], Any]) -> Any:
    """Call a function where so many calls are left before the interpreter's limit, or one or two fewer."""
    return _deep(_depth_left() - margin, function)


def _depth_left() -> int:
    def go(depth: int) -> int:
        try:
            return go(depth + 1)
        except RecursionError:
            return depth

    return go(0)


def _deep(depth: int, function: Callable[[], Any]) -> Any:
    return _deep(depth - 1, function) if depth > 0 else function()
