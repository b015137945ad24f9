"""The log of a process that serves: records of the ``aiowsgi`` loggers go to standard error, one line each.

Thread: the main thread, before serving.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["configure_logging"]

LOGGERS = ("aiowsgi", "aiowsgi.error", "aiowsgi.access")
FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S %z"


def configure_logging(level: str) -> None:
    """Send this package's records to standard error, unless the application has said where they go.

    To be called once the application is imported: ``logging.config`` silences every logger that exists before
    it, and an application that gives ``aiowsgi`` or ``aiowsgi.error`` a handler keeps it.

    Args:
        level: the least severe level that is logged, as ``Config.log_level`` spells it.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.disabled = False
    top, error, _ = loggers
    top.setLevel(level.upper())
    if not top.handlers and not error.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
        top.addHandler(handler)
        top.propagate = False
