"""The log of a process that serves: each record of the ``aiowsgi`` loggers goes to standard error, as text or JSON.

A dedicated thread writes them: a thread that logs, above all the event loop's, never waits for a pipe that nobody
reads.

Thread: the main thread, before serving; :class:`WriterHandler` any.

Source: :mod:`logging.config`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import logging.config
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiowsgi.bridge.log_writer import LogFile, LogWriter
from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.process.log_format import JSONFormatter, LineFormatter

__all__ = [
    "LOGGERS",
    "WriterHandler",
    "configure_logging",
    "configure_logs",
    "flush_logs",
    "load_log_config",
    "log_files_untouched",
]

LOGGERS = ("aiowsgi", "aiowsgi.error", "aiowsgi.access", "aiowsgi.supervisor")

# Time that standard error has to take the last lines.
_FLUSH_SECONDS = 1.0


class WriterHandler(logging.Handler):
    """Hands lines to a :class:`~aiowsgi.bridge.log_writer.LogWriter`.

    Args:
        writer: of a file or of standard error.
    """

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        try:
            line = self.format(record) + "\n"
            self._writer.put([line], len(line))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait a moment for what has been logged to be written."""
        self._writer.flush(_FLUSH_SECONDS)


def configure_logs(config: Config) -> Config:
    """Set up the logs of a process that only serves; to be called once the application is imported.

    Returns:
        The configuration, with a file for the access log if that is on and nothing else says where it goes.

    Raises:
        ConfigError: as :func:`load_log_config`.
    """
    configured = load_log_config(config)
    configure_logging(config.log_level, config.log_format, keep_root=configured)
    if config.access_log and config.access_logfile is None and not logging.getLogger("aiowsgi.access").handlers:
        return dataclasses.replace(config, access_logfile="-")
    return config


def configure_logging(level: str, log_format: str = "text", *, keep_root: bool = False) -> None:
    """Send this package's records to standard error, unless the application has said where they go.

    To be called once the application is imported: ``logging.config`` silences every logger that exists before
    it, and an application that gives ``aiowsgi`` or ``aiowsgi.error`` a handler keeps it.

    Args:
        level: the least severe level that is logged, as ``Config.log_level`` spells it.
        log_format: ``"text"`` or ``"json"``.
        keep_root: the root logger's handlers decide where records go, and its configuration which of them; see
            :func:`load_log_config`.
    """
    for name in LOGGERS:
        logging.getLogger(name).disabled = False
    top = logging.getLogger("aiowsgi")
    if not keep_root or top.level == logging.NOTSET:
        top.setLevel(level.upper())
    if top.handlers or logging.getLogger("aiowsgi.error").handlers or (keep_root and top.hasHandlers()):
        return
    handler = _standard_error_handler()
    handler.setFormatter(JSONFormatter() if log_format == "json" else LineFormatter())
    top.addHandler(handler)
    top.propagate = False


def _standard_error_handler() -> logging.Handler:
    try:
        fd = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file
        return logging.StreamHandler(sys.stderr)
    return WriterHandler(LogWriter(LogFile(fd=fd)))


def flush_logs() -> None:
    """Wait a moment for what has been logged to be written: the process is about to end."""
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.flush()


def load_log_config(config: Config) -> bool:
    """Configure logging from the file that ``--log-config`` names; return whether it names one.

    TOML and JSON hold a dictionary of :func:`logging.config.dictConfig`, in which ``version`` may be left out and
    ``disable_existing_loggers`` is false unless it says otherwise. Any other file is read as ini.

    Raises:
        ConfigError: the file cannot be read, or what it says cannot be done.
    """
    if config.log_config is None:
        return False
    path = Path(config.log_config)
    try:
        if path.suffix in (".toml", ".json"):
            text = path.read_text("utf-8")
            settings: dict[str, Any] = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings})
        else:
            path.stat()  # before Python 3.12 a missing file is read as an empty one
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except Exception as error:  # whatever a handler's class raises
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigError([f"log_config={config.log_config}: {type(error).__name__}: {error}{cause}"]) from error
    return True


@contextlib.contextmanager
def log_files_untouched() -> Iterator[None]:
    """Have :mod:`logging`'s handlers check that they could open their files, without creating or changing any."""
    # The one method with which all of them open files, including classes that a configuration derives from them.
    original = logging.FileHandler._open
    logging.FileHandler._open = _open_nothing  # type: ignore[method-assign,assignment]  # a method for a moment
    try:
        yield
    finally:
        logging.FileHandler._open = original  # type: ignore[method-assign]


def _open_nothing(handler: logging.FileHandler) -> io.TextIOWrapper:
    LogFile.check(handler.baseFilename)
    return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
