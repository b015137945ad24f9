"""Request heads read by llhttp, Node.js's parser, through the ``httptools`` extra.

One llhttp parser reads head after head as long as each is a complete message. A head that announces content or an
upgrade leaves the parser in the middle of a message, and one that ends the connection leaves it closed; a new parser
then takes its place.

llhttp refuses heads that RFC 9110 and the policy allow: methods outside its list (section 9.1 leaves it open), RTSP's
methods with an HTTP version, a tab after ``chunked``. What it refuses is given to h11, which decides, so that both
parsers serve the same requests. What it should refuse and does not, the policy has already refused.

Thread: event loop.

Source: https://github.com/MagicStack/httptools; https://github.com/nodejs/llhttp; RFC 9112 section 5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import httptools

from aiowsgi.http.h11 import H11HeadParser
from aiowsgi.http.parsers import FieldLine, HeadSyntaxError

__all__ = ["LlhttpHeadParser"]


class LlhttpHeadParser:
    """A :class:`~aiowsgi.http.parsers.HeadParser` on llhttp."""

    __slots__ = ("_fields", "_other", "_outstanding", "_parser", "on_header", "on_message_complete")

    name = "httptools"

    def __init__(self) -> None:
        self._other = H11HeadParser()
        self._fields: dict[bytes, bytes] = {}
        # Not empty from the beginning of a head until llhttp has come to the end of its message.
        self._outstanding: list[None] = []
        # llhttp calls these for every field and at the end of the message. As methods of the containers themselves they
        # need no Python frame: 0.2 µs less for a browser's ten fields.
        self.on_header = self._fields.setdefault
        self.on_message_complete = self._outstanding.clear
        self._parser = httptools.HttpRequestParser(self)

    def parse_plain(self, head: bytes, line_count: int) -> Mapping[bytes, bytes]:
        """See :meth:`HeadParser.parse_plain`."""
        # An earlier message, on another connection, may have ended that and so left the parser closed.
        if not self._feed(head) and not self._feed(head):
            raise HeadSyntaxError("refused by llhttp")
        if len(self._fields) != line_count:
            # Perhaps a message and a part of the next: llhttp is then in the middle of that.
            self._parser = httptools.HttpRequestParser(self)
            raise HeadSyntaxError("not a field for each line")
        return self._fields

    def parse(self, head: bytes, line_count: int) -> Iterable[FieldLine]:
        """See :meth:`HeadParser.parse`."""
        if not self._feed(head) and not self._feed(head):  # as above
            return self._other.parse(head, line_count)
        if len(self._fields) != line_count:
            return _parse_repeated(head)
        return self._fields.items()

    def _feed(self, head: bytes) -> bool:
        """Have llhttp read a head; return whether it has accepted it."""
        self._fields.clear()
        self._outstanding.append(None)
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self._parser = httptools.HttpRequestParser(self)
            return False
        else:
            if not self._outstanding:
                return True
        self._parser = httptools.HttpRequestParser(self)
        return True


class _FieldLines(list[FieldLine]):
    """All field lines, including those that repeat a name."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field line; llhttp calls this."""
        self.append((name, value))


def _parse_repeated(head: bytes) -> list[FieldLine]:
    """Parse a head that llhttp accepts, and in which a name is repeated."""
    field_lines = _FieldLines()
    with contextlib.suppress(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(field_lines).feed_data(head)
    return field_lines
