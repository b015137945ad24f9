"""The names that configuration keeps for the server are those that environs have, in every way that a request comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.asgi import ASGIAdapter
from aiowsgi.configuration.own_variables import OWN_PREFIXES, OWN_VARIABLES, is_own_variable
from tests.asgi.conversation import answer, http_scope
from tests.certificates import PATIENCE, Certificates
from tests.conftest import running_server
from tests.raw import RawClient

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Names:
    """An application that remembers which names its environs had."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.seen.update(environ)
        start_response("200 OK", [])
        return [b"seen"]


def names_over_tls(folder: Path) -> set[str]:
    """Return those of a request with content and an id, from a client with a certificate."""
    application, certificates = Names(), Certificates(folder)
    options: dict[str, Any] = {
        "ssl_ca_certs": str(certificates.ca_path),
        "ssl_cert_reqs": "required",
        "request_id_header": "X-Request-ID",
        "queue_start": True,
        **certificates.write("server"),
    }
    context = certificates.client_context(certificate=True)
    with running_server(application, **options) as server, certificates.connect(server.port, context) as client:
        assert client.post(b"content", "/?query", "Content-Type: text/plain").content == b"seen"
    return application.seen


def names_from_a_proxy(folder: Path) -> set[str]:
    """Return those of a request over a Unix socket, of which a proxy speaks."""
    application, path = Names(), folder / "sock"
    with (
        running_server(application, bind=[f"unix:{path}"], forwarded_allow_ips=["unix"]),
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        fields = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.org"]
        assert RawClient(sock).get("/", *fields).content == b"seen"
    return application.seen


def names_in_a_program(folder: Path) -> set[str]:
    """Return those of a request that the adapter was given."""
    application = Names()

    async def main() -> None:
        adapter = ASGIAdapter(application)
        assert (await answer(adapter, http_scope("POST", "/"), b"content"))[2] == b"seen"
        await adapter.aclose()

    asyncio.run(main())
    return application.seen


WAYS = [names_over_tls, names_from_a_proxy, names_in_a_program]


@pytest.mark.parametrize("names", WAYS)
def test_every_name_in_an_environ_is_the_servers_own(names: Any, tmp_path: Path) -> None:
    assert {name for name in names(tmp_path) if not is_own_variable(name)} == set()


def test_every_name_of_the_servers_own_is_in_an_environ(tmp_path: Path) -> None:
    seen = set().union(*(names(tmp_path) for names in WAYS))
    assert OWN_VARIABLES - seen == set()
    assert [prefix for prefix in OWN_PREFIXES if not any(name.startswith(prefix) for name in seen)] == []
