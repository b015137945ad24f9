"""Requests generated from the grammar of RFC 9112 with what each of them means, and ways to spoil them.

Run more of them than the usual suite does: ``FUZZ_EXAMPLES=20000 pytest tests/http/test_differential.py``.
"""

from __future__ import annotations

import os
import string
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

#: The same examples each time, and few, unless more are asked for.
bounded = settings(
    max_examples=_EXAMPLES or 300,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"


class Request(NamedTuple):
    """A valid request: its bytes and what they mean."""

    data: bytes
    method: str
    target: str
    path: str
    query: str
    http_version: str
    variables: tuple[tuple[str, str], ...]
    content_length: int | None
    persistent: bool
    expect_continue: bool
    content: bytes


_KNOWN_METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "PROPFIND",
    "QUERY",
    "PLAY",
    "PRI",
]
_methods = st.one_of(
    st.sampled_from(_KNOWN_METHODS),
    st.text(TOKEN, min_size=1, max_size=32).filter(lambda method: method != "CONNECT"),
)
_path_text = st.text([chr(byte) for byte in range(0x21, 0x7F) if chr(byte) not in "#?"], max_size=20)
_query_text = st.text([chr(byte) for byte in range(0x21, 0x7F) if chr(byte) != "#"], max_size=20)
_hosts = st.one_of(
    st.sampled_from(["a.example", "A.example:8000", "192.0.2.1", "[::1]", "[2001:db8::1]:443", "a_b", "a:"]),
    st.text(string.ascii_letters + string.digits + "-._~!$&'()*+,;=", min_size=1, max_size=12),
)
_blanks = st.text(" \t", max_size=3)
_field_names = st.one_of(
    st.sampled_from(
        ["Cookie", "Accept", "X-User", "X_User", "TE", "Trailer", "Upgrade", "Proxy-Connection", "Keep-Alive"]
    ),
    st.text(TOKEN, min_size=1, max_size=10),
).filter(lambda name: name.lower() not in ("host", "connection", "expect", "content-length", "transfer-encoding"))
_field_values = st.text(
    ["\t", " ", *(chr(byte) for byte in range(0x21, 0x7F)), *(chr(byte) for byte in range(0x80, 0x100))], max_size=20
).map(lambda value: value.strip(" \t"))
_connection_options = st.sampled_from(["close", "Close", "keep-alive", "Keep-Alive", "upgrade", "x", "closed", ""])
_contents = st.one_of(st.binary(max_size=40), st.sampled_from([b"0\r\n\r\n", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"]))
_extensions = st.one_of(st.just(""), st.sampled_from([";a", ";a=b", ' ;a="b"', "\t;\t", ";"]))


def _in_any_case(draw: st.DrawFn, name: str) -> str:
    return draw(st.sampled_from([name, name.lower(), name.upper(), name.swapcase()]))


def _framing(draw: st.DrawFn, http_version: str) -> tuple[list[tuple[str, str]], int | None, bytes, bytes]:
    """Return framing fields, ``RequestHead.content_length``, the content, and how it is sent."""
    kind = draw(st.sampled_from(["none", "length", "chunked"] if http_version == "1.1" else ["none", "length"]))
    if kind == "none":
        return [], 0, b"", b""
    content = draw(_contents)
    if kind == "length":
        zeros = "0" * draw(st.integers(0, 3))
        return [(_in_any_case(draw, "Content-Length"), f"{zeros}{len(content)}")], len(content), content, content
    coding = _in_any_case(draw, "chunked")
    sent = b""
    position = 0
    while position < len(content):
        size = draw(st.integers(1, len(content) - position))
        digits = draw(st.sampled_from(["{:x}", "{:X}", "{:04x}"])).format(size)
        block = content[position : position + size]
        sent += f"{digits}{draw(_extensions)}\r\n".encode("latin-1") + block + b"\r\n"
        position += size
    sent += draw(st.sampled_from([b"0", b"000", b"0;a"])) + b"\r\n"
    for name, value in draw(st.lists(st.tuples(_field_names, _field_values), max_size=2)):
        sent += f"{name}: {value}\r\n".encode("latin-1")
    return [(_in_any_case(draw, "Transfer-Encoding"), coding)], None, content, sent + b"\r\n"


def _target(draw: st.DrawFn, method: str) -> tuple[str, str, str, str | None]:
    """Return target, path, query and the authority in it."""
    form = draw(st.sampled_from(["origin", "origin", "absolute", "asterisk"]))
    if form == "asterisk" and method == "OPTIONS":
        return "*", "*", "", None
    path = "/" + draw(_path_text)
    query = draw(st.one_of(st.none(), _query_text))
    suffix = "" if query is None else f"?{query}"
    if form != "absolute":
        return path + suffix, path, query or "", None
    authority = draw(_hosts)
    scheme = draw(st.sampled_from(["http", "https", "HTTP"]))
    sent_path = draw(st.sampled_from([path, ""]))
    return f"{scheme}://{authority}{sent_path}{suffix}", sent_path or "/", query or "", authority


def _variable(name: str) -> str:
    """Return what a field is called in environ: RFC 3875 section 4.1.18."""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request that the policy accepts."""
    method = draw(_methods)
    http_version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    target, path, query, authority = _target(draw, method)
    framing, content_length, content, sent_content = _framing(draw, http_version)
    fields = draw(st.lists(st.tuples(_field_names, _field_values), max_size=4))
    if http_version == "1.1" or draw(st.booleans()):
        fields.append((_in_any_case(draw, "Host"), draw(_hosts)))
    options = draw(st.lists(_connection_options, max_size=3))
    if options:
        fields.append((_in_any_case(draw, "Connection"), draw(st.sampled_from([", ", ",", "\t,"])).join(options)))
    expects = draw(st.booleans())
    if expects:
        fields.append((_in_any_case(draw, "Expect"), _in_any_case(draw, "100-continue")))
    fields = draw(st.permutations(fields + framing))
    lines = [f"{method} {target} HTTP/{http_version}"]
    lines += [f"{name}:{draw(_blanks)}{value}{draw(_blanks)}" for name, value in fields]
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + sent_content
    if draw(st.booleans()):
        data = b"\r\n" + data
    lowered = {
        option.strip(" \t").lower()
        for name, value in fields
        if name.lower() == "connection"
        for option in value.split(",")
    }
    expected: dict[str, str] = {}
    for name, value in fields:
        if "_" in name or name.lower() == "transfer-encoding":
            continue
        variable = _variable(name)
        if variable in expected:
            expected[variable] += ("; " if variable == "HTTP_COOKIE" else ", ") + value.strip(" \t")
        else:
            expected[variable] = value.strip(" \t")
    if authority is not None:
        expected["HTTP_HOST"] = authority
    return Request(
        data=data,
        method=method,
        target=target,
        path=path,
        query=query,
        http_version=http_version,
        variables=tuple(sorted(expected.items())),
        content_length=content_length,
        persistent="close" not in lowered and (http_version == "1.1" or "keep-alive" in lowered),
        expect_continue=expects and http_version == "1.1" and content_length != 0,
        content=content,
    )


#: What turns one request into another, or into none.
_FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b"\x0b", b"\x0c", b"\x7f", b"\xff", b"\xa0", b" ", b"\t", b":",
    b",", b";", b"_", b"#", b"?", b"*", b"/", b"@", b"+", b"-", b"0", b"0x", b'"', b"\r\n ", b"\r\n\t",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Content-Length:", b"Host: b\r\n", b"Host:\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n", b"chunked",
    b", chunked", b"identity", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"HTTP/2.0", b"CONNECT ", b"OPTIONS * ",
    b"http://", b"0\r\n\r\n", b"5\r\nabcde\r\n", b"5;a\r\n",
]  # fmt: skip


@st.composite
def mutated_requests(draw: st.DrawFn) -> bytes:
    """A valid request with a few faults, which may leave it valid."""
    data = draw(requests()).data
    for _ in range(draw(st.integers(1, 3))):
        # Most of what matters is in the head, and much of it beside a delimiter.
        anchors = [index for index, byte in enumerate(data) if byte in b"\r\n: ,;"] or [0]
        place = draw(st.one_of(st.integers(0, len(data)), st.sampled_from(anchors)))
        kind = draw(st.sampled_from(["insert", "insert", "delete", "replace", "repeat line", "byte"]))
        if kind == "insert":
            data = data[:place] + draw(st.sampled_from(_FRAGMENTS)) + data[place:]
        elif kind == "byte":
            data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place:]
        elif kind == "replace":
            data = data[:place] + draw(st.sampled_from(_FRAGMENTS)) + data[place + 1 :]
        elif kind == "delete":
            data = data[:place] + data[place + draw(st.integers(1, 4)) :]
        else:
            lines = data.split(b"\r\n")
            line = draw(st.sampled_from(lines))
            lines.insert(draw(st.integers(0, len(lines))), line)
            data = b"\r\n".join(lines)
    return data


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Any way to receive ``data`` in pieces."""
    places = st.lists(st.integers(1, max(1, len(data) - 1)), max_size=6)
    return places.map(lambda chosen: _cut(data, sorted(set(chosen))))


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [*places, len(data)]
    return [data[start:end] for start, end in zip([0, *places], ends, strict=True) if start < end]
