"""Request heads read by h11, the parser that every installation has.

An ``h11.Connection`` is made for each head and dropped with it. Keeping one for the connection's life would take 2 KB
for every idle connection, and it would have to be given each response, which our own code serialises.

Thread: event loop.

Source: https://h11.readthedocs.io/; RFC 9112 section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import h11

from aiowsgi.http.parsers import NOT_CONTROL, FieldLine, HeadSyntaxError

__all__ = ["H11HeadParser"]


class H11HeadParser:
    """A :class:`~aiowsgi.http.parsers.HeadParser` on h11."""

    __slots__ = ()

    name = "h11"

    def parse_plain(self, head: bytes, line_count: int) -> Mapping[bytes, bytes]:
        """See :meth:`HeadParser.parse_plain`."""
        # h11 accepts most control characters, and a bare LF as a line end.
        controls = head.translate(None, NOT_CONTROL)
        if controls != b"\r\n" * (len(controls) // 2):
            raise HeadSyntaxError("control character or bare line end")
        fields = dict(self.parse(head, line_count))
        if len(fields) != line_count:
            raise HeadSyntaxError("not a field for each line")
        return fields

    def parse(self, head: bytes, line_count: int) -> Iterable[FieldLine]:
        """See :meth:`HeadParser.parse`."""
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(head)
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise HeadSyntaxError(str(error)) from error
        if not isinstance(event, h11.Request):
            raise HeadSyntaxError("no request in a whole head")
        return event.headers.raw_items()
