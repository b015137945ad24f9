"""TLS on real sockets, under both loops."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import hashlib
import itertools
import json
import logging
import os
import socket
import ssl
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.server import Server
from aiowsgi.server.tls import TLSTransport
from tests.certificates import PATIENCE, Certificates, record_client
from tests.conftest import ServerThread
from tests.hosting import run_in_loop
from tests.process.server_process import wait_until
from tests.raw import RawClient, Truncated

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Serve = Callable[..., ServerThread]

CONTENT = os.urandom(64 * 1024) * 64
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def files(certificates: Certificates) -> dict[str, Any]:
    """Return the options that name a server's certificate."""
    return certificates.write("server")


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is worth a line, of the loop's either."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    target = environ["PATH_INFO"]
    if target == "/upload":
        body: Iterable[bytes] = [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]
    elif target == "/large":
        body = [CONTENT]
    elif target == "/blocks":
        body = (CONTENT[start : start + 10_000] for start in range(0, len(CONTENT), 10_000))
    elif target == "/file":
        body = environ["wsgi.file_wrapper"](Path(__file__).open("rb"))  # noqa: SIM115 - the server closes it
    else:
        body = [json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body


def environ_of(client: RawClient) -> dict[str, str]:
    environ: dict[str, str] = json.loads(client.get("/").content)
    return environ


def connect_plain(server: ServerThread) -> RawClient:
    return server.connect(PATIENCE)


def read_to_the_end(client: RawClient) -> bytes:
    """Read what a server says that ends the connection, in whichever way."""
    try:
        return client.read_all()
    except ConnectionResetError:
        return b""


# Requests and responses.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_over_tls_are_answered(
    serve: Serve, certificates: Certificates, files: dict[str, Any], version: ssl.TLSVersion
) -> None:
    server = serve(application, **files)
    assert server.url == f"https://127.0.0.1:{server.port}"
    context = certificates.client_context(minimum_version=version, maximum_version=version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with certificates.connect(server.port, context) as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"  # type: ignore[attr-defined]
        environ = environ_of(client)
        assert (environ["wsgi.url_scheme"], environ["HTTPS"], environ["REMOTE_ADDR"]) == ("https", "on", "127.0.0.1")
        assert environ["SERVER_PORT"] == str(server.port)
        assert environ["SSL_PROTOCOL"] == version.name.replace("_", ".")
        assert environ["SSL_CIPHER"] == client.socket.cipher()[0]  # type: ignore[attr-defined]
        assert not any(name.startswith("SSL_CLIENT_") for name in environ)
        assert client.post(CONTENT, "/upload").content == hashlib.sha256(CONTENT).hexdigest().encode()
        assert client.get("/large").content == CONTENT
        assert client.get("/blocks").content == CONTENT
        assert client.get("/file").content == Path(__file__).read_bytes()
        client.send(GET * 3)
        assert [client.receive().status_code for _ in range(3)] == [200] * 3


def test_upload_in_records_of_one_byte_is_whole(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, **files)
    content = CONTENT[:5_000]
    with record_client(server.port, certificates.client_context()) as client:
        client.tls.write(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\nConnection: close\r\n\r\n")
        for byte in content:
            client.tls.write(bytes([byte]))
        client.flush()
        assert hashlib.sha256(content).hexdigest().encode() in client.read_all()


def test_unix_socket_speaks_tls(
    serve: Serve, certificates: Certificates, files: dict[str, Any], tmp_path: Path
) -> None:
    serve(application, bind=[f"unix:{tmp_path}/sock"], **files)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(f"{tmp_path}/sock")
        with RawClient(certificates.client_context().wrap_socket(sock, server_hostname="127.0.0.1")) as client:
            environ = environ_of(client)
            assert (environ["HTTPS"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("on", "443", "")


def test_slow_reader_stalls_its_thread_and_gets_all_of_it(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    block, count = CONTENT[: 64 * 1024], 300  # more than the kernel holds

    def endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return itertools.repeat(block, count)

    server = serve(endless, threads=2, **files)
    with certificates.connect(server.port, size=16 * 1024) as client:
        client.send(GET)
        wait_until(lambda: server.call(server.server.stats).threads.stalled == 1, "a thread that waits for its client")
        client.receive_head()
        assert all(client.read_chunk() == block for _ in range(count))
        assert client.read_chunk() == b""


@pytest.mark.parametrize("target", ["/large", "/blocks", "/file"])
def test_large_response_is_whole_when_the_connection_closes_after_it(
    serve: Serve, certificates: Certificates, files: dict[str, Any], target: str
) -> None:
    server = serve(application, **files)
    with certificates.connect(server.port, size=16 * 1024) as client:
        client.send(
            GET.replace(b"/ ", target.encode() + b" ", 1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        if target == "/large":
            wait_until(lambda: server.call(server.server.stats).connections.closing == 1, "a connection that closes")
        expected = Path(__file__).read_bytes() if target == "/file" else CONTENT
        assert client.receive().content == expected
        assert client.at_end()  # by an alert: anything else raises
        client.socket.unwrap()  # type: ignore[attr-defined]


def test_response_that_breaks_off_does_not_look_whole(
    serve: Serve, certificates: Certificates, files: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"some"
        raise ValueError("broken")

    server = serve(failing, **files)
    with record_client(server.port, certificates.client_context()) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.read_all()
    with certificates.connect(server.port) as chunked, pytest.raises(Truncated):
        chunked.get("/")
    caplog.clear()


def test_refusal_reaches_a_client_that_goes_on_sending(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, limit_request_body=1000, **files)
    with certificates.connect(server.port) as client:
        response = client.post(CONTENT[:2_000_000], "/upload")
        assert (response.status_code, response.value("Connection")) == (413, "close")


# The end.


def test_client_that_has_ended_its_side_gets_its_answer(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, **files)
    with record_client(server.port, certificates.client_context()) as client:
        client.tls.write(GET.replace(b"/ ", b"/large ", 1))
        client.end()
        assert client.read_all().endswith(CONTENT)


def test_client_that_has_ended_without_an_alert_gets_its_answer(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, **files)
    with record_client(server.port, certificates.client_context()) as client:
        client.send(GET)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_all().startswith(b"HTTP/1.1 200 OK\r\n")


def test_idle_connection_ends_with_its_client(serve: Serve, certificates: Certificates, files: dict[str, Any]) -> None:
    server = serve(application, **files)
    with record_client(server.port, certificates.client_context()) as client:
        client.end()
        assert client.read_all() == b""
    wait_until(lambda: not server.server.engine.connections, "the end of the connection")


def test_connection_that_its_client_wanted_closed_waits_for_the_clients_own_alert(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, **files)
    with certificates.connect(server.port, certificates.client_context()) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert client.receive().status_code == 200
        assert server.server.engine.connections  # what comes now must not reset what the client has not read yet
    wait_until(lambda: not server.server.engine.connections, "the end of the connection")


def test_what_follows_a_closure_alert_is_ignored(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    gate = threading.Event()

    def waiting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert gate.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]

    server = serve(waiting, **files)
    with record_client(server.port, certificates.client_context()) as client:
        client.tls.write(GET)
        client.end()
        for _ in range(64):
            client.socket.sendall(bytes(64 * 1024))
        gate.set()
        assert client.read_all().endswith(b"done")


def test_broken_record_ends_the_connection(serve: Serve, certificates: Certificates, files: dict[str, Any]) -> None:
    server = serve(application, **files)
    with record_client(server.port, certificates.client_context()) as client:
        client.tls.write(GET)
        records = bytearray(client.records())
        records[-1] ^= 1
        client.socket.sendall(records)
        with pytest.raises((AssertionError, ConnectionResetError, ssl.SSLError)):
            client.read_all()
    wait_until(lambda: not server.server.engine.connections, "the end of the connection")


def test_drain_ends_requests_and_idle_connections_in_order(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    started, gate = threading.Event(), threading.Event()

    def waiting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started.set()
        assert gate.wait(PATIENCE)
        start_response("200 OK", [])
        return [CONTENT]

    server = serve(waiting, **files)
    with certificates.connect(server.port) as idle, certificates.connect(server.port) as busy:
        busy.send(GET)
        assert started.wait(PATIENCE)
        ending = threading.Thread(target=server.stop)
        ending.start()
        assert idle.at_end()
        gate.set()
        response = busy.receive()
        assert (response.content, response.value("Connection")) == (CONTENT, "close")
        assert busy.at_end()
        busy.close()
        ending.join(PATIENCE)
        assert not ending.is_alive()


def test_drain_leaves_a_handshake_its_moment_and_no_more(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, header_timeout=60, **files)
    context = certificates.client_context()
    with connect_plain(server) as silent, socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        wait_until(lambda: len(server.server.engine.openings) == 2, "two openings")
        ending = threading.Thread(target=server.stop)
        ending.start()
        wait_until(lambda: server.server.engine.draining, "a drain")
        with RawClient(context.wrap_socket(sock, server_hostname="127.0.0.1")) as client:
            assert client.get("/").value("Connection") == "close"
        assert read_to_the_end(silent) == b""
        ending.join(PATIENCE)
        assert not ending.is_alive()


# Who is no TLS client, or none that is welcome.


def test_plain_http_on_a_tls_port_is_told_so(serve: Serve, files: dict[str, Any]) -> None:
    server = serve(application, **files)
    with connect_plain(server) as client:
        response = client.get("/")
        assert (response.status_code, response.value("Connection")) == (400, "close")
        assert b"TLS port" in response.content
        assert client.at_end()


def test_tls_on_a_plain_port_ends_with_400(serve: Serve, certificates: Certificates) -> None:
    server = serve(application)
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        certificates.connect(server.port)
    with connect_plain(server) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
        assert client.receive().status_code == 400
        assert client.at_end()


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x00\x05junk!", b"\x16\xff\xff\xff\xff" + bytes(70_000)])
def test_junk_in_a_handshake_ends_the_connection(serve: Serve, files: dict[str, Any], junk: bytes) -> None:
    server = serve(application, **files)
    with connect_plain(server) as client:
        client.send(junk)
        read_to_the_end(client)
    wait_until(lambda: not server.server.engine.openings, "the end of the opening")


@pytest.mark.parametrize("part", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_handshake_that_stalls_is_cut_by_header_timeout(serve: Serve, files: dict[str, Any], part: bytes) -> None:
    server = serve(application, header_timeout=0.3, keep_alive=60, **files)
    with connect_plain(server) as client:
        begun = time.monotonic()
        client.send(part)
        for _ in range(3):  # a dribble moves no deadline
            client.send(part and b"\0")
        assert read_to_the_end(client) == b""
        assert time.monotonic() - begun >= 0.25
    assert server.call(server.server.stats).connections.reading == 0


def test_handshakes_count_as_connections(serve: Serve, certificates: Certificates, files: dict[str, Any]) -> None:
    server = serve(application, header_timeout=1.5, max_connections=2, **files)
    begun = time.monotonic()
    with connect_plain(server) as first, connect_plain(server) as second:
        wait_until(lambda: server.call(server.server.stats).connections.reading == 2, "two handshakes")
        with certificates.connect(server.port) as third:
            assert time.monotonic() - begun > 1.4  # not before the others were cut
            assert environ_of(third)["HTTPS"] == "on"
        assert read_to_the_end(first) == read_to_the_end(second) == b""


def test_client_that_is_gone_before_its_handshake_leaves_nothing(serve: Serve, files: dict[str, Any]) -> None:
    server = serve(application, **files)
    for number in range(20):
        client = connect_plain(server)
        client.send(b"\x16\x03")
        client.reset() if number % 2 else client.close()
    wait_until(lambda: not (server.server.engine.openings or server.server.engine.arriving), "the end of all")


def test_oldest_version_is_an_option(serve: Serve, certificates: Certificates, files: dict[str, Any]) -> None:
    server = serve(application, ssl_min_version="TLSv1.3", **files)
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        certificates.connect(server.port, certificates.client_context(maximum_version=ssl.TLSVersion.TLSv1_2))
    with certificates.connect(server.port) as client:
        assert environ_of(client)["SSL_PROTOCOL"] == "TLSv1.3"


def test_ciphers_are_an_option(serve: Serve, certificates: Certificates, files: dict[str, Any]) -> None:
    cipher = "ECDHE-ECDSA-CHACHA20-POLY1305"
    server = serve(application, ssl_ciphers=cipher, **files)
    context = certificates.client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with certificates.connect(server.port, context) as client:
        assert environ_of(client)["SSL_CIPHER"] == cipher


# Client certificates.


def test_certificate_of_the_client_is_in_environ(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, ssl_ca_certs=str(certificates.ca_path), ssl_cert_reqs="required", **files)
    with certificates.connect(server.port, certificates.client_context(certificate=True)) as client:
        environ = environ_of(client)
    assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert environ["SSL_CLIENT_S_DN"].startswith(r"CN=Jo\, \"the\" client,OU=")
    assert environ["SSL_CLIENT_S_DN"].encode("latin-1").decode().endswith(",O=Örg")
    assert environ["SSL_CLIENT_S_DN_CN"] == 'Jo, "the" client'
    assert "O=trustme" in environ["SSL_CLIENT_I_DN"]
    assert environ["SSL_CLIENT_V_START"].endswith(" GMT")
    assert environ["SSL_CLIENT_V_END"].endswith(" GMT")
    pem = environ["SSL_CLIENT_CERT"]
    assert ssl.PEM_cert_to_DER_cert(pem) == ssl.PEM_cert_to_DER_cert(
        certificates.client.cert_chain_pems[0].bytes().decode()
    )
    assert bytes.fromhex(environ["SSL_CLIENT_M_SERIAL"]) in ssl.PEM_cert_to_DER_cert(pem)


def test_client_without_the_required_certificate_is_refused(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, ssl_ca_certs=str(certificates.ca_path), ssl_cert_reqs="2", **files)
    with (
        pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"),
        certificates.connect(server.port) as client,
    ):
        client.get("/")


def test_client_with_a_certificate_of_another_authority_is_refused(
    serve: Serve, certificates: Certificates, files: dict[str, Any], tmp_path: Path
) -> None:
    server = serve(application, ssl_ca_certs=str(certificates.ca_path), ssl_cert_reqs="optional", **files)
    context = certificates.client_context()
    Certificates(tmp_path).client.configure_cert(context)
    with pytest.raises(ssl.SSLError, match=r"UNKNOWN_CA|DECRYPT"), certificates.connect(server.port, context) as client:
        client.get("/")


def test_client_without_an_optional_certificate_is_served(
    serve: Serve, certificates: Certificates, files: dict[str, Any]
) -> None:
    server = serve(application, ssl_ca_certs=str(certificates.ca_path), ssl_cert_reqs="optional", **files)
    with certificates.connect(server.port) as client:
        environ = environ_of(client)
        fields = ["SSL-Client-Verify: SUCCESS", "SSL_CLIENT_VERIFY: SUCCESS", "Ssl-Client-S-Dn: CN=admin"]
        forged = json.loads(client.get("/", *fields).content)
    for seen in (environ, forged):
        assert {name: value for name, value in seen.items() if name.startswith("SSL_CLIENT_")} == {
            "SSL_CLIENT_VERIFY": "NONE"
        }


# Certificates of the server.


def peer_serial(client: RawClient) -> str:
    certificate = client.socket.getpeercert()  # type: ignore[attr-defined]
    return str(certificate["serialNumber"])


def test_reload_serves_a_new_certificate_and_closes_nothing(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    options = certificates.write("renewed")
    server = serve(application, **options)
    with certificates.connect(server.port) as old, connect_plain(server) as opening:
        wait_until(lambda: server.server.engine.openings, "an opening")
        certificates.write("renewed")
        assert server.call(server.server.reload_tls) is True
        with certificates.connect(server.port) as new:
            assert peer_serial(old) != peer_serial(new)
            assert environ_of(old)["HTTPS"] == environ_of(new)["HTTPS"] == "on"
        opening.socket = certificates.client_context().wrap_socket(opening.socket, server_hostname="127.0.0.1")
        assert environ_of(opening)["HTTPS"] == "on"
        Path(options["ssl_certfile"]).write_text("half of a fi")
        assert server.call(server.server.reload_tls) is False
        with certificates.connect(server.port) as newest:
            assert peer_serial(newest) == peer_serial(new) if new.socket.fileno() >= 0 else True
            assert environ_of(newest)["HTTPS"] == environ_of(old)["HTTPS"] == "on"
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert options["ssl_certfile"] in line
    assert "holds no certificate" in line
    caplog.clear()


def test_hook_chooses_a_certificate_by_name(serve: Serve, certificates: Certificates, files: dict[str, Any]) -> None:
    other = certificates.write("other", "other.example.org")
    calls = []

    def hook(context: ssl.SSLContext) -> ssl.SSLContext:
        calls.append(context)
        second = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        second.load_cert_chain(other["ssl_certfile"], other["ssl_keyfile"])

        def choose(tls: ssl.SSLObject, name: str | None, initial: ssl.SSLContext) -> None:
            if name == "other.example.org":
                tls.context = second

        context.sni_callback = choose  # type: ignore[assignment]
        return context

    server = serve(application, ssl_context=hook, **files)
    with certificates.connect(server.port) as client:
        assert environ_of(client)["HTTPS"] == "on"
    with certificates.connect(server.port, server_name="other.example.org") as client:
        assert environ_of(client)["HTTPS"] == "on"
    assert len(calls) == 1
    assert server.call(server.server.reload_tls)
    assert len(calls) == 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("first", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
def test_context_chosen_by_name_that_requires_a_certificate_serves_nobody_without(
    serve: Serve,
    certificates: Certificates,
    files: dict[str, Any],
    first: ssl.VerifyMode,
    version: ssl.TLSVersion,
) -> None:
    other = certificates.write("other", "other.example.org")
    second = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    second.load_cert_chain(other["ssl_certfile"], other["ssl_keyfile"])
    second.load_verify_locations(certificates.ca_path)
    second.verify_mode = ssl.CERT_REQUIRED

    def hook(context: ssl.SSLContext) -> ssl.SSLContext:
        def choose(tls: ssl.SSLObject, name: str | None, initial: ssl.SSLContext) -> None:
            if name == "other.example.org":
                tls.context = second

        context.verify_mode = first
        context.sni_callback = choose  # type: ignore[assignment]
        return context

    server = serve(application, ssl_context=hook, **files)
    with certificates.connect(server.port) as client:
        assert environ_of(client)["HTTPS"] == "on"
    for with_certificate in (False, True):
        context = certificates.client_context(
            certificate=with_certificate, minimum_version=version, maximum_version=version
        )
        with certificates.connect(server.port, context, "other.example.org") as client:
            if with_certificate and first is ssl.CERT_OPTIONAL:
                assert environ_of(client)["SSL_CLIENT_VERIFY"] == "SUCCESS"
            else:  # with CERT_NONE nobody has asked for it
                with suppress(ConnectionError):
                    client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert read_to_the_end(client) == b""
    wait_until(lambda: not server.server.engine.openings, "the end of the openings")


def test_context_of_the_program_is_used_as_it_is(serve: Serve, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert("127.0.0.1").configure_cert(context)
    server = serve(application, ssl_context=context)
    assert server.call(server.server.reload_tls)
    with certificates.connect(server.port) as client:
        assert environ_of(client)["HTTPS"] == "on"
        assert client.socket.selected_alpn_protocol() is None  # type: ignore[attr-defined]


def test_listener_of_the_program_may_speak_tls_in_its_own_way(
    certificates: Certificates, files: dict[str, Any], loop_name: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])

    def ask(port: int) -> dict[str, str]:
        with certificates.connect(port) as client:
            return environ_of(client)

    async def main() -> dict[str, str]:
        server = Server(application)
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(server.protocol_factory, "127.0.0.1", 0, ssl=context)
        environ = await asyncio.to_thread(ask, listener.sockets[0].getsockname()[1])
        listener.close()
        await server.shutdown(0)
        return environ

    environ = run_in_loop(loop_name, main)
    assert (environ["HTTPS"], environ["SSL_PROTOCOL"]) == ("on", "TLSv1.3")


def test_thousand_connections_are_held_and_served(
    serve: Serve, certificates: Certificates, files: dict[str, Any], loop_name: str
) -> None:
    count = 1000 if loop_name == "uvloop" and _descriptor_limit() > 2500 else 200
    server = serve(application, **files)
    context = certificates.client_context()
    with ExitStack() as stack:
        clients = [stack.enter_context(certificates.connect(server.port, context)) for _ in range(count)]
        for client in clients:
            client.send(GET)
        assert all(client.receive().status_code == 200 for client in clients)
        assert server.call(server.server.stats).connections.idle == count


def _descriptor_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class FullTransport(asyncio.Transport):
    """A transport whose peer takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.size = 0
        self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written.append(bytes(data))
        self.size += len(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        for data in list_of_data:
            self.write(data)

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class ForgetfulTransport(FullTransport):
    """It does not ask to pause after writelines(), as that of CPython 3.13.0 (CVE-2024-12254)."""

    def __init__(self) -> None:
        super().__init__()
        self.tls: TLSTransport | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        if self.size > high and self.tls is not None:
            self.tls.pause_writing()


def _open(
    certificates: Certificates,
    files: dict[str, Any],
    transport: FullTransport,
    protocol: asyncio.Protocol,
) -> tuple[TLSTransport, ssl.SSLObject, ssl.MemoryBIO]:
    """Shake hands in memory; return both sides, and what the client's writes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    tls = TLSTransport(transport, context, asyncio.get_running_loop(), lambda _: protocol, lambda _: None)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    tls.data_received(outgoing.read())
    incoming.write(b"".join(transport.written))
    client.do_handshake()
    tls.data_received(outgoing.read())
    return tls, client, outgoing


def test_transport_that_forgets_to_say_that_it_is_full_is_given_no_more(
    certificates: Certificates, files: dict[str, Any]
) -> None:
    class Connection(asyncio.Protocol):
        paused = False

        def pause_writing(self) -> None:
            self.paused = True

    async def write_on() -> int:
        transport, connection = ForgetfulTransport(), Connection()
        transport.tls, *_ = _open(certificates, files, transport, connection)
        transport.tls.set_write_buffer_limits(high=64 * 1024)
        for _ in range(16):
            if not connection.paused:
                transport.tls.write(bytes(256 * 1024))
        return transport.size

    assert asyncio.run(write_on()) < 512 * 1024


class Collecting(asyncio.Protocol):
    """A connection that keeps what it is given, and whether the client has ended."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ended = False

    def data_received(self, data: bytes) -> None:
        assert not self.ended
        self.received.append(data)

    def eof_received(self) -> bool:
        self.ended = True
        return True


def test_records_of_one_byte_are_joined_and_leave_others_their_turn(
    certificates: Certificates, files: dict[str, Any]
) -> None:
    content = CONTENT[:3_000]

    async def receive() -> None:
        transport, connection = FullTransport(), Collecting()
        tls, client, outgoing = _open(certificates, files, transport, connection)
        for byte in content:
            client.write(bytes([byte]))
        with suppress(ssl.SSLWantReadError):
            client.unwrap()
        tls.data_received(outgoing.read())
        turn_count = 0
        while not connection.ended:
            assert not transport.reading  # until it has had all
            assert len(connection.received) == turn_count + 1
            assert turn_count < 100
            turn_count += 1
            await asyncio.sleep(0)
        assert b"".join(connection.received) == content
        assert turn_count > 10
        assert transport.reading

    asyncio.run(receive())


def test_what_comes_before_a_broken_record_is_passed_on(certificates: Certificates, files: dict[str, Any]) -> None:
    async def receive() -> None:
        transport, connection = FullTransport(), Collecting()
        tls, client, outgoing = _open(certificates, files, transport, connection)
        client.write(b"whole")
        client.write(b"another")
        client.write(b"broken")
        records = bytearray(outgoing.read())
        records[-1] ^= 1
        tls.data_received(bytes(records))
        assert b"".join(connection.received) == b"wholeanother"
        assert transport.aborted

    asyncio.run(receive())


def _change_keys(client: ssl.SSLObject) -> None:
    """Have a client change its keys and ask for a change in return, which Python does not offer."""
    pointer = ctypes.c_void_p.from_address(id(client._sslobj) + 3 * ctypes.sizeof(ctypes.c_void_p))  # type: ignore[attr-defined]
    library = ctypes.CDLL(_ssl.__file__)
    assert library.SSL_key_update(pointer, 1) == 1
    assert library.SSL_do_handshake(pointer) == 1


@pytest.mark.skipif(
    sys.implementation.name != "cpython"
    or not (3, 11) <= sys.version_info < (3, 15)
    or bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    or not hasattr(_ssl, "__file__"),
    reason="reaches into CPython's ssl, whose inside is known of these versions",
)
def test_client_that_changes_keys_and_takes_nothing_fills_no_memory(
    certificates: Certificates, files: dict[str, Any]
) -> None:
    transport = FullTransport()

    async def change_keys() -> int:
        tls, client, outgoing = _open(certificates, files, transport, asyncio.Protocol())
        for count in range(50_000):
            _change_keys(client)
            tls.data_received(outgoing.read())
            if transport.aborted:
                return count
        return 0

    assert asyncio.run(change_keys()) > 1_000
    assert transport.size < 1024 * 1024
