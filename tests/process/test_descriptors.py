"""The limit of file descriptors, and servers that are started without the standard ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosting import PATIENCE
from tests.process.server_process import connect_unix, environment

LOWERED = """
import resource
from aiowsgi.process.descriptors import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_soft_limit_of_descriptors_is_raised_to_the_hard_one():
    # In a process of its own: a hard limit that was lowered stays lowered.
    done = subprocess.run([sys.executable, "-c", LOWERED], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["300", "300"]


APPLICATION = """
import os, sys

def app(environ, start_response):
    print("printed")
    environ["wsgi.errors"].write("written\\n")
    start_response("200 OK", [])
    return [" ".join(os.readlink(f"/proc/self/fd/{number}") for number in range(3)).encode()]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("closed", "options"),
    [
        ("<&-", ""),
        (">&-", "--access-log"),
        ("<&- >&- 2>&-", "--access-log"),
        ("2>&-", "--workers=1"),
        ("<&- >&- 2>&-", "--workers=1 --access-log"),
        ("<&- >&- 2>&-", "--workers=1 --preload"),
    ],
)
def test_server_without_standard_descriptors_serves_and_ends(tmp_path: Path, closed: str, options: str) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    command = f"exec {sys.executable} -m aiowsgi app --uds=sock {options} {closed}"
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            with connect_unix(tmp_path / "sock") as client:
                for _ in range(3):
                    assert client.get("/").content == b"/dev/null /dev/null /dev/null"
            server.terminate()
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()


def test_help_without_standard_descriptors_is_exit_0() -> None:
    command = ["/bin/sh", "-c", f"exec {sys.executable} -m aiowsgi --help <&- >&- 2>&-"]
    assert subprocess.run(command, env=environment(), timeout=PATIENCE, check=False).returncode == 0


WITHOUT_NULL_DEVICE = """
import os
os.devnull = "/dev/no-such-device"
from aiowsgi.process.cli import main
main(["--version"])
"""


def test_null_device_that_is_missing_is_not_missed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NULL_DEVICE],
        env=environment(),
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="takes a shell")
def test_null_device_that_is_missing_and_needed_is_exit_3() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, WITHOUT_NULL_DEVICE],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == (
        "aiowsgi: /dev/no-such-device: No such file or directory; "
        "it takes the place of a standard descriptor that is closed\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("argument", ["--no-such-option", "no_such_module"])
def test_failure_that_standard_error_does_not_take_is_exit_3(argument: str) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "aiowsgi", argument]
        done = subprocess.run(command, env=environment(), stderr=full, timeout=PATIENCE, check=False)
    assert done.returncode == 3
