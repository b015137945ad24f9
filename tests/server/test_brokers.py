"""What a server does with the brokers of its application's channels, where there are none at their addresses."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("redis")

from aiowsgi import Channel, StartupError
from aiowsgi.channels.broker import broker_of
from aiowsgi.server.brokers import check_brokers, hold_links

PATIENCE = 10.0


@pytest.fixture(autouse=True)
def no_other_brokers() -> None:
    """Have those of other tests forgotten: a server looks for all that its process has."""
    gc.collect()


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """Listen, and answer nothing; yield the URL, too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/0"


def nowhere() -> str:
    """Return the URL of a broker that nobody is."""
    with listening() as (_, url):
        return url


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_check_of_one_that_is_not_there_passes_where_the_log_fails(failing_log: list[str]) -> None:
    channel = Channel("away", broker=nowhere())
    await check_brokers()
    assert "is not there yet" in failing_log[0]
    channel.close()


async def test_check_that_fails_leaves_no_other_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")

    monkeypatch.setattr("aiowsgi.server.brokers._CHECK_SECONDS", 0.1)
    with listening() as (_, silent_url), listening() as (refusing, refusing_url):
        channels = [Channel("silent", broker=silent_url), Channel("refusing", broker=refusing_url)]
        thread = threading.Thread(target=refuse, args=(refusing,), daemon=True)
        thread.start()
        with pytest.raises(StartupError, match="refuses the user and password"):
            await check_brokers()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.to_thread(thread.join, PATIENCE)
        assert len(channels) == 2


async def test_reader_goes_on_where_the_log_fails(failing_log: list[str]) -> None:
    channel = Channel("away", broker=(url := nowhere()))
    links = hold_links()
    await eventually(lambda: failing_log)
    assert "is away" in failing_log[0]
    assert broker_of(url).links()[0] in links
    for link in links:
        link.unpin()
    channel.close()


async def test_link_that_two_servers_hold_stays_until_both_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiowsgi.channels.link._LINGER_SECONDS", 0.0)
    channel = Channel("held", broker=(url := nowhere()))
    of_the_first, of_the_second = hold_links(), hold_links()
    (link,) = broker_of(url).links()
    await eventually(lambda: link.state == "away")
    for held in of_the_first:
        held.unpin()
    for _ in range(20):
        await asyncio.sleep(0.001)
        assert broker_of(url).links() == [link]
    for held in of_the_second:
        held.unpin()
    await eventually(lambda: not broker_of(url).links())
    channel.close()
