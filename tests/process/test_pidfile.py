from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiowsgi.errors import StartupError
from aiowsgi.process.pidfile import PidFile
from tests.process.server_process import environment


def test_file_holds_the_number_and_goes_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    file.close()
    file.close()
    assert not path.exists()


def test_file_of_a_process_that_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    with pytest.raises(StartupError, match=f"a server runs already, as process {os.getpid()}"):
        PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    file.close()


@pytest.mark.parametrize("left", ["1\n", "", "no number", "999999999999999999999999"])
def test_file_that_nobody_holds_is_taken_over_whatever_its_number(tmp_path: Path, left: str) -> None:
    # In a container the number is nearly always that of another process that runs.
    path = tmp_path / "pid"
    path.write_text(left)
    file = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    file.close()


def test_file_that_another_has_put_in_its_place_is_left(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    path.unlink()
    path.write_text("another's")
    file.close()
    assert path.read_text() == "another's"


def test_file_stays_that_of_its_folder_when_the_process_changes_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("pid")
    monkeypatch.chdir("/")
    file.close()
    assert not (tmp_path / "pid").exists()


def test_file_that_cannot_be_written_is_a_startup_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be written"):
        PidFile(str(tmp_path / "nowhere" / "pid"))


@pytest.mark.parametrize("content", [None, "another's"])
def test_symbolic_link_is_refused_and_what_it_leads_to_is_left(tmp_path: Path, content: str | None) -> None:
    path, target = tmp_path / "pid", tmp_path / "target"
    path.symlink_to(target)
    if content is not None:
        target.write_text(content)
    with pytest.raises(StartupError, match=f"pid={path}: cannot be written: it is a symbolic link"):
        PidFile(str(path))
    assert (target.read_text() if target.exists() else None) == content
    assert path.is_symlink()


def test_folder_that_is_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    # As /var/run is.
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    file = PidFile(str(tmp_path / "link" / "pid"))
    assert (tmp_path / "run" / "pid").read_text() == f"{os.getpid()}\n"
    file.close()
    assert not (tmp_path / "run" / "pid").exists()


def test_file_with_another_name_is_refused_and_left(tmp_path: Path) -> None:
    path, other = tmp_path / "pid", tmp_path / "other"
    other.write_text("another's")
    path.hardlink_to(other)
    with pytest.raises(StartupError, match=f"pid={path}: cannot be written: .* has another name as well"):
        PidFile(str(path))
    assert other.read_text() == "another's"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    os.mkfifo(path)
    with pytest.raises(StartupError, match=f"pid={path}: cannot be written: it is no regular file"):
        PidFile(str(path))


def test_symbolic_link_that_has_been_put_in_its_place_is_left(tmp_path: Path) -> None:
    path, other = tmp_path / "pid", tmp_path / "other"
    file = PidFile(str(path))
    path.rename(other)
    path.symlink_to(other)
    file.close()
    assert path.is_symlink()


def test_no_path_is_no_file() -> None:
    PidFile(None).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_copy_of_a_process_that_was_killed_does_not_hold_its_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    reader, writer = os.pipe()
    copied_reader, copied_writer = os.pipe()
    server = os.fork()
    if server == 0:
        os.close(writer)
        PidFile(str(path))
        if os.fork() == 0:
            os.write(copied_writer, b"1")
            os.read(reader, 1)  # until the test is done
        else:
            os.read(copied_reader, 1)
        os._exit(0)
    os.close(copied_reader)
    os.close(copied_writer)
    os.close(reader)
    os.waitpid(server, 0)
    try:
        file = PidFile(str(path))
        assert path.read_text() == f"{os.getpid()}\n"
        file.close()
    finally:
        os.close(writer)


FULL_DISK = """
import resource, signal, sys
from aiowsgi.process.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
main(["tests.hosting:hello", "--uds=sock", f"--pid={sys.argv[1]}"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit of the size of files")
def test_file_that_has_no_room_is_one_line_and_exit_3_and_is_gone(tmp_path: Path) -> None:
    # A file that may not grow stands in for a disk that is full.
    path = tmp_path / "pid"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (3, f"aiowsgi: pid={path}: cannot be written: File too large\n")
    assert not path.exists()
