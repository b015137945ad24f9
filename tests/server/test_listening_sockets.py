"""Where a server listens, and what is left where it cannot."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiowsgi.configuration.addresses import parse_bind
from aiowsgi.server import Server
from aiowsgi.server.listening_sockets import clone_socket, open_sockets
from tests.conftest import LOOPS, ServerThread, running_server
from tests.raw import RawClient

Serve = Callable[..., ServerThread]


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [f"{environ['SERVER_NAME']} {environ['SERVER_PORT']} {environ['REMOTE_ADDR']}".encode()]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


def connect(address: str, port: int) -> RawClient:
    return RawClient(socket.create_connection((address, port), 10))


def connect_unix(path: Path | str) -> RawClient:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    try:
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return RawClient(sock)


@contextmanager
def busy_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Listen on a port, for somebody else to find it taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        sock.listen()
        yield int(sock.getsockname()[1])


def start_error(loop_name: str, *bind: str, alone: bool = True) -> OSError:
    """Start a server that cannot listen, alone in this process or not; return why.

    Nothing of it may be left behind.
    """

    async def main() -> OSError:
        descriptor_count = len(os.listdir("/dev/fd"))
        tasks = asyncio.all_tasks()
        server = Server(hello, bind=list(bind))
        with pytest.raises(OSError) as caught:
            await server.start()
        assert server.urls == ()
        if alone:
            assert len(os.listdir("/dev/fd")) == descriptor_count
        assert asyncio.all_tasks() == tasks
        return caught.value

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(main())


def free_port(host: str = "127.0.0.1") -> int:
    with busy_port(host) as port:
        return port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody listens there."""
    try:
        connect(host, port).close()
    except ConnectionRefusedError:
        return True
    return False


# TCP.


def test_several_addresses_are_all_served(serve: Serve, tmp_path: Path) -> None:
    server = serve(hello, bind=["127.0.0.1:0", "127.0.0.1:0", f"unix:{tmp_path}/socket"])
    first, second, third = server.server.urls
    assert third == f"unix:{tmp_path}/socket"
    ports = [int(url.rpartition(":")[2]) for url in (first, second)]
    assert ports[0] != ports[1]
    assert server.port == ports[0]
    assert server.url == f"http://127.0.0.1:{ports[0]}"
    for port in ports:
        with connect("127.0.0.1", port) as client:
            assert client.get("/").content == f"127.0.0.1 {port} 127.0.0.1".encode()
    with connect_unix(tmp_path / "socket") as client:
        assert client.get("/").content == b"test 80 "


