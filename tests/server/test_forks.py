"""Connections end for their clients, whatever processes the application has forked meanwhile."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import PATIENCE, Certificates
from tests.conftest import ServerThread
from tests.hosting import poll
from tests.raw import RawClient

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Serve = Callable[..., ServerThread]

# CPython 3.12 and later warn of forks in a process with threads.
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

OLD_GET = b"GET %b HTTP/1.0\r\n\r\n"
SHORT = {"keep_alive": 0.2, "header_timeout": 0.2}


class Forking:
    """An application that forks a process for each request to ``/fork``; it lives until :meth:`close`."""

    def __init__(self) -> None:
        self.listening: list[socket.socket] = []
        self._reader, self._writer = os.pipe()
        self._pids: list[int] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = b"served"
        if environ["PATH_INFO"] == "/fork":
            answer = self._fork()
        start_response("200 OK", [])
        return (block for block in [answer])

    def _fork(self) -> bytes:
        """Fork; return ``b"S"`` for each of :attr:`listening` that the process has as a socket."""
        told, telling = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(self._writer)
                kinds = [stat.S_ISSOCK(os.fstat(sock.fileno()).st_mode) for sock in self.listening]
                os.write(telling, b"forked " + b"S" * sum(kinds))
                os.read(self._reader, 1)
            finally:
                os._exit(0)
        self._pids.append(pid)
        answer = os.read(told, 100)
        os.close(told)
        os.close(telling)
        return answer

    def close(self) -> None:
        os.close(self._writer)
        for pid in self._pids:
            os.waitpid(pid, 0)
        os.close(self._reader)


@pytest.fixture
def application() -> Iterator[Forking]:
    forking = Forking()
    yield forking
    forking.close()


def fork(server: ServerThread) -> None:
    with server.connect(PATIENCE) as client:
        assert client.get("/fork").content.startswith(b"forked")


def test_response_that_the_connection_ends_ends_after_a_fork(serve: Serve, application: Forking) -> None:
    server = serve(application)
    with server.connect(PATIENCE) as client:
        client.send(OLD_GET % b"/fork")
        assert client.read_all().endswith(b"forked ")


def test_idle_connection_of_another_client_ends_after_a_fork(serve: Serve, application: Forking) -> None:
    server = serve(application, **SHORT)
    with server.connect(PATIENCE) as client:
        assert client.get().content == b"served"
        fork(server)
        assert client.read_all() == b""


@pytest.mark.parametrize("option", ["tls", "proxy_protocol"])
def test_connection_that_is_being_opened_ends_after_a_fork(
    serve: Serve, application: Forking, tmp_path: Path, option: str
) -> None:
    certificates = Certificates(tmp_path)
    options: dict[str, Any] = {"proxy_protocol": "v1", "proxy_allow_from": ["127.0.0.1"]}
    if option == "tls":
        options = certificates.write("server")
    server = serve(application, **SHORT, **options)
    with server.connect(PATIENCE) as client:
        poll(lambda: server.server.engine.openings)
        other = server.connect(PATIENCE)
        if option == "tls":
            other = RawClient(certificates.client_context().wrap_socket(other.socket, server_hostname="127.0.0.1"))
        else:
            other.send(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n")
        with other:
            assert other.get("/fork").content.startswith(b"forked")
            assert client.read_all() == b""


def test_tls_connection_ends_after_a_fork(serve: Serve, application: Forking, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    server = serve(application, **SHORT, **certificates.write("server"))
    plain = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    # TLS says itself that it ends; what counts here is the connection beneath.
    with socket.socket(fileno=os.dup(plain.fileno())) as beneath:
        beneath.settimeout(PATIENCE)
        with RawClient(certificates.client_context().wrap_socket(plain, server_hostname="127.0.0.1")) as client:
            assert client.get("/fork").content.startswith(b"forked")
            while beneath.recv(1024):
                pass


def test_file_on_its_way_ends_after_a_fork(serve: Serve, application: Forking, tmp_path: Path) -> None:
    size = 20_000_000  # more than both ends of a connection hold
    (tmp_path / "file").write_bytes(bytes(size))

    def with_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/file":
            return application(environ, start_response)
        start_response("200 OK", [])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
        return file

    server = serve(with_file)
    with server.connect(PATIENCE) as client:
        client.send(OLD_GET % b"/file")
        client.read_until(b"\r\n\r\n")
        fork(server)
        assert len(client.read_all()) == size


def test_listening_and_other_sockets_are_left_to_a_forked_process(serve: Serve, application: Forking) -> None:
    own, other = socket.socketpair()
    with own, other, socket.create_server(("127.0.0.1", 0)) as given:
        server = serve(application, bind=[f"fd://{given.fileno()}"])
        application.listening = [given, own, server.server._listeners[0]._socket]
        with server.connect(PATIENCE) as client:
            assert client.get("/fork").content == b"forked SSS"
