"""The titles that ``ps`` and ``top`` show for the processes.

Thread: the main thread.
"""

from __future__ import annotations

import logging

__all__ = ["set_title"]

_logger = logging.getLogger("aiowsgi.supervisor")


def set_title(role: str, name: str | None, default_name: str) -> None:
    """Set this process's title, where the setproctitle package is installed.

    Args:
        role: what the process does: ``"worker 3"``.
        name: the configured name.
        default_name: used if there is none.
    """
    try:
        from setproctitle import setproctitle  # type: ignore[import-not-found,unused-ignore]  # an extra
    except ImportError:
        if name is not None and role == "supervisor":
            _logger.warning("name=%s: is not shown, the setproctitle package is not installed", name)
        return
    setproctitle(f"aiowsgi: {role} [{name or default_name}]")
