"""Request heads read by llhttp, Node.js's parser, through the ``httptools`` extra.

One llhttp parser reads head after head as long as each is a message by itself; a head that announces content, an
upgrade or the end of the connection leaves it in the middle of something, and a new one takes its place.

llhttp knows a fixed list of methods where RFC 9110 section 9.1 leaves it open; a head with another method is given to
h11, so that both parsers serve the same requests.

Thread: event loop.

Source: https://github.com/MagicStack/httptools; https://github.com/nodejs/llhttp; RFC 9112 section 5.
"""

from __future__ import annotations

import httptools

from aiowsgi.http.h11 import H11HeadParser
from aiowsgi.http.parsers import HeadSyntaxError
from aiowsgi.http.policy import FieldLine

__all__ = ["LlhttpHeadParser"]


class LlhttpHeadParser:
    """A :class:`~aiowsgi.http.parsers.HeadParser` on llhttp."""

    __slots__ = ("_complete", "_field_lines", "_other", "_parser")

    name = "httptools"

    def __init__(self) -> None:
        self._other = H11HeadParser()
        self._field_lines: list[FieldLine] = []
        self._complete = False
        self._parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field line; llhttp calls this."""
        self._field_lines.append((name, value))

    def on_message_complete(self) -> None:
        """The head was a whole message; llhttp calls this."""
        self._complete = True

    def parse(self, head: bytes) -> list[FieldLine]:
        """See :meth:`HeadParser.parse`."""
        self._field_lines = []
        self._complete = False
        parser = self._parser
        try:
            parser.feed_data(head)
            if not (self._complete and parser.should_keep_alive()):
                self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserUpgrade:
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserInvalidMethodError:
            self._parser = httptools.HttpRequestParser(self)
            return self._other.parse(head)
        except httptools.HttpParserError as error:
            self._parser = httptools.HttpRequestParser(self)
            raise HeadSyntaxError(str(error)) from error
        return self._field_lines
