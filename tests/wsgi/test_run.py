"""aiowsgi.wsgi.run: the order in which an application is called, iterated and closed."""

from __future__ import annotations

import pytest

from aiowsgi.errors import ApplicationError, ClientDisconnected
from aiowsgi.wsgi.run import run_application
from tests.wsgi.sink import RecordingSink


class Trouble(BaseException):
    """Raised on purpose; nobody who catches ``Exception`` catches it."""


def run(application, sink=None, method="GET"):
    sink = RecordingSink() if sink is None else sink
    run_application(application, {"REQUEST_METHOD": method}, sink)
    return sink


class Body:
    """Notes what is done with it."""

    def __init__(self, notes, blocks, close_error=None):
        self.notes = notes
        self.blocks = blocks
        self.close_error = close_error

    def __iter__(self):
        self.notes.append("iter")
        for block in self.blocks:
            if isinstance(block, BaseException):
                raise block
            self.notes.append(block)
            yield block

    def close(self):
        self.notes.append("close")
        if self.close_error is not None:
            raise self.close_error


def answering(body, status="200 OK"):
    def application(environ, start_response):
        start_response(status, [])
        return body

    return application


def test_run_of_an_iterable_calls_iterates_and_closes_in_order():
    notes = []
    sink = run(answering(Body(notes, [b"one", b"two"])))
    assert notes == ["iter", b"one", b"two", "close"]
    assert sink.names() == ["send_head", "send_block", "send_block", "finish"]


def test_run_hands_each_block_over_before_it_asks_for_the_next():
    sink = RecordingSink()
    seen = []

    def blocks():
        for block in (b"one", b"two", b"three"):
            yield block
            seen.append(sink.content)

    run(answering(blocks()), sink)
    assert seen == [b"one", b"onetwo", b"onetwothree"]


@pytest.mark.parametrize(
    "blocks", [[Trouble()], [b"", Trouble()], [b"one", Trouble()]], ids=["first", "empty", "later"]
)
def test_run_of_an_iterable_that_raises_closes_and_raises_that(blocks):
    notes = []
    with pytest.raises(Trouble):
        run(answering(Body(notes, blocks)))
    assert notes[-1] == "close"
    assert notes.count("close") == 1


def test_run_of_an_iterable_that_raises_and_fails_to_close_raises_both():
    notes = []
    with pytest.raises(ValueError, match="at the close") as caught:
        run(answering(Body(notes, [Trouble()], ValueError("at the close"))))
    assert isinstance(caught.value.__context__, Trouble)


def test_run_of_a_response_whose_close_raises_has_handed_it_over():
    sink = RecordingSink()
    with pytest.raises(Trouble):
        run(answering(Body([], [b"one", b"two"], Trouble())), sink)
    assert sink.names() == ["send_head", "send_block", "send_block", "finish"]


def test_run_of_an_application_that_raises_hands_nothing_over():
    def application(environ, start_response):
        start_response("200 OK", [])
        raise Trouble

    sink = RecordingSink()
    with pytest.raises(Trouble):
        run(application, sink)
    assert sink.calls == []


def test_run_for_a_client_that_goes_away_closes_and_raises_that():
    notes = []
    sink = RecordingSink(block_limit=1)
    with pytest.raises(ClientDisconnected):
        run(answering(Body(notes, [b"one", b"two", b"three"])), sink)
    assert notes == ["iter", b"one", b"two", "close"]


def test_run_for_a_client_that_is_gone_stops_at_an_empty_block():
    notes = []
    with pytest.raises(ClientDisconnected):
        run(answering(Body(notes, [b"", b"never"])), RecordingSink(block_limit=0))
    assert notes == ["iter", b"", "close"]


def test_run_for_a_client_that_goes_away_during_write_raises_in_the_application():
    noticed = []

    def application(environ, start_response):
        write = start_response("200 OK", [])
        try:
            write(b"one")
            write(b"two")
        except OSError as error:
            noticed.append(error)
            raise
        return []

    with pytest.raises(ClientDisconnected):
        run(application, RecordingSink(block_limit=1))
    assert len(noticed) == 1


@pytest.mark.parametrize(
    "value", [None, 5, True, object(), "text", "", b"bytes", b"", bytearray(b"x"), len, int], ids=repr
)
def test_run_of_a_return_value_that_is_no_iterable_names_it(value):
    sink = RecordingSink()
    with pytest.raises(ApplicationError, match=r"the application returned .* not an iterable") as caught:
        run(answering(value), sink)
    assert caught.value.clause == 'PEP 3333 "Specification Details"'
    assert (type(value).__name__ if value is not None else "None") in str(caught.value)
    assert sink.calls == []


def test_run_of_a_return_value_that_is_no_iterable_still_closes_it():
    closed = []

    class NotIterable:
        def close(self):
            closed.append(True)

    with pytest.raises(ApplicationError):
        run(answering(NotIterable()))
    assert closed == [True]


def test_run_of_an_iterable_whose_iter_fails_raises_its_own_error():
    class Failing:
        def __iter__(self):
            raise TypeError("not today")

    with pytest.raises(TypeError, match="not today"):
        run(answering(Failing()))


def test_run_of_an_attribute_close_that_is_none_calls_nothing():
    class Body:
        close = None

        def __iter__(self):
            return iter([b"one", b"two"])

    assert run(answering(Body())).content == b"onetwo"


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_run_of_a_response_without_content_closes_after_its_first_block(method, status):
    notes = []
    sink = run(answering(Body(notes, [b"", b"one", b"two"]), status), method=method)
    assert notes == ["iter", b"", b"one", "close"]
    assert sink.names() == ["check_connected", "send_whole"]
    assert sink.content == b""
