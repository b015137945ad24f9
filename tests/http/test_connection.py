"""One connection's requests in order: what is read when, what is kept unread, and how it ends."""

from __future__ import annotations

import pytest

from aiowsgi.http.connection import HTTPConnection, ReadState
from aiowsgi.http.events import END_OF_CONTENT, Event, Refusal
from aiowsgi.semantics import RequestHead
from tests.http.reading import byte_by_byte, every_split, new_connection, requests_of


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()


def post(path: str, content: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def post_chunked(path: str, *blocks: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks) + b"0\r\n\r\n"


def told(events: list[Event]) -> list[object]:
    """Return events as something that compares: path, content, end, status."""
    return [
        event.path if isinstance(event, RequestHead) else event.status_code if isinstance(event, Refusal) else event
        for event in events
    ]


@pytest.fixture
def connection(parser_name: str) -> HTTPConnection:
    return new_connection(parser_name)


# One request.


def test_new_connection_waits_for_a_head(connection: HTTPConnection) -> None:
    assert connection.state is ReadState.HEAD
    assert connection.buffered_size == 0
    assert not connection.request_begun


def test_request_without_content_is_complete_at_its_head(connection: HTTPConnection) -> None:
    assert told(connection.receive_data(get("/a"))) == ["/a", END_OF_CONTENT]
    assert connection.state is ReadState.COMPLETE
    assert not connection.request_begun


def test_partial_head_is_kept_and_counted(connection: HTTPConnection) -> None:
    data = get("/a")
    for count, byte in enumerate(byte_by_byte(data[:-1]), 1):
        assert connection.receive_data(byte) == []
        assert connection.buffered_size == count
        assert connection.request_begun
    assert told(connection.receive_data(data[-1:])) == ["/a", END_OF_CONTENT]
    assert connection.buffered_size == 0


def test_empty_read_changes_nothing(connection: HTTPConnection) -> None:
    assert connection.receive_data(b"") == []
    assert not connection.request_begun
    connection.receive_data(b"GET / HT")
    assert connection.receive_data(b"") == []
    assert told(connection.receive_data(b"TP/1.1\r\nHost: a\r\n\r\n")) == ["/", END_OF_CONTENT]


def test_content_is_told_as_it_arrives_and_never_buffered(connection: HTTPConnection) -> None:
    head, _, _ = post("/a", b"abcde").partition(b"abcde")
    assert told(connection.receive_data(head)) == ["/a"]
    assert connection.state is ReadState.CONTENT
    assert connection.request_begun
    assert told(connection.receive_data(b"ab")) == [b"ab"]
    assert connection.buffered_size == 0
    assert told(connection.receive_data(b"cde")) == [b"cde", END_OF_CONTENT]
    assert connection.state is ReadState.COMPLETE


def test_content_beside_its_head_comes_in_one_call(connection: HTTPConnection) -> None:
    assert told(connection.receive_data(post("/a", b"abc"))) == ["/a", b"abc", END_OF_CONTENT]


def test_chunked_content_beside_its_head_comes_in_one_call(connection: HTTPConnection) -> None:
    assert told(connection.receive_data(post_chunked("/a", b"abc", b"d"))) == ["/a", b"abc", b"d", END_OF_CONTENT]


def test_chunked_content_without_any_is_complete_after_its_end_only(connection: HTTPConnection) -> None:
    data = post_chunked("/a")
    assert told(connection.receive_data(data[:-1])) == ["/a"]
    assert connection.state is ReadState.CONTENT
    assert told(connection.receive_data(data[-1:])) == [END_OF_CONTENT]


def test_events_hold_plain_bytes_however_the_head_came(connection: HTTPConnection) -> None:
    data = post("/a", b"abc")
    for byte in byte_by_byte(data[:-4]):
        connection.receive_data(byte)
    events = connection.receive_data(data[-4:])
    assert [type(event) for event in events[1:-1]] == [bytes]


# Pipelining.


def test_pipelined_request_is_kept_unread_until_the_response_is_finished(connection: HTTPConnection) -> None:
    assert told(connection.receive_data(get("/a") + get("/b"))) == ["/a", END_OF_CONTENT]
    assert connection.buffered_size == len(get("/b"))
    assert told(connection.start_next_request()) == ["/b", END_OF_CONTENT]
    assert connection.buffered_size == 0
    assert connection.start_next_request() is None
    assert connection.state is ReadState.HEAD


def test_data_after_a_complete_request_is_kept_in_order(connection: HTTPConnection) -> None:
    connection.receive_data(get("/a"))
    for byte in byte_by_byte(get("/b") + get("/c")[:10]):
        assert connection.receive_data(byte) == []
    assert connection.buffered_size == len(get("/b")) + 10
    assert told(connection.start_next_request()) == ["/b", END_OF_CONTENT]
    assert connection.receive_data(get("/c")[10:]) == []
    assert told(connection.start_next_request()) == ["/c", END_OF_CONTENT]


def test_pipelined_fault_is_told_only_when_its_turn_comes(connection: HTTPConnection) -> None:
    assert told(connection.receive_data(get("/a") + b"\x00junk")) == ["/a", END_OF_CONTENT]
    assert connection.state is ReadState.COMPLETE
    assert told(connection.start_next_request()) == [400]
    assert connection.state is ReadState.CLOSED


def test_pipelined_partial_head_goes_on_with_what_arrives(connection: HTTPConnection) -> None:
    connection.receive_data(get("/a") + get("/b")[:20])
    assert connection.start_next_request() == []
    assert connection.request_begun
    assert told(connection.receive_data(get("/b")[20:])) == ["/b", END_OF_CONTENT]


def test_pipelined_partial_content_goes_on_with_what_arrives(connection: HTTPConnection) -> None:
    data = post_chunked("/b", b"abcdef")
    connection.receive_data(get("/a") + data[:-12])
    assert told(connection.start_next_request()) == ["/b", b"a"]
    assert told(connection.receive_data(data[-12:])) == [b"bcdef", END_OF_CONTENT]


PIPELINE = get("/1") + post("/2", b"two") + post_chunked("/3", b"th", b"ree") + b"\r\n" + get("/4") + post("/5", b"")
PIPELINE_TOLD = [
    *("/1", b"", END_OF_CONTENT, "/2", b"two", END_OF_CONTENT, "/3", b"three", END_OF_CONTENT),
    *("/4", b"", END_OF_CONTENT, "/5", b"", END_OF_CONTENT),
]


def _told_by_request(events: list[Event]) -> list[object]:
    """As ``told``, with the blocks of each content joined."""
    joined: list[object] = []
    for item in told(events):
        if isinstance(item, str):
            joined += [item, b""]
        elif isinstance(item, bytes):
            joined[-1] += item  # type: ignore[operator]  # a head's content stands there
        else:
            joined.append(item)
    return joined


def test_pipeline_in_any_pieces_is_the_same_requests(parser_name: str) -> None:
    for pieces in ([PIPELINE], list(byte_by_byte(PIPELINE)), *every_split(PIPELINE)):
        assert _told_by_request(list(requests_of(new_connection(parser_name), pieces))) == PIPELINE_TOLD


def test_pipeline_of_100_requests_in_one_read_is_told_one_by_one(connection: HTTPConnection) -> None:
    events = connection.receive_data(b"".join(post(f"/{number}", b"x" * number) for number in range(100)))
    for number in range(100):
        assert _told_by_request(events) == [f"/{number}", b"x" * number, END_OF_CONTENT]
        following = connection.start_next_request()
        if number < 99:
            assert following is not None
            events = following
    assert following is None


@pytest.mark.parametrize("data", [b"", b"GET / HT", get("/a")[:-1], post("/a", b"abc")[:-1], b"\x00"])
def test_start_next_request_before_one_is_complete_raises(connection: HTTPConnection, data: bytes) -> None:
    connection.receive_data(data)
    with pytest.raises(RuntimeError, match="no request is complete"):
        connection.start_next_request()


# The empty line before a request: RFC 9112 §2.2.


def test_empty_line_between_requests_is_no_request(connection: HTTPConnection) -> None:
    # Old clients send one after the content of a POST. It must not set off the deadline of a head, nor a refusal.
    connection.receive_data(post("/a", b"abc") + b"\r\n")
    assert connection.start_next_request() == []
    assert not connection.request_begun
    assert connection.receive_eof() == []
    assert connection.state is ReadState.CLOSED


def test_empty_line_in_two_reads_is_no_request(connection: HTTPConnection) -> None:
    assert connection.receive_data(b"\r") == []
    assert not connection.request_begun
    assert connection.receive_data(b"\n") == []
    assert not connection.request_begun
    assert told(connection.receive_data(get("/a"))) == ["/a", END_OF_CONTENT]


def test_second_empty_line_is_refused(connection: HTTPConnection) -> None:
    connection.receive_data(b"\r\n")
    assert told(connection.receive_data(b"\r\n")) == [400]


# Refusals.


def test_refusal_is_the_last_event_ever(connection: HTTPConnection) -> None:
    assert told(connection.receive_data(b"\x16\x03\x01")) == [400]
    assert connection.state is ReadState.CLOSED
    assert not connection.request_begun
    assert connection.receive_data(get("/a")) == []
    assert connection.buffered_size == 0
    assert connection.receive_eof() == []


def test_refusal_of_content_follows_its_head_and_never_its_end(connection: HTTPConnection) -> None:
    data = post_chunked("/a", b"abc").replace(b"\r\n0\r\n", b"\r\nzz\r\n")
    first, *_, last = told(connection.receive_data(data + get("/b")))
    assert (first, last) == ("/a", 400)
    assert connection.state is ReadState.CLOSED
    assert connection.buffered_size == 0


def test_refusal_frees_what_was_buffered(connection: HTTPConnection) -> None:
    connection.receive_data(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500)
    assert connection.buffered_size > 3000
    assert told(connection.receive_data(b"\x00")) == [400]
    assert connection.buffered_size == 0


def test_refusal_of_one_connection_does_not_show_in_another(parser_name: str) -> None:
    first, second = new_connection(parser_name), new_connection(parser_name)
    second.receive_data(get("/b")[:30])
    assert told(first.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n")) == [400]
    assert told(second.receive_data(get("/b")[30:])) == ["/b", END_OF_CONTENT]


# A limit is the same in one read and byte by byte.


@pytest.mark.parametrize(
    ("limits", "data", "status"),
    [
        ({"limit_request_line": 64}, get("/" + "a" * 100), 414),
        ({"limit_request_field_size": 64}, get("/").replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 62 + b"\r\n\r\n"), 431),
        ({"limit_request_fields": 1}, get("/").replace(b"\r\n\r\n", b"\r\nX: a\r\n\r\n"), 431),
        ({"limit_request_head": 256, "limit_request_line": 64}, get("/").replace(b"\r\n\r\n", b"\r\nX: a" * 50), 431),
        ({"limit_request_body": 2}, post("/", b"abc"), 413),
    ],
)
def test_limit_is_the_same_in_one_read_and_byte_by_byte(
    parser_name: str, limits: dict[str, int], data: bytes, status: int
) -> None:
    assert told(new_connection(parser_name, **limits).receive_data(data)) == [status]
    connection = new_connection(parser_name, **limits)
    events = [event for byte in byte_by_byte(data) for event in connection.receive_data(byte)]
    assert told(events) == [status]


def test_limits_hold_for_pipelined_requests_too(parser_name: str) -> None:
    connection = new_connection(parser_name, limit_request_line=64)
    connection.receive_data(get("/a") + get("/" + "b" * 100))
    assert told(connection.start_next_request()) == [414]


def test_read_ahead_is_not_judged_by_the_limits_of_a_head(parser_name: str) -> None:
    connection = new_connection(parser_name, limit_request_head=256, limit_request_line=64)
    connection.receive_data(get("/a") * 100)
    for _ in range(99):
        assert told(connection.start_next_request()) == ["/a", END_OF_CONTENT]


# The end of the stream, in every state.


def test_eof_before_any_request_is_no_refusal(connection: HTTPConnection) -> None:
    assert connection.receive_eof() == []
    assert connection.state is ReadState.CLOSED
    assert connection.receive_data(get("/a")) == []


@pytest.mark.parametrize("size", [1, 3, 14, 16, len(get("/a")) - 1])
def test_eof_in_a_head_is_400(connection: HTTPConnection, size: int) -> None:
    connection.receive_data(get("/a")[:size])
    assert told(connection.receive_eof()) == [400]
    assert connection.state is ReadState.CLOSED
    assert connection.buffered_size == 0


@pytest.mark.parametrize("data", [post("/a", b"abc")[:-1], post("/a", b"abc")[:-3], post_chunked("/a", b"abc")[:-1]])
def test_eof_in_content_is_400(connection: HTTPConnection, data: bytes) -> None:
    connection.receive_data(data)
    assert connection.state is ReadState.CONTENT
    assert told(connection.receive_eof()) == [400]
    assert connection.state is ReadState.CLOSED
    assert connection.receive_data(b"c") == []


def test_eof_after_a_complete_request_leaves_it_complete(connection: HTTPConnection) -> None:
    connection.receive_data(get("/a") + get("/b"))
    assert connection.receive_eof() == []
    assert connection.state is ReadState.COMPLETE
    assert told(connection.start_next_request()) == ["/b", END_OF_CONTENT]
    assert connection.start_next_request() is None
    assert connection.receive_eof() == []


def test_eof_after_a_refusal_is_silent(connection: HTTPConnection) -> None:
    connection.receive_data(b"\x00")
    assert connection.receive_eof() == []


def test_eof_twice_refuses_once(connection: HTTPConnection) -> None:
    connection.receive_data(b"GET")
    assert told(connection.receive_eof()) == [400]
    assert connection.receive_eof() == []


# Many small chunks.

TINY_CHUNKS = b"1\r\nx\r\n" * 10_000


@pytest.mark.parametrize("chunks", [TINY_CHUNKS, b"1;a\r\nx\r\n" * 1000], ids=["plain", "with extensions"])
def test_many_small_chunks_are_read_in_several_calls(connection: HTTPConnection, chunks: bytes) -> None:
    head = post_chunked("/a").removesuffix(b"0\r\n\r\n")
    contents = [connection.receive_data(head + chunks)[1:]]
    while connection.behind:
        assert len(b"".join(contents[-1])) <= 500  # type: ignore[arg-type]
        assert connection.state is ReadState.CONTENT
        contents.append(connection.receive_data(b""))
    assert len(contents) > 3
    assert b"".join(block for blocks in contents for block in blocks) == b"x" * chunks.count(b"x")  # type: ignore[misc]
    assert told(connection.receive_data(b"0\r\n\r\n")) == [END_OF_CONTENT]


def test_what_arrives_while_chunks_are_left_unread_follows_them(connection: HTTPConnection) -> None:
    head = post_chunked("/a").removesuffix(b"0\r\n\r\n")
    events = connection.receive_data(head + TINY_CHUNKS)[1:]
    events += connection.receive_data(b"1\r\ny\r\n0\r\n\r\n" + get("/b"))
    while connection.behind:
        events += connection.receive_data(b"")
    assert events.pop() is END_OF_CONTENT
    assert b"".join(events) == b"x" * 10_000 + b"y"  # type: ignore[arg-type]
    assert told(connection.start_next_request() or []) == ["/b", END_OF_CONTENT]


def test_eof_while_chunks_are_left_unread_is_400(connection: HTTPConnection) -> None:
    connection.receive_data(post_chunked("/a").removesuffix(b"0\r\n\r\n") + TINY_CHUNKS)
    assert told(connection.receive_eof()) == [400]
    assert not connection.behind


# Content that goes past it.


def test_content_received_elsewhere_completes_the_request(connection: HTTPConnection) -> None:
    assert connection.missing_size == 0
    head = post("/a", b"0123456789")[:-10]
    assert told(connection.receive_data(head + b"012")) == ["/a", b"012"]
    assert connection.missing_size == 7
    assert not connection.content_received(3)
    assert connection.missing_size == 4
    assert told(connection.receive_data(b"6")) == [b"6"]
    assert connection.content_received(3)
    assert connection.state is ReadState.COMPLETE
    assert connection.missing_size == 0
    assert connection.receive_data(get("/b")) == []
    assert told(connection.start_next_request()) == ["/b", END_OF_CONTENT]


@pytest.mark.parametrize("sent", [b"", get("/a"), post("/a", b"01234")[:-1], post_chunked("/a", b"01234")[:-8]])
def test_content_received_elsewhere_is_never_more_than_is_missing(connection: HTTPConnection, sent: bytes) -> None:
    connection.receive_data(sent)
    with pytest.raises(RuntimeError, match="more than the content"):
        connection.content_received(2)
