"""gunicorn's settings of TLS, under its master."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.gunicorn_worker.gunicorn_process import GunicornProcess, gunicorn, is_alive, wait_until
from tests.gunicorn_worker.test_worker import GET_HOLD, loops, use_loop, wait_for_file
from tests.raw import RawClient


@pytest.fixture
def certificates(folder: Path) -> Certificates:
    made = Certificates(folder)
    made.write("server")
    return made


def port_of(server: GunicornProcess) -> int:
    return int(server.wait_for_log(r"Listening at: https://127\.0\.0\.1:(\d+)")[0])


def connect(server: GunicornProcess, certificates: Certificates) -> RawClient:
    context = certificates.client_context(certificate=True)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return certificates.connect(port_of(server), context)


@loops
def test_worker_speaks_tls_over_reload_and_drain(folder: Path, certificates: Certificates, loop_name: str) -> None:
    use_loop(folder, loop_name)
    arguments = ["--certfile=server.pem", "--keyfile=server.key", "--ca-certs=ca.pem", "--cert-reqs=2", "--threads=2"]
    with gunicorn(folder, *arguments) as server:
        old = server.wait_for_workers()
        with connect(server, certificates) as client:
            assert client.socket.selected_alpn_protocol() == "http/1.1"  # type: ignore[attr-defined]
            assert client.get("/environ").content.startswith(b"False True https ")
            content = os.urandom(1_000_000)
            assert client.post(content, "/upload").content == hashlib.sha256(content).hexdigest().encode()
            assert client.get("/file").content == (folder / "app.py").read_bytes()
            assert client.get("/stream").content == b"one, two"
        certificates.write("server")
        server.signal(signal.SIGHUP)
        server.wait_for_workers(2)
        wait_until(lambda: not is_alive(old[0]), "the end of the old worker")
        with connect(server, certificates) as client, connect(server, certificates) as idle:
            assert idle.get("/environ").status_code == 200
            client.send(GET_HOLD)
            wait_for_file(folder, "running")
            server.signal(signal.SIGTERM)
            # This shows that the worker has been told as well: the master logs that before it tells it.
            assert idle.at_end()
            (folder / "go").touch()
            response = client.receive()
            assert (response.content, response.value("Connection")) == (b"done", "close")
            assert server.wait() == 0
        assert "Traceback" not in server.log


def test_certificate_that_cannot_be_read_ends_the_boot(folder: Path) -> None:
    for name in ("cert.pem", "cert.key"):
        (folder / name).write_text("junk")
    with gunicorn(folder, "--certfile=cert.pem", "--keyfile=cert.key") as server:
        assert server.wait() != 0
        assert re.search(r"RuntimeError: .*certfile=cert\.pem, keyfile=cert\.key, ca_certs=None: ", server.log)
