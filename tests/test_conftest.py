"""The servers of the tests: one that does not start tells why, and is not taken for one that has."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from aiowsgi.server import Server
from tests.conftest import LOOPS, ServerThread
from tests.hosting import hello


def test_start_that_fails_is_told_however_late_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class LateLoop(asyncio.SelectorEventLoop):
        def close(self) -> None:
            time.sleep(0.2)  # more than it takes to wake whoever waits
            super().close()

    monkeypatch.setitem(LOOPS, "asyncio", LateLoop)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = ServerThread(Server(hello, bind=[f"127.0.0.1:{taken.getsockname()[1]}"]), "asyncio")
        with pytest.raises(OSError, match="Address already in use"):
            thread.start()


def test_loop_that_cannot_be_made_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_loop() -> asyncio.AbstractEventLoop:
        raise OSError("Too many open files")

    monkeypatch.setitem(LOOPS, "asyncio", no_loop)
    with pytest.raises(OSError, match="Too many open files"):
        ServerThread(Server(hello, bind=["127.0.0.1:0"]), "asyncio").start()
