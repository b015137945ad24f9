"""Request heads read by llhttp, Node.js's parser, through the ``httptools`` extra.

One llhttp parser reads head after head as long as each is a message by itself; a head that announces content, an
upgrade or the end of the connection leaves it in the middle of something, and a new one takes its place.

llhttp refuses heads that RFC 9110 and the policy allow: methods outside its list (section 9.1 leaves it open), RTSP's
methods with an HTTP version, a tab after ``chunked``. What it refuses is given to h11, whose word counts, so that both
parsers serve the same requests. What it accepts too much of, the policy has refused before.

Thread: event loop.

Source: https://github.com/MagicStack/httptools; https://github.com/nodejs/llhttp; RFC 9112 section 5.
"""

from __future__ import annotations

import httptools

from aiowsgi.http.h11 import H11HeadParser
from aiowsgi.http.policy import FieldLine

__all__ = ["LlhttpHeadParser"]


class LlhttpHeadParser:
    """A :class:`~aiowsgi.http.parsers.HeadParser` on llhttp."""

    __slots__ = ("_field_lines", "_other", "_parser", "_reusable")

    name = "httptools"

    def __init__(self) -> None:
        self._other = H11HeadParser()
        self._field_lines: list[FieldLine] = []
        self._reusable = False
        self._parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field line; llhttp calls this."""
        self._field_lines.append((name, value))

    def on_message_complete(self) -> None:
        """The head was a whole message; llhttp calls this."""
        # Asked now: afterwards llhttp has dropped the flags that the answer comes from, and says yes even after
        # "Connection: close", yet takes no byte more.
        self._reusable = self._parser.should_keep_alive()

    def parse(self, head: bytes) -> list[FieldLine]:
        """See :meth:`HeadParser.parse`."""
        self._field_lines = []
        self._reusable = False
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._reusable = False
        except httptools.HttpParserError:
            self._parser = httptools.HttpRequestParser(self)
            return self._other.parse(head)
        if not self._reusable:
            self._parser = httptools.HttpRequestParser(self)
        # RFC 9112 §5.1: the whitespace after a value is not part of it; llhttp drops only what stands before it.
        # Searching backwards takes half the time of searching forwards; a tab is rare wherever it stands.
        if head.rfind(b" \r") >= 0 or b"\t" in head:
            return [(name, value.rstrip(b" \t")) for name, value in self._field_lines]
        return self._field_lines
