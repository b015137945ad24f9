"""What proxies say, on real connections: fields, PROXY headers, and both before TLS; and who tries to pass for one."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import PATIENCE, Certificates
from tests.conftest import ServerThread
from tests.process.server_process import wait_until
from tests.raw import RawClient
from tests.server.test_proxy_protocol import FOUR, SIX, binary, extension

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Serve = Callable[..., ServerThread]

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.80 5000 443\r\n"
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()]


def environ_of(client: RawClient, *fields: str) -> dict[str, str]:
    environ: dict[str, str] = json.loads(client.get("/", *fields).content)
    return environ


@contextmanager
def connect_unix(path: Path) -> Iterator[RawClient]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        yield RawClient(sock)


def read_to_the_end(client: RawClient) -> bytes:
    try:
        return client.read_all()
    except ConnectionResetError:
        return b""


# Fields.


def test_fields_of_a_trusted_peer_change_each_request_of_its_connection(serve: Serve) -> None:
    server = serve(application, forwarded_allow_ips=["127.0.0.1"], forwarded_parts=("for", "proto", "host", "prefix"))
    with server.connect() as client:
        first = environ_of(
            client, "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop:444"
        )
        assert (first["REMOTE_ADDR"], first["wsgi.url_scheme"], first["HTTPS"]) == ("192.0.2.7", "https", "on")
        assert (first["HTTP_HOST"], first["SERVER_NAME"], first["SERVER_PORT"]) == ("shop:444", "shop", "444")
        second = environ_of(client)
        assert (second["REMOTE_ADDR"], second["wsgi.url_scheme"], second["HTTP_HOST"]) == ("127.0.0.1", "http", "test")
        third = environ_of(client, "X-Forwarded-For: 127.0.0.9", "X-Forwarded-For: 192.0.2.8", "X-Forwarded-Prefix: /p")
        assert (third["REMOTE_ADDR"], third["SCRIPT_NAME"], third["PATH_INFO"]) == ("192.0.2.8", "/p", "/")
        assert client.post(b"content", "/", "X-Forwarded-Proto: ftp").status_code == 400
        assert client.at_end()


@pytest.mark.parametrize(
    "fields",
    [
        [
            "X-Forwarded-For: 10.0.0.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil",
            "X-Forwarded-Prefix: /evil",
        ],
        ["x-forwarded-for: 10.0.0.1", "FORWARDED: for=10.0.0.1;proto=https;host=evil", "X-REAL-IP: 10.0.0.1"],
        ["X_Forwarded_For: 10.0.0.1", "X_Forwarded_Proto: https", "X-Forwarded_Proto: https", "Remote_Addr: 10.0.0.1"],
        [
            "X-Forwarded-Ssl: on",
            "X-Forwarded-Protocol: ssl",
            "Front-End-Https: on",
            "Https: on",
            "Remote-Addr: 10.0.0.1",
        ],
        ["Script-Name: /evil", "SCRIPT_NAME: /evil", "Wsgi.Url_Scheme: https", "Path-Info: /evil", "Server-Name: evil"],
    ],
)
@pytest.mark.parametrize("strip", [False, True])
def test_untrusted_peer_changes_nothing_however_it_spells_it(serve: Serve, fields: list[str], strip: bool) -> None:
    options = {"forwarded_allow_ips": ["192.0.2.0/24", "unix"], "strip_untrusted_forwarded": strip}
    server = serve(application, forwarded_parts=("for", "proto", "host", "port", "prefix"), **options)
    with server.connect() as client:
        honest = environ_of(client)
        forged = environ_of(client, *fields)
    added = forged.keys() - honest.keys()
    assert {name: forged[name] for name in honest} == honest
    assert len(added) <= sum("_" not in field.partition(":")[0] for field in fields)
    assert all(name.startswith("HTTP_") for name in added)
    if strip:
        assert not [name for name in added if "FORWARDED" in name or "REAL_IP" in name]


def test_field_with_underscores_is_not_believed_of_a_trusted_peer_either(serve: Serve) -> None:
    # A proxy that sets X-Forwarded-For may let X_Forwarded_For through: they must not meet in environ.
    server = serve(application, forwarded_allow_ips=["*"])
    with server.connect() as client:
        environ = environ_of(
            client, "X_Forwarded_For: 10.0.0.1", "X-Forwarded-For: 192.0.2.7", "X_Forwarded_Proto: https"
        )
    assert environ["REMOTE_ADDR"] == environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.7"
    assert environ["wsgi.url_scheme"] == "http"


def test_peer_of_a_unix_socket_is_believed_by_default(serve: Serve, tmp_path: Path) -> None:
    serve(application, bind=[f"unix:{tmp_path}/sock"])
    with connect_unix(tmp_path / "sock") as client:
        environ = environ_of(client, "X-Forwarded-For: 10.0.0.1, 192.0.2.7", "X-Forwarded-Proto: https")
        assert (environ["REMOTE_ADDR"], environ["HTTPS"], environ["SERVER_PORT"]) == ("192.0.2.7", "on", "443")
        assert environ_of(client)["REMOTE_ADDR"] == ""


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({"forwarded_allow_ips": ["unix"]}, b""),
        ({"proxy_protocol": "v1", "proxy_allow_from": ["192.0.2.1", "unix"]}, LINE),
    ],
    ids=["fields", "PROXY header"],
)
def test_client_that_resets_at_once_never_passes_for_the_peer_of_a_unix_socket(
    serve: Serve, options: dict[str, object], header: bytes
) -> None:
    told: list[WSGIEnvironment] = []

    def telling(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        told.append(environ)
        return application(environ, start_response)

    server = serve(telling, **options)
    for _ in range(200):  # from a third to all of them showed the fault
        with server.connect() as client:
            client.send(header + GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"))
            client.reset()
    with server.connect() as client:
        client.get("/last")  # everything before it has been accepted
    wait_until(lambda: not server.server.engine.connections, "all connections are gone")
    assert {environ["REMOTE_ADDR"] for environ in told} <= {"127.0.0.1"}


def test_malformed_field_is_refused_while_content_streams(serve: Serve) -> None:
    server = serve(application, forwarded_allow_ips=["*"], stream_body=True)
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: me\r\nContent-Length: 100000\r\n\r\n")
        response = client.receive()
        assert (response.status_code, response.value("Connection")) == (400, "close")


# The PROXY protocol.


@pytest.mark.parametrize("header", [LINE, binary(FOUR), binary(FOUR + extension(0x04, bytes(100)))])
@pytest.mark.parametrize("cuts", [[], [1], [6, 13], range(200)])
def test_header_says_who_the_client_is(serve: Serve, header: bytes, cuts: list[int]) -> None:
    server = serve(application, proxy_protocol="auto")
    with server.connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = header + GET
        ends = [cut for cut in cuts if cut < len(data)] + [len(data)]
        for start, end in zip([0, *ends], ends, strict=False):
            client.send(data[start:end])
        environs = [json.loads(client.receive().content), environ_of(client)]
    for environ in environs:
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.7", "5000")
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("192.0.2.80", "443")
        assert environ["wsgi.url_scheme"] == "http"


def test_header_of_ipv6_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    serve(application, bind=[f"unix:{tmp_path}/sock"], proxy_protocol="v2")
    with connect_unix(tmp_path / "sock") as client:
        client.send(binary(SIX, family=0x21))
        # The header speaks for the client, who is not trusted as the proxy is.
        environ = environ_of(client, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https")
        assert (environ["REMOTE_ADDR"], environ["SERVER_PORT"]) == ("2001:db8::7", "443")
        assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", binary(b"", command=0x20, family=0)])
def test_proxy_that_speaks_for_itself_is_the_client(serve: Serve, header: bytes) -> None:
    server = serve(application, proxy_protocol="auto")
    with server.connect() as client:
        client.send(header)
        assert environ_of(client)["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 192.0.2.7 192.0.2.80 1 80\r\n",
        binary(b"", command=0x20, family=0),
        binary(FOUR, command=0x20),
        binary(b"", family=0),
        binary(bytes(216), family=0x31),
    ],
)
@pytest.mark.parametrize("strip", [False, True])
def test_header_that_names_no_client_leaves_no_trust_to_its_fields(
    serve: Serve, tmp_path: Path, header: bytes, strip: bool
) -> None:
    options = {"proxy_protocol": "auto", "forwarded_parts": ("for", "proto", "host"), "forwarded_allow_ips": ["*"]}
    options |= {"request_id_header": "X-Request-ID", "queue_start": True}
    serve(application, bind=[f"unix:{tmp_path}/sock"], strip_untrusted_forwarded=strip, **options)
    with connect_unix(tmp_path / "sock") as client:
        client.send(header)
        fields = ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil"]
        fields += ["X-Request-ID: forged", "X-Queue-Start: t=1"]
        for _ in range(2):
            environ = environ_of(client, *fields)
            assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("", "http", "test")
            assert ("HTTP_X_FORWARDED_FOR" in environ) is not strip
            assert "forged" not in (environ["aiowsgi.request_id"], environ["HTTP_X_REQUEST_ID"])
            assert environ["HTTP_X_QUEUE_START"] != "t=1"


def test_fields_of_the_client_of_a_proxy_count_if_it_is_trusted_itself(serve: Serve) -> None:
    server = serve(application, proxy_protocol="v1", forwarded_allow_ips=["192.0.2.7"])
    with server.connect() as client:
        client.send(LINE)
        assert environ_of(client, "X-Forwarded-For: 198.51.100.1")["REMOTE_ADDR"] == "198.51.100.1"
    server = serve(application, proxy_protocol="v1", forwarded_allow_ips=["127.0.0.1"])
    with server.connect() as client:
        client.send(LINE)
        assert environ_of(client, "X-Forwarded-For: 198.51.100.1")["REMOTE_ADDR"] == "192.0.2.7"


def test_proxy_that_ends_tls_makes_it_https(serve: Serve) -> None:
    server = serve(application, proxy_protocol="v2")
    with server.connect() as client:
        client.send(binary(FOUR + extension(0x20, b"\x01\0\0\0\0")))
        environ = environ_of(client)
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")


def test_header_before_tls(serve: Serve, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    server = serve(application, proxy_protocol="auto", **certificates.write("server"))
    for header in (LINE, binary(FOUR)):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
            sock.sendall(header)
            context = certificates.client_context()
            with RawClient(context.wrap_socket(sock, server_hostname="127.0.0.1")) as client:
                environ = environ_of(client)
                assert (environ["REMOTE_ADDR"], environ["HTTPS"]) == ("192.0.2.7", "on")
                assert environ["SSL_PROTOCOL"] == "TLSv1.3"
    with server.connect() as client:
        client.send(b"\x16\x03\x01")  # TLS without the header
        assert read_to_the_end(client) == b""
    with server.connect() as client:
        client.send(LINE + GET)
        assert client.receive().status_code == 400


@pytest.mark.parametrize("data", [GET, b"\x16\x03\x01\x02\x00", LINE.replace(b"5000", b"x"), binary(FOUR[1:])])
def test_connection_without_a_header_is_refused(serve: Serve, data: bytes) -> None:
    server = serve(application, proxy_protocol="auto")
    with server.connect() as client:
        client.send(data)
        response = client.receive()
        assert (response.status_code, response.value("Connection")) == (400, "close")
        assert b"PROXY" in response.content
        assert client.at_end()


def test_peer_that_is_not_allowed_is_refused(serve: Serve) -> None:
    server = serve(application, proxy_protocol="auto", proxy_allow_from=["192.0.2.0/24"])
    with server.connect() as client:
        client.send(LINE)
        assert client.get("/").status_code == 403
        assert client.at_end()


def test_header_without_the_option_is_no_request(serve: Serve) -> None:
    server = serve(application)
    for header in (LINE, binary(FOUR)):
        with server.connect() as client:
            client.send(header + GET)
            assert client.receive().status_code == 400


@pytest.mark.parametrize("part", [b"", LINE[:20], binary(FOUR)[:20]])
def test_header_that_stalls_is_cut_by_header_timeout(serve: Serve, part: bytes) -> None:
    server = serve(application, proxy_protocol="auto", header_timeout=0.3, keep_alive=60)
    begun = time.monotonic()
    with server.connect() as client:
        client.send(part)
        assert read_to_the_end(client) == b""
    assert time.monotonic() - begun >= 0.25
    wait_until(lambda: not server.server.engine.openings, "the end of the opening")


def test_connections_that_say_nothing_count_as_connections(serve: Serve) -> None:
    server = serve(application, proxy_protocol="auto", header_timeout=1.5, max_connections=1)
    begun = time.monotonic()
    with server.connect() as silent:
        wait_until(lambda: server.call(server.server.stats).connections.reading == 1, "an opening")
        with server.connect() as client:
            client.send(LINE)
            assert environ_of(client)["REMOTE_ADDR"] == "192.0.2.7"
            assert time.monotonic() - begun > 1.4
        assert read_to_the_end(silent) == b""
