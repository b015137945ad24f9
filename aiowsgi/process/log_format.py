"""How records of this package look: a line for people, or an object of JSON.

Messages contain what clients sent, and what applications say about it. Neither can fake a record: control characters
are escaped, and all lines but a record's first are indented.

Thread: any.

Source: https://opentelemetry.io/docs/specs/semconv/exceptions/; https://opentelemetry.io/docs/specs/otel/logs/data-model/.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

__all__ = ["JSONFormatter", "LineFormatter"]

FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S %z"

# Control characters of ASCII and Latin-1, Unicode's line ends, its marks that change text direction, and surrogates.
_HARMFUL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_INDENT = "    "


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class LineFormatter(logging.Formatter):
    """One line for a record, and an indented one for each further line of its message and its traceback."""

    def __init__(self) -> None:
        super().__init__(FORMAT, DATE_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own
        """See :class:`logging.Formatter`."""
        first, *others = super().formatMessage(record).split("\n")
        # A line that begins with a space is indented already.
        others = [line if line.startswith(" ") else _INDENT + line for line in others]
        return "\n".join(_HARMFUL.sub(_escaped, line) for line in (first, *others))

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802 - logging's own
        """See :class:`logging.Formatter`."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's own
        """See :class:`logging.Formatter`."""
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(_INDENT + _HARMFUL.sub(_escaped, line) for line in text.split("\n"))


class JSONFormatter(logging.Formatter):
    """One ASCII JSON object for each record, with OpenTelemetry's names; ``extra`` fields keep theirs."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        time = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "timestamp": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "severity_text": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process.pid": record.process,
            "thread.name": record.threadName,
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception.type"] = record.exc_info[0].__qualname__
            fields["exception.message"] = str(record.exc_info[1])
            fields["exception.stacktrace"] = self.formatException(record.exc_info)
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in fields}
        return json.dumps(fields, default=str)


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
