"""What a transport says of itself, as environ spells it."""

from __future__ import annotations

import pytest

from aiowsgi.server.connection_info import distinguished_name

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
