"""The limit of file descriptors, raised as far as the process may.

Each connection takes one. Systems give a soft limit of 1,024 for the sake of programs that use ``select()``, and a hard
one that is meant to be used.

Thread: the main thread, before serving.

Source: getrlimit(2).
"""

from __future__ import annotations

__all__ = ["raise_descriptor_limit"]


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one; keep it where the system refuses or has none."""
    try:
        import resource
    except ImportError:
        return
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    except (OSError, ValueError):  # macOS names a hard limit that it does not grant
        return
