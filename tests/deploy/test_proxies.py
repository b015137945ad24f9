"""The recipes of ``examples/deploy`` with the programs that they are for."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.deploy.daemons import CLIENT, PATIENCE, Daemon, apache, application, find, haproxy, needs, nginx
from tests.process.server_process import ServerProcess, wait_until
from tests.raw import RawClient

FORGED = [
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 10.0.0.1",
    "Forwarded: for=10.0.0.1;proto=https",
    "X_Forwarded_For: 10.0.0.1",
]

BEHIND_HAPROXY = ["--proxy-protocol=v2", "--ready-path=/ready"]


def environ_of(client: RawClient, *fields: str, target: str = "/path?query") -> dict[str, str]:
    response = client.get(target, *fields)
    assert response.status_code == 200, response
    environ: dict[str, str] = json.loads(response.content)
    return environ


def check_environ(environ: dict[str, str], scheme: str = "http") -> None:
    """Whatever the client claims, environ has its real address and scheme."""
    assert environ["REMOTE_ADDR"] == CLIENT
    assert environ["wsgi.url_scheme"] == scheme
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("", "/path", "query")
    assert environ["HTTP_HOST"] == "test"
    assert not [value for name, value in environ.items() if "evil" in str(value) and name != "HTTP_X_FORWARDED_HOST"]


def check_forged_fields(daemon: Daemon) -> None:
    with daemon.connect() as client:
        check_environ(environ_of(client))
        forged = environ_of(client, *FORGED)
        check_environ(forged)
        assert "HTTP_X_REAL_IP" not in forged
        assert "HTTP_FORWARDED" not in forged
        assert "HTTP_X_FORWARDED_PREFIX" not in forged


def check_upload(daemon: Daemon) -> None:
    with daemon.connect() as client:
        assert json.loads(client.post(bytes(3_000_000), "/").content)["length"] == 3_000_000


def check_stream(daemon: Daemon, folder: Path) -> None:
    """Each event arrives before the next one is made."""
    with daemon.connect() as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        for number in range(3):
            (folder / f"event{number}").touch()
            if number == 0:
                assert client.receive_head().value("Transfer-Encoding") == "chunked"
            assert client.read_chunk() == f"data: {number}\n\n".encode()
        assert client.read_chunk() == b""


def check_payment(daemon: Daemon, folder: Path) -> None:
    """A POST whose worker dies is not sent to another one: it may have been done."""
    with daemon.connect() as client:
        assert client.get("/").status_code == 200  # the proxy has a connection that it may use again
    with daemon.connect() as client:
        assert client.post(b"42", "/pay").status_code == 502
    assert (folder / "paid").read_text().split() == ["POST"]


def ports_of_requests(daemon: Daemon, count: int) -> set[str]:
    """Return the ports that the proxy came from, asked by one client after another."""
    ports = set()
    for _ in range(count):
        with daemon.connect() as client:
            # A HTTP/1.0 client without keep-alive: no connection of the proxy's own is kept because the client's is.
            client.send(b"GET /peer HTTP/1.0\r\nHost: test\r\n\r\n")
            ports.add(json.loads(client.receive().content)["REMOTE_PORT"])
    return ports


Proxy = Callable[[Path, str], AbstractContextManager[Daemon]]


@pytest.fixture(params=[pytest.param(nginx, marks=needs("nginx")), pytest.param(apache, marks=needs("apache2"))])
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return request.param


def test_proxy_over_tcp(tmp_path: Path, proxy: Proxy) -> None:
    with (
        application(tmp_path, "--port=0", "--forwarded-allow-ips=127.0.0.1") as server,
        proxy(tmp_path, f"127.0.0.1:{server.port}") as daemon,
    ):
        check_forged_fields(daemon)
        check_upload(daemon)
        check_stream(daemon, tmp_path)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@needs("nginx")
def test_nginx_keeps_its_connections(tmp_path: Path) -> None:
    with (
        application(tmp_path, "--port=0") as server,  # which trusts nobody: REMOTE_PORT is nginx's
        nginx(tmp_path, f"127.0.0.1:{server.port}") as daemon,
    ):
        assert len(ports_of_requests(daemon, 10)) == 1


def test_proxy_sends_no_payment_twice(tmp_path: Path, proxy: Proxy) -> None:
    with (
        application(tmp_path, "--port=0", "--workers=2") as server,
        proxy(tmp_path, f"127.0.0.1:{server.port}") as daemon,
    ):
        check_payment(daemon, tmp_path)


@needs("nginx")
def test_nginx_over_a_unix_socket(tmp_path: Path) -> None:
    with application(tmp_path, f"--bind=unix:{tmp_path}/sock") as server:
        server.wait_for_log("aiowsgi ")
        with nginx(tmp_path, f"unix:{tmp_path}/sock") as daemon:
            check_forged_fields(daemon)
            check_upload(daemon)
            check_stream(daemon, tmp_path)


@needs("haproxy")
def test_haproxy_with_proxy_protocol(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(application(tmp_path, "--port=0", *BEHIND_HAPROXY)) for _ in range(2)]
        daemon = stack.enter_context(haproxy(tmp_path, [f"127.0.0.1:{server.port}" for server in servers]))
        with daemon.connect() as client:
            port = str(client.socket.getsockname()[1])
            environ = environ_of(client, *FORGED)
            check_environ(environ)
            assert (environ["REMOTE_PORT"], environ["SERVER_PORT"]) == (port, str(daemon.port))
            assert not [name for name in environ if "FORWARDED" in name or "REAL_IP" in name]
        check_upload(daemon)
        check_stream(daemon, tmp_path)
        with daemon.connect() as client:
            assert client.get("/ready").status_code == 403
        # Nothing that the checks do is worth a line.
        assert all(server.log.count("\n") == 1 for server in servers)


@needs("haproxy")
def test_haproxy_that_ends_tls_makes_it_https(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    files = certificates.write("server")
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files["ssl_certfile"]).read_bytes() + Path(files["ssl_keyfile"]).read_bytes())
    with application(tmp_path, "--port=0", *BEHIND_HAPROXY) as server:
        upstream = f"127.0.0.1:{server.port}"
        with (
            haproxy(tmp_path, [upstream, upstream], both) as daemon,
            daemon.connect() as client,
        ):
            client.socket = certificates.client_context().wrap_socket(client.socket, server_hostname="127.0.0.1")
            check_environ(environ_of(client, *FORGED), "https")


@needs("haproxy")
def test_haproxy_sends_no_payment_twice(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(application(tmp_path, "--port=0", *BEHIND_HAPROXY)) for _ in range(2)]
        daemon = stack.enter_context(haproxy(tmp_path, [f"127.0.0.1:{server.port}" for server in servers]))
        check_payment(daemon, tmp_path)


class Load:
    """Clients that ask again and again; some on one connection, some on a new one each time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.pids: list[int] = []
        self.failures: list[object] = []
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _run(self, kept: bool) -> None:
        try:
            while not self._stop.is_set():
                with self._daemon.connect() as client:
                    for _ in range(50 if kept else 1):
                        response = client.get("/")
                        with self._lock:
                            if response.status_code == 200:
                                self.pids.append(json.loads(response.content)["pid"])
                            else:
                                self.failures.append(response)
        except BaseException as error:
            self.failures.append(error)

    def wait_for(self, pid: int) -> None:
        """Wait until a server has answered ten requests more."""
        count = self.pids.count(pid) + 10
        wait_until(lambda: self.pids.count(pid) >= count or self.failures, f"answers of {pid}")


