"""One event of a channel, and how ``text/event-stream`` writes it.

Thread: any.

Source: HTML Living Standard, section 9.2 "Server-sent events", for the form of :meth:`Event.frame`.
"""

from __future__ import annotations

import re
from typing import Self

__all__ = ["RESET", "Event", "is_event_name"]

#: The name of the event that says: events are missing, fetch what you know again.
RESET = "reset"

_LINE_END = re.compile(rb"\r\n|\r|\n")
# A name with one of these would end its line, or the receiver's text; or, with a surrogate, could not be encoded.
_NOT_IN_A_NAME = re.compile(r"[\r\n\0\ud800-\udfff]")


class Event(bytes):
    """What was sent: its data, with an id and perhaps a name.

    It is ``bytes``, so that a subscription may be parked as it is if only the data is wanted.

    Args:
        data: the event's content.
        id: distinguishes it from all other events of its channel.
        event: what kind of event it is, or ``None``.
    """

    id: str
    event: str | None
    _frame: bytes | None

    def __new__(cls, data: bytes, id: str, event: str | None = None) -> Self:
        """Make an event; only the channel does."""
        self = super().__new__(cls, data)
        self.id = id
        self.event = event
        self._frame = None
        return self

    def __repr__(self) -> str:
        return f"<Event {self.id} {self.event or ''} {bytes(self[:60])!r}>"

    def frame(self) -> bytes:
        """Return the event as ``text/event-stream`` writes it; made once, for all responses. Any thread."""
        if self._frame is None:
            lines = [b"id: %b\n" % self.id.encode()]
            if self.event is not None:
                lines.append(b"event: %b\n" % self.event.encode())
            lines.extend(b"data: %b\n" % line for line in _LINE_END.split(self))
            lines.append(b"\n")
            self._frame = b"".join(lines)
        return self._frame


def is_event_name(name: str) -> bool:
    """Tell whether an event can have that name."""
    return not _NOT_IN_A_NAME.search(name)
