"""A worker's side of its pipe, in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiowsgi.config import Config
from aiowsgi.process import worker
from aiowsgi.process.messages import Message, MessagePipe, message_pipes
from aiowsgi.server import Server
from tests.hosting import PATIENCE, hello


async def answered(question: Message) -> Message:
    """Return what a worker says to a question, without a heartbeat."""
    server = Server(hello, threads=1)
    server.protocol_factory()  # what a server has to tell of, without a socket
    own, sock = message_pipes()
    pipe = MessagePipe(sock)
    pipe.set_blocking(False)
    process = worker._Worker(worker.Order(1, Config(app="app"), ()), pipe)
    messages: list[Message] = []
    arrived = asyncio.Event()

    def read() -> None:
        messages.extend(own.receive())
        if messages:
            arrived.set()

    loop = asyncio.get_running_loop()
    process._server = server
    loop.add_reader(own, read)
    own.send("report", census=1, **question)
    process._pipe_readable()
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    loop.remove_reader(own)
    assert not loop.remove_writer(pipe)
    await server.shutdown(0)
    own.close()
    pipe.close()
    (message,) = messages
    return message


def test_long_report_is_sent_to_its_end_without_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_report(server: Server, what: str) -> dict[str, Any]:
        return {"text": "x" * 1_000_000}

    monkeypatch.setattr(worker, "report", long_report)
    message = asyncio.run(answered({"what": "stats", "size": 1000}))
    assert len(message["fields"]["text"]) == 1_000_000


def test_stacks_are_no_larger_than_what_they_may_have() -> None:
    message = asyncio.run(answered({"what": "stacks", "size": 20}))
    stacks = message["fields"]["stacks"]
    assert stacks.startswith("thread ")
    assert "more characters: SIGUSR1 has all of it logged" in stacks
    assert stacks.index("\n") < 20
