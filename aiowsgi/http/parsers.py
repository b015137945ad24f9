"""The seam between the policy and the parsers of request heads.

A parser is given one whole head that has passed the raw checks of :mod:`aiowsgi.http.policy`, and returns its field
lines. It keeps nothing from one head to the next, so that one object serves every connection of a loop and an idle
connection holds no parser state at all.

It does not read content. h11 accepts a megabyte of chunk extension and whitespace after a chunk size, llhttp other
things; the framing of content is the first line of defence, and one strict reader (:mod:`aiowsgi.http.content`) for
both parsers makes "the same bytes are left unread" true by construction. That reader also hands content over as it
came, where h11 copies it into a ``bytearray``.

Thread: event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

__all__ = ["NOT_CONTROL", "FieldLine", "HeadParser", "HeadSyntaxError", "make_head_parser"]


#: RFC 9112 §3, RFC 9110 §5.5: all bytes but control characters, of which a value may have HTAB.
NOT_CONTROL = bytes(byte for byte in range(256) if byte == 0x09 or (byte >= 0x20 and byte != 0x7F))

#: A name and a value, as they were sent.
FieldLine = tuple[bytes, bytes]


class HeadSyntaxError(Exception):
    """A parser refuses the syntax of a head."""


class HeadParser(Protocol):
    """Reads the field lines of one head at a time."""

    #: As ``--http`` spells it.
    name: str

    def parse_plain(self, head: bytes, line_count: int) -> Mapping[bytes, bytes]:
        """Return the fields of a whole head that is, as far as is known, a usual one, and refuse anything doubtful.

        Args:
            head: its bytes; the rules on raw bytes have not been applied, but no value ends with whitespace. Nor is it
                certain that it is one head: others may follow it.
            line_count: how many field lines it has, if it is one.

        Returns:
            Values by name, in order, to be read before the next call: as many as there are lines. No value has a
            control character but HTAB, and every line ends with CRLF.

        Raises:
            HeadSyntaxError: the head is to be read by :meth:`parse`, after the rules have been applied.
        """
        ...

    def parse(self, head: bytes, line_count: int) -> Iterable[FieldLine]:
        """Return the (name, value) pairs of a whole head, in order; values may end with whitespace.

        Args:
            head: its bytes.
            line_count: how many field lines it has.

        Returns:
            The pairs, to be read before the next call.

        Raises:
            HeadSyntaxError: a line is not a field line.
        """
        ...


def make_head_parser(choice: str) -> HeadParser:
    """Return the parser that ``--http`` names.

    Raises:
        ImportError: ``httptools`` was asked for and is not installed.
    """
    if choice in ("auto", "httptools"):
        try:
            from aiowsgi.http.llhttp import LlhttpHeadParser
        except ImportError:
            if choice == "httptools":
                raise
        else:
            return LlhttpHeadParser()
    from aiowsgi.http.h11 import H11HeadParser

    return H11HeadParser()
