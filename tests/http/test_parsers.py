"""Both head parsers behind the seam: the same field lines, no memory of earlier heads, known leniencies refused."""

from __future__ import annotations

import sys

import pytest

from aiowsgi.http.h11 import H11HeadParser
from aiowsgi.http.llhttp import LlhttpHeadParser
from aiowsgi.http.parsers import HeadParser, HeadSyntaxError, make_head_parser
from tests.http.reading import Reading, new_connection, read_request

PLAIN_HEAD = b"GET /plain HTTP/1.1\r\nHost: a.example\r\n\r\n"
PLAIN_FIELD_LINES = [(b"Host", b"a.example")]
NEXT_REQUEST = b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"


def head(*lines: bytes, line: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a.example", *lines, b"", b""])


def parse(parser: HeadParser, head: bytes) -> list[tuple[bytes, bytes]]:
    """Parse as the policy does for a head that is not a plain one."""
    field_lines = parser.parse(head, head.count(b"\n") - 2)
    return [(name, value.rstrip(b" \t")) for name, value in field_lines]


def read(parser_name: str, *pieces: bytes) -> Reading:
    return read_request(new_connection(parser_name), pieces)


def test_make_head_parser_h11_is_h11() -> None:
    parser = make_head_parser("h11")
    assert isinstance(parser, H11HeadParser)
    assert parser.name == "h11"


@pytest.mark.parametrize("choice", ["httptools", "auto"])
def test_make_head_parser_with_httptools_installed_is_llhttp(choice: str) -> None:
    parser = make_head_parser(choice)
    assert isinstance(parser, LlhttpHeadParser)
    assert parser.name == "httptools"


@pytest.fixture
def _without_httptools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aiowsgi.http.llhttp")
    monkeypatch.setitem(sys.modules, "httptools", None)


@pytest.mark.usefixtures("_without_httptools")
def test_make_head_parser_auto_without_httptools_is_h11() -> None:
    assert make_head_parser("auto").name == "h11"


@pytest.mark.usefixtures("_without_httptools")
def test_make_head_parser_httptools_without_httptools_raises() -> None:
    with pytest.raises(ImportError):
        make_head_parser("httptools")


@pytest.fixture
def parser(parser_name: str) -> HeadParser:
    return make_head_parser(parser_name)


def test_parse_returns_names_as_sent_and_values_without_blanks(parser: HeadParser) -> None:
    lines = [b"X-Mixed: a", b"UPPER:b", b"lower: \t c \t", b"Empty:", b"Blank:  ", b"Last: d:e"]
    assert parse(parser, head(*lines)) == [
        (b"Host", b"a.example"),
        (b"X-Mixed", b"a"),
        (b"UPPER", b"b"),
        (b"lower", b"c"),
        (b"Empty", b""),
        (b"Blank", b""),
        (b"Last", b"d:e"),
    ]


def test_parse_returns_plain_hashable_bytes(parser: HeadParser) -> None:
    for name, value in parser.parse(head(b"X: a"), 2):
        assert type(name) is bytes
        assert type(value) is bytes


@pytest.mark.parametrize("line", [b"X", b": a", b"X : a", b"X\t: a", b"X Y: a", b"X@: a", b"X\xe9: a", b"(X): a"])
def test_parse_line_that_is_no_field_line_raises(parser: HeadParser, line: bytes) -> None:
    with pytest.raises(HeadSyntaxError):
        parse(parser, head(line))
    assert parse(parser, PLAIN_HEAD) == PLAIN_FIELD_LINES


def test_parse_plain_returns_the_values_by_name(parser: HeadParser) -> None:
    fields = parser.parse_plain(head(b"X-Tab: a\tb", b"Empty:"), 3)
    assert dict(fields) == {b"Host": b"a.example", b"X-Tab": b"a\tb", b"Empty": b""}


@pytest.mark.parametrize("byte", [*(byte for byte in range(0x20) if byte not in b"\t\r"), 0x7F])
@pytest.mark.parametrize("value", [b"@a", b"a@", b"a@b", b"@", b"a: b@c: d"])
def test_parse_plain_control_character_in_a_value_raises(parser: HeadParser, value: bytes, byte: int) -> None:
    with pytest.raises(HeadSyntaxError):
        parser.parse_plain(head(b"X: " + value.replace(b"@", bytes([byte]))), 2)
    assert dict(parser.parse_plain(PLAIN_HEAD, len(PLAIN_FIELD_LINES))) == dict(PLAIN_FIELD_LINES)


@pytest.mark.parametrize(
    "data",
    [
        head(b"X: a", b"X: b"),
        head() + head(b"Content-Length: 1000"),
        head(b"Content-Length: 5") + b"a:b\r\n" + head(b"Content-Length: 1000"),
        head(b"Content-Length: 0") + head(b"Transfer-Encoding: chunked"),
        head() + head(b"Transfer-Encoding: chunked") + b"1000\r\na:\r\n\r\n",
    ],
)
def test_parse_plain_not_a_field_for_each_line_raises_and_keeps_nothing(parser: HeadParser, data: bytes) -> None:
    with pytest.raises(HeadSyntaxError):
        parser.parse_plain(data, data.count(b"\r\n") - 2)
    assert dict(parser.parse_plain(PLAIN_HEAD, len(PLAIN_FIELD_LINES))) == dict(PLAIN_FIELD_LINES)


WS = (b"Connection: Upgrade", b"Upgrade: websocket")


@pytest.mark.parametrize(
    "earlier",
    [
        head(b"Connection: close"),
        head(b"Connection: close", line=b"GET / HTTP/1.1"),
        head(b"Connection: keep-alive, close"),
        head(b"Connection: close", b"Content-Length: 0"),
        head(b"Connection: close", b"Content-Length: 5"),
        head(b"Connection: close", b"Transfer-Encoding: chunked"),
        head(b"Content-Length: 5"),
        head(b"Content-Length: 0"),
        head(b"Transfer-Encoding: chunked"),
        head(*WS),
        head(*WS, b"Content-Length: 5"),
        head(*WS, b"Transfer-Encoding: chunked"),
        head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        head(b"Upgrade: websocket"),
        head(b"Connection: upgrade"),
        head(line=b"GET / HTTP/1.0"),
        head(b"Connection: keep-alive", line=b"GET / HTTP/1.0"),
        head(b"Connection: close", line=b"GET / HTTP/1.0"),
        head(line=b"FOO / HTTP/1.1"),
        head(line=b"PLAY / HTTP/1.1"),
        head(line=b"PRI / HTTP/1.1"),
        head(b"Expect: 100-continue"),
        head(b"Empty:"),
        head(b"bad line"),
        head(b"X : a"),
        head(b"Transfer-Encoding: chunked\t"),
    ],
)
def test_parse_after_any_other_head_is_as_with_a_new_parser(parser: HeadParser, earlier: bytes) -> None:
    # One parser serves every connection of a loop: what one client sends must never show in another's request.
    first = _parsed(parser, earlier)
    for _ in range(3):
        assert parse(parser, PLAIN_HEAD) == PLAIN_FIELD_LINES
    assert _parsed(parser, earlier) == first


def _parsed(parser: HeadParser, head: bytes) -> object:
    try:
        return parse(parser, head)
    except HeadSyntaxError:
        return HeadSyntaxError


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([], True),
        ([b"X: y"], True),
        ([b"Content-Length: 0"], True),
        ([b"Connection: keep-alive"], True),
        ([b"Connection: close"], False),
        ([b"Connection: close", b"Content-Length: 0"], False),
        ([*WS], False),
        ([b"Content-Length: 5"], False),
        ([b"Transfer-Encoding: chunked"], False),
        (WS, False),
        ([b"bad line"], False),
    ],
)
def test_llhttp_object_reads_on_where_a_head_left_it_at_a_beginning(lines: list[bytes], kept: bool) -> None:
    # Making one for each head would cost more than reading the head; one in the middle of something would refuse the
    # next head, and h11 would have to read that.
    parser = LlhttpHeadParser()
    before = parser._parser
    _parsed(parser, head(*lines))
    assert parse(parser, PLAIN_HEAD) == PLAIN_FIELD_LINES
    assert (parser._parser is before) is kept


