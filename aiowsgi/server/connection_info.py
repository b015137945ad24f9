"""What a connection's transport says about its two ends and its TLS, as environ spells it.

Thread: event loop.

Source: RFC 3875 sections 4.1.8, 4.1.14 and 4.1.15; Apache httpd's mod_ssl, "Environment Variables"; RFC 4514.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from functools import lru_cache
from typing import Any

from aiowsgi.semantics import ConnectionInfo

__all__ = ["connection_info", "distinguished_name", "host_and_port", "is_on_unix_socket"]

# The short names of RFC 4514 §3 and, beyond it, OpenSSL's, which mod_ssl prints; what has none keeps its long name.
_SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "givenName": "GN",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "userId": "UID",
}
# RFC 4514 §2.4: what would end a value or begin an escape; control characters are written in hex.
_SPECIAL = re.compile(r'[,+"\\<>;]')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def connection_info(transport: asyncio.BaseTransport, addresses: tuple[object, object] | None = None) -> ConnectionInfo:
    """Read a transport.

    Args:
        transport: plain, or TLS, this package's or a loop's.
        addresses: the client's and the server's as a proxy has given them, instead of the socket's.
    """
    peer, local = addresses or (transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
    remote_host, remote_port = host_and_port(peer)
    server_host, server_port = _known_host_and_port(local) if isinstance(local, tuple) else ("", "")
    if transport.get_extra_info("sslcontext") is None:
        return ConnectionInfo("http", remote_host, remote_port, server_host, server_port)
    variables = _tls_variables(transport.get_extra_info("ssl_object"))
    return ConnectionInfo("https", remote_host, remote_port, server_host, server_port, variables)


def is_on_unix_socket(transport: asyncio.BaseTransport) -> bool:
    """Return whether a connection is one of a Unix socket, whose peer has no address.

    A TCP peer may have none either, if it has reset its connection before the address is asked for (getpeername(2),
    ENOTCONN). What it had sent before that is still read.
    """
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def host_and_port(address: object) -> tuple[str, str]:
    """Read a socket address; a Unix socket's has neither host nor port."""
    if isinstance(address, tuple) and len(address) >= 2:
        return str(address[0]), str(address[1])
    return "", ""


# For the server's own addresses, so that ten thousand connections share one text: 0.1 KB less for each.
_known_host_and_port = lru_cache(maxsize=64)(host_and_port)


def _tls_variables(tls: ssl.SSLObject | ssl.SSLSocket | None) -> dict[str, str]:
    """Describe a connection's TLS as mod_ssl does, by the same names."""
    if tls is None:
        return {}
    cipher = tls.cipher()
    variables = {"SSL_PROTOCOL": tls.version() or "", "SSL_CIPHER": cipher[0] if cipher else ""}
    if tls.context.verify_mode == ssl.CERT_NONE:
        return variables
    encoded = tls.getpeercert(binary_form=True)
    certificate: Any = tls.getpeercert()
    if encoded is None or not certificate:
        return variables | {"SSL_CLIENT_VERIFY": "NONE"}
    # A certificate that does not verify has ended the handshake.
    variables |= {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": distinguished_name(certificate.get("subject", ())),
        "SSL_CLIENT_I_DN": distinguished_name(certificate.get("issuer", ())),
        "SSL_CLIENT_M_SERIAL": certificate["serialNumber"],
        "SSL_CLIENT_V_START": certificate["notBefore"],
        "SSL_CLIENT_V_END": certificate["notAfter"],
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(encoded),
    }
    names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    if names:
        variables["SSL_CLIENT_S_DN_CN"] = _native(names[-1])
    return variables


def distinguished_name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """Write a name as RFC 4514 does: last part first, ``CN=...,O=...``.

    Args:
        parts: as :meth:`ssl.SSLSocket.getpeercert` has ``subject`` and ``issuer``.

    Returns:
        UTF-8 in a native string, as PEP 3333 "Unicode Issues" has every text in environ.
    """
    return _native(
        ",".join(
            "+".join(f"{_SHORT_NAMES.get(name, name)}={_escape(value)}" for name, value in part)
            for part in reversed(parts)
        )
    )


def _native(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _escape(value: str) -> str:
    value = _SPECIAL.sub(r"\\\g<0>", value)
    value = _CONTROL.sub(lambda match: f"\\{ord(match[0]):02X}", value)
    if value.startswith(("#", " ")):
        value = "\\" + value
    if len(value) > 1 and value.endswith(" ") and not value.endswith("\\ "):
        value = value[:-1] + "\\ "
    return value
