"""Unknown names, and what may have been meant.

Thread: any.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, candidates: Iterable[str], *, prefix: str = "", likeness: float = 0.6) -> str:
    """A clause that proposes the name that is most like the given one, or nothing.

    Args:
        name: what was given.
        candidates: what there is.
        prefix: comes before each of the names, and does not count as likeness.
        likeness: the least of a name that is proposed, from 0 to 1; that of :mod:`difflib` by default.
    """
    matches = difflib.get_close_matches(name, candidates, n=1, cutoff=likeness)
    return f"; did you mean {prefix + matches[0]!r}?" if matches else ""
