"""``start_response`` and ``write`` called too seldom, too often or too late."""

from __future__ import annotations

import contextlib
import sys

from tests.apps.fault import SECRET, Faults, Outcome

FAULTS = Faults("PEP 3333")
SECRET_BLOCK = SECRET.encode()
NOT_CALLED = ("start_response was not called", "The start_response() Callable")
AGAIN = ("again without exc_info", "The start_response() Callable")


def never_list(environ, start_response):
    return [SECRET_BLOCK]


def never_empty_list(environ, start_response):
    return []


def never_generator(environ, start_response):
    yield SECRET_BLOCK


def never_empty_generator(environ, start_response):
    return
    yield


def never_empty_block(environ, start_response):
    yield b""


def after_the_first_block(environ, start_response):
    yield SECRET_BLOCK
    start_response("200 OK", [])


def twice(environ, start_response):
    start_response("200 OK", [])
    start_response("200 OK", [])
    return [SECRET_BLOCK]


def twice_with_nothing_for_exc_info(environ, start_response):
    start_response("200 OK", [])
    start_response("200 OK", [], None)
    return [SECRET_BLOCK]


def twice_in_a_generator(environ, start_response):
    start_response("200 OK", [])
    yield b""
    start_response("404 Not Found", [])
    yield SECRET_BLOCK


def again_after_a_refusal(environ, start_response):
    with contextlib.suppress(Exception):
        start_response(SECRET, [])
    start_response("200 OK", [])
    return [SECRET_BLOCK]


def refused_and_gone_on(environ, start_response):
    with contextlib.suppress(Exception):
        start_response(SECRET, [])
    return [SECRET_BLOCK]


def again_after_output(environ, start_response):
    start_response("200 OK", [])
    yield b"first"
    start_response("500 Oops", [("X-Secret", SECRET)])
    yield SECRET_BLOCK


def again_after_write(environ, start_response):
    start_response("200 OK", [])(b"first")
    start_response("500 Oops", [("X-Secret", SECRET)])
    return [SECRET_BLOCK]


def exc_info_after_output(environ, start_response):
    start_response("200 OK", [])
    yield b"first"
    try:
        raise RuntimeError(SECRET)
    except RuntimeError:
        start_response("500 Oops", [("X-Secret", SECRET)], sys.exc_info())
    yield SECRET_BLOCK


def exc_info_of_nothing_after_output(environ, start_response):
    start_response("200 OK", [])
    yield b"first"
    start_response("500 Oops", [("X-Secret", SECRET)], (None, None, None))
    yield SECRET_BLOCK


def bad_head_with_exc_info(environ, start_response):
    try:
        raise RuntimeError(SECRET)
    except RuntimeError:
        start_response("500 Oops", [("X\r\n", SECRET)], sys.exc_info())
    return [SECRET_BLOCK]


class WriteLate:
    """Writes once its response has ended."""

    def __init__(self, environ, start_response):
        self.write = start_response("200 OK", [])

    def __iter__(self):
        yield b"all"

    def close(self):
        self.write(SECRET_BLOCK)


class WriteLateToAList(list):
    """The same, where the response was handed over whole."""

    def __init__(self, environ, start_response):
        super().__init__([b"all"])
        self.write = start_response("200 OK", [])

    def close(self):
        self.write(SECRET_BLOCK)


for application in (never_list, never_empty_list, never_generator, never_empty_generator, never_empty_block):
    FAULTS.add(f"start_response: {application.__name__}", application, *NOT_CALLED)
FAULTS.add("start_response: after the first block", after_the_first_block, *NOT_CALLED)
FAULTS.add("start_response: refused, and gone on", refused_and_gone_on, *NOT_CALLED)
for application in (twice, twice_with_nothing_for_exc_info, twice_in_a_generator, again_after_a_refusal):
    FAULTS.add(f"start_response: {application.__name__}", application, *AGAIN)
for application in (again_after_output, again_after_write):
    FAULTS.add(
        f"start_response: {application.__name__}", application, *AGAIN, outcome=Outcome.BROKEN_OFF, content=b"first"
    )
FAULTS.add("start_response: bad head with exc_info", bad_head_with_exc_info, "not a token")
FAULTS.add(
    "start_response: exc_info of nothing after output",
    exc_info_of_nothing_after_output,
    "Error Handling",
    outcome=Outcome.BROKEN_OFF,
    content=b"first",
)
for application in (WriteLate, WriteLateToAList):
    FAULTS.add(
        f"write: {application.__name__}", application, "The write() Callable", outcome=Outcome.COMPLETE, content=b"all"
    )

#: The application's own exception is raised again: there is no clause to name.
RERAISED = Faults("RuntimeError", SECRET)
RERAISED.add(
    "start_response: exc_info after output", exc_info_after_output, outcome=Outcome.BROKEN_OFF, content=b"first"
)
