from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from aiowsgi.process.messages import MessagePipe, message_pipes


@pytest.fixture
def pipes() -> Iterator[tuple[MessagePipe, MessagePipe]]:
    own, sock = message_pipes()
    other = MessagePipe(sock)
    other.set_blocking(False)
    yield own, other
    own.close()
    other.close()


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


def test_last_words_are_all_received(pipes: tuple[MessagePipe, MessagePipe]) -> None:
    own, other = pipes
    for number in range(10):
        other.send("statistics", number=number, text="x" * 10_000)
    assert [message["number"] for message in own.receive_all()] == list(range(10))