def test_port_zero_of_a_name_is_the_same_port_on_all_its_addresses(serve: Serve) -> None:
    found = {entry[4][0] for entry in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    server = serve(hello, bind=["localhost:0"])
    assert {url.rpartition(":")[2] for url in server.server.urls} == {str(server.port)}
    assert len(server.server.urls) <= len(found)
    for url in server.server.urls:
        host = url.removeprefix("http://").rpartition(":")[0].strip("[]")
        assert host in found
        with connect(host, server.port) as client:
            assert client.get("/").status_code == 200


@needs_ipv6
def test_ipv6_address_is_served_and_named_in_brackets(serve: Serve) -> None:
    server = serve(hello, bind=["[::1]:0"])
    assert server.url == f"http://[::1]:{server.port}"
    with connect("::1", server.port) as client:
        assert client.get("/").content == f"::1 {server.port} ::1".encode()
    assert is_free(server.port)  # only what was asked for


@needs_ipv6
def test_empty_host_serves_both_families_on_one_port(serve: Serve) -> None:
    server = serve(hello, bind=[":0"])
    for host in ("127.0.0.1", "::1"):
        with connect(host, server.port) as client:
            assert client.get("/").status_code == 200


def test_port_in_use_is_an_error_that_names_it(loop_name: str) -> None:
    with busy_port() as port:
        error = start_error(loop_name, f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in str(error)
        assert "in use" in str(error)


def test_one_address_that_cannot_be_had_releases_the_others(loop_name: str, tmp_path: Path) -> None:
    free = free_port()
    with busy_port() as port:
        error = start_error(loop_name, f"127.0.0.1:{free}", f"unix:{tmp_path}/socket", f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in str(error)
        assert f"127.0.0.1:{free}" not in str(error)
    assert is_free(free)
    assert list(tmp_path.iterdir()) == []


@needs_ipv6
def test_one_family_of_a_name_that_cannot_be_had_releases_the_other(loop_name: str) -> None:
    """Where an empty host stands for both families, one that is taken is no reason to listen on half of it."""
    for host, other in (("127.0.0.1", "::1"), ("::1", "127.0.0.1")):
        with busy_port(host) as port:
            error = start_error(loop_name, f":{port}")
            assert str(port) in str(error)
            assert is_free(port, other)


def test_host_that_does_not_exist_is_an_error_that_names_it(loop_name: str) -> None:
    assert "no-such-host.invalid" in str(start_error(loop_name, "no-such-host.invalid:0"))


def test_server_whose_start_failed_can_be_started_later(loop_name: str) -> None:
    async def main() -> None:
        with busy_port() as port:
            server = Server(hello, bind=[f"127.0.0.1:{port}"])
            with pytest.raises(OSError, match=str(port)):
                await server.start()
        await server.start()
        assert server.port == port
        await server.shutdown(0)

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(main())


def test_port_can_be_had_again_at_once(loop_name: str) -> None:
    """Connections of the last server linger in the kernel: SO_REUSEADDR."""
    port = 0
    for _ in range(3):
        with running_server(hello, loop_name, bind=[f"127.0.0.1:{port}"]) as server:
            port = server.port
            with server.connect() as client:
                assert client.get("/", "Connection: close").status_code == 200
                assert client.at_end()


# Unix sockets.


def test_unix_socket_file_is_removed_at_the_end(loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running_server(hello, loop_name, bind=[f"unix:{path}"]):
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert not path.exists()


def test_unix_socket_file_is_removed_after_a_change_of_directory(
    loop_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_server(hello, loop_name, bind=["unix:socket"]):
        monkeypatch.chdir("/")
        assert (tmp_path / "socket").exists()
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000])
def test_unix_socket_has_its_permissions_as_soon_as_it_has_its_file(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "chmod")  # which would follow a link that somebody has put there meanwhile
    before = os.umask(umask)
    try:
        (sock,) = open_sockets([parse_bind(f"unix:{tmp_path}/socket")], 10, uds_mode=0o660)
    finally:
        kept = os.umask(before)
    with sock:
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o660
    assert kept == umask


def test_unix_socket_that_nobody_listens_on_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.exists()
    serve(hello, bind=[f"unix:{path}"])
    with connect_unix(path) as client:
        assert client.get("/").status_code == 200


def test_unix_socket_that_is_served_is_left_alone(serve: Serve, loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve(hello, bind=[f"unix:{path}"])
    assert str(path) in str(start_error(loop_name, f"unix:{path}", alone=False))
    with connect_unix(path) as client:
        assert client.get("/").status_code == 200


def test_file_that_is_no_socket_is_left_alone(loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    error = start_error(loop_name, f"unix:{path}")
    assert str(path) in str(error)
    assert "not a socket" in str(error)
    assert path.read_text() == "data"


def test_folder_that_does_not_exist_is_an_error_that_names_it(loop_name: str, tmp_path: Path) -> None:
    assert f"{tmp_path}/nowhere/socket" in str(start_error(loop_name, f"unix:{tmp_path}/nowhere/socket"))


def test_socket_file_that_has_become_another_servers_is_left_alone(loop_name: str, tmp_path: Path) -> None:
    """A successor may have taken the place already."""
    path = tmp_path / "socket"
    with running_server(hello, loop_name, bind=[f"unix:{path}"]):
        path.rename(tmp_path / "old")
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            successor.listen()
    assert path.exists()


# Inherited sockets.


def test_inherited_socket_is_served_and_stays_open(serve: Serve) -> None:
    with socket.socket() as inherited:
        inherited.bind(("127.0.0.1", 0))
        server = serve(hello, bind=[f"fd://{inherited.fileno()}"])
        assert server.port == inherited.getsockname()[1]
        with server.connect() as client:
            assert client.get("/").status_code == 200
        server.stop()
        assert inherited.getsockname()[1] == server.port  # its owner's to close
        with ExitStack() as stack:
            # Somebody else may go on with it: connections are still taken.
            stack.enter_context(connect("127.0.0.1", server.port))


def test_inherited_unix_socket_keeps_its_file(loop_name: str, tmp_path: Path) -> None:
    """Other processes may be serving it."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(path))
        inherited.listen()
        with (
            running_server(hello, loop_name, bind=[f"fd://{inherited.fileno()}"]) as server,
            connect_unix(path) as client,
        ):
            assert server.url == f"unix:{path}"
            assert client.get("/").status_code == 200
        assert path.exists()
        connect_unix(path).close()


def test_descriptor_that_is_no_socket_is_an_error_that_names_it(loop_name: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert f"fd://{file.fileno()}" in str(start_error(loop_name, f"fd://{file.fileno()}"))
        assert os.fstat(file.fileno())


def test_descriptor_of_another_kind_of_socket_is_an_error_that_names_it(loop_name: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert f"fd://{datagrams.fileno()}" in str(start_error(loop_name, f"fd://{datagrams.fileno()}"))


def test_descriptor_of_a_socket_of_virtual_machines_is_an_error_that_names_it(loop_name: str) -> None:
    try:
        sock = socket.socket(socket.AF_VSOCK)  # vsock(7); systemd: ListenStream=vsock:...
    except (AttributeError, OSError):
        pytest.skip("this system has none")
    with sock:
        sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        error = start_error(loop_name, f"fd://{sock.fileno()}")
        assert error.strerror == f"cannot listen on fd://{sock.fileno()}: neither a TCP nor a Unix socket"


def test_descriptor_that_is_not_open_is_an_error_that_names_it(loop_name: str) -> None:
    assert "fd://999999" in str(start_error(loop_name, "fd://999999"))


# Clones.


def test_socket_is_cloned_only_where_it_lets_others_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as alone, pytest.raises(OSError):
        clone_socket(alone, 10)
    (sock,) = open_sockets([parse_bind("127.0.0.1:0")], 10, reuse_port=True)
    with sock, clone_socket(sock, 10) as clone:
        assert clone.getsockname() == sock.getsockname()


def test_clone_of_a_socket_for_both_families_is_for_both() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no such sockets here")
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, reuse_port=True, dualstack_ipv6=True) as sock,
        clone_socket(sock, 10) as clone,
    ):
        assert clone.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


@pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="Linux alone binds sockets to devices")
def test_clone_of_a_socket_for_one_device_is_for_no_other() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        except PermissionError:
            pytest.skip("a right that older kernels demand")
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with clone_socket(sock, 10) as clone:
            assert clone.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
