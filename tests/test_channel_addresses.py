"""Channels whose broker is reached over TLS, or found by a Sentinel; against real ones."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiowsgi import BrokerUnavailable, Channel, Event
from tests.certificates import Certificates
from tests.redis_process import RedisProcess, needs_redis, redis_process

pytestmark = needs_redis

PATIENCE = 40.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def sent_at_last(channel: Channel, data: str) -> str:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(BrokerUnavailable):
                return await channel.asend(data)
            await asyncio.sleep(0.05)


async def next_of(subscription: object) -> Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(subscription)  # type: ignore[call-overload]


async def test_broker_over_tls_is_verified_and_used(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    files = certificates.write("redis")
    port = free_port()
    with redis_process(
        port="0",
        tls_port=str(port),
        tls_cert_file=files["ssl_certfile"],
        tls_key_file=files["ssl_keyfile"],
        tls_ca_cert_file=str(certificates.ca_path),
        tls_auth_clients="no",
    ):
        url = f"rediss://127.0.0.1:{port}/0"
        with pytest.raises(BrokerUnavailable, match="certificate"):
            await Channel("orders", broker=url).asend("nobody vouches for it")
        channel = Channel("orders", broker=f"{url}?ssl_ca_certs={certificates.ca_path}")
        subscription = channel.subscribe("0-0")
        ids = [await asyncio.to_thread(channel.send, "from a thread"), await channel.asend("from the loop")]
        assert [(await next_of(subscription)).id for _ in ids] == ids
        await subscription.aclose()


@contextmanager
def sentinel(folder: Path, master: RedisProcess) -> Iterator[int]:
    """Run a Sentinel that watches a master by the name ``shop``; yield its port."""
    port = free_port()
    path = folder / "sentinel.conf"
    path.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor shop 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds shop 1000\nsentinel failover-timeout shop 5000\n"
    )
    program = shutil.which("redis-server", path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    assert program is not None
    with (
        (folder / "sentinel.log").open("wb") as log,
        subprocess.Popen([program, str(path), "--sentinel"], stdin=subprocess.DEVNULL, stdout=log, stderr=log) as run,
    ):
        try:
            yield port
        finally:
            run.kill()


def answer_of_sentinel(port: int, *words: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(" ".join(words).encode() + b"\r\n")
        return client.recv(65536)


def wait_for_sentinel(port: int, needle: bytes, *words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if needle in answer_of_sentinel(port, *words):
                return
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


async def test_subscriber_follows_the_master_that_a_sentinel_names(tmp_path: Path) -> None:
    with redis_process(tcp=True) as master, redis_process(tcp=True) as replica, sentinel(tmp_path, master) as port:
        replica.call("REPLICAOF", "127.0.0.1", master.port)
        # INFO of the master is how a Sentinel gets to know of replicas: every ten seconds.
        wait_for_sentinel(port, str(replica.port).encode(), "SENTINEL", "replicas", "shop")
        channel = Channel("orders", broker=f"redis+sentinel://127.0.0.1:{port}/shop")
        first = await channel.asend("before")
        subscription = channel.subscribe("0-0")
        assert (await next_of(subscription)).id == first
        assert master.call("WAIT", 1, 5000) == 1
        master.kill()
        second = await sent_at_last(channel, "after")
        event = await next_of(subscription)
        assert (event.id, bytes(event), event.event) == (second, b"after", None)
        assert replica.call("XLEN", "aiowsgi:channel:orders") == 2
        await subscription.aclose()
