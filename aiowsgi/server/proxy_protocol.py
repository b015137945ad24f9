"""The PROXY protocol: one header before all else, in which a proxy that passes on bytes says who its client is.

Read here and not with the proxy-protocol package (0.11, alpha): that does not bound a header of version 1, takes what
follows a header of version 2 for a part of it, reads a port of "1_0" as 10, and reports malformed headers by five kinds
of exceptions. All that it would do for us, reading two fixed structures, is shorter than the code around it would be.

Thread: any; no I/O.

Source: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt sections 2.1 and 2.2.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address

__all__ = ["ProxyHeader", "ProxyHeaderError", "read_proxy_header"]

_SIGNATURE_1 = b"PROXY "
_SIGNATURE_2 = b"\r\n\r\n\x00\r\nQUIT\n"
# Section 2.1: the longest line, with its CRLF.
_LINE_SIZE = 107
_FIXED_SIZE = 16
# Section 2.2 leaves 64 KB for what proxies like to add. Arbitrary; a certificate's names and a unique id fit.
_REST_SIZE = 4096

# The numbers as section 2.1 has them: no sign, no leading zero.
_PORT = rb"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) " + _PORT + b" " + _PORT + rb"\r\n")
_UNKNOWN_LINE = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?\r\n")

_LOCAL, _PROXY = 0x0, 0x1
_STREAM = 0x1
_IPV4, _IPV6 = 0x1, 0x2
_ADDRESSES = {_IPV4: struct.Struct("!4s4sHH"), _IPV6: struct.Struct("!16s16sHH")}
_ADDRESS_TYPES: dict[int, type[IPv4Address | IPv6Address]] = {_IPV4: IPv4Address, _IPV6: IPv6Address}
# AF_UNIX: two paths of 108 bytes.
_UNIX, _UNIX_SIZE = 0x3, 216
_TLV = struct.Struct("!BH")
# Section 2.2.5: the first byte of its value has bit 0 where the client came by TLS.
_TLV_SSL, _CLIENT_SSL = 0x20, 0x01

Address = tuple[str, int]


class ProxyHeaderError(ValueError):
    """There is no header, or a malformed one; the message says which."""


class ProxyHeader:
    """What a proxy has said.

    Args:
        size: bytes of the header.
        addresses: the client's, and the one that it connected to; ``None`` where the proxy speaks for itself (a check
            of its own) or does not know.
        tls: the client connected to the proxy by TLS, as far as the proxy says.
    """

    __slots__ = ("addresses", "size", "tls")

    def __init__(self, size: int, addresses: tuple[Address, Address] | None, tls: bool = False) -> None:
        self.size = size
        self.addresses = addresses
        self.tls = tls

    def __repr__(self) -> str:
        return f"<ProxyHeader {self.addresses}>"


def read_proxy_header(data: bytes, version: str) -> ProxyHeader | None:
    """Read the header at the beginning of a connection.

    Args:
        data: what has arrived, at least one byte.
        version: ``"v1"``, ``"v2"``, or ``"auto"`` for either.

    Returns:
        the header; ``None`` where more of it has to arrive.

    Raises:
        ProxyHeaderError: it cannot become one.
    """
    if version != "v2" and _SIGNATURE_1.startswith(data[: len(_SIGNATURE_1)]):
        return _read_line(data)
    if version != "v1" and _SIGNATURE_2.startswith(data[: len(_SIGNATURE_2)]):
        return _read_binary(data)
    raise ProxyHeaderError("no PROXY header")


def _host(address: IPv4Address | IPv6Address) -> str:
    """Write an address as the fields of proxies are read: one of IPv4 that is mapped to IPv6 is one of IPv4."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _read_line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LINE_SIZE) + 2
    if end < 2:
        if len(data) >= _LINE_SIZE or b"\n" in data:
            raise ProxyHeaderError("PROXY line too long, or without an end")
        return None
    if _UNKNOWN_LINE.fullmatch(data, 0, end):
        return ProxyHeader(end, None)
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise ProxyHeaderError("malformed PROXY line")
    kind = IPv4Address if match[1] == b"TCP4" else IPv6Address
    try:
        hosts = [_host(kind(match[number].decode("ascii"))) for number in (2, 3)]
    except ValueError as error:
        raise ProxyHeaderError("malformed address in the PROXY line") from error
    ports = [int(match[number]) for number in (4, 5)]
    if max(ports) > 65535:
        raise ProxyHeaderError("malformed port in the PROXY line")
    return ProxyHeader(end, ((hosts[0], ports[0]), (hosts[1], ports[1])))


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_SIZE:
        return None
    version_and_command, family_and_protocol, rest_size = struct.unpack_from("!BBH", data, len(_SIGNATURE_2))
    version, command = version_and_command >> 4, version_and_command & 0xF
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("unknown version or command in the PROXY header")
    if rest_size > _REST_SIZE:
        raise ProxyHeaderError("PROXY header too large")
    size = _FIXED_SIZE + rest_size
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(size, None)  # section 2.2: whatever it holds is to be discarded
    family, protocol = family_and_protocol >> 4, family_and_protocol & 0xF
    rest = data[_FIXED_SIZE:size]
    addresses: tuple[Address, Address] | None = None
    if family in _ADDRESSES and protocol == _STREAM:
        structure, kind = _ADDRESSES[family], _ADDRESS_TYPES[family]
        if rest_size < structure.size:
            raise ProxyHeaderError("PROXY header too short for its addresses")
        source, destination, source_port, destination_port = structure.unpack_from(rest)
        addresses = (_host(kind(source)), source_port), (_host(kind(destination)), destination_port)
        rest = rest[structure.size :]
    elif family == _UNIX and protocol == _STREAM:
        if rest_size < _UNIX_SIZE:
            raise ProxyHeaderError("PROXY header too short for its addresses")
        rest = rest[_UNIX_SIZE:]
    elif family_and_protocol:
        raise ProxyHeaderError("unknown family or protocol in the PROXY header")
    else:
        return ProxyHeader(size, None)  # section 2.2: unspecified; the rest is to be ignored
    return ProxyHeader(size, addresses, _tells_tls(rest))


def _tells_tls(rest: bytes) -> bool:
    """Read the extensions that follow the addresses; return whether they say that the client came by TLS."""
    tls = False
    while rest:
        if len(rest) < _TLV.size:
            raise ProxyHeaderError("malformed extension in the PROXY header")
        kind, size = _TLV.unpack_from(rest)
        value, rest = rest[_TLV.size : _TLV.size + size], rest[_TLV.size + size :]
        if len(value) < size:
            raise ProxyHeaderError("malformed extension in the PROXY header")
        if kind == _TLV_SSL:
            tls = bool(value) and bool(value[0] & _CLIENT_SSL)
    return tls
