"""What a transport says of itself, as environ spells it."""

from __future__ import annotations

import pytest

from aiowsgi.semantics import ConnectionInfo
from aiowsgi.server.connection_info import distinguished_name
from aiowsgi.testing import MemoryServer

Parts = tuple[tuple[tuple[str, str], ...], ...]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), ""),
        (((("countryName", "DE"),), (("organizationName", "O"),), (("commonName", "N"),)), "CN=N,O=O,C=DE"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
        (((("emailAddress", "a@b"),), (("1.2.3.4", "x"),)), "1.2.3.4=x,emailAddress=a@b"),
        (((("commonName", 'a,b+c"d\\e<f>g;h'),),), r"CN=a\,b\+c\"d\\e\<f\>g\;h"),
        (((("commonName", "#1"),), (("organizationName", " o "),)), r"O=\ o\ ,CN=\#1"),
        (((("commonName", " "),),), "CN=\\ "),
        (((("commonName", "a\0b\r\n"),),), r"CN=a\00b\0D\0A"),
        (((("commonName", "Ö"),),), "CN=Ö".encode().decode("latin-1")),
    ],
)
def test_distinguished_name_is_written_as_rfc_4514_does(parts: Parts, text: str) -> None:
    assert distinguished_name(parts) == text


# What connections share of environ.


def test_connections_to_one_address_share_what_environ_says_of_it() -> None:
    engine = MemoryServer(lambda environ, start_response: []).engine
    first, second = (ConnectionInfo("http", "192.0.2.7", port, "192.0.2.1", "80") for port in ("50001", "50002"))
    assert engine.environ_of(first) is engine.environ_of(second)
    assert engine.environ_of(first)["REMOTE_PORT"] is None  # a place for that of each
    other = ConnectionInfo("https", "192.0.2.7", "50001", "192.0.2.1", "80")
    assert engine.environ_of(other)["HTTPS"] == "on"
    assert "HTTPS" not in engine.environ_of(first)


def test_connections_with_certificates_share_nothing() -> None:
    engine = MemoryServer(lambda environ, start_response: []).engine
    names = "one", "other"
    infos = [ConnectionInfo("https", "", "", "192.0.2.1", "443", {"SSL_CLIENT_S_DN": name}) for name in names]
    assert [engine.environ_of(info)["SSL_CLIENT_S_DN"] for info in infos] == [*names]


def test_addresses_without_number_are_not_all_kept() -> None:
    engine = MemoryServer(lambda environ, start_response: []).engine
    infos = [ConnectionInfo("http", "", "", "192.0.2.1", str(port)) for port in range(1000, 1100)]
    environs = [engine.environ_of(info) for info in infos]  # held, so that none takes another's place
    assert [environ["SERVER_PORT"] for environ in environs] == [info.server_port for info in infos]
    kept = [engine.environ_of(info) is environ for info, environ in zip(infos, environs, strict=True)]
    assert kept == [True] * 64 + [False] * 36
