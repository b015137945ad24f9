"""What the supervisor does in one turn of its loop; this process stands in for its worker's."""

from __future__ import annotations

import dataclasses
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.process.actions import Phase, Spawn
from aiowsgi.process.folders import Folders
from aiowsgi.process.inside import Inside
from aiowsgi.process.messages import Message, MessagePipe, message_pipes
from aiowsgi.process.notify import Notifier
from aiowsgi.process.sockets import ListeningSockets
from aiowsgi.process.spawn import WorkerProcess
from aiowsgi.process.supervisor import Supervisor

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no supervisor")

# A process that cannot be: what is sent to it goes nowhere.
NO_PID = 2**31 - 1


class Stage:
    """A supervisor whose only worker serves, and that worker's end of their pipe."""

    def __init__(self, timeout: float) -> None:
        config = Config(app="app", workers=1, timeout=timeout)
        folders, notifier = Folders(), Notifier()
        self.supervisor = Supervisor(config, reread=lambda: config, folders=folders, notifier=notifier)
        self.supervisor._sockets = self.sockets = ListeningSockets(Config(bind=("127.0.0.1:0",)))
        self.supervisor._inside = Inside(config)
        self.roster = self.supervisor._roster
        self.signals, self.signal_writer = socket.socketpair()
        self.signals.setblocking(False)
        pipe, sock = message_pipes()
        self.pipe = MessagePipe(sock)
        self.pipe.set_blocking(False)
        process = WorkerProcess(NO_PID, pipe, None)
        process.slots = {0}
        self.supervisor._processes[1] = process
        self.use(selectors.DefaultSelector())
        self.roster.start(0.0)
        (spawn,) = self.roster.take_actions()
        assert isinstance(spawn, Spawn)
        self.worker = spawn.worker
        self.pipe.send("ready", urls=[], loop="asyncio", parser="h11")
        self.turn()
        assert self.worker.phase is Phase.SERVING

    def use(self, selector: selectors.BaseSelector) -> None:
        """Have the supervisor wait with a selector."""
        self.supervisor._selector.close()
        self.supervisor._selector = selector
        selector.register(self.signals, selectors.EVENT_READ)
        selector.register(self.supervisor._processes[1].pipe, selectors.EVENT_READ, 1)

    def turn(self) -> None:
        """Have it wait for something, and do what follows."""
        self.supervisor._turn(self.signals)

    def close(self) -> None:
        self.supervisor._close()
        self.sockets.close()
        for sock in (self.pipe, self.signals, self.signal_writer):
            sock.close()


@pytest.fixture
def make_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], Stage]]:
    monkeypatch.setattr(sys, "path", list(sys.path))  # Folders writes into it
    stages: list[Stage] = []

    def make(timeout: float) -> Stage:
        stages.append(Stage(timeout))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


def test_supervisor_whose_timeout_is_longer_than_epoll_can_wait_serves_on(make_stage: Callable[[float], Stage]) -> None:
    stage = make_stage(9_999_999.0)
    stage.pipe.send("heartbeat")
    stage.turn()
    assert stage.worker.phase is Phase.SERVING


@pytest.mark.parametrize("reread", [{}, {"metrics_bind": "unix:other", "control": "unix:elsewhere"}])
def test_reload_with_other_addresses_to_watch_at_keeps_those_there_are(
    make_stage: Callable[[float], Stage], caplog: pytest.LogCaptureFixture, reread: dict[str, Any]
) -> None:
    stage = make_stage(30.0)
    watched = Config(workers=1, app="app", metrics_bind="unix:metrics", control="unix:control")
    stage.supervisor._config = watched
    stage.supervisor._reread = lambda: Config(workers=1, app="app", threads=3, **reread)
    stage.supervisor._reload()
    assert "where to listen has changed: that takes a restart" in caplog.messages
    assert stage.supervisor._config == dataclasses.replace(watched, threads=3)


class StoppedSelector(selectors.DefaultSelector):
    """A process that was stopped while it waited until its time was up: then nothing is looked at again."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout:
            return super().select(0)
        threading.Event().wait(timeout + 0.01)
        return []


class LateSelector(selectors.DefaultSelector):
    """A process that stands still for longer than it wanted to wait."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        if timeout:
            threading.Event().wait(timeout + 0.3)
        return super().select(0)


