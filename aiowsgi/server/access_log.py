"""The access log: one line for each request that has ended, refused ones too.

Lines are made by the loop, collected there for a moment, and written by a thread of their own
(:mod:`aiowsgi.bridge.log_writer`): a request pays for its line, not for a system call. Where a program has handlers of
its own for ``aiowsgi.access``, they get a :class:`logging.LogRecord` instead, with the fields of the JSON format as
attributes.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiowsgi.bridge.log_writer import LogFile, LogWriter
from aiowsgi.errors import ConfigError
from aiowsgi.server.access_format import compile_format
from aiowsgi.server.access_json import fields_of, make_json_formatter

if TYPE_CHECKING:
    from aiowsgi.config import Config
    from aiowsgi.server.observed import ObservedExchange

__all__ = ["AccessLog", "check_access_log"]

_access_logger = logging.getLogger("aiowsgi.access")
_logger = logging.getLogger("aiowsgi.error")

# Lines go to the writer this long after the first of them, or once they are this large. Arbitrary: nobody who follows
# the log notices, and at 20,000 requests a second two thousand of them share a wake-up of the writer.
_COLLECT_SECONDS = 0.1
_COLLECT_SIZE = 64 * 1024
# How long the file has to take the last lines.
_CLOSE_SECONDS = 1.0

_STANDARD_OUTPUT = 1


class AccessLog:
    """Formats a line for each request, and has it written.

    Args:
        config: ``access_logfile``, ``access_logformat`` and ``log_format`` are read.
        loop: of the server.

    Raises:
        ConfigError: the format cannot be understood.
        OSError: the file cannot be opened.
    """

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        try:
            compiled = compile_format(config.access_logformat)
        except ValueError as error:
            raise ConfigError([f"access_logformat={config.access_logformat}: {error}"]) from error
        #: A line reads variables of environ.
        self.reads_environ = compiled.reads_environ
        self._make_text = compiled.make_line
        self._make_line = make_json_formatter() if config.log_format == "json" else compiled.make_line
        self._lines: list[str] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self._writer: LogWriter | None = None
        if config.access_logfile is not None and not _access_logger.handlers:
            self._writer = LogWriter(_open(config.access_logfile))
        #: Takes an exchange that has ended.
        self.take = self._collect if self._writer is not None else self._emit

    def _collect(self, x: ObservedExchange) -> None:
        try:
            line = self._make_line(x)
        except Exception:
            self._fail()
            return
        self._lines.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = self._loop.call_later(_COLLECT_SECONDS, self._hand_over)
        elif self._size > _COLLECT_SIZE:
            self._timer.cancel()
            self._hand_over()

    def _hand_over(self) -> None:
        lines, self._lines = self._lines, []
        size, self._size = self._size, 0
        self._timer = None
        if lines and self._writer is not None:
            self._writer.put(lines, size)

    def _emit(self, x: ObservedExchange) -> None:
        """Give the program's own handlers a record."""
        if not _access_logger.isEnabledFor(logging.INFO):
            return
        try:
            message = self._make_text(x)[:-1]
            name = _access_logger.name
            record = _access_logger.makeRecord(name, logging.INFO, "", 0, message, (), None, extra=fields_of(x))
            _access_logger.handle(record)
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """An access log that fails costs no answer; the failure is logged once."""
        if not self._failed:
            self._failed = True
            with contextlib.suppress(Exception):
                _logger.exception("the access log fails")

    def close(self) -> None:
        """Write what is left, within a moment. The loop waits for that, as it is about to end."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        if self._writer is not None and not self._writer.close(_CLOSE_SECONDS):
            with contextlib.suppress(Exception):
                _logger.warning("the last lines of the access log were not written in %g s", _CLOSE_SECONDS)


def check_access_log(config: Config) -> Config:
    """Check that the access log's file can be opened, without creating it.

    Returns:
        A configuration with which the server does not open it either.

    Raises:
        OSError: it could not.
    """
    path = config.access_logfile
    if path is None or path == "-" or _access_logger.handlers:
        return config
    with _named(path):
        LogFile.check(path)
    return dataclasses.replace(config, access_logfile="-")


def _open(path: str) -> LogFile:
    if path == "-":
        return LogFile(fd=_STANDARD_OUTPUT)
    with _named(path):
        return LogFile(path)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot open the access log {path}: {error.strerror}") from error
