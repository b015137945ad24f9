"""nginx, HAProxy and Apache httpd with the files of ``examples/deploy``, in the foreground, in folders of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import aiowsgi
from tests.process.server_process import PATIENCE, ServerProcess, server_process, wait_until
from tests.raw import RawClient

EXAMPLES = Path(aiowsgi.__file__).parents[1] / "examples" / "deploy"

# Where clients come from: not from the proxy's address, which is trusted.
CLIENT = "127.0.0.2"

# Echoes its environ; streams, one block for each file that appears; dies of a payment, and notes it.
APPLICATION = """
import json, os, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/pay":
        with open(os.path.join(os.environ["EVENTS"], "paid"), "a") as paid:
            paid.write(environ["REQUEST_METHOD"] + " ")
        os._exit(1)
    start_response("200 OK", [("Content-Type", "text/event-stream" if path == "/events" else "application/json")])
    if path == "/events":
        return events()
    length = len(environ["wsgi.input"].read())
    texts = {name: value for name, value in environ.items() if isinstance(value, str)}
    return [json.dumps(texts | {"length": length, "pid": os.getpid()}).encode()]

def events():
    for number in range(3):
        while not os.path.exists(os.path.join(os.environ["EVENTS"], f"event{number}")):
            time.sleep(0.01)
        yield f"data: {number}\\n\\n".encode()
"""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where a program is not installed, and only there."""
    missing = [program for program in programs if find(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def find(program: str) -> str | None:
    # Debian has these where only root's PATH goes.
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Replace what a test cannot have as it stands in a recipe, such as port 80."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


class Daemon:
    """A proxy, and its front door."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        self.process = process
        self.port = port
        self._log_path = log_path

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def connect(self) -> RawClient:
        return RawClient(socket.create_connection(("127.0.0.1", self.port), PATIENCE, (CLIENT, 0)))


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def daemon(folder: Path, command: Callable[[int], list[str]]) -> Iterator[Daemon]:
    """Run a daemon on a free port; end it.

    Args:
        folder: for its files.
        command: writes its configuration for a port, and returns its command line.
    """
    log_path = folder / "daemon.log"
    for _ in range(5):  # somebody else may have taken the port meanwhile
        port = free_port()
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command(port), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        found = Daemon(process, port, log_path)
        wait_until(lambda: process.poll() is not None or _listens(port), "a daemon")  # noqa: B023 - called here
        if process.poll() is None:
            break
    else:
        raise AssertionError(found.log)
    try:
        yield found
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[Daemon]:
    """Run nginx with the recipe, in front of ``upstream``."""
    site = replaced(
        (EXAMPLES / "nginx.conf").read_text(), ("server 127.0.0.1:8000;", f"server {upstream};"), ("example.org", "_")
    )

    def command(port: int) -> list[str]:
        (folder / "site.conf").write_text(replaced(site, ("listen 80;", f"listen 127.0.0.1:{port};")))
        paths = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log notice; worker_processes 1;"
            f"{'user root;' if os.geteuid() == 0 else ''} events {{}}"
            f"http {{ access_log off; {paths} include {folder}/site.conf; }}"
        )
        return [str(find("nginx")), "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", f"{folder}/error.log"]

    with daemon(folder, command) as found:
        yield found


@contextmanager
def haproxy(folder: Path, upstreams: list[str], tls_certificate: Path | None = None) -> Iterator[Daemon]:
    """Run HAProxy with the recipe, in front of two ``upstreams``; with its port for TLS instead, if asked."""
    text = replaced(
        (EXAMPLES / "haproxy.cfg").read_text(),
        ("127.0.0.1:8001\n", f"{upstreams[0]}\n"),
        ("127.0.0.1:8002\n", f"{upstreams[1]}\n"),
        ("inter 2s", "inter 200ms"),
    )
    # In their last lines; the comments at the top name the ports too.
    if tls_certificate is not None:
        text = replaced(text, ("    bind :80\n", ""), ("    # bind :443", "    bind :80"))
        text = replaced(text, ("/etc/haproxy/example.org.pem", str(tls_certificate)))

    def command(port: int) -> list[str]:
        (folder / "haproxy.cfg").write_text(replaced(text, ("bind :80", f"bind 127.0.0.1:{port}")))
        return [str(find("haproxy")), "-db", "-f", f"{folder}/haproxy.cfg"]

    with daemon(folder, command) as found:
        yield found


@contextmanager
def apache(folder: Path, upstream: str) -> Iterator[Daemon]:
    """Run Apache httpd with the recipe, in front of ``upstream``."""
    site = replaced(
        (EXAMPLES / "apache.conf").read_text(), ("http://127.0.0.1:8000/", f"http://{upstream}/"), ("example.org", "_")
    )
    modules = Path("/usr/lib/apache2/modules")
    names = ("mpm_event", "authz_core", "proxy", "proxy_http", "headers")
    user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""

    def command(port: int) -> list[str]:
        (folder / "apache.conf").write_text(
            f"ServerRoot {folder}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {folder}/httpd.pid\n{user}"
            + f"DefaultRuntimeDir {folder}\nErrorLog {folder}/error.log\n"
            + "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in names)
            + replaced(site, ("*:80>", f"127.0.0.1:{port}>"))
        )
        return [str(find("apache2")), "-DFOREGROUND", "-f", f"{folder}/apache.conf"]

    with daemon(folder, command) as found:
        yield found


@contextmanager
def application(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Run this server, in a new folder for the application; events are in the one above."""
    own_folder = Path(tempfile.mkdtemp(dir=folder))
    (own_folder / "app.py").write_text(APPLICATION)
    with server_process(own_folder, "app", *arguments, EVENTS=str(folder)) as server:
        yield server
