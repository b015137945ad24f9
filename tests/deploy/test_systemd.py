"""The unit files of ``examples/deploy``: read by systemd, and run as far as that goes without it."""

from __future__ import annotations

import configparser
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.process.exit import START_FAILURE
from tests.deploy.daemons import APPLICATION, EXAMPLES, PATIENCE, find, needs, replaced
from tests.process.server_process import ServerProcess, connect_unix, environment, wait_until
from tests.process.test_activation import Systemd


def unit(name: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign] - names are as they are
    parsed.read_string((EXAMPLES / name).read_text())
    return parsed


SERVICE = unit("aiowsgi.service")["Service"]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def install(folder: Path) -> Path:
    """Write both units for an application in a folder, which has what they name; return the service's path."""
    program = folder / ".venv" / "bin" / "aiowsgi"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m aiowsgi "$@"\n')
    program.chmod(0o755)
    (folder / "app.py").write_text(APPLICATION)
    for name in ("aiowsgi.service", "aiowsgi.socket"):
        text = (EXAMPLES / name).read_text().replace("/srv/shop", str(folder)).replace("project.wsgi", "app")
        (folder / name).write_text(text)
    return folder / "aiowsgi.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(find("systemd-analyze")), "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def systemd_version() -> int:
    """Return systemd's version; 0 where there is none."""
    if find("systemd-analyze") is None:
        return 0
    match = re.match(r"systemd (\d+)", analyze("--version").stdout)
    return int(match[1]) if match else 0


needs_analyze = pytest.mark.skipif(systemd_version() < 250, reason="not installed: systemd-analyze 250 or later")


def complaints(*units: Path) -> list[str]:
    """Return what systemd complains of in these units, leaving out the machine's own."""
    found = analyze("verify", "--man=no", "--recursive-errors=no", *map(str, units))
    lines = [line for line in found.stderr.splitlines() if "aiowsgi" in line]
    assert found.returncode == 0 or lines, found.stderr
    return lines


@needs_analyze
@needs("kill")
def test_units_are_what_systemd_understands(tmp_path: Path) -> None:
    service = install(tmp_path)
    assert complaints(service, tmp_path / "aiowsgi.socket") == []
    # The same check finds a name that systemd does not know.
    service.write_text(replaced(service.read_text(), ("WatchdogSec=", "WatchdogTime=")))
    assert "WatchdogTime" in complaints(service)[0]


@needs_analyze
def test_service_is_shut_in(tmp_path: Path) -> None:
    # Of a hundred points of exposure; a service that says nothing has 96.
    found = analyze("security", "--offline=true", "--threshold=25", str(install(tmp_path)))
    assert found.returncode == 0, found.stdout


def test_service_leaves_time_for_a_drain() -> None:
    arguments = shlex.split(SERVICE["ExecStart"])
    graceful = float(arguments[arguments.index("--graceful-timeout") + 1])
    assert seconds(SERVICE["TimeoutStopSec"]) > graceful + Config().drain_delay
    assert Config(backlog=int(unit("aiowsgi.socket")["Socket"]["Backlog"])) == Config()


@contextmanager
def started(folder: Path, manager: Systemd) -> Iterator[ServerProcess]:
    """Run what ``ExecStart=`` says with a socket that somebody else has opened, and a first connection in it."""
    install(folder)
    command = shlex.split(SERVICE["ExecStart"].replace("/srv/shop", str(folder)).replace("project.wsgi", "app"))
    variables = {
        "NOTIFY_SOCKET": manager.path,
        "WATCHDOG_USEC": str(int(seconds(SERVICE["WatchdogSec"]) * 10_000)),  # a hundredth, or the test takes 15 s
        "EVENTS": str(folder),
        "PYTHONPATH": environment()["PYTHONPATH"],
    }
    passed = [f"--setenv={name}={value}" for name, value in variables.items()]
    log_path = folder / "stderr.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(find("systemd-socket-activate")), f"--listen={folder}/sock", *passed, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    with process:
        try:
            yield ServerProcess(process, log_path)
        finally:
            if process.poll() is None:
                process.kill()


@needs("systemd-socket-activate", "kill")
def test_service_is_started_by_its_socket_and_reloads(tmp_path: Path) -> None:
    manager = Systemd(tmp_path)
    try:
        with started(tmp_path, manager) as server, connect_unix(tmp_path / "sock") as client:
            assert client.get("/").status_code == 200
            manager.wait_for("READY=1")
            manager.wait_for("WATCHDOG=1")
            workers = set(server.workers())
            assert len(workers) == 2
            subprocess.run(SERVICE["ExecReload"].replace("$MAINPID", str(server.process.pid)).split(), check=True)
            manager.wait_for("RELOADING=1")
            manager.wait_for("READY=1")
            wait_until(lambda: not workers & set(server.workers()), "other workers")
            with connect_unix(tmp_path / "sock") as again:
                assert again.get("/").status_code == 200
            server.signal(signal.SIGTERM)
            manager.wait_for("STOPPING=1")
            assert server.wait() == 0
    finally:
        manager.close()


def test_service_that_cannot_start_is_not_started_again(tmp_path: Path) -> None:
    command = shlex.split(SERVICE["ExecStart"].replace("project.wsgi", "no.such.module"))[1:]
    found = subprocess.run(
        [sys.executable, "-m", "aiowsgi", *command, "--port=0"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == START_FAILURE == int(SERVICE["RestartPreventExitStatus"]), found.stderr
