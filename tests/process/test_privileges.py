from __future__ import annotations

import json
import os
import pwd
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import ApplicationImportError, ConfigError, StartupError
from aiowsgi.process.application import load_application
from aiowsgi.process.privileges import drop_privileges, find_group, find_user, give_files
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


def as_nobody(function: Callable[[], object]) -> Any:
    """Return what a function returns in a copy of this process that is not root."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writer, json.dumps(function()).encode())
        except BaseException:
            os.write(writer, json.dumps(traceback.format_exc()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as told:
        text = told.read()
    os.waitpid(pid, 0)
    return json.loads(text)


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


def refusal(**options: str) -> tuple[str, str]:
    """Return what somebody other than root is told, and its cause."""
    try:
        drop_privileges(Config(**options))
    except StartupError as error:
        return str(error), repr(error.__cause__)
    return "", ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_other_user_is_refused_in_a_sentence_that_says_it_takes_root() -> None:
    told = as_nobody(lambda: [refusal(user="root"), refusal(group="0"), refusal(user="root", group="0")])
    assert told == [
        ["user=root: cannot become it: Operation not permitted; that takes root", "None"],
        ["group=0: cannot become it: Operation not permitted; that takes root", "None"],
        ["user=root, group=0: cannot become them: Operation not permitted; that takes root", "None"],
    ]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may become another")
def test_application_that_the_user_cannot_read_is_told_from_a_missing_one(public_folder: Path) -> None:
    folder = public_folder / "closed"
    folder.mkdir(mode=0o700)
    (folder / "app.py").write_text(SOURCE)

    def failure(text: str) -> str:
        with pytest.raises(ApplicationImportError) as caught:
            load_application(text)
        return str(caught.value)

    before = os.getcwd()
    os.chdir(folder)
    try:
        told = as_nobody(lambda: [failure("app"), failure(f"{folder}/app.py"), failure("app.py")])
    finally:
        os.chdir(before)
    name = pwd.getpwuid(NOBODY).pw_name
    assert told == [
        f"no module named 'app' in {folder}, which user {name} cannot read, or on sys.path",
        f"no file '{folder}/app.py' that can be seen: user {name} cannot read {folder}",
        f"no file 'app.py' that can be seen: user {name} cannot read {folder}",
    ]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may give files away")
def test_link_in_the_place_of_a_file_is_given_itself_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    give_files(Config(user=str(NOBODY)), [str(tmp_path / "link")])
    assert ((tmp_path / "file").stat().st_uid, (tmp_path / "link").lstat().st_uid) == (0, NOBODY)


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


@pytest.mark.parametrize("arguments", [[], ["--workers=1"]])
def test_umask_holds_for_the_application_from_its_import_on_and_not_for_the_sockets(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "who.py").write_text("import os, pathlib\npathlib.Path('imported').touch()\n" + SOURCE)
    sockets = ["--uds=sock", "--metrics-bind=unix:metrics", "--control=unix:control"]
    before = os.umask(0o002)
    try:
        with server_process(tmp_path, "who", "--umask=077", "--access-logfile=log", *sockets, *arguments) as server:
            with connect_unix(tmp_path / "sock") as client:
                assert client.get("/").content.decode().endswith(" 077")
            names = "imported", "log", "sock", "metrics", "control"
            modes = {name: f"{(tmp_path / name).stat().st_mode & 0o777:03o}" for name in names}
            server.process.terminate()
            assert server.wait() == 0
    finally:
        os.umask(before)
    assert modes == {"imported": "600", "log": "600", "sock": "775", "metrics": "775", "control": "600"}


def test_unknown_user_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "who.py").write_text(SOURCE)
    with server_process(tmp_path, "who", "-b", "127.0.0.1:0", "--user=no-such-user") as server:
        assert server.wait() == 3
    assert server.log.endswith("aiowsgi: user=no-such-user: there is no such user\n")
