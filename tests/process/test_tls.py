"""TLS from the command line."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from tests.certificates import Certificates, encrypt_key
from tests.process.server_process import hangups_ignored, server_process
from tests.process.test_activation import Systemd

HELLO = """
import ssl

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["SSL_PROTOCOL"].encode()]

def hook(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "hello.py").write_text(HELLO)
    made = Certificates(tmp_path)
    made.write("server")
    return made


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_sighup_reads_the_certificate_again_and_sigterm_drains(
    tmp_path: Path, certificates: Certificates, loop_name: str
) -> None:
    key = encrypt_key(tmp_path / "server.key", "open sesame")
    arguments = ["hello:app", "--port=0", f"--loop={loop_name}", "--ssl-certfile=server.pem", f"--ssl-keyfile={key}"]
    with server_process(
        tmp_path, *arguments, "--ssl-context=hello:hook", AIOWSGI_SSL_KEYFILE_PASSWORD="open sesame"
    ) as server:
        port = int(server.wait_for_log(r"https://127\.0\.0\.1:(\d+)")[1])
        with certificates.connect(port) as old:
            assert old.get("/").content == b"TLSv1.3"
            certificates.write("server")
            encrypt_key(tmp_path / "server.key", "open sesame")
            server.signal(signal.SIGHUP)
            server.wait_for_log("the TLS certificate was read again")
            with certificates.connect(port) as new:
                assert new.get("/").content == old.get("/").content == b"TLSv1.3"
                serials = [client.socket.getpeercert()["serialNumber"] for client in (old, new)]  # type: ignore[attr-defined]
                assert serials[0] != serials[1]
                (tmp_path / "server.pem").write_text("half of a fi")
                server.signal(signal.SIGHUP)
                server.wait_for_log("stays as it was: ssl_certfile=.*/server.pem: holds no certificate in PEM form")
                assert new.get("/").content == b"TLSv1.3"
                server.signal(signal.SIGTERM)
                assert new.at_end()
            assert old.at_end()
        assert server.wait() == 0
    assert "open sesame" not in server.log


def test_sighup_to_a_single_process_is_told_to_the_service_manager_until_it_is_over(
    tmp_path: Path, certificates: Certificates
) -> None:
    arguments = ["hello:app", "--port=0", "--ssl-certfile=server.pem", "--ssl-keyfile=server.key"]
    with (
        contextlib.closing(Systemd(tmp_path)) as systemd,
        server_process(tmp_path, *arguments, NOTIFY_SOCKET=systemd.path) as server,
    ):
        assert "STATUS=serving" in systemd.wait_for("READY=1")
        server.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in systemd.wait_for("RELOADING=1")
        assert "STATUS=serving" in systemd.wait_for("READY=1")
        (tmp_path / "server.pem").write_text("half of a fi")
        server.signal(signal.SIGHUP)
        systemd.wait_for("RELOADING=1")
        assert "STATUS=reload failed" in systemd.wait_for("READY=1")


def test_sighup_reads_the_certificate_again_where_nohup_has_started_the_process(
    tmp_path: Path, certificates: Certificates
) -> None:
    arguments = ["hello:app", "--port=0", "--ssl-certfile=server.pem", "--ssl-keyfile=server.key"]
    with hangups_ignored(), server_process(tmp_path, *arguments) as server:
        server.wait_for_log(r"https://127\.0\.0\.1:\d+")
        server.signal(signal.SIGHUP)
        server.wait_for_log("the TLS certificate was read again")


def test_certificate_that_is_missing_ends_the_start(tmp_path: Path, certificates: Certificates) -> None:
    with server_process(tmp_path, "hello:app", "--port=0", "--certfile=missing.pem") as server:
        assert server.wait() == 3
    assert server.log == f"aiowsgi: ssl_certfile={tmp_path}/missing.pem: No such file or directory\n"
