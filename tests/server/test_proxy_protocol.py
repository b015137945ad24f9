"""PROXY headers, byte by byte."""

from __future__ import annotations

import struct

import pytest

from aiowsgi.server.proxy_protocol import ProxyHeaderError, read_proxy_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FOUR = bytes([192, 0, 2, 7, 192, 0, 2, 80]) + struct.pack("!HH", 5000, 443)
SIX = bytes.fromhex("20010db800000000000000000000000720010db8000000000000000000000050") + struct.pack("!HH", 5000, 443)
FOUR_ADDRESSES = (("192.0.2.7", 5000), ("192.0.2.80", 443))
SIX_ADDRESSES = (("2001:db8::7", 5000), ("2001:db8::50", 443))


def binary(rest: bytes, command: int = 0x21, family: int = 0x11, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if size is None else size) + rest


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


# RFC 4291 §2.5.5.2: what precedes an IPv4 address that is written as one of IPv6.
MAPPED = bytes(10) + b"\xff\xff"

GOOD = [
    (b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 443\r\n", FOUR_ADDRESSES),
    (b"PROXY TCP6 2001:db8::7 2001:DB8:0::50 5000 443\r\n", SIX_ADDRESSES),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", (("255.255.255.255", 65535),) * 2),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", None),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::FFFF:c000:250 5000 443\r\n", FOUR_ADDRESSES),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", None),
    (binary(FOUR), FOUR_ADDRESSES),
    (binary(SIX, family=0x21), SIX_ADDRESSES),
    (binary(MAPPED + FOUR[:4] + MAPPED + FOUR[4:], family=0x21), FOUR_ADDRESSES),
    (binary(FOUR + extension(0x04, bytes(40)) + extension(0xE0, b"")), FOUR_ADDRESSES),
    (binary(bytes(216), family=0x31), None),
    (binary(b"", command=0x20, family=0), None),
    (binary(FOUR, command=0x20), None),
    (binary(b"junk", command=0x20, family=0x55), None),
    (binary(b"", family=0), None),
    (binary(b"any", family=0), None),
    (binary(FOUR + extension(0x04, bytes(4096 - 12 - 3))), FOUR_ADDRESSES),
]


@pytest.mark.parametrize("follows", [b"", b"GET / HTTP/1.1\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize(("data", "addresses"), GOOD)
def test_header_is_read_and_what_follows_is_left(data: bytes, addresses: object, follows: bytes) -> None:
    header = read_proxy_header(data + follows, "auto")
    assert header is not None
    assert header.size == len(data)
    if b"ffff:ffff" not in data:
        assert header.addresses == addresses
    assert not header.tls


@pytest.mark.parametrize(("data", "addresses"), GOOD)
def test_header_that_arrives_in_pieces_is_waited_for(data: bytes, addresses: object) -> None:
    for size in range(1, len(data)):
        assert read_proxy_header(data[:size], "auto") is None


@pytest.mark.parametrize(("flags", "tls"), [(0b001, True), (0b111, True), (0b110, False), (0, False)])
def test_proxy_tells_whether_its_client_came_by_tls(flags: int, tls: bool) -> None:
    value = bytes([flags, 0, 0, 0, 0]) + extension(0x21, b"TLSv1.3")
    for rest, family in [(FOUR, 0x11), (SIX, 0x21), (bytes(216), 0x31)]:
        header = read_proxy_header(binary(rest + extension(0x05, b"id") + extension(0x20, value), family=family), "v2")
        assert header is not None
        assert header.tls is tls


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
        b"\r\nGET",
        b"proxy TCP4 192.0.2.7 192.0.2.80 5000 443\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP5 192.0.2.7 192.0.2.80 5000 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 5000\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 443 1\r\n",
        b"PROXY TCP4  192.0.2.7 192.0.2.80 5000 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 443 \r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 443\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 65536\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 -1 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 +1 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 1_0 443\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.80 01 443\r\n",
        b"PROXY TCP4 192.0.2.007 192.0.2.80 1 443\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.80 1 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::8 1 443\r\n",
        b"PROXY TCP6 192.0.2.7 192.0.2.80 1 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN \x00\r\n",
        b"PROXY UNKNOWN " + b"x" * 100,
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        SIGNATURE[:-1] + b"\r" + bytes(16),
        binary(FOUR, command=0x11),
        binary(FOUR, command=0x31),
        binary(FOUR, command=0x22),
        binary(FOUR, family=0x12),
        binary(FOUR, family=0x10),
        binary(FOUR, family=0x41),
        binary(FOUR[:-1]),
        binary(FOUR, family=0x21),
        binary(bytes(215), family=0x31),
        binary(FOUR + b"\x04"),
        binary(FOUR + b"\x04\x00\x05abcd"),
        binary(b"", size=4097),
        binary(b"", size=65535),
        binary(b"", command=0x20, size=65535),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        read_proxy_header(data, "auto")


def test_version_that_was_not_chosen_is_refused() -> None:
    line, header = GOOD[0][0], binary(FOUR)
    assert read_proxy_header(line, "v1")
    assert read_proxy_header(header, "v2")
    for data, version in [(line, "v2"), (header, "v1")]:
        with pytest.raises(ProxyHeaderError, match="no PROXY header"):
            read_proxy_header(data, version)
