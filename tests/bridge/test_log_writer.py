from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiowsgi.bridge.log_writer import LogFile, LogWriter
from tests.hosting import PATIENCE, poll
from tests.process.server_process import environment


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return the ends of a pipe that nobody reads yet; it is emptied at the end, to release threads that write."""
    reading, writing = os.pipe()
    yield reading, writing
    os.set_blocking(reading, False)
    for _ in range(1000):
        try:
            os.read(reading, 1024 * 1024)
        except BlockingIOError:
            break
    os.close(reading)
    os.close(writing)


def put(writer: LogWriter, *lines: str) -> None:
    writer.put(lines, sum(map(len, lines)))


def test_lines_are_written_in_order_to_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    writer = LogWriter(LogFile(str(path)))
    for number in range(100):
        put(writer, f"{number}\n", f"{number}'\n")
    assert writer.close(PATIENCE)
    assert path.read_text() == "before\n" + "".join(f"{number}\n{number}'\n" for number in range(100))


def test_text_that_no_encoding_has_is_escaped(tmp_path: Path) -> None:
    writer = LogWriter(LogFile(str(tmp_path / "log")))
    put(writer, "\udcff é\n")
    assert writer.close(PATIENCE)
    assert (tmp_path / "log").read_bytes() == b"\\udcff \xc3\xa9\n"


def test_relative_path_is_followed_in_the_folder_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    file = LogFile("log")
    monkeypatch.chdir("elsewhere")
    file.follow()
    file.close()
    assert [path.name for path in tmp_path.rglob("log")] == ["log"]
    assert (tmp_path / "log").exists()


def test_relative_path_behind_a_link_is_followed_where_the_system_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "releases" / "42" / "app").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "releases" / "42" / "app")
    monkeypatch.chdir(tmp_path)
    file = LogFile("current/../log")
    assert not file.follow()
    file.close()
    assert (tmp_path / "releases" / "42" / "log").exists()
    assert not (tmp_path / "log").exists()


def test_file_in_a_folder_that_may_no_longer_be_entered_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, "no", path)

    path = tmp_path / "log"
    file = LogFile(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        assert not file.follow()
    assert file.write(b"line\n") == 5
    file.close()
    assert path.read_text() == "line\n"


def test_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogFile(str(tmp_path / "nowhere" / "log"))


def test_file_that_could_be_opened_is_neither_made_nor_changed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old\n")
    (tmp_path / "link").symlink_to("linked")
    for name in ("log", "new", "link"):
        LogFile.check(str(tmp_path / name))
    assert (tmp_path / "log").read_text() == "old\n"
    assert sorted(os.listdir(tmp_path)) == ["link", "log"]


def test_file_that_could_not_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("nowhere/log")
    for name in ("nowhere/log", "link"):
        with pytest.raises(FileNotFoundError):
            LogFile.check(str(tmp_path / name))
    with pytest.raises(IsADirectoryError):
        LogFile.check(str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))  # root may write everywhere
    with pytest.raises(PermissionError, match=r"Permission denied: .*new"):
        LogFile.check(str(tmp_path / "new"))


def test_fifo_is_checked_without_a_word_to_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    checking = threading.Thread(target=LogFile.check, args=[path], daemon=True)
    checking.start()
    checking.join(PATIENCE)
    waited = checking.is_alive()
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert not waited
        LogFile.check(path)
        assert select.select([reading], [], [], 0)[0] == []  # it would be readable if a writer had come and gone
    finally:
        os.close(reading)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"Permission denied: .*fifo"):
        LogFile.check(path)


def test_socket_is_told_to_be_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with pytest.raises(OSError) as opened:
            LogFile(path)
        with pytest.raises(OSError) as checked:
            LogFile.check(path)
    assert opened.value.errno == checked.value.errno == errno.ENXIO


@pytest.mark.parametrize("removed", [False, True])
def test_file_that_was_moved_or_removed_is_made_anew(tmp_path: Path, removed: bool) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    writer = LogWriter(LogFile(str(path)))
    put(writer, "first\n")
    assert writer.flush(PATIENCE)
    if removed:
        path.unlink()
    else:
        path.rename(moved)
    put(writer, "second\n")
    assert writer.close(PATIENCE)
    assert path.read_text() == "second\n"
    assert removed or moved.read_text() == "first\n"


def test_folder_that_went_away_does_not_lose_what_comes_after_it_is_back(
    tmp_path: Path, error_log: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = LogWriter(LogFile(str(folder / "log")))
    folder.rename(tmp_path / "away")
    put(writer, "held\n")
    poll(lambda: "cannot write" in error_log.text)
    folder.mkdir()
    assert writer.flush(PATIENCE)
    assert (folder / "log").read_text() == "held\n"
    assert writer.close(PATIENCE)


def test_full_disk_holds_lines_until_there_is_room(tmp_path: Path, error_log: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    writer = LogWriter(LogFile(str(path)))
    put(writer, "held\n")
    poll(lambda: os.strerror(errno.ENOSPC) in error_log.text)
    path.unlink()  # the operator makes room
    assert writer.flush(PATIENCE)
    assert path.read_text() == "held\n"
    assert error_log.text.count("cannot write") == 1
    assert writer.close(PATIENCE)


def test_full_disk_that_cannot_be_told_of_holds_lines_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_log: list[str]
) -> None:
    monkeypatch.setattr("aiowsgi.bridge.log_writer._RETRY_SECONDS", 0.01)
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    writer = LogWriter(LogFile(str(path)))
    put(writer, "held\n")
    poll(lambda: failing_log)
    path.unlink()
    assert writer.flush(PATIENCE)
    assert path.read_text() == "held\n"
    assert writer.close(PATIENCE)


def test_file_that_is_removed_after_a_full_disk_took_half_a_line_is_made_anew_with_the_whole_line(
    tmp_path: Path,
) -> None:
    """In a program of its own, for a file size that is limited fails as a full disk does: a part is taken first."""
    program = f"""
