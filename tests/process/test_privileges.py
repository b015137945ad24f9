from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import ConfigError, StartupError
from aiowsgi.process.privileges import drop_privileges, find_group, find_user
from tests.process.server_process import connect_unix, server_process

SOURCE = """
import os

def app(environ, start_response):
    umask = os.umask(0)
    os.umask(umask)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getuid()} {os.getgid()} {sorted(os.getgroups())} {umask:03o}".encode()]
"""

NOBODY = 65534


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Return a folder that others may read; pytest takes that right away from its own, whenever it starts anew."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def test_user_is_known_by_name_and_number() -> None:
    uid, gid, name = find_user("root")
    assert (uid, gid, name) == (0, 0, "root")
    assert find_user("0") == (0, 0, "root")
    assert find_user("54321") == (54321, os.getgid(), "")
    assert find_group("54321") == 54321


def test_unknown_user_and_group_are_startup_errors() -> None:
    with pytest.raises(StartupError, match="user=no-such-user: there is no such user"):
        find_user("no-such-user")
    with pytest.raises(StartupError, match="group=no-such-group: there is no such group"):
        find_group("no-such-group")


def test_own_user_may_be_named_by_anybody() -> None:
    drop_privileges(Config())
    if os.geteuid() != 0:
        drop_privileges(Config(user=str(os.geteuid()), group=str(os.getegid())))
        with pytest.raises(StartupError, match="cannot become them"):
            drop_privileges(Config(user="0"))


@pytest.mark.parametrize("text", ["9", "abc", "07777777", "-1"])
def test_umask_is_an_octal_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--umask=.*: must be an octal number"):
        Config.from_texts({"umask": text})


@pytest.mark.parametrize("text", ["022", "22", "0o22"])
def test_umask_is_read_as_octal(text: str) -> None:
    assert Config.from_texts({"umask": text}).umask == 0o22


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may become another")
@pytest.mark.parametrize("arguments", [[], ["--preload"]])
def test_workers_become_the_user_and_the_supervisor_owns_the_socket_until_the_end(
    public_folder: Path, arguments: list[str]
) -> None:
    (public_folder / "who.py").write_text(SOURCE)
    command = ["who", f"-u{NOBODY}", f"-g{NOBODY}", "--umask=027", "--uds=sock", "--uds-mode=600", *arguments]
    with server_process(public_folder, *command) as server:
        with connect_unix(public_folder / "sock") as client:
            assert client.get("/").content.decode() == f"{NOBODY} {NOBODY} [{NOBODY}] 027"
        status = (public_folder / "sock").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (NOBODY, NOBODY, 0o600)
        server.process.terminate()
        assert server.wait() == 0
    assert not (public_folder / "sock").exists()


def test_unknown_user_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "who.py").write_text(SOURCE)
    with server_process(tmp_path, "who", "-b", "127.0.0.1:0", "--user=no-such-user") as server:
        assert server.wait() == 3
    assert server.log.endswith("aiowsgi: user=no-such-user: there is no such user\n")
