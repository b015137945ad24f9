"""Exceptions that an application, its iterable or its ``close()`` raises."""

from __future__ import annotations

from tests.apps.fault import SECRET, Faults, Outcome

FAULTS = Faults()
SECRET_BLOCK = SECRET.encode()


class Fatal(BaseException):
    """Not caught by ``except Exception``."""


ERRORS = [
    RuntimeError(SECRET),
    OSError(5, SECRET),
    ConnectionResetError(SECRET),
    MemoryError(SECRET),
    RecursionError(SECRET),
    StopAsyncIteration(SECRET),
    SystemExit(SECRET),
    SystemExit(),
    KeyboardInterrupt(SECRET),
    GeneratorExit(SECRET),
    Fatal(SECRET),
    UnicodeEncodeError("ascii", SECRET, 0, 1, SECRET),
    ExceptionGroup(SECRET, [ValueError(SECRET)]),
    BaseExceptionGroup(SECRET, [SystemExit(SECRET)]),
]


def at_the_call(error):
    def application(environ, start_response):
        raise error

    return application


def after_start_response(error):
    def application(environ, start_response):
        start_response("200 OK", [("X-Secret", SECRET)])
        raise error

    return application


def at_the_first_step(error):
    def application(environ, start_response):
        start_response("200 OK", [("X-Secret", SECRET)])
        raise error
        yield

    return application


def after_an_empty_block(error):
    def application(environ, start_response):
        start_response("200 OK", [("X-Secret", SECRET)])
        yield b""
        raise error

    return application


class FailingIter:
    def __init__(self, error):
        self.error = error

    def __iter__(self):
        raise self.error


def at_iter(error):
    def application(environ, start_response):
        start_response("200 OK", [])
        return FailingIter(error)

    return application


def after_a_block(error):
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"first"
        raise error

    return application


def after_a_write(error):
    def application(environ, start_response):
        start_response("200 OK", [])(b"first")
        raise error

    return application


class FailingClose:
    """An iterable whose ``close()`` raises."""

    def __init__(self, blocks, error):
        self.blocks = blocks
        self.error = error

    def __iter__(self):
        return iter(self.blocks)

    def close(self):
        raise self.error


class FailingCloseOfAList(list):
    error: BaseException

    def close(self):
        raise self.error


def at_close(error):
    def application(environ, start_response):
        start_response("200 OK", [])
        return FailingClose([b"al", b"l"], error)

    return application


def at_close_with_a_length(error):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        return FailingClose([b"al", b"l"], error)

    return application


def at_close_of_a_list(error):
    def application(environ, start_response):
        start_response("200 OK", [])
        body = FailingCloseOfAList([b"all"])
        body.error = error
        return body

    return application


def midway_and_at_close(error):
    def blocks():
        yield b"first"
        raise ValueError("midway")

    def application(environ, start_response):
        start_response("200 OK", [])
        return FailingClose(blocks(), error)

    return application


def before_and_at_close(error):
    def application(environ, start_response):
        return FailingClose([b"no head"], error)

    return application


for error in ERRORS:
    name = type(error).__name__ + ("" if error.args else " without arguments")
    FAULTS.add(f"at_the_call: {name}", at_the_call(error), type(error).__name__)
    FAULTS.add(
        f"after_a_block: {name}",
        after_a_block(error),
        type(error).__name__,
        outcome=Outcome.BROKEN_OFF,
        content=b"first",
    )

for error in (RuntimeError(SECRET), OSError(5, SECRET), SystemExit(SECRET), Fatal(SECRET)):
    name = type(error).__name__
    for when in (after_start_response, at_the_first_step, after_an_empty_block, at_iter, before_and_at_close):
        FAULTS.add(f"{when.__name__}: {name}", when(error), name)
    for when in (after_a_write, midway_and_at_close):
        FAULTS.add(f"{when.__name__}: {name}", when(error), name, outcome=Outcome.BROKEN_OFF, content=b"first")
    for when in (at_close, at_close_with_a_length, at_close_of_a_list):
        FAULTS.add(f"{when.__name__}: {name}", when(error), name, outcome=Outcome.COMPLETE, content=b"all")

# StopIteration stands apart: within a generator PEP 479 makes it a RuntimeError, so that it never gets out of one.
FAULTS.add("at_the_call: StopIteration", at_the_call(StopIteration(SECRET)), "StopIteration")
FAULTS.add(
    "after_a_block: StopIteration",
    after_a_block(StopIteration(SECRET)),
    "RuntimeError",
    outcome=Outcome.BROKEN_OFF,
    content=b"first",
)
