"""Run an example as its README says, in a process of its own."""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiowsgi

from .serving import PATIENCE

__all__ = ["EXAMPLES", "readme_commands", "run_to_end", "served_by_command"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def readme_commands(folder: Path) -> list[list[str]]:
    """The commands of the first shell block in a folder's README, with this interpreter for ``python``."""
    block = re.search(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert block, "the README has no shell block"
    programs = {"python": [sys.executable], "aiowsgi": [sys.executable, "-m", "aiowsgi"]}
    commands = [shlex.split(line) for line in block[1].splitlines()]
    return [programs[program] + arguments for program, *arguments in commands]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment for a child, which imports the same ``aiowsgi`` and writes no bytecode."""
    ignored = ("AIOWSGI_", "DJANGO_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    package = str(Path(aiowsgi.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return inherited | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | variables


def run_to_end(command: list[str], folder: Path, **variables: str) -> str:
    """Run a command that ends by itself; return what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def served_by_command(command: list[str], folder: Path, **variables: str) -> Iterator[str]:
    """Run a server, give its URL, then stop it with SIGTERM: it must end well and have warned of nothing."""
    process = subprocess.Popen(command, cwd=folder, env=environment(**variables), stderr=subprocess.PIPE, bufsize=0)
    try:
        log = bytearray()
        yield read_url(process, log)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    text = (bytes(log) + rest).decode()
    assert process.returncode == 0, text
    assert "Warning" not in text
    assert "Traceback" not in text


def read_url(process: subprocess.Popen[bytes], log: bytearray) -> str:
    """Read standard error up to the line that says where the server listens."""
    assert process.stderr is not None
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while not (match := re.search(rb"(https?://[^\s,]+).*\n", log)):
            assert selector.select(max(0.0, deadline - time.monotonic())), f"no start line: {bytes(log)!r}"
            data = os.read(process.stderr.fileno(), 64 * 1024)
            assert data, f"the server ended: {bytes(log)!r}"
            log += data
    return match[1].decode()