import os, resource
from aiowsgi.bridge import log_writer
log_writer._RETRY_SECONDS = 0.01
resource.setrlimit(resource.RLIMIT_FSIZE, (1050, resource.RLIM_INFINITY))
path = {str(tmp_path / "log")!r}
writer = log_writer.LogWriter(log_writer.LogFile(path))
writer.put([f"{{number:099}}\\n" for number in range(15)], 1500)
while writer.flush(0.01) or os.path.getsize(path) < 1050:
    pass
os.rename(path, path + ".1")
os._exit(0 if writer.flush({PATIENCE}) else 1)
"""
    subprocess.run([sys.executable, "-c", program], env=environment(), timeout=PATIENCE, check=True)
    lines = [f"{number:099}\n" for number in range(15)]
    assert (tmp_path / "log.1").read_text() == "".join(lines)[:1050]
    assert (tmp_path / "log").read_text() == "".join(lines[10:])


def test_full_disk_at_the_end_is_not_waited_for(error_log: pytest.LogCaptureFixture) -> None:
    writer = LogWriter(LogFile("/dev/full"))
    put(writer, "lost\n", "lost\n")
    assert writer.close(PATIENCE)
    assert "2 lines were dropped while /dev/full" in error_log.text


def test_stalled_pipe_blocks_nobody_and_what_was_dropped_is_counted(
    pipe: tuple[int, int], error_log: pytest.LogCaptureFixture
) -> None:
    reading, writing = pipe
    writer = LogWriter(LogFile(fd=writing), limit=500_000)
    line = "x" * 999 + "\n"
    for _ in range(1000):  # a million bytes; a pipe takes some 65,000
        put(writer, line)
    assert "dropped" not in error_log.text
    got = bytearray()
    os.set_blocking(reading, False)

    def read_on() -> bool:
        written = writer.flush(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                got.extend(os.read(reading, 65536))
        return written

    poll(read_on)
    poll(lambda: "lines were dropped while" in error_log.text)
    dropped = sum(int(record.getMessage().split()[0]) for record in error_log.records)
    assert bytes(got) == line.encode() * (1000 - dropped)
    assert 0 < dropped < 1000
    put(writer, "again\n")
    assert writer.close(PATIENCE)
    assert os.read(reading, 100) == b"again\n"


def test_pipe_that_does_not_block_is_written_to_as_fast_as_it_is_read(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiowsgi.bridge.log_writer._RETRY_SECONDS", 1000)
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LogWriter(LogFile(fd=writing))
    lines = [f"{number:0998}\n" for number in range(300)]  # a pipe takes some 65,000 bytes
    put(writer, *lines)
    poll(lambda: not select.select([], [writing], [], 0)[1])
    assert not writer.flush(0.01)
    got = bytearray()

    def read() -> None:
        while len(got) < 300 * 999:
            got.extend(os.read(reading, 65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert writer.flush(PATIENCE)
    reader.join(PATIENCE)
    assert got.decode() == "".join(lines)
    assert not error_log.records


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="needs pipes that keep writes apart")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_lines_for_a_pipe_are_written_whole_and_no_more_at_once_than_stays_together(kind: str) -> None:
    if kind == "pipe":
        reading, writing = os.pipe2(os.O_DIRECT)
    else:
        reading, writing = (sock.detach() for sock in socket.socketpair(type=socket.SOCK_SEQPACKET))
    long = "first line of a record\n" + "é" * select.PIPE_BUF + "\n"
    lines = [*(f"{number:0198}\n" for number in range(50)), long, *(f"{number:0198}\n" for number in range(50))]
    try:
        writer = LogWriter(LogFile(fd=writing))
        put(writer, *lines)
        assert writer.close(PATIENCE)
        writes = []
        while select.select([reading], [], [], 0)[0]:
            writes.append(os.read(reading, 1_000_000))
    finally:
        os.close(reading)
        os.close(writing)
    assert b"".join(writes) == "".join(lines).encode()
    sizes = [len(write) for write in writes if write not in long.encode()]
    assert sum(sizes) == 100 * 199
    assert max(sizes) <= select.PIPE_BUF
    assert len(sizes) == 6  # each with as many lines as fit
    assert {size % 199 for size in sizes} == {0}


def test_stalled_pipe_at_the_end_is_given_up(pipe: tuple[int, int]) -> None:
    writer = LogWriter(LogFile(fd=pipe[1]))
    put(writer, "x" * 1_000_000)
    assert not writer.flush(0.01)
    assert not writer.close(0.01)
    put(writer, "too late\n")


def test_lines_of_many_threads_are_all_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogFile(str(path)))

    def write(name: str) -> None:
        for number in range(200):
            put(writer, f"{name} {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert writer.close(PATIENCE)
    assert sorted(path.read_text().splitlines()) == sorted(
        f"{name} {number}" for name in "abcd" for number in range(200)
    )


def test_writer_that_is_closed_twice_or_unused_is_closed(tmp_path: Path) -> None:
    writer = LogWriter(LogFile(str(tmp_path / "log")))
    assert writer.close(PATIENCE)
    assert writer.close(PATIENCE)


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let no thread be started, until the context that is returned is undone."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield patch


def test_lines_are_written_where_no_thread_can_be_started(tmp_path: Path, no_thread: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogFile(str(path)))
    put(writer, "1\n", "2\n")
    assert path.read_text() == "1\n2\n"
    assert writer.flush(0)
    no_thread.undo()
    put(writer, "3\n")
    assert writer.close(PATIENCE)
    assert path.read_text() == "1\n2\n3\n"


@pytest.mark.parametrize("end", [LogWriter.flush, LogWriter.close])
def test_lines_that_a_pipe_did_not_take_are_written_at_the_end_where_no_thread_can_be_started(
    pipe: tuple[int, int], no_thread: pytest.MonkeyPatch, end: Callable[[LogWriter, float], bool]
) -> None:
    reading, writing = pipe
    writer = LogWriter(LogFile(fd=writing))
    lines = [f"{number:0998}\n" for number in range(100)]  # a pipe takes some 65,000 bytes
    for line in lines:
        put(writer, line)
    assert not writer.flush(0.01)
    got = bytearray()
    while select.select([reading], [], [], 0)[0]:
        got.extend(os.read(reading, 65536))
    assert end(writer, PATIENCE)
    got.extend(os.read(reading, 65536))
    assert got.decode() == "".join(lines)


@pytest.mark.parametrize("end", [LogWriter.flush, LogWriter.close])
def test_stalled_pipe_at_the_end_is_given_up_where_no_thread_can_be_started(
    pipe: tuple[int, int], no_thread: pytest.MonkeyPatch, end: Callable[[LogWriter, float], bool]
) -> None:
    writer = LogWriter(LogFile(fd=pipe[1]))
    put(writer, "x" * 1_000_000)
    assert not end(writer, 0.01)


def test_long_line_that_a_pipe_takes_a_part_of_is_not_begun_again_where_no_thread_can_be_started(
    pipe: tuple[int, int], no_thread: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    writer = LogWriter(LogFile(fd=writing))
    put(writer, "x" * 1_000_000 + "\n")
    got = os.read(reading, 1_000_000)
    assert got == b"x" * len(got)
    put(writer, "next\n")
    assert os.read(reading, 1_000_000) == b"\nnext\n"
    assert writer.flush(0)


def test_moved_file_is_followed_where_no_thread_can_be_started(tmp_path: Path, no_thread: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogFile(str(path)))
    put(writer, "1\n")
    path.rename(tmp_path / "moved")
    put(writer, "2\n")
    assert path.read_text() == "2\n"
    assert (tmp_path / "moved").read_text() == "1\n"


def test_line_that_is_put_while_another_thread_writes_is_written_by_that_where_no_thread_can_be_started(
    tmp_path: Path, no_thread: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path))
    writer = LogWriter(file)
    write = LogFile.write

    def write_and_log(file: LogFile, data: bytes | memoryview) -> int:
        no_thread.setattr(LogFile, "write", write)
        put(writer, "2\n")
        return write(file, data)

    no_thread.setattr(LogFile, "write", write_and_log)
    put(writer, "1\n")
    assert path.read_text() == "1\n2\n"


def test_full_disk_at_the_end_is_given_up_where_no_thread_can_be_started(no_thread: pytest.MonkeyPatch) -> None:
    writer = LogWriter(LogFile("/dev/full"))
    put(writer, "1\n")
    assert not writer.flush(PATIENCE)
    assert not writer.close(PATIENCE)


def test_file_that_cannot_be_closed_is_told_and_ended(tmp_path: Path, error_log: pytest.LogCaptureFixture) -> None:
    file = LogFile(str(tmp_path / "log"))
    writer = LogWriter(file)
    os.close(file._fd)
    assert writer.close(PATIENCE)
    assert f"cannot close {tmp_path / 'log'}, its last lines may be lost: Bad file descriptor" in error_log.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_copy_of_the_process_writes_its_own_lines_and_not_those_that_waited(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    """In a program of its own, which forks while a line waits and the lock is held."""
    program = f"""
import os, sys
from aiowsgi.bridge.log_writer import LogFile, LogWriter
writer = LogWriter(LogFile(fd={pipe[1]}))
writer.put(["x" * 200_000 + "\\n"], 200_001)
with writer._lock:
    pid = os.fork()
if pid == 0:
    writer._file._fd = os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT)
    writer.put(["the copy's\\n"], 11)
    os._exit(0 if writer.close(10) else 1)
sys.stdout.write(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        pass_fds=[pipe[1]],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "0"
    assert (tmp_path / "log").read_text() == "the copy's\n"
