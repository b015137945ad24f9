"""What a forked process has in place of connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from aiowsgi.bridge.fork_sockets import keep_from_forks

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Holder:
    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def descriptors(self) -> tuple[int, ...]:
        return self.numbers


class BrokenHolder(Holder):
    def descriptors(self) -> tuple[int, ...]:
        raise RuntimeError("on purpose")


def exit_code_in_fork(function: Callable[[], object]) -> int:
    """Return 0 if a function returns true in a forked process."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if function() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_null(fd: int) -> bool:
    return os.path.samestat(os.fstat(fd), os.stat(os.devnull)) and not os.get_inheritable(fd)


def test_connection_is_the_null_device_in_a_forked_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        broken, holder = BrokenHolder(), Holder(-1, ours.fileno())
        keep_from_forks(broken)
        keep_from_forks(holder)
        assert exit_code_in_fork(lambda: is_null(ours.fileno())) == 0
        ours.send(b"here it is as it was")
        assert theirs.recv(100) == b"here it is as it was"


def test_number_of_another_file_by_now_is_left_alone_at_a_second_fork() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    holder = Holder(ours.fileno())

    def reuse_number_and_fork() -> bool:
        os.dup2(writer, ours.fileno())
        return exit_code_in_fork(lambda: os.write(ours.fileno(), b"by the second")) == 0

    with ours, theirs:
        keep_from_forks(holder)
        assert exit_code_in_fork(reuse_number_and_fork) == 0
        assert os.read(reader, 100) == b"by the second"
    os.close(reader)
    os.close(writer)
