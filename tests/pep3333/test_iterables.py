"""PEP 3333 "Specification Details": iterables of every shape, and what ``len()`` says of them."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from tests.pep3333.conftest import returning


class CustomIterable:
    """Only ``__iter__``."""

    def __init__(self, blocks):
        self.blocks = blocks

    def __iter__(self):
        return iter(self.blocks)


class CustomIterator:
    """``__iter__`` and ``__next__``."""

    def __init__(self, blocks):
        self.blocks = iter(blocks)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.blocks)


class GetItem:
    """The protocol of Python 2.1, which the PEP names: ``__getitem__`` until ``IndexError``."""

    def __init__(self, blocks):
        self.blocks = list(blocks)

    def __getitem__(self, index):
        return self.blocks[index]


class Sized(CustomIterable):
    """``__iter__`` and ``__len__``."""

    def __len__(self):
        return len(self.blocks)


class ListSubclass(list):
    """A list that makes its blocks while it is iterated."""

    def __iter__(self):
        return (block.upper() for block in super().__iter__())


class BytesSubclass(bytes):
    pass


def generator(blocks):
    yield from blocks


SHAPES = {
    "list": list,
    "tuple": tuple,
    "generator": generator,
    "list iterator": iter,
    "deque": deque,
    "dict": dict.fromkeys,
    "map": lambda blocks: map(bytes, blocks),
    "chain": itertools.chain,
    "custom iterable": CustomIterable,
    "custom iterator": CustomIterator,
    "getitem": GetItem,
    "sized": Sized,
}


@pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in SHAPES.items()])
def test_iterable_of_any_shape_reaches_the_client_in_order(serve, shape):
    # "must always return an iterable yielding zero or more bytestrings"
    def application(environ, start_response):
        start_response("200 OK", [])
        blocks = [b"%d;" % number for number in range(int(environ["QUERY_STRING"]))]
        return itertools.chain(blocks) if shape is itertools.chain else shape(blocks)

    with serve(application).connect() as client:
        for count in (3, 0, 1, 200):
            response = client.get(f"/?{count}")
            assert response.status_code == 200
            assert response.content == b"".join(b"%d;" % number for number in range(count))


def test_list_subclass_with_an_iter_of_its_own_is_iterated(serve):
    with serve(returning(ListSubclass([b"a", b"b"]))).connect() as client:
        assert client.get().content == b"AB"


def test_block_of_a_bytes_subclass_is_sent(serve):
    # A subclass of bytes is a bytestring.
    with serve(returning([BytesSubclass(b"one"), b"two"])).connect() as client:
        assert client.get().content == b"onetwo"


@pytest.mark.parametrize(
    "blocks",
    [[b"", b"one"], [b"one", b""], [b"one", b"", b"two"], [b"", b"", b"one", b"", b"two", b"", b""]],
    ids=["first", "last", "middle", "everywhere"],
)
@pytest.mark.parametrize("shape", [list, tuple, generator, Sized], ids=["list", "tuple", "generator", "sized"])
def test_empty_block_anywhere_does_not_end_the_content(serve, shape, blocks):
    # "zero or more bytestrings": an empty one is one, and an empty chunk would be the last.
    def application(environ, start_response):
        start_response("200 OK", [])
        return shape(blocks)

    with serve(application).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.status_code == 200
            assert response.content == b"".join(blocks)


@pytest.mark.parametrize("blocks", [[], [b""], [b"", b""]], ids=["nothing", "one empty block", "two empty blocks"])
@pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in SHAPES.items() if name != "dict"])
def test_content_of_nothing_has_content_length_zero(serve, shape, blocks):
    # "response headers must not be sent until ... the application's returned iterable is exhausted": then all is known
    def application(environ, start_response):
        start_response("200 OK", [])
        return shape(blocks)

    with serve(application).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.status_code == 200
            assert response.value("Content-Length") == "0"
            assert response.content == b""


@pytest.mark.parametrize("shape", [list, tuple, Sized, deque], ids=["list", "tuple", "sized", "deque"])
def test_len_of_one_gives_the_content_length_of_the_block(serve, shape):
    # "returns an iterable whose len() is 1, then the server can automatically determine Content-Length"
    def application(environ, start_response):
        start_response("200 OK", [])
        return shape([b"thirteen byte"])

    with serve(application).connect() as client:
        response = client.get()
        assert response.value("Content-Length") == "13"
        assert response.value("Transfer-Encoding") is None
        assert response.content == b"thirteen byte"


@pytest.mark.parametrize(
    "error",
    [TypeError, AttributeError, NotImplementedError, ValueError, RuntimeError],
)
def test_len_that_fails_is_as_no_len(serve, error):
    # "If a call to len(iterable) succeeds": a __len__ may be there and fail.
    class Unsized(CustomIterable):
        def __len__(self):
            raise error("nobody knows")

    with serve(returning(Unsized([b"one", b"two"]))).connect() as client:
        response = client.get()
        assert response.status_code == 200
        assert response.content == b"onetwo"


def test_len_of_one_with_an_empty_block_has_content_length_zero(serve):
    with serve(returning(Sized([b""]))).connect() as client:
        assert client.get().value("Content-Length") == "0"


def test_len_of_more_than_one_says_nothing_of_the_content_length(serve):
    with serve(returning(Sized([b"one", b"two"]))).connect() as client:
        response = client.get()
        assert response.value("Content-Length") is None
        assert response.content == b"onetwo"


def test_iterable_is_iterated_once(serve):
    class Counting:
        iterations = 0

        def __iter__(self):
            Counting.iterations += 1
            yield b"content"

    with serve(returning(Counting())).connect() as client:
        assert client.get().content == b"content"
        assert Counting.iterations == 1


def test_generator_that_calls_start_response_at_its_first_step_is_accepted(serve):
    # "must not assume that start_response() has been called before they begin iterating"
    def application(environ, start_response):
        start_response("201 Created", [("X-Lazy", "yes")])
        yield b"lazy"

    with serve(application).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 201 Created"
        assert response.value("X-Lazy") == "yes"
        assert response.content == b"lazy"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_generator_that_calls_start_response_and_yields_nothing_is_accepted(serve, method):
    def application(environ, start_response):
        start_response("404 Not Found", [])
        return
        yield

    with serve(application).connect() as client:
        response = client.get(method=method)
        assert response.status_code == 404
        assert response.content == b""
        assert client.get().status_code == 404


def test_sized_iterable_that_calls_start_response_lazily_is_accepted(serve):
    class Lazy:
        def __init__(self, start_response):
            self.start_response = start_response

        def __len__(self):
            return 1

        def __iter__(self):
            self.start_response("202 Accepted", [])
            yield b"lazy"

    with serve(lambda environ, start_response: Lazy(start_response)).connect() as client:
        response = client.get()
        assert response.status_code == 202
        assert response.value("Content-Length") == "4"


@pytest.mark.parametrize("size", [1, 16 * 1024, 64 * 1024 + 1, 3 * 1024 * 1024])
@pytest.mark.parametrize("shape", [list, tuple, generator, Sized], ids=["list", "tuple", "generator", "sized"])
def test_block_of_any_size_arrives_whole(serve, shape, size):
    def application(environ, start_response):
        start_response("200 OK", [])
        return shape([b"a" * size, b"", b"z"])

    with serve(application).connect() as client:
        assert client.get().content == b"a" * size + b"z"
        assert client.get().content == b"a" * size + b"z"