def test_supervisor_that_was_stopped_hears_what_was_said_before_it_judges(make_stage: Callable[[float], Stage]) -> None:
    stage = make_stage(30.0)
    stage.use(StoppedSelector())
    stage.worker.deadline = time.monotonic() + 0.01
    stage.pipe.send("heartbeat")
    stage.turn()
    assert stage.worker.phase is Phase.SERVING


def test_worker_that_stood_still_with_the_supervisor_is_not_silent(make_stage: Callable[[float], Stage]) -> None:
    stage = make_stage(30.0)
    stage.use(LateSelector())
    stage.worker.deadline = time.monotonic() + 0.01
    stage.turn()
    assert stage.worker.phase is Phase.SERVING


def test_long_answer_goes_on_without_a_word_of_the_worker(make_stage: Callable[[float], Stage]) -> None:
    stage = make_stage(5.0)
    stage.supervisor._processes[1].pipe.send("answer", ask=1, answers={"text": "x" * 1_000_000})
    messages = stage.pipe.receive_all()
    while not messages:
        stage.turn()
        messages = stage.pipe.receive_all()
    assert [len(message["answers"]["text"]) for message in messages] == [1_000_000]
    stage.pipe.send("heartbeat")
    stage.turn()
    pipe = stage.supervisor._processes[1].pipe
    assert stage.supervisor._selector.get_key(pipe).events == selectors.EVENT_READ  # not for room that is always there


def test_answer_too_large_for_the_worker_that_asked_is_told_to_be(make_stage: Callable[[float], Stage]) -> None:
    stage = make_stage(5.0)
    stage.pipe.send("ask", ask=7, what="top")
    stage.turn()
    (question,) = (message for message in stage.pipe.receive() if message["type"] == "report")
    stage.pipe.send("report", census=question["census"], fields={"shown": "x" * (4 * 1024 * 1024 - 60)})
    answers: list[Message] = []
    while not answers:
        stage.turn()
        stage.pipe.flush()
        answers = stage.pipe.receive_all()
    assert answers == [{"type": "answer", "ask": 7, "answers": {"error": "the answer of all workers is too large"}}]


def test_worker_is_asked_for_its_part_of_what_an_answer_may_have(make_stage: Callable[[float], Stage]) -> None:
    stage = make_stage(5.0)
    stage.pipe.send("ask", ask=7, what="stacks")
    stage.turn()
    (question,) = (message for message in stage.pipe.receive() if message["type"] == "report")
    assert question["size"] == 3 * 1024 * 1024


def test_worker_that_hangs_and_may_not_be_killed_is_left_behind(
    make_stage: Callable[[float], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, signum: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    stage = make_stage(5.0)
    stage.roster.stop(0.0, time.monotonic())
    stage.worker.deadline = time.monotonic()
    monkeypatch.setattr(os, "kill", kill)
    stage.turn()
    assert stage.supervisor._finish is not None
    stage.pipe.receive_all()
    assert stage.pipe.ended


def unreadable() -> Config:
    raise ConfigError(["threads=0: must be at least 1"])


def test_many_hangups_at_once_are_one_reload(
    make_stage: Callable[[float], Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = make_stage(30.0)
    stage.supervisor._reread = unreadable
    stage.signal_writer.send(bytes([signal.SIGHUP] * 100))
    with caplog.at_level(logging.INFO, "aiowsgi.supervisor"):
        stage.turn()
    assert caplog.messages.count("SIGHUP: reloading, one worker at a time") == 1


def test_signal_that_ends_all_counts_before_hangups_that_came_earlier(
    make_stage: Callable[[float], Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = make_stage(30.0)
    stage.supervisor._reread = unreadable
    stage.signal_writer.send(bytes([signal.SIGHUP, signal.SIGHUP, signal.SIGTERM]))
    with caplog.at_level(logging.INFO, "aiowsgi.supervisor"):
        stage.turn()
    assert stage.roster.stopping
    assert [text for text in caplog.messages if "SIGHUP" in text] == []
