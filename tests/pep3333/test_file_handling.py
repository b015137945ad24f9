"""PEP 3333 "Optional Platform-Specific File Handling": ``wsgi.file_wrapper``."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tempfile
import threading
from pathlib import Path

import pytest

from tests.pep3333.conftest import PATIENCE, Calls, wait_until
from tests.raw import Truncated

CONTENT = b"".join(b"line %05d\n" % number for number in range(10_000))  # 110,000 bytes: several blocks
MIB = 1024 * 1024
LARGE_SIZE = 24 * MIB  # more than sockets and buffers hold together


class ReadOnly:
    """The least that is file-like: ``read`` with an optional size."""

    def __init__(self, content):
        self._file = io.BytesIO(content)

    def read(self, size=-1):
        return self._file.read(size)


class Upper:
    """Holds a real file, has its descriptor, and reads as something else."""

    def __init__(self, file):
        self.file = self.raw = self.fileobj = file
        self.fileno = file.fileno
        self.tell = file.tell
        self.close = file.close

    def read(self, size=-1):
        return self.file.read(size).upper()


class UpperRaw(io.RawIOBase):
    """The same, underneath a BufferedReader."""

    def __init__(self, file):
        self._file = file

    def readable(self):
        return True

    def fileno(self):
        return self._file.fileno()

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def readinto(self, buffer):
        data = self._file.read(len(buffer)).upper()
        buffer[: len(data)] = data
        return len(data)

    def close(self):
        self._file.close()
        super().close()


def read_only(path, content):
    return ReadOnly(content)


def bytes_io(path, content):
    return io.BytesIO(content)


def buffered(path, content):
    path.write_bytes(content)
    return path.open("rb")


def unbuffered(path, content):
    path.write_bytes(content)
    return path.open("rb", buffering=0)


def buffered_random(path, content):
    path.write_bytes(content)
    return path.open("r+b")


def unflushed(path, content):
    """Written and rewound, as a file that was made for the answer is."""
    file = path.open("w+b")
    file.write(content)
    file.seek(0)
    return file


def temporary(path, content):
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    file.write(content)
    file.seek(0)
    return file


def named_temporary(path, content):
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the server closes it
    file.write(content)
    file.seek(0)
    return file


def spooled_in_memory(path, content):
    file = tempfile.SpooledTemporaryFile(max_size=len(content) + 1)  # noqa: SIM115 - the server closes it
    file.write(content)
    file.seek(0)
    return file


def spooled_on_disk(path, content):
    file = spooled_in_memory(path, content)
    file.rollover()
    return file


def gzip_file(path, content):
    with gzip.open(path, "wb") as file:
        file.write(content)
    return gzip.open(path)


def pipe(path, content):
    read_end, write_end = os.pipe()

    def write():
        # The answer may need less than all of it.
        with contextlib.suppress(BrokenPipeError), open(write_end, "wb", buffering=0) as file:
            file.write(content)

    threading.Thread(target=write).start()
    return open(read_end, "rb")


KINDS = [
    buffered,
    unbuffered,
    buffered_random,
    unflushed,
    temporary,
    named_temporary,
    spooled_in_memory,
    spooled_on_disk,
    bytes_io,
    read_only,
    gzip_file,
    pipe,
]
SEEKABLE = [kind for kind in KINDS if kind not in (read_only, pipe)]
#: Real files, which the server sends by itself.
REAL = [buffered, unbuffered, buffered_random, unflushed, temporary, named_temporary]


def wrapping(make_file, headers=(), *, status="200 OK", block_size=None, calls=None):
    """Return an application that answers with a wrapped file, and reports it."""

    def application(environ, start_response):
        file = make_file()
        start_response(status, list(headers))
        if calls is not None:
            calls.put(file)
        wrapper = environ["wsgi.file_wrapper"]
        return wrapper(file) if block_size is None else wrapper(file, block_size)

    return application


@pytest.mark.parametrize("content", [CONTENT, b"short", b""], ids=["long", "short", "empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_file_of_any_kind_is_sent_whole_and_closed(serve, tmp_path, kind, content):
    # "must still return an iterable that wraps read() and close()"
    calls = Calls()
    with serve(wrapping(lambda: kind(tmp_path / "file", content), calls=calls)).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.status_code == 200
            assert response.content == content
            file = calls.take()
            if hasattr(file, "close"):
                # "the iterable ... must have a close() method that invokes the original file-like object's close()"
                wait_until(lambda file=file: file.closed)


@pytest.mark.parametrize("kind", KINDS)
def test_file_is_sent_as_far_as_content_length_says(serve, tmp_path, kind):
    # "continue until the end is reached, or until Content-Length bytes have been written"
    for length in (0, 1, 70_000, len(CONTENT)):
        headers = [("Content-Length", str(length))]
        calls = Calls()
        with serve(wrapping(lambda: kind(tmp_path / "file", CONTENT), headers, calls=calls)).connect() as client:
            for _ in range(2):
                response = client.get()
                assert response.status_code == 200
                assert response.value("Content-Length") == str(length)
                assert response.content == CONTENT[:length]
                file = calls.take()
                if hasattr(file, "close"):
                    wait_until(lambda file=file: file.closed)


@pytest.mark.parametrize("kind", SEEKABLE)
@pytest.mark.parametrize("move", ["seek", "read", "readline"])
def test_file_is_sent_from_its_current_position(serve, tmp_path, kind, move):
    # "transmission should begin at the current position within the 'file'"
    def opened():
        file = kind(tmp_path / "file", CONTENT)
        if move == "seek":
            file.seek(11)
        elif move == "read":
            file.read(11)
        else:
            file.readline()  # what lies read in a buffer is still to be sent
        return file

    with serve(wrapping(opened)).connect() as client:
        assert client.get().content == CONTENT[11:]


@pytest.mark.parametrize("kind", SEEKABLE)
def test_file_is_sent_from_its_position_when_the_application_returns(serve, tmp_path, kind):
    # "at the time that transmission begins", not when it was wrapped
    def application(environ, start_response):
        file = kind(tmp_path / "file", CONTENT)
        wrapped = environ["wsgi.file_wrapper"](file)
        file.seek(50_000)
        start_response("200 OK", [("Content-Length", "20")])
        return wrapped

    with serve(application).connect() as client:
        assert client.get().content == CONTENT[50_000:50_020]


@pytest.mark.parametrize("kind", SEEKABLE)
@pytest.mark.parametrize("offset", [len(CONTENT), len(CONTENT) + 1000])
def test_file_at_or_past_its_end_has_no_content(serve, tmp_path, kind, offset):
    def opened():
        file = kind(tmp_path / "file", CONTENT)
        file.seek(offset)
        return file

    with serve(wrapping(opened)).connect() as client:
        assert client.get().content == b""
        assert client.get().content == b""


@pytest.mark.parametrize("kind", REAL)
def test_real_file_without_a_content_length_gets_one(serve, tmp_path, kind):
    # "the server may generate one from the file using its knowledge of the underlying file implementation"
    with serve(wrapping(lambda: kind(tmp_path / "file", CONTENT))).connect() as client:
        assert client.get().value("Content-Length") == str(len(CONTENT))


@pytest.mark.parametrize("kind", KINDS)
def test_file_shorter_than_content_length_is_seen_by_the_client(serve, error_log, tmp_path, kind):
    headers = [("Content-Length", str(len(CONTENT) + 1))]
    with serve(wrapping(lambda: kind(tmp_path / "file", CONTENT), headers)).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        try:
            assert client.receive().status_code == 500
        except Truncated:
            assert kind not in REAL  # the size of a real file is known before its head leaves
    assert len(error_log.records) == 1
    assert "Content-Length" in error_log.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_file_whose_response_has_no_content_is_not_sent_but_closed(serve, tmp_path, kind, method):
    calls = Calls()
    status = "200 OK" if method == "HEAD" else "304 Not Modified"
    application = wrapping(lambda: kind(tmp_path / "file", CONTENT[:1000]), status=status, calls=calls)
    with serve(application).connect() as client:
        for _ in range(2):
            assert client.get(method=method).content == b""
            file = calls.take()
            if hasattr(file, "close"):
                wait_until(lambda file=file: file.closed)


@pytest.mark.parametrize(
    "make",
    [
        lambda file: Upper(file),
        lambda file: io.BufferedReader(UpperRaw(file)),
        lambda file: UpperRaw(file),
    ],
    ids=["attributes of a file", "buffered reader of another raw file", "raw file"],
)
def test_object_that_reads_differently_from_its_descriptor_is_read(serve, tmp_path, make):
    # "the semantics ... should be the same as if the application had returned iter(filelike.read, '')"
    with serve(wrapping(lambda: make(buffered(tmp_path / "file", CONTENT)))).connect() as client:
        assert client.get().content == CONTENT.upper()


def test_object_without_close_is_sent(serve):
    # "It may have a close() method"
    with serve(wrapping(lambda: ReadOnly(CONTENT))).connect() as client:
        assert client.get().content == CONTENT
        assert client.get().content == CONTENT


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_file_that_says_it_is_empty_and_is_not_is_sent(serve):
    with serve(wrapping(lambda: open("/proc/self/status", "rb"))).connect() as client:
        assert client.get().content.startswith(b"Name:")


def test_device_without_an_end_is_sent_as_far_as_content_length_says(serve):
    with serve(wrapping(lambda: open("/dev/zero", "rb"), [("Content-Length", "200000")])).connect() as client:
        assert client.get().content == bytes(200_000)
        assert client.get().content == bytes(200_000)


def test_text_file_is_refused(serve, error_log, tmp_path):
    # PEP 3333 "Unicode Issues": blocks are bytes
    (tmp_path / "file").write_text("text")
    with serve(wrapping(lambda: (tmp_path / "file").open())).connect() as client:
        assert client.get().status_code == 500
    assert "str, not bytes" in error_log.text


def test_closed_file_is_500(serve, error_log, tmp_path):
    def closed():
        file = buffered(tmp_path / "file", CONTENT)
        file.close()
        return file

    with serve(wrapping(closed)).connect() as client:
        assert client.get().status_code == 500
    assert len(error_log.records) == 1


def test_file_whose_read_fails_midway_breaks_off_and_is_closed(serve, error_log):
    closed = threading.Event()

    class Failing:
        count = 0

        def read(self, size):
            self.count += 1
            if self.count == 3:
                raise OSError("the disk is on fire")
            return b"x" * size

        def close(self):
            closed.set()

    with serve(wrapping(Failing)).connect() as client, pytest.raises(Truncated):
        client.get()
    assert closed.wait(PATIENCE)
    assert len(error_log.records) == 1


def test_wrapper_takes_an_optional_block_size(serve):
    # "one required positional parameter, and one optional positional parameter"
    with serve(wrapping(lambda: ReadOnly(b"0123456789"), block_size=4)).connect() as client:
        assert client.get().content == b"0123456789"


def test_wrapper_does_nothing_until_it_is_returned(serve):
    # "must not perform any data transmission until and unless the server/gateway actually receives the iterable"
    reads = Calls()

    class Watched(ReadOnly):
        def read(self, size=-1):
            reads.put(size)
            return super().read(size)

    def application(environ, start_response):
        file = Watched(b"not sent")
        environ["wsgi.file_wrapper"](file)
        environ["wsgi.file_wrapper"](file, 3)
        start_response("200 OK", [])
        return [b"something else"]

    with serve(application).connect() as client:
        assert client.get().content == b"something else"
    assert reads.empty()


def test_wrapper_consumed_by_middleware_gives_its_blocks(serve, tmp_path):
    # "middleware ... able to interpret or override the response data"
    def middleware(environ, start_response):
        body = wrapping(lambda: buffered(tmp_path / "file", CONTENT))(environ, start_response)
        try:
            return [b"".join(body).upper()]
        finally:
            body.close()

    with serve(middleware).connect() as client:
        assert client.get().content == CONTENT.upper()


def test_wrapper_half_consumed_by_middleware_sends_the_rest(serve, tmp_path):
    # As iter(filelike.read, '') would.
    def middleware(environ, start_response):
        body = wrapping(lambda: buffered(tmp_path / "file", CONTENT), block_size=10)(environ, start_response)
        assert next(iter(body)) == CONTENT[:10]
        return body

    with serve(middleware).connect() as client:
        assert client.get().content == CONTENT[10:]


def test_wrapper_inside_another_iterable_is_an_iterable(serve, tmp_path):
    def middleware(environ, start_response):
        body = wrapping(lambda: buffered(tmp_path / "file", CONTENT))(environ, start_response)
        yield b"before,"
        yield from body
        body.close()

    with serve(middleware).connect() as client:
        assert client.get().content == b"before," + CONTENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [None, 1000], ids=["no length", "length"])
def test_file_after_written_blocks_follows_them(serve, tmp_path, kind, length):
    def application(environ, start_response):
        write = start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        write(b"written,")
        return environ["wsgi.file_wrapper"](kind(tmp_path / "file", CONTENT))

    with serve(application).connect() as client:
        for _ in range(2):
            assert client.get().content == (b"written," + CONTENT)[:length]


def test_file_without_start_response_is_500_and_closed(serve, error_log, tmp_path):
    calls = Calls()

    def application(environ, start_response):
        file = buffered(tmp_path / "file", CONTENT)
        calls.put(file)
        return environ["wsgi.file_wrapper"](file)

    with serve(application).connect() as client:
        assert client.get().status_code == 500
    assert "start_response was not called" in error_log.text
    file = calls.take()
    wait_until(lambda: file.closed)


def open_descriptors(path):
    """Count this process's descriptors of a file."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            count += os.readlink(f"/proc/self/fd/{name}") == str(path)
    return count


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@pytest.fixture
def medium_file(tmp_path):
    """More than is read at once, and no round number."""
    path = tmp_path / "medium"
    path.write_bytes(b"".join(b"%08d" % number for number in range(3 * MIB // 8)) + b"end")
    return path


@pytest.fixture
def large_file(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        for number in range(LARGE_SIZE // MIB):
            file.seek(number * MIB)
            file.write(b"%d" % number)
        file.truncate(LARGE_SIZE)
    return path


@needs_proc
def test_large_file_arrives_exactly_and_its_descriptor_is_closed(serve, medium_file):
    with serve(wrapping(lambda: medium_file.open("rb"))).connect() as client:
        for _ in range(2):
            assert client.get().content == medium_file.read_bytes()
            wait_until(lambda: open_descriptors(medium_file) == 0)
        assert client.get("/", method="HEAD").status_code == 200


@pytest.mark.parametrize("length", [1, 256 * 1024, 256 * 1024 + 1, 2 * MIB + 5])
def test_part_of_a_large_file_arrives_exactly(serve, medium_file, length):
    def opened():
        file = medium_file.open("rb")
        file.seek(MIB - 3)
        return file

    with serve(wrapping(opened, [("Content-Length", str(length))])).connect() as client:
        expected = medium_file.read_bytes()[MIB - 3 :][:length]
        assert client.get().content == expected
        assert client.get().content == expected


def test_large_file_to_a_client_that_does_not_read_holds_no_thread(serve, large_file):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/file":
            return wrapping(lambda: large_file.open("rb"))(environ, start_response)
        start_response("200 OK", [])
        return [b"quick"]

    server = serve(application, threads=1, max_threads=1)
    with server.connect() as slow, server.connect() as client:
        slow.send(b"GET /file HTTP/1.1\r\nHost: test\r\n\r\n")
        slow.receive_head()
        for _ in range(5):
            assert client.get().content == b"quick"
        for number in range(LARGE_SIZE // MIB):
            assert slow.read(MIB).startswith(b"%d\0" % number)
        assert slow.get().content == b"quick"


@needs_proc
def test_large_file_whose_client_has_gone_is_closed(serve, large_file):
    calls = Calls()
    server = serve(wrapping(lambda: large_file.open("rb"), calls=calls))
    client = server.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    client.receive_head()
    assert open_descriptors(large_file) >= 1
    client.reset()
    assert calls.take() is not None
    wait_until(lambda: open_descriptors(large_file) == 0)


@pytest.mark.parametrize("headers", [[], [("Content-Length", str(LARGE_SIZE))]], ids=["no length", "length"])
def test_large_file_that_becomes_shorter_breaks_off(serve, error_log, large_file, headers):
    with serve(wrapping(lambda: large_file.open("rb"), headers)).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive_head().value("Content-Length") == str(LARGE_SIZE)
        os.truncate(large_file, 0)
        assert len(client.read_all()) < LARGE_SIZE
    assert len(error_log.records) == 1