@needs("haproxy")
def test_rolling_restart_behind_haproxy_loses_no_request(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def start(port: int = 0) -> ServerProcess:
            return stack.enter_context(application(tmp_path, f"--port={port}", "--drain-delay=600ms", *BEHIND_HAPROXY))

        servers = [start(), start()]
        ports = [server.port for server in servers]
        daemon = stack.enter_context(haproxy(tmp_path, [f"127.0.0.1:{port}" for port in ports]))
        with Load(daemon) as load:
            for number in range(2):
                for server in servers:
                    load.wait_for(server.process.pid)
                servers[number].signal(signal.SIGTERM)
                assert servers[number].wait() == 0
                assert "0 abandoned" in servers[number].log
                load.wait_for(servers[1 - number].process.pid)
                servers[number] = start(ports[number])
                load.wait_for(servers[number].process.pid)
        assert load.failures == []


@needs("haproxy")
def test_haproxy_sends_nothing_to_a_server_that_drains(tmp_path: Path) -> None:
    with ExitStack() as stack:
        arguments = ["--port=0", "--drain-delay=60s", *BEHIND_HAPROXY]
        leaving, staying = [stack.enter_context(application(tmp_path, *arguments)) for _ in range(2)]
        daemon = stack.enter_context(haproxy(tmp_path, [f"127.0.0.1:{leaving.port}", f"127.0.0.1:{staying.port}"]))

        def pids() -> set[str]:
            found = set()
            for _ in range(6):
                with daemon.connect() as client:
                    found.add(environ_of(client)["pid"])
            return found

        wait_until(lambda: len(pids()) == 2, "both servers")
        leaving.signal(signal.SIGTERM)
        wait_until(lambda: pids() == {staying.process.pid}, "one server only")
        assert leaving.process.poll() is None  # it still listens: HAProxy knows from the check, not from a refusal
        leaving.signal(signal.SIGINT)
        leaving.wait()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@needs("curl")
def test_curl_over_tls(tmp_path: Path, version: ssl.TLSVersion) -> None:
    certificates = Certificates(tmp_path)
    certificates.write("server")
    files = [f"--certfile={tmp_path}/server.pem", f"--keyfile={tmp_path}/server.key"]
    with application(tmp_path, "--port=0", *files) as server:
        port = server.wait_for_log(r"https://127\.0\.0\.1:(\d+)")[1]
        number = "1.2" if version is ssl.TLSVersion.TLSv1_2 else "1.3"
        command = [str(find("curl")), "-sS", "--noproxy", "*", "--cacert", "ca.pem", "--tls-max", number, "--http2"]
        url = f"https://127.0.0.1:{port}/path?query"
        done = subprocess.run([*command, url, url], cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        first, second = done.stdout.replace(b"}{", b"}\n{").splitlines()
        assert json.loads(first)["REMOTE_PORT"] == json.loads(second)["REMOTE_PORT"]  # one connection
        assert json.loads(first)["SSL_PROTOCOL"] == f"TLSv{number}"
