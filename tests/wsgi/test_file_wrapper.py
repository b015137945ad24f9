"""aiowsgi.wsgi.file_wrapper: which objects are real files, and where their content begins and ends."""

from __future__ import annotations

import gzip
import io
import os
import tempfile

import pytest

from aiowsgi.wsgi.file_wrapper import FileRegion, FileWrapper

CONTENT = bytes(range(256)) * 10


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def detach():
    """Detach a file's region; close both at the end."""
    opened = []

    def run(file):
        region = FileWrapper(file).detach()
        opened.append(file)
        if region is not None:
            opened.append(region)
        return region

    yield run
    for item in opened:
        item.close()


def content_of(region: FileRegion) -> bytes:
    return os.pread(region.fd, region.size, region.offset)


@pytest.mark.parametrize(
    "arguments",
    [("rb", 0), ("rb", -1), ("r+b", 0), ("r+b", -1)],
    ids=["FileIO", "BufferedReader", "r+ FileIO", "BufferedRandom"],
)
def test_detach_of_a_real_file_is_all_of_it(path, detach, arguments):
    region = detach(path.open(*arguments))
    assert (region.offset, region.size) == (0, len(CONTENT))
    assert content_of(region) == CONTENT


def test_detach_of_a_named_temporary_file_is_all_of_it(detach):
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the fixture closes it
    file.write(CONTENT)
    file.seek(0)
    assert content_of(detach(file)) == CONTENT


@pytest.mark.parametrize("make", [tempfile.TemporaryFile, tempfile.NamedTemporaryFile], ids=["unnamed", "named"])
def test_detach_of_a_file_with_a_write_in_its_buffer_has_what_was_written(detach, make):
    file = make()
    file.write(CONTENT)
    file.seek(0)
    file.read(1)
    file.write(b"new")
    file.seek(0)  # within what it has read: the buffer keeps the write
    region = detach(file)
    assert content_of(region) == CONTENT[:1] + b"new" + CONTENT[4:]
    assert file.tell() == 0


def test_detach_of_an_object_that_lends_the_files_own_read_is_the_file(path, detach):
    # As Django's File does.
    class Lending:
        def __init__(self, file):
            self.read = file.read
            self.close = file.close

    assert content_of(detach(Lending(path.open("rb")))) == CONTENT


@pytest.mark.parametrize("position", [1, 300, len(CONTENT) - 1])
@pytest.mark.parametrize("how", ["seek", "read"])
def test_detach_begins_at_the_position_that_read_would(path, detach, position, how):
    file = path.open("rb")
    getattr(file, how)(position)
    region = detach(file)
    assert (region.offset, region.size) == (position, len(CONTENT) - position)
    assert content_of(region) == CONTENT[position:]


def test_detach_leaves_the_file_open_and_where_it_was(path, detach):
    file = path.open("rb")
    file.seek(5)
    detach(file)
    assert file.read(2) == CONTENT[5:7]


def test_region_outlives_the_file(path):
    file = path.open("rb")
    region = FileWrapper(file).detach()
    file.close()
    assert content_of(region) == CONTENT
    region.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(region.fd)


class Reading:
    """Reads by itself; everything else is the file's."""

    def __init__(self, file):
        self.file = file
        self.raw = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def read(self, size=-1):
        return self.file.read(size)[::-1]


class Raw(io.RawIOBase):
    """The same, to stand under a buffer."""

    def __init__(self, file):
        self._file = file

    def fileno(self):
        return self._file.fileno()

    def tell(self):
        return 0

    def seekable(self):
        return True

    def readable(self):
        return True

    def close(self):
        self._file.close()
        super().close()


class FileSubclass(io.FileIO):
    def read(self, size=-1):
        return super().read(size)[::-1]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: io.BytesIO(CONTENT),
        lambda path: Reading(path.open("rb")),
        lambda path: Raw(path.open("rb")),
        lambda path: io.BufferedReader(Raw(path.open("rb"))),
        lambda path: FileSubclass(path),
        lambda path: io.BufferedReader(FileSubclass(path)),
        lambda path: path.open(encoding="latin-1"),
        lambda path: tempfile.SpooledTemporaryFile(),  # noqa: SIM115 - the fixture closes it
        lambda path: open(os.devnull, "rb"),  # noqa: SIM115 - the fixture closes it
    ],
    ids=[
        "BytesIO",
        "reads by itself",
        "raw",
        "buffered raw",
        "FileIO subclass",
        "buffered FileIO subclass",
        "text",
        "spooled",
        "device",
    ],
)
def test_detach_of_anything_else_is_none(path, detach, make):
    assert detach(make(path)) is None


def test_detach_of_a_gzip_file_is_none(tmp_path, detach):
    with gzip.open(tmp_path / "gz", "wb") as file:
        file.write(CONTENT)
    assert detach(gzip.open(tmp_path / "gz")) is None  # noqa: SIM115 - the fixture closes it


def test_detach_of_a_pipe_is_none():
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(read_end, "rb") as file:
        assert FileWrapper(file).detach() is None


def test_detach_of_a_closed_file_is_none(path, detach):
    file = path.open("rb")
    file.close()
    assert detach(file) is None


def test_detach_of_a_buffer_that_has_lost_its_file_is_none(path):
    file = path.open("rb")
    with file.detach():
        assert FileWrapper(file).detach() is None


@pytest.mark.parametrize("position", [len(CONTENT), len(CONTENT) + 1])
def test_detach_with_nothing_left_is_none_and_leaves_no_descriptor(path, position):
    # A size of nothing may be wrong, as in /proc: reading tells.
    with path.open("rb") as file:
        file.seek(position)
        free = os.dup(file.fileno())
        os.close(free)
        assert FileWrapper(file).detach() is None
        assert os.dup(file.fileno()) == free  # the lowest free descriptor is the same: none was kept
        os.close(free)


def test_iteration_reads_blocks_of_the_size_given(path):
    with path.open("rb") as file:
        blocks = list(FileWrapper(file, 1000))
    assert [len(block) for block in blocks] == [1000, 1000, 560]
    assert b"".join(blocks) == CONTENT


def test_iteration_asks_for_the_block_size_and_not_for_everything():
    sizes = []

    class Watched:
        def read(self, size):
            sizes.append(size)
            return b"x" if len(sizes) < 3 else b""

    assert list(FileWrapper(Watched(), 7)) == [b"x", b"x"]
    assert sizes == [7, 7, 7]


def test_close_is_the_files_own():
    closed = []

    class Closing:
        def read(self, size=-1):
            return b""

        def close(self):
            closed.append(True)

    FileWrapper(Closing()).close()
    assert closed == [True]


def test_close_of_a_file_without_one_is_absent():
    class ReadOnly:
        def read(self, size=-1):
            return b""

    # "if so, the iterable returned by wsgi.file_wrapper must have a close() method": and if not, none is needed
    assert not hasattr(FileWrapper(ReadOnly()), "close")
