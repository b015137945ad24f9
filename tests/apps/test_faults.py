"""Each faulty application is answered with a 500 or cut off visibly, is logged once, and harms nobody else.

PEP 3333 "Error Handling": "Servers should trap and log any exception that aborts an application or the iteration of
its return value."
"""

from __future__ import annotations

import contextlib
import logging
import threading

import pytest

from tests.apps import blocks, calling, content_length, headers, raising, status
from tests.apps.fault import SECRET, Fault, Outcome
from tests.raw import Truncated

THREADS = 2
PATIENCE = 10.0

FAULTS: list[Fault] = [
    *status.FAULTS,
    *headers.FAULTS,
    *content_length.FAULTS,
    *calling.FAULTS,
    *calling.RERAISED,
    *blocks.RETURNED,
    *blocks.BLOCKS,
    *raising.FAULTS,
]


def beside_a_good_one(fault):
    """Serve the fault at ``/fault``; at ``/together``, an application that ends only if every thread runs it."""
    together = threading.Barrier(THREADS)

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fault":
            return fault.application(environ, start_response)
        together.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"together"]

    return application


def assert_reveals_nothing(received):
    for internal in (SECRET.encode(), b"Traceback", b"ApplicationError", b"aiowsgi", b".py", b"PEP 3333"):
        assert internal not in received


def assert_refused(client, method):
    response = client.receive(method)
    assert response.status_line == b"HTTP/1.1 500 Internal Server Error"
    assert response.value("Content-Type") == "text/plain; charset=utf-8"
    assert response.value("Connection") == "close"
    assert {name for name, _ in response.fields} == {"Date", "Content-Type", "Content-Length", "Connection"}
    assert_reveals_nothing(b"".join(f"{name}: {value}".encode() for name, value in response.fields) + response.content)
    assert client.at_end()


def assert_broken_off(client, fault):
    """The content has not ended as its framing says that it does, and the connection is over."""
    response = client.receive_head()
    assert response.status_code == 200
    received = b""
    if response.value("Transfer-Encoding") == "chunked":
        with contextlib.suppress(Truncated):
            while chunk := client.read_chunk():
                received += chunk
            pytest.fail("the last chunk came")
    else:
        received = client.read_all()
        assert len(received) < int(response.value("Content-Length"))
    assert received == fault.content


def assert_complete(client, fault):
    response = client.receive()
    assert response.status_code == 200
    assert response.content == fault.content


def assert_logged_once(error_log, fault):
    records = [record for record in error_log.records if record.name == "aiowsgi.error"]
    assert [record.levelno for record in records] == [logging.ERROR]
    message = records[0].getMessage()
    assert "GET /fault" in message
    for words in fault.logged:
        assert words in message
    assert records[0].exc_info is not None


def assert_all_threads_serve(server):
    clients = [server.connect() for _ in range(THREADS)]
    for client in clients:
        client.send(b"GET /together HTTP/1.1\r\nHost: test\r\n\r\n")
    for client in clients:
        assert client.receive().content == b"together"
        client.close()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_seen_logged_once_and_harms_nobody_else(serve, error_log, fault):
    server = serve(beside_a_good_one(fault), threads=THREADS, max_threads=THREADS)
    with server.connect() as client:
        client.send(b"GET /fault HTTP/1.1\r\nHost: test\r\n\r\n")
        if fault.outcome is Outcome.REFUSED:
            assert_refused(client, "GET")
        elif fault.outcome is Outcome.BROKEN_OFF:
            assert_broken_off(client, fault)
        else:
            assert_complete(client, fault)
    assert_all_threads_serve(server)
    server.stop()  # whatever else was to be logged has been
    assert_logged_once(error_log, fault)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.outcome is Outcome.BROKEN_OFF], ids=str)
def test_fault_after_output_to_http_1_0_resets_or_is_short(serve, error_log, fault):
    """Where only the end of the connection ends the content, an orderly end would look like the content's."""
    server = serve(fault.application)
    with server.connect() as client:
        client.send(b"GET /fault HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            response = client.receive_head()
            received = client.read_all()
            assert len(received) < int(response.value("Content-Length") or 0)
            assert_reveals_nothing(received)
    server.stop()
    assert_logged_once(error_log, fault)


def one_of_each_family(faults):
    """Return the first of each family that is answered with a 500."""
    families = {}
    for fault in faults:
        if fault.outcome is Outcome.REFUSED:
            families.setdefault((fault.application.__module__, fault.name.partition(":")[0]), fault)
    return families.values()


# The length of content that is not sent is not checked.
SEEN_BY_HEAD = [fault for fault in one_of_each_family(FAULTS) if "longer" not in fault.name]


@pytest.mark.parametrize("fault", SEEN_BY_HEAD, ids=str)
def test_fault_that_answers_head_is_500_without_content(serve, error_log, fault):
    server = serve(fault.application)
    with server.connect() as client:
        client.send(b"HEAD /fault HTTP/1.1\r\nHost: test\r\n\r\n")
        assert_refused(client, "HEAD")
    server.stop()
    assert len(error_log.records) == 1


@pytest.mark.parametrize("fault", one_of_each_family(FAULTS), ids=str)
def test_fault_with_unread_content_is_500_and_nothing_more(serve, error_log, fault):
    server = serve(fault.application)
    with server.connect() as client:
        content = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
        client.send(b"POST /fault HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(content) + content * 2)
        assert_refused(client, "POST")
    server.stop()
    assert len(error_log.records) == 1


RAISED_IN_THE_CALL = [
    *status.FAULTS,
    *headers.FAULTS,
    *(fault for fault in content_length.FAULTS if fault.name.startswith("length:")),
    *(fault for fault in raising.FAULTS if not fault.name.startswith("before_and_at_close")),
]


@pytest.mark.parametrize("fault", one_of_each_family(RAISED_IN_THE_CALL), ids=str)
def test_fault_under_middleware_reaches_its_error_handling(serve, error_log, fault):
    # "so that an error can be raised while the application is still running"
    def middleware(environ, start_response):
        try:
            return list(fault.application(environ, start_response))
        except BaseException as error:
            start_response("503 Handled", [], (type(error), error, error.__traceback__))
            return [b"handled"]

    with serve(middleware).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.status_code == 503
            assert response.content == b"handled"
    assert error_log.records == []


def test_close_that_raises_after_a_whole_stream_to_http_1_0_does_not_reset_it(serve, error_log):
    """The response was complete: its end is orderly, and does not depend on which thread is quicker."""
    server = serve(raising.at_close(RuntimeError("after all")))
    for _ in range(20):
        with server.connect() as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.receive().content == b"all"


class RaisingHandler(logging.Handler):
    """A program's own handler, or filter, that fails."""

    def emit(self, record):
        raise RuntimeError("the log is full")


def test_fault_whose_log_record_cannot_be_handled_is_answered_and_costs_no_thread(serve):
    def application(environ, start_response):
        raise RuntimeError("on purpose")

    logger = logging.getLogger("aiowsgi.error")
    handler = RaisingHandler()
    logger.addHandler(handler)
    try:
        server = serve(application, threads=THREADS, max_threads=THREADS)
        for _ in range(THREADS + 1):
            client = server.connect(timeout=1)
            try:
                assert client.get().status_code == 500
            finally:
                client.reset()
    finally:
        logger.removeHandler(handler)
