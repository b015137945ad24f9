"""The Procfile and the file for logging in ``examples/deploy``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from pathlib import Path

from tests.deploy.daemons import EXAMPLES
from tests.process.server_process import server_process

LOGGING_APPLICATION = """
import logging

def application(environ, start_response):
    logging.getLogger("shop.orders").info("paid")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode()]
"""


def test_procfile_listens_where_the_platform_says(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES.parent / "hello.py", tmp_path)
    kind, _, line = (EXAMPLES / "Procfile").read_text().partition(": ")
    program, *arguments = shlex.split(line)
    assert (kind, program) == ("web", "aiowsgi")
    with server_process(tmp_path, *arguments, PORT="0", WEB_CONCURRENCY="2") as server:
        port = int(server.wait_for_log(r"http://0\.0\.0\.0:(\d+)")[1])  # not 127.0.0.1, nor 8000
        with server.connect_to(port) as client:
            assert client.get("/").content.startswith(b"Hello")
        assert len(server.workers()) == 2
        # Heroku sends it to every process of a dyno, in whatever order.
        for pid in server.workers():
            os.kill(pid, signal.SIGTERM)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_cloud_run_listens_where_the_platform_says(tmp_path: Path) -> None:
    match = re.search(r"`--args=(\S+)`", (EXAMPLES / "README.md").read_text())
    assert match
    shutil.copy(EXAMPLES.parent / "hello.py", tmp_path)
    with server_process(tmp_path, *match[1].split(","), "--workers=1", PORT="0") as server:
        port = int(server.wait_for_log(r"http://0\.0\.0\.0:(\d+)")[1])  # not 127.0.0.1, nor 8000
        with server.connect_to(port) as client:
            assert client.get("/ready").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_log_config_leaves_the_servers_records_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LOGGING_APPLICATION)
    path = str(EXAMPLES / "logging.toml")
    with server_process(tmp_path, "app", "--port=0", "--log-config", path, "--log-format=json") as server:
        port = int(server.wait_for_log(r"127\.0\.0\.1:(\d+)")[1])
        with server.connect_to(port) as client:
            assert client.get("/").content == b"http"
        server.wait_for_log(r"(?m)^\d{4}-\S+ \S+ INFO shop\.orders: paid$")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    own = [line for line in server.log.splitlines() if line.startswith("{")]
    assert len(own) == len(server.log.splitlines()) - 1
