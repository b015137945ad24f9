"""The pytest plugin, in a run of pytest of its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import aiowsgi
from tests.process.server_process import environment

ROOT = Path(aiowsgi.__file__).parents[1]

PASSING = """
import socket
import threading
import urllib.request


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


def get(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as response:
        return response.read()


ports = []


def test_server_answers(live_wsgi_server):
    server = live_wsgi_server(app)
    ports.append(server.port)
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert get(f"{server.url}/there") == b"/there"


def test_several_servers_with_options(live_wsgi_server):
    servers = [live_wsgi_server(app, threads=1, loop=loop, root_path="/at") for loop in ("asyncio", "uvloop")]
    ports.extend(server.port for server in servers)
    for server in servers:
        assert server.config.threads == 1
        assert get(f"{server.url}/at/x") == b"/x"


def test_servers_of_earlier_tests_have_ended():
    assert len(ports) == 3
    for port in ports:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name.lower()]
"""

FAILING = """
import socket
import threading
import time


def test_request_that_never_ends(live_wsgi_server):
    began, never = threading.Event(), threading.Event()

    def app(environ, start_response):
        began.set()
        never.wait()

    server = live_wsgi_server(app)
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
    assert began.wait(10)
    client.close()


def test_address_in_use(live_wsgi_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        live_wsgi_server(lambda environ, start_response: [], host="127.0.0.1", port=taken.getsockname()[1])


def test_bad_option(live_wsgi_server):
    live_wsgi_server(lambda environ, start_response: [], threads=0)
"""


def run_pytest(folder: Path, source: str, *arguments: str) -> tuple[int, str]:
    """Run a file of tests in a folder, with no other plugin than ours."""
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    variables = environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONDONTWRITEBYTECODE="1")
    variables.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "aiowsgi.pytest_plugin", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.returncode, done.stdout + done.stderr


def test_fixture_serves_until_the_end_of_its_test(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, PASSING)
    assert (code, "3 passed" in output) == (0, True), output


def test_fixture_whose_server_cannot_start_fails_its_test_with_the_reason(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, FAILING, "-v")
    assert code == 1
    assert "test_request_that_never_ends PASSED" in output, output  # and is not waited for
    assert re.search(r"OSError: \[Errno \d+\] cannot listen on 127.0.0.1:\d+: Address already in use", output)
    assert "ConfigError: threads=0: must be at least 1" in output
    assert "1 passed" in output
    assert "2 failed" in output
    assert "error" not in output.splitlines()[-1]


def test_fixture_is_listed_with_what_it_is_for(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, "", "--fixtures")
    assert re.search(r"live_wsgi_server.*\n +Serve WSGI applications on free ports", output), output
    assert code in (0, 5)


def test_plugin_is_an_entry_point_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"aiowsgi": "aiowsgi.pytest_plugin"}


def test_no_other_module_imports_pytest() -> None:
    importers = set()
    for path in ROOT.glob("aiowsgi/**/*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            if any(name.partition(".")[0] in ("pytest", "_pytest") for name in names):
                importers.add(path.name)
    assert importers == {"pytest_plugin.py"}
