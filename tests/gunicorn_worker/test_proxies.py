"""gunicorn's settings about proxies, under its master."""

from __future__ import annotations

from pathlib import Path

from tests.gunicorn_worker.gunicorn_process import GunicornProcess, gunicorn
from tests.raw import RawClient

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 443\r\n"


def seen(client: RawClient, *fields: str) -> tuple[str, ...]:
    """Return scheme and client as the application sees them."""
    words = client.get("/environ", *fields).content.decode().split(" ")
    return words[2], words[-1]


def status(server: GunicornProcess, *fields: str) -> int:
    with server.connect() as client:
        return client.get("/environ", *fields).status_code


def test_secure_scheme_headers_of_allowed_peers_set_the_scheme(folder: Path) -> None:
    with gunicorn(folder) as server, server.connect() as client:
        assert seen(client) == ("http", "127.0.0.1")
        assert seen(client, "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.7") == ("https", "127.0.0.1")
        assert seen(client, "X-Forwarded-Ssl: on") == ("https", "127.0.0.1")
        assert seen(client, "X-Forwarded-Protocol: ssl") == ("https", "127.0.0.1")
        assert seen(client, "X-Forwarded-Proto: http") == ("http", "127.0.0.1")
        assert status(server, "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off") == 400
        server.stop()


def test_secure_scheme_headers_of_others_change_nothing(folder: Path) -> None:
    with gunicorn(folder, "--forwarded-allow-ips=192.0.2.0/24") as server, server.connect() as client:
        assert seen(client, "X-Forwarded-Proto: https", "X-Forwarded-Ssl: on") == ("http", "127.0.0.1")
        assert status(server, "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off") == 200
        server.stop()


def test_peer_of_a_unix_socket_is_always_allowed(folder: Path) -> None:
    with gunicorn(folder, "--forwarded-allow-ips=192.0.2.0/24", bind="unix:sock") as server:
        server.wait_for_workers()
        with server.connect_unix() as client:
            assert seen(client, "X-Forwarded-Proto: https") == ("https", "")
        server.stop()


def test_client_is_believed_where_a_variable_asks_for_it(folder: Path) -> None:
    with gunicorn(folder, AIOWSGI_FORWARDED_PARTS="for") as server, server.connect() as client:
        fields = ["X-Forwarded-For: 10.0.0.1, 192.0.2.7", "X-Forwarded-Proto: https"]
        assert seen(client, *fields) == ("https", "192.0.2.7")
        server.stop()


def test_proxy_protocol_is_read_from_allowed_peers(folder: Path) -> None:
    with gunicorn(folder, "--proxy-protocol=v1") as server:
        with server.connect() as client:
            client.send(LINE)
            assert seen(client, "X-Forwarded-Proto: https") == ("http", "192.0.2.7")
        assert status(server) == 400
        server.stop()


def test_proxy_protocol_of_others_is_refused(folder: Path) -> None:
    with gunicorn(folder, "--proxy-protocol", "--proxy-allow-from=192.0.2.0/24") as server:
        with server.connect() as client:
            client.send(LINE)
            assert client.get("/environ").status_code == 403
        server.stop()
