from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import StartupError
from aiowsgi.process.sockets import ListeningSockets, warn_of_backlog


@pytest.fixture
def each_their_own(tmp_path: Path) -> Iterator[ListeningSockets]:
    sockets = ListeningSockets(Config(bind=("127.0.0.1:0", f"unix:{tmp_path}/sock"), reuse_port=True))
    yield sockets
    sockets.close()


def test_workers_share_one_set_of_sockets() -> None:
    sockets = ListeningSockets(Config(bind=("127.0.0.1:0",)))
    assert sockets.for_slot(0) is sockets.for_slot(3)
    assert sockets.known_count == 1
    sockets.close()


def test_each_slot_has_a_socket_of_its_own_on_the_same_port(
    each_their_own: ListeningSockets, caplog: pytest.LogCaptureFixture
) -> None:
    names = {each_their_own.for_slot(slot)[0].getsockname() for slot in range(3)}
    assert len(names) == 1
    assert len({each_their_own.for_slot(slot)[0].fileno() for slot in range(3)}) == 3
    assert each_their_own.for_slot(1) is each_their_own.for_slot(1)
    config = Config(reuse_port=True)
    assert each_their_own.config_of_workers(config) is config
    assert not caplog.records


def test_unix_socket_is_shared_since_there_cannot_be_two(each_their_own: ListeningSockets) -> None:
    assert each_their_own.for_slot(0)[1] is each_their_own.for_slot(2)[1]


def test_sockets_of_slots_that_are_gone_are_left_to_others(each_their_own: ListeningSockets) -> None:
    each_their_own.for_slot(2)
    (left,) = each_their_own.left_by(2)
    assert left == (2, [each_their_own.for_slot(2)[0]])
    assert each_their_own.left_by(3) == []


def test_unix_sockets_stay_open_while_workers_serve_on(each_their_own: ListeningSockets) -> None:
    tcp, unix = each_their_own.for_slot(0)
    other_tcp = each_their_own.for_slot(1)[0]
    path = Path(unix.getsockname())
    each_their_own.close(serve_on=True)
    assert (tcp.fileno(), other_tcp.fileno()) == (-1, -1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    each_their_own.close()
    assert unix.fileno() == -1
    assert not path.exists()


def test_socket_that_was_passed_and_lets_nobody_else_in_is_shared(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        config = Config(bind=(f"fd://{passed.fileno()}",), reuse_port=True)
        sockets = ListeningSockets(config)
        assert sockets.config_of_workers(config) is config
        assert sockets.for_slot(2) == sockets.for_slot(1) == sockets.for_slot(0)
        host, port = passed.getsockname()
        (record,) = caplog.records
        assert record.getMessage().startswith(f"reuse_port: workers share {host}:{port}, since it was opened without")
        assert not sockets.config_of_workers(config).reuse_port
        sockets.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become somebody else")
def test_socket_of_another_user_that_was_passed_is_shared(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as passed:
        config = Config(bind=(f"fd://{passed.fileno()}",), reuse_port=True)
        sockets = ListeningSockets(config)
        os.seteuid(65534)
        try:
            assert sockets.for_slot(2) == sockets.for_slot(0)
        finally:
            os.seteuid(0)
        host, port = passed.getsockname()
        (record,) = caplog.records
        assert record.getMessage().startswith(f"reuse_port: workers share {host}:{port}, since no other socket can be")
        assert not sockets.config_of_workers(config).reuse_port
        sockets.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may give files away")
def test_sockets_that_were_bound_here_are_given_to_the_user_and_passed_ones_stay_their_owners(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(tmp_path / "passed"))
        passed.listen()
        bind = f"fd://{passed.fileno()}", f"unix:{tmp_path}/own"
        sockets = ListeningSockets(Config(bind=bind, user="65534", group="65534"))
    status = {name: (tmp_path / name).stat() for name in ("passed", "own")}
    assert {name: (each.st_uid, each.st_gid) for name, each in status.items()} == {
        "passed": (0, 0),
        "own": (65534, 65534),
    }
    sockets.close()


def test_address_in_use_is_a_startup_error_and_leaves_nothing_listening(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError, match=f"cannot listen on {address}: Address already in use"):
            ListeningSockets(Config(bind=(f"unix:{tmp_path}/sock", address)))
    assert not (tmp_path / "sock").exists()


def test_backlog_over_what_the_kernel_holds_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    most = tmp_path / "somaxconn"
    monkeypatch.setattr("aiowsgi.process.sockets._SOMAXCONN", most)
    with caplog.at_level(logging.WARNING, "aiowsgi.supervisor"):
        warn_of_backlog(2048)  # a system that does not tell
        most.write_text("2048\n")
        warn_of_backlog(2048)
        assert caplog.text == ""
        warn_of_backlog(2049)
    assert "backlog=2049: the kernel holds 2048 at most (net.core.somaxconn)" in caplog.text
