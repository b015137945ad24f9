from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiowsgi.process.messages import Message, MessagePipe, message_pipes


@pytest.fixture
def pipes() -> Iterator[tuple[MessagePipe, MessagePipe]]:
    own, sock = message_pipes()
    other = MessagePipe(sock)
    other.set_blocking(False)
    yield own, other
    own.close()
    other.close()


def received(reader: MessagePipe, writer: MessagePipe, count: int) -> list[Message]:
    """Read messages while the other side sends on; a bounded number of times."""
    messages: list[Message] = []
    for _ in range(1000):
        messages += reader.receive()
        if len(messages) == count:
            break
        writer.flush()
    return messages


def test_messages_arrive_in_order(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    other.send("ready", urls=["http://[::1]:80"], text="line\nbreak")
    other.send("heartbeat")
    assert own.receive() == [
        {"type": "ready", "urls": ["http://[::1]:80"], "text": "line\nbreak"},
        {"type": "heartbeat"},
    ]
    assert own.receive() == []
    assert not own.ended


def test_message_that_arrives_in_pieces_is_one(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    other._socket.send(b'{"type":')
    assert own.receive() == []
    other._socket.send(b'"heartbeat"}\n{')
    assert own.receive() == [{"type": "heartbeat"}]


def test_what_is_no_message_is_passed_over(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    other._socket.send(b'\xff\n[1]\nnonsense\n{"type":"heartbeat"}\n')
    assert own.receive() == [{"type": "heartbeat"}]


def test_end_of_the_other_side_is_told_after_its_last_words(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    other.send("stopped")
    other.close()
    assert own.receive() == [{"type": "stopped"}]
    assert own.receive() == []
    assert own.ended
    own.send("drain")  # nobody is there, and that is no error


def test_reader_that_does_not_read_costs_no_more_than_a_bounded_queue(
    pipes: tuple[MessagePipe, MessagePipe],
) -> None:
    own, other = pipes
    for number in range(1000):
        other.send("statistics", number=number, text="x" * 10_000)
    assert len(other._unsent) <= 100
    numbers: list[int] = []
    while messages := own.receive() or (len(other._unsent) and [None]):
        numbers += [message["number"] for message in messages if message]
        other.flush()
    assert numbers[:50] == list(range(50))
    assert numbers == sorted(numbers)
    other.send("heartbeat")
    assert own.receive() == [{"type": "heartbeat"}]


def test_long_message_goes_on_whenever_there_is_room(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    assert other.send("report", text="x" * 3_000_000)
    assert other.unsent
    (message,) = received(own, other, 1)
    assert len(message["text"]) == 3_000_000
    assert not other.unsent


def test_threads_that_send_at_once_tear_no_message(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    count = 40

    def send(name: str) -> None:
        for number in range(count):
            own.send("answer", name=name, number=number, text=name * 30_000)

    messages: list[Message] = []
    with ThreadPoolExecutor(2) as threads:
        sending = [threads.submit(send, name) for name in "ab"]
        while not all(each.done() for each in sending) or own.unsent:
            messages += other.receive()
            own.flush()
    messages += other.receive_all()
    for each in sending:
        each.result()
    for name in "ab":
        numbers = [message["number"] for message in messages if message["name"] == name]
        assert numbers == sorted(numbers)
    assert len(messages) == 2 * count


def test_message_that_would_be_taken_for_the_end_is_not_sent(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    assert not other.send("report", text="x" * 4 * 1024 * 1024)
    assert not other.unsent
    assert other.send("heartbeat")
    assert own.receive() == [{"type": "heartbeat"}]


def test_line_without_an_end_ends_the_stream(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    for _ in range(500):
        other._socket.send(b"x" * 16_384)
        own.receive()
        if own.ended:
            break
    assert own.ended


def test_sockets_go_with_a_message(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    with socket.create_server(("127.0.0.1", 0)) as sock:
        own.send("listen", count=2, descriptors=[sock.fileno(), sock.fileno()])
        (message,) = other.receive()
        descriptors = other.take_descriptors(message["count"])
        assert len(descriptors) == 2
        assert other.take_descriptors(1) == []
        with socket.socket(fileno=descriptors[0]) as received:
            assert received.getsockname() == sock.getsockname()
        os.close(descriptors[1])


def test_sockets_wait_for_their_turn(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    with socket.create_server(("127.0.0.1", 0)) as sock:
        own.send("answer", text="x" * 1_000_000)
        own.send("listen", count=1, descriptors=[sock.fileno()])
        own.send("drain")
        messages = received(other, own, 3)
        assert [message["type"] for message in messages] == ["answer", "listen", "drain"]
        (descriptor,) = other.take_descriptors(1)
        with socket.socket(fileno=descriptor) as passed:
            assert passed.getsockname() == sock.getsockname()


def test_sockets_that_were_closed_before_their_turn_hold_up_nothing(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    with socket.create_server(("127.0.0.1", 0)) as sock:
        own.send("answer", text="x" * 1_000_000)
        own.send("listen", count=1, descriptors=[sock.fileno()])
    own.send("drain")
    assert [message["type"] for message in received(other, own, 2)] == ["answer", "drain"]


def test_last_words_are_all_received(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    for number in range(10):
        other.send("statistics", number=number, text="x" * 10_000)
    assert [message["number"] for message in own.receive_all()] == list(range(10))


def test_last_words_after_a_long_message_are_received(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    other.send("report", text="x" * 100_000)
    other.send("stopped")
    assert [message["type"] for message in own.receive_all()] == ["report", "stopped"]
    other.close()
    assert own.receive_all() == []
    assert own.ended
