"""Sending from threads, over a Redis that a test plays: also one that a Sentinel names."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, BinaryIO

import pytest

pytest.importorskip("redis")

from aiowsgi import BrokerUnavailable, Channel, ConfigError
from aiowsgi.channels.address import BrokerAddress
from aiowsgi.channels.driver import Away, Connector, Refused, Sender

PATIENCE = 10.0


class PlayedRedis:
    """Answers XADD as the test says, and anything else as a Redis would, or by OK. It is its own Sentinel, too."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        #: Taken by one XADD each: what it waits for, and its answer.
        self.answers: queue.SimpleQueue[tuple[threading.Event | None, bytes]] = queue.SimpleQueue()
        #: What each XADD has added.
        self.added: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        #: Connections that it has accepted.
        self.accepted_count = 0
        self._connections = ExitStack()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{'shop' if 'sentinel' in scheme else '0'}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._connections.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._connections.enter_context(self._listener.accept()[0])
            except OSError:  # closed
                return
            self.accepted_count += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as commands:
                while words := _read_words(commands):
                    connection.sendall(self._answer(words))
        except OSError:  # closed by the other side
            pass

    def _answer(self, words: list[bytes]) -> bytes:
        if words[0] == b"SENTINEL":
            port = str(self.port)
            state = "name", "shop", "ip", "127.0.0.1", "port", port, "flags", "master", "num-other-sentinels", "0"
            return b"*1\r\n*%d\r\n" % len(state) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in state)
        if words[0] == b"PING":
            return b"+PONG\r\n"
        if words[0] != b"XADD":
            return b"+OK\r\n"
        self.added.put(words[-1])
        gate, answer = self.answers.get(timeout=PATIENCE)
        if gate is not None:
            gate.wait(PATIENCE)
        return answer


def _read_words(commands: BinaryIO) -> list[bytes]:
    words = []
    for _ in range(int(commands.readline()[1:] or 0)):
        size = int(commands.readline()[1:])
        words.append(commands.read(size + 2)[:size])
    return words


@pytest.fixture
def played() -> Iterator[PlayedRedis]:
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(PlayedRedis(listener)) as redis:
        yield redis


schemes = pytest.mark.parametrize("scheme", ["redis", "redis+sentinel"])


def make_sender(redis: PlayedRedis, scheme: str, timeout: float, **options: Any) -> Sender:
    return Sender(Connector(BrokerAddress.parse(redis.url(scheme)), PATIENCE), timeout, **options)


@schemes
def test_answer_that_is_late_is_not_taken_for_the_next_command_s(played: PlayedRedis, scheme: str) -> None:
    late = threading.Event()
    played.answers.put((late, b"$3\r\n1-1\r\n"))
    played.answers.put((None, b"-OOM command not allowed\r\n"))
    with closing(make_sender(played, scheme, 0.3)) as sender:
        with pytest.raises(Away, match="does not answer") as caught:
            sender.ask("XADD", "key", "*", "data", "1")
        assert caught.value.sent
        # Sent over the same connection, the second command would be on its way by then.
        timer = threading.Timer(0.05, late.set)
        timer.start()
        with pytest.raises(Refused, match="not allowed"):
            sender.ask("XADD", "key", "*", "data", "2")
        timer.join()


@schemes
def test_thread_that_sends_while_all_connections_are_in_use_waits_for_one(played: PlayedRedis, scheme: str) -> None:
    gate = threading.Event()
    played.answers.put((gate, b"$3\r\n1-1\r\n"))
    played.answers.put((None, b"$3\r\n2-1\r\n"))
    ids: queue.SimpleQueue[object] = queue.SimpleQueue()

    def send(data: str) -> None:
        try:
            ids.put(sender.ask("XADD", "key", "*", "data", data))
        except Away as error:
            ids.put(error)

    with closing(make_sender(played, scheme, 3 * PATIENCE, count=1)) as sender:
        threads = [threading.Thread(target=send, args=(data,)) for data in ("first", "second")]
        threads[0].start()
        assert played.added.get(timeout=PATIENCE) == b"first"
        threads[1].start()
        threads[1].join(0.05)
        gate.set()
        assert [ids.get(timeout=PATIENCE) for _ in threads] == [b"1-1", b"2-1"]
        for thread in threads:
            thread.join(PATIENCE)


@schemes
def test_thread_that_gets_no_connection_in_time_has_not_sent(played: PlayedRedis, scheme: str) -> None:
    with closing(make_sender(played, scheme, 0.3, count=0)) as sender:
        with pytest.raises(Away, match="no connection is free") as caught:
            sender.ask("XADD", "key", "*", "data", "1")
        assert not caught.value.sent


@schemes
def test_options_of_an_address_are_read_as_redis_py_reads_those_of_its_own(played: PlayedRedis, scheme: str) -> None:
    played.answers.put((None, b"$3\r\n1-1\r\n"))
    channel = Channel("options", broker=f"{played.url(scheme)}?max_connections=20&health_check_interval=30")
    assert channel.send("1") == "1-1"


@pytest.mark.parametrize("name", ["health_check_interval", "sentinel_health_check_interval"])
def test_option_of_a_sentinel_s_address_that_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^broker: Invalid value for '{name}' in connection URL\.$"):
        Channel("options", broker=f"redis+sentinel://localhost/shop?{name}=soon")


def test_options_of_a_sentinel_s_address_are_no_text() -> None:
    address = BrokerAddress.parse("rediss+sentinel://localhost/shop?ssl_check_hostname=false&sentinel_db=1")
    master, own = Connector(address, PATIENCE)._sentinel_options(PATIENCE)
    assert master["ssl_check_hostname"] is False
    assert own["db"] == 1


def test_sender_leaves_a_connection_to_one_that_is_no_master_any_more(played: PlayedRedis) -> None:
    played.answers.put((None, b"-READONLY You can't write against a read only replica.\r\n"))
    played.answers.put((None, b"$3\r\n1-1\r\n"))
    with closing(make_sender(played, "redis", PATIENCE)) as sender:
        with pytest.raises(Away, match="read only") as caught:
            sender.ask("XADD", "key", "*", "data", "1")
        assert not caught.value.sent
        assert sender.ask("XADD", "key", "*", "data", "2") == b"1-1"
    assert played.accepted_count == 2


async def test_loop_leaves_a_connection_to_one_that_is_no_master_any_more(played: PlayedRedis) -> None:
    played.answers.put((None, b"-READONLY You can't write against a read only replica.\r\n"))
    played.answers.put((None, b"$3\r\n1-1\r\n"))
    channel = Channel("failover", broker=played.url("redis"))
    with pytest.raises(BrokerUnavailable, match="read only") as caught:
        await channel.asend("1")
    assert not caught.value.maybe_sent
    assert await channel.asend("2") == "1-1"
    assert played.accepted_count == 2