# Where llhttp forgives, refuses or remembers what RFC 9112 does not. Each is read alike by both parsers.


@pytest.mark.parametrize(
    ("coding", "status"),
    [
        (b"gzip, chunked", 501),
        (b"identity, chunked", 501),
        (b"chunked, identity", 400),
        (b"chunked, chunked", 400),
        (b"xchunked", 501),
        (b"identity", 501),
        (b"", 400),
    ],
)
def test_transfer_encoding_list_is_refused(parser_name: str, coding: bytes, status: int) -> None:
    assert read(parser_name, head(b"Transfer-Encoding: " + coding), b"0\r\n\r\n").refusal == status


def test_transfer_encoding_followed_by_a_tab_is_chunked(parser_name: str) -> None:
    reading = read(parser_name, head(b"Transfer-Encoding: chunked\t"), b"1\r\na\r\n0\r\n\r\n")
    assert reading.complete
    assert reading.content == b"a"


def test_content_length_followed_by_a_tab_is_its_digits(parser_name: str) -> None:
    reading = read(parser_name, head(b"Content-Length: 3\t"), b"abc")
    assert reading.content == b"abc"
    assert reading.head is not None
    assert ("CONTENT_LENGTH", "3") in reading.head[5]


@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t  "])
def test_field_value_followed_by_blanks_ends_before_them(parser_name: str, blanks: bytes) -> None:
    reading = read(parser_name, head(b"X: a b" + blanks, b"Y:" + blanks))
    assert reading.head is not None
    assert reading.head[5] == (("HTTP_HOST", "a.example"), ("HTTP_X", "a b"), ("HTTP_Y", ""))


