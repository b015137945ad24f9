"""The rules on heads, one by one, with limits small enough to see both sides of each."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import pytest

from aiowsgi.config import Config
from aiowsgi.http import policy
from aiowsgi.http.events import Refusal
from aiowsgi.http.policy import RequestPolicy
from aiowsgi.semantics import RequestHead
from tests.http.reading import Reading, byte_by_byte, new_connection, read_request

PARSERS = ("h11", "httptools")


def head(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"a.example") -> bytes:
    hosts = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([line, *hosts, *lines, b"", b""])


def read(data: bytes, **limits: int) -> Reading:
    """Read a request whole and byte by byte with both parsers; all must agree."""
    readings = {
        read_request(new_connection(parser_name, **limits), pieces)
        for parser_name in PARSERS
        for pieces in ([data], byte_by_byte(data))
    }
    (reading,) = readings
    return reading


def status_of(data: bytes, **limits: int) -> int | None:
    return read(data, **limits).refusal


def accepted(data: bytes) -> RequestHead:
    """Return the head that both parsers make of a request."""
    assert read(data).refusal is None
    (event, *_) = new_connection("h11").receive_data(data)
    assert isinstance(event, RequestHead)
    return event


def variables_of(data: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(accepted(data).variables.items())


# Limits.


def test_request_line_at_the_limit_is_accepted() -> None:
    line = b"GET /" + b"a" * 50 + b" HTTP/1.1"
    assert status_of(head(line=line), limit_request_line=len(line)) is None


def test_request_line_over_the_limit_is_414() -> None:
    line = b"GET /" + b"a" * 60 + b" HTTP/1.1"
    assert status_of(head(line=line), limit_request_line=len(line) - 1) == 414


def test_request_line_after_an_empty_line_at_the_limit_is_accepted() -> None:
    line = b"GET /" + b"a" * 50 + b" HTTP/1.1"
    assert status_of(b"\r\n" + head(line=line), limit_request_line=len(line)) is None


def test_field_line_at_the_limit_is_accepted() -> None:
    assert status_of(head(b"X: " + b"a" * 97), limit_request_field_size=100) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_field_line_over_the_limit_is_431_wherever_it_stands(place: int) -> None:
    lines = [b"A: b", b"C: d"]
    lines.insert(place, b"X: " + b"a" * 98)
    assert status_of(head(*lines), limit_request_field_size=100) == 431


def test_field_count_at_the_limit_is_accepted() -> None:
    assert status_of(head(b"A: b", b"C: d"), limit_request_fields=3) is None


def test_field_count_over_the_limit_is_431() -> None:
    assert status_of(head(b"A: b", b"C: d", b"E: f"), limit_request_fields=3) == 431


def test_head_at_the_limit_is_accepted() -> None:
    data = head(*[b"X: " + b"a" * 50] * 6)
    assert status_of(data, limit_request_head=len(data), limit_request_line=64) is None


def test_head_over_the_limit_is_431() -> None:
    data = head(*[b"X: " + b"a" * 50] * 6)
    assert status_of(data, limit_request_head=len(data) - 1, limit_request_line=64) == 431


def test_head_over_limit_in_one_read_is_431() -> None:
    data = head(*[b"X: " + b"a" * 5000] * 20)
    assert read_request(new_connection("h11"), [data]).refusal == 431
    assert read_request(new_connection("httptools"), [data]).refusal == 431


def test_content_length_at_the_limit_is_accepted() -> None:
    assert status_of(head(b"Content-Length: 10") + b"x" * 10, limit_request_body=10) is None


def test_content_length_over_the_limit_is_413_before_its_content() -> None:
    assert status_of(head(b"Content-Length: 11"), limit_request_body=10) == 413


def test_chunked_content_over_the_limit_is_413() -> None:
    assert status_of(head(b"Transfer-Encoding: chunked") + b"b\r\n", limit_request_body=10) == 413


def test_limit_of_no_content_accepts_requests_without_any() -> None:
    assert status_of(head(), limit_request_body=0) is None
    assert status_of(head(b"Content-Length: 0"), limit_request_body=0) is None
    assert status_of(head(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", limit_request_body=0) is None
    assert status_of(head(b"Content-Length: 1") + b"x", limit_request_body=0) == 413
    assert status_of(head(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n", limit_request_body=0) == 413


def _bytes_taken(data: bytes, **limits: int) -> tuple[int, int]:
    """Return how many bytes are taken one by one before the refusal, and its status."""
    connection = new_connection("h11", **limits)
    for count, byte in enumerate(byte_by_byte(data), 1):
        for event in connection.receive_data(byte):
            assert isinstance(event, Refusal)
            return count, event.status_code
    raise AssertionError("never refused")


@pytest.mark.parametrize(
    ("data", "limits", "taken", "status"),
    [
        (b"G" * 9000, {"limit_request_line": 100}, 101, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000, {"limit_request_field_size": 100}, 117, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 900, {"limit_request_head": 256, "limit_request_line": 64}, 257, 431),
        (b"GET / HTTP/2.0\r\nX: y\r\n", {}, 16, 505),
        (b"CONNECT a:1 HTTP/1.1\r\nX: y\r\n", {}, 22, 501),
        (b"GET /\r\nX: y\r\n", {}, 7, 400),
        (b"\x16\x03\x01\x00", {}, 1, 400),
        (b"GET /\x00", {}, 6, 400),
        (b"GET / HTTP/1.1\r\nX: y\n", {}, 21, 400),
        (b"GET / HTTP/1.1\nX: y", {}, 15, 400),
        (b"GET / HTTP/1.1\rX: y", {}, 16, 400),
        (b"GET / HTTP/1.1\r\nX: y\r\r\n", {}, 22, 400),
    ],
)
def test_head_that_cannot_become_acceptable_is_refused_without_waiting_for_its_end(
    data: bytes, limits: dict[str, int], taken: int, status: int
) -> None:
    assert _bytes_taken(data, **limits) == (taken, status)


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"X"])
def test_field_values_full_of_blanks_are_read_in_linear_time(name: bytes) -> None:
    # A pattern with blanks on both sides of a lazy value took 1.6 seconds of the event loop for this head.
    data = head(*[name + b": 1" + b" \t" * 4000 + b"1"] * 7)
    policy = RequestPolicy(Config())
    start = time.process_time()
    with contextlib.suppress(Refusal):
        policy.check_head(data)
    assert time.process_time() - start < 0.3


FRAMING_LINES = [
    *(
        b"Content-Length: " + value
        for value in (b"+5", b"-5", b"0x5", b"5_0", b"5,5", b"5 5", b"", b"5;", b"\xb2", b"5\xa0")
    ),
    *(b"Transfer-Encoding: " + value for value in (b"", b"xchunked", b"chunked, chunked", b"identity", b"chunked;")),
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"X: y\r\n folded",
    b"Host: a.example",
]


@pytest.mark.parametrize("line", FRAMING_LINES)
def test_framing_is_refused_by_the_policy_before_any_parser_can_repair_it(line: bytes) -> None:
    with pytest.raises(Refusal, match=r"40\d|501"):
        RequestPolicy(Config()).check_head(head(line))


# Bytes.

CONTROLS = [byte for byte in range(0x20) if byte not in b"\t\r\n"] + [0x7F]


@pytest.mark.parametrize(
    "template",
    [
        b"@GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G@ET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET@/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /@ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1@\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n@Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHo@st: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost@: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a@\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: @\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n@\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n@\r\n",
    ],
)
def test_control_character_anywhere_in_a_head_is_400(template: bytes) -> None:
    for byte in [*CONTROLS, 0x0A, 0x0D]:
        # Three, because one CR before a LF, or two LF, could be a line end.
        data = template.replace(b"@", bytes([byte]) * 3)
        assert status_of(data) == 400, byte


def test_names_that_nobody_uses_are_not_remembered_without_bound() -> None:
    for number in range(1000):
        assert variables_of(head(b"X-%d: a" % number)) == (("HTTP_HOST", "a.example"), (f"HTTP_X_{number}", "a"))
        assert len(policy._VARIABLE_NAMES) <= 256


def test_tab_is_allowed_in_field_values_only() -> None:
    assert variables_of(head(b"X: a\tb")) == (("HTTP_HOST", "a.example"), ("HTTP_X", "a\tb"))
    for data in (head(b"X\ty: a"), head(line=b"GET\t/ HTTP/1.1"), head(line=b"GET /\ta HTTP/1.1"), b"\t" + head()):
        assert status_of(data) == 400


def test_method_of_any_byte_but_token_characters_is_400() -> None:
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for byte in range(256):
        expected = None if byte in token else 400
        assert status_of(head(line=b"A" + bytes([byte]) + b"B / HTTP/1.1")) == expected, byte


def test_field_name_of_any_byte_but_token_characters_is_400() -> None:
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for byte in range(256):
        expected = None if byte in token + b":" else 400  # "A:B: x" is a field named "A"
        assert status_of(head(b"A" + bytes([byte]) + b"B: x")) == expected, byte


def test_target_of_any_byte_but_visible_ascii_is_400() -> None:
    for byte in range(256):
        expected = None if 0x21 <= byte <= 0x7E and byte != 0x23 else 400
        assert status_of(head(line=b"GET /a" + bytes([byte]) + b"b HTTP/1.1")) == expected, byte


def test_host_of_any_byte_but_those_of_a_reg_name_is_400() -> None:
    name = b"!$&'()*+,-.;=_~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for byte in range(256):
        # "a:1" is a port; "a%11" is percent-encoded.
        expected = None if byte in name + b":%" else 400
        assert status_of(head(host=b"a" + bytes([byte]) + b"11")) == expected, byte


# Versions, methods.


def test_version_of_every_two_digits_but_1_0_and_1_1_is_505() -> None:
    for major in range(10):
        for minor in range(10):
            expected = None if (major, minor) in ((1, 0), (1, 1)) else 505
            assert status_of(head(line=f"GET / HTTP/{major}.{minor}".encode())) == expected


def test_method_of_32_characters_is_accepted_and_of_33_is_501() -> None:
    assert status_of(head(line=b"A" * 32 + b" / HTTP/1.1")) is None
    assert status_of(head(line=b"A" * 33 + b" / HTTP/1.1")) == 501


def test_method_case_is_kept() -> None:
    assert accepted(head(line=b"gEt / HTTP/1.1")).method == "gEt"


# Host and target.


def test_host_missing_is_400_in_http_1_1_only() -> None:
    assert status_of(head(host=None)) == 400
    assert status_of(head(host=None, line=b"GET / HTTP/1.0")) is None


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_host_repeated_is_400_in_any_version(version: bytes) -> None:
    assert status_of(head(b"host: a.example", line=b"GET / HTTP/" + version)) == 400


def test_host_in_a_value_or_a_longer_name_is_no_host() -> None:
    assert status_of(head(b"X: y host: b", b"X-Host: b", b"Hosts: c")) is None
    assert status_of(head(b"X-Host: b", b"Hosts: c", host=None)) == 400


def test_absolute_form_replaces_host() -> None:
    data = b"GET http://b.example/x?y=http://c HTTP/1.1\r\nA: 1\r\nHost: a.example\r\nB: 2\r\n\r\n"
    request = accepted(data)
    assert (request.path, request.query, request.target) == ("/x", "y=http://c", "http://b.example/x?y=http://c")
    assert request.variables == {"HTTP_A": "1", "HTTP_HOST": "b.example", "HTTP_B": "2"}


def test_absolute_form_still_needs_a_valid_host_field() -> None:
    line = b"GET http://b.example/ HTTP/1.1"
    assert status_of(head(line=line, host=None)) == 400
    assert status_of(head(line=line, host=b"a b")) == 400


def test_asterisk_form_with_options_only() -> None:
    assert accepted(head(line=b"OPTIONS * HTTP/1.1")).path == "*"
    assert status_of(head(line=b"GET * HTTP/1.1")) == 400


# Fields.


def test_field_with_underscore_never_takes_the_place_of_its_twin() -> None:
    data = head(b"X_Forwarded_For: evil", b"X-Forwarded-For: good", b"X-Forwarded_For: evil")
    assert variables_of(data) == (("HTTP_HOST", "a.example"), ("HTTP_X_FORWARDED_FOR", "good"))


def test_host_with_underscore_is_no_host() -> None:
    assert status_of(head(b"Ho_st: a", host=None)) == 400


def test_connection_with_underscore_does_not_close() -> None:
    assert accepted(head(b"Connection_: close")).persistent is True


@pytest.mark.parametrize("again", [b"x", b"X"])
def test_repeated_fields_are_joined_in_order(again: bytes) -> None:
    # RFC 9110 §5.3; RFC 6265 §5.4. Names in the same case take another way through llhttp than those in different ones.
    data = head(b"Cookie: a=1", b"X: 1", b"cookie: b=2", again + b": 2")
    assert variables_of(data)[1:] == (("HTTP_COOKIE", "a=1; b=2"), ("HTTP_X", "1, 2"))


def test_transfer_encoding_is_not_passed_on() -> None:
    data = head(b"Transfer-Encoding: chunked", b"X: y") + b"0\r\n\r\n"
    assert variables_of(data) == (("HTTP_HOST", "a.example"), ("HTTP_X", "y"))


@pytest.mark.parametrize(
    ("line", "lines", "content_length", "expected"),
    [
        (b"POST / HTTP/1.1", [b"Content-Length: 1"], b"x", True),
        (b"POST / HTTP/1.1", [b"Transfer-Encoding: chunked"], b"0\r\n\r\n", True),
        (b"POST / HTTP/1.1", [b"Content-Length: 0"], b"", False),
        (b"GET / HTTP/1.1", [], b"", False),
        (b"POST / HTTP/1.0", [b"Content-Length: 1"], b"x", False),
    ],
)
def test_expect_100_continue_waits_only_where_content_is_to_come_in_http_1_1(
    line: bytes, lines: list[bytes], content_length: bytes, expected: bool
) -> None:
    data = head(*lines, b"Expect: 100-continue", line=line) + content_length
    assert accepted(data).expect_continue is expected


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_expect_anything_else_is_417(version: bytes) -> None:
    assert status_of(head(b"Expect: the unexpected", line=b"GET / HTTP/" + version)) == 417


# Precedence, where it matters to a client or an attacker.


def test_content_length_and_transfer_encoding_together_are_400_whatever_either_says() -> None:
    for coding in (b"chunked", b"gzip", b"identity", b"", b"chunked, chunked"):
        for length in (b"5", b"", b"-1", str(2**70).encode()):
            data = head(b"Content-Length: " + length, b"Transfer-Encoding: " + coding)
            assert status_of(data) == 400
            assert status_of(head(b"Transfer-Encoding: " + coding, b"Content-Length: " + length)) == 400


def test_unacceptable_framing_wins_over_an_expectation() -> None:
    assert status_of(head(b"Expect: 100-continue", b"Content-Length: 2000000000")) == 413
    assert status_of(head(b"Expect: x", b"Content-Length: 5", b"Transfer-Encoding: chunked")) == 400


def test_refusal_detail_repeats_nothing_of_the_request() -> None:
    for data in (head(b"X secret-word"), head(host=b"secret word"), head(b"Expect: secret"), head(line=b"secret")):
        (refusal,) = new_connection("httptools").receive_data(data)
        assert isinstance(refusal, Refusal)
        assert "secret" not in refusal.detail


def test_long_names_and_hosts_of_a_thousand_requests_are_not_all_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(1_000):
            data = head(b"%dx" % number + 7_000 * b"y" + b": 1", host=b"%dx" % number + 7_000 * b"y")
            (request, _) = new_connection("httptools").receive_data(data)
            assert isinstance(request, RequestHead)
        kept_size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_size < 8 * 1024 * 1024