@pytest.mark.parametrize("name", [b"X ", b"X\t", b"Content-Length ", b"Transfer-Encoding ", b"Host "])
def test_field_name_followed_by_blanks_is_400(parser_name: str, name: bytes) -> None:
    assert read(parser_name, head(name + b": 5"), b"abcde").refusal == 400


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"9.9"])
def test_version_digits_other_than_1_0_and_1_1_are_505(parser_name: str, version: bytes) -> None:
    assert read(parser_name, head(line=b"GET / HTTP/" + version)).refusal == 505


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0", b"x, y/1"])
def test_upgrade_request_is_read_as_any_other(parser_name: str, protocol: bytes) -> None:
    reading = read(parser_name, head(b"Connection: Upgrade", b"Upgrade: " + protocol) + NEXT_REQUEST)
    assert reading.complete
    assert reading.left_over_size == len(NEXT_REQUEST)
    assert reading.head is not None
    assert reading.head[7] is True  # persistent


def test_upgrade_request_with_content_keeps_its_content(parser_name: str) -> None:
    reading = read(parser_name, head(*WS, b"Content-Length: 5") + b"abcde" + NEXT_REQUEST)
    assert reading.content == b"abcde"
    assert reading.left_over_size == len(NEXT_REQUEST)


def test_upgrade_request_with_chunked_content_keeps_its_content(parser_name: str) -> None:
    reading = read(parser_name, head(*WS, b"Transfer-Encoding: chunked") + b"5\r\nabcde\r\n0\r\n\r\n" + NEXT_REQUEST)
    assert reading.content == b"abcde"
    assert reading.left_over_size == len(NEXT_REQUEST)


def test_connection_close_followed_by_data_is_one_complete_request(parser_name: str) -> None:
    reading = read(parser_name, head(b"Connection: close") + NEXT_REQUEST)
    assert reading.complete
    assert reading.refusal is None
    assert reading.left_over_size == len(NEXT_REQUEST)


def test_connection_close_does_not_show_in_another_connection(parser_name: str) -> None:
    assert read(parser_name, head(b"Connection: close")).complete
    assert read(parser_name, PLAIN_HEAD).complete


# llhttp refuses these: methods that it does not know, and RTSP's with an HTTP version.
@pytest.mark.parametrize(
    "method",
    b"FOO get BREW X!#$%&'*+-.^_`|~ GETT PRI DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER "
    b"REDIRECT RECORD FLUSH SOURCE QUERY M-SEARCH".split(),
)
def test_method_unknown_to_a_parser_is_accepted(parser_name: str, method: bytes) -> None:
    reading = read(parser_name, head(b"Content-Length: 2", line=method + b" /a?b HTTP/1.1"), b"cd")
    assert reading.complete
    assert reading.content == b"cd"
    assert reading.head is not None
    assert reading.head[:4] == (method.decode(), "/a?b", "/a", "b")


@pytest.mark.parametrize("method", [b"FOO", b"PLAY"])
def test_method_unknown_to_a_parser_does_not_loosen_the_rules(parser_name: str, method: bytes) -> None:
    for line in (b"X : a", b"X", b": a", b"Transfer-Encoding: gzip, chunked", b"Content-Length: +5"):
        assert read(parser_name, head(line, line=method + b" / HTTP/1.1")).refusal in (400, 501)


def test_field_value_byte_above_127_passes_as_latin_1(parser_name: str) -> None:
    for byte in range(0x80, 0x100):
        reading = read(parser_name, head(b"X: a" + bytes([byte])))
        assert reading.head is not None, byte
        assert reading.head[5][1] == ("HTTP_X", "a" + chr(byte))
