"""Does anybody miss anything? ``python check.py``: 600 clients, and all that may happen to a cluster while they follow.

The clients come through HAProxy and do what browsers do (:mod:`event_source`). Messages are posted to each instance,
over its own socket, and added to the stream by redis-cli, which knows nothing of aiowsgi. Meanwhile one instance is
killed with SIGKILL, all its processes at once, and started again; Redis is killed with SIGKILL and started again
with its data; and each instance is told to reload, by SIGHUP.

In the end, the stream in Redis, as XRANGE has it from its first entry to its last, is compared with what each client
was given over all its connections: ids, names and data have to be the same, in the same order, with none missing and
none twice. And the stream is compared with what was published: a message whose publisher was told an id is in the
stream under that id. One whose publisher was told nothing (the connection broke off) or 503 may be there or not; it is
sent again with its token until it has an id, and may then be in the stream twice, under two ids; those are counted.
Nothing else may be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TextIO
from urllib.parse import urlencode

import redis.asyncio
from event_source import Counts, Event, EventSource
from run import INSTANCES, KEY, Cluster, ClusterError, find, until

CLIENTS = 600
# Between two messages of one publisher.
PAUSE = 0.2


class Published:
    """What publishers have sent, and what they were told."""

    def __init__(self) -> None:
        #: Ids, with the tokens that were sent.
        self.told: dict[str, str] = {}
        #: How often each token was sent.
        self.tries: Counter[str] = Counter()
        self.refused = 0
        self.unanswered = 0


async def publish(source: str, send: Callable[[str], Awaitable[str]], published: Published, end: asyncio.Event) -> None:
    """Publish messages until the end; each is sent again until it has an id."""
    number = 0
    while not end.is_set():
        number += 1
        token = f"{source}-{number}"
        while not (event_id := await send(token)):
            await asyncio.sleep(PAUSE)
        published.told[event_id] = token
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), PAUSE)


def poster(cluster: Cluster, name: str, published: Published) -> Callable[[str], Awaitable[str]]:
    """Return a function that posts a message to an instance, and returns its id or nothing."""

    async def post(token: str) -> str:
        published.tries[token] += 1
        form = urlencode({"text": f"posted to {name}", "token": token})
        lines = ["POST /messages HTTP/1.0", "Content-Type: application/x-www-form-urlencoded"]
        question = "\r\n".join([*lines, f"Content-Length: {len(form)}", "", form])
        try:
            reader, writer = await asyncio.open_unix_connection(cluster.socket_of(name))
            with contextlib.closing(writer):
                writer.write(question.encode())
                head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        except OSError:
            head = content = b""
        published.refused += b" 503 " in head
        published.unanswered += not head
        # An answer that was cut off does not count.
        return content.decode().strip() if b" 201 " in head and content.endswith(b"\n") else ""

    return post


def outsider(cluster: Cluster, published: Published) -> Callable[[str], Awaitable[str]]:
    """Return a function that adds a message to the stream in another process."""

    async def add(token: str) -> str:
        published.tries[token] += 1
        data = json.dumps({"text": "from outside", "token": token, "instance": "redis-cli"})
        command = [str(find("redis-cli")), "-s", str(cluster.redis_socket), "XADD", KEY, "MAXLEN", "~", "2000", "*"]
        process = await asyncio.create_subprocess_exec(
            *command, "event", "said", "data", data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        output, _ = await process.communicate()
        # Anything else is an error of Redis's, or nothing.
        is_id = re.fullmatch(rb"\d+-\d+\n", output)
        published.unanswered += not is_id
        return output.decode().strip() if is_id else ""

    return add


async def stream_of(cluster: Cluster) -> list[Event]:
    """Return all that Redis has."""
    async with redis.asyncio.Redis(unix_socket_path=str(cluster.redis_socket), decode_responses=True) as connection:
        entries: Any = await connection.xrange(KEY)
    return [Event(event_id, fields.get("event", "message"), fields["data"]) for event_id, fields in entries]


async def workers_of(cluster: Cluster, name: str) -> set[int]:
    """Return the serving processes of an instance, as its control socket lists them."""
    path = cluster.socket_of(name).with_suffix(".control")
    with contextlib.suppress(OSError, ValueError, KeyError):
        reader, writer = await asyncio.open_unix_connection(path)
        with contextlib.closing(writer):
            writer.write(b"GET /stats HTTP/1.0\r\n\r\n")
            content = (await reader.read()).partition(b"\r\n\r\n")[2]
            return {worker["pid"] for worker in json.loads(content)["workers"].values()}
    return set()


async def kill_instance(cluster: Cluster, name: str) -> None:
    """Kill an instance, and wait for the next."""
    instance = cluster.instances[name]
    count = instance.count
    instance.kill()

    async def is_another() -> bool:
        return instance.count > count

    await until(is_another, f"{name} to be started again")
    await cluster.is_ready(name)


async def restart_redis(cluster: Cluster) -> None:
    """Kill Redis, and wait until it has read its data."""
    count = cluster.redis.count
    cluster.redis.kill()

    async def is_another() -> bool:
        return cluster.redis.count > count

    await until(is_another, "Redis to be started again")
    await cluster.redis_is_there()


async def roll(cluster: Cluster, name: str) -> None:
    """Have an instance replace its workers, and wait until it has."""
    before = await workers_of(cluster, name)
    cluster.instances[name].signal(signal.SIGHUP)

    async def are_others() -> bool:
        now = await workers_of(cluster, name)
        return len(now) == 2 and not now & before

    await until(are_others, f"{name} to have new workers")


class Check:
    """One run.

    Args:
        cluster: already running.
        say: called with what happens.
    """

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.published = Published()
        self.counts = Counts()
        self.clients = [EventSource(cluster.port, self.counts) for _ in range(CLIENTS)]
        self._cluster = cluster
        self._say = say
        self._begin = time.monotonic()

    def _tell(self, text: str) -> None:
        counts = self.counts
        self._say(
            f"{time.monotonic() - self._begin:5.1f} s  {text:32}  {len(self.published.told):4} published, "
            f"{counts.connected:5} connections, {counts.lost:5} lost, {counts.turned_away} turned away"
        )

    async def run(self) -> list[str]:
        """Return what was wrong."""
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(client.run()) for client in self.clients]
            await self._follow(group)
            for task in following:
                task.cancel()
        return self._problems(await stream_of(self._cluster))

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        cluster, published = self._cluster, self.published

        async def all_open() -> bool:
            return all(client.is_open for client in self.clients)

        await until(all_open, "all clients to be connected")
        self._tell(f"{CLIENTS} clients are connected")
        # A client that was never given an id cannot say where it was.
        sending = {name: poster(cluster, name, published) for name in INSTANCES} | {
            "redis-cli": outsider(cluster, published)
        }
        published.told[await sending["redis-cli"]("first")] = "first"
        await until(self._all_have, "all clients to have the first message", 30)
        end = asyncio.Event()
        publishing = [group.create_task(publish(name, send, published, end)) for name, send in sending.items()]
        await asyncio.sleep(1)
        self._tell("messages are published")
        await kill_instance(cluster, "web2")
        self._tell("web2 was killed, and is back")
        await restart_redis(cluster)
        self._tell("Redis was killed, and is back")
        for name in INSTANCES:
            await roll(cluster, name)
            self._tell(f"{name} has new workers")
        end.set()
        await asyncio.wait(publishing)
        with contextlib.suppress(ClusterError):  # clients that do not are among the problems
            await until(self._all_have, "all clients to have the last message", 30)
        self._tell("all clients have the last message")

    async def _all_have(self) -> bool:
        last = max(self.published.told, key=place)
        return all(client.events and place(client.events[-1].id) >= place(last) for client in self.clients)

    def _problems(self, stream: list[Event]) -> list[str]:
        published = self.published
        twice = sum(count > 1 for count in tokens_of(stream).values())
        deliveries = sum(len(client.events) for client in self.clients)
        self._say(f"{len(stream)} messages in the stream, {len(published.told)} of them told to their publishers")
        self._say(
            f"{published.refused} were refused with 503 and {published.unanswered} not answered, and sent again; "
            f"{twice} are there twice for that"
        )
        self._say(f"{deliveries} deliveries by {len(self.counts.workers)} workers")
        problems = compare_published(published, stream)
        for number, client in enumerate(self.clients):
            if client.events != stream:
                problems.append(f"client {number}: {difference(client.events, stream)}")
        return problems


def tokens_of(stream: list[Event]) -> Counter[str]:
    return Counter(json.loads(event.data)["token"] for event in stream)


def compare_published(published: Published, stream: list[Event]) -> list[str]:
    """Say what is not in the stream, or should not be there."""
    there = {(event.id, json.loads(event.data)["token"]) for event in stream}
    missing = sorted(published.told.items() - there)
    problems = [f"{token} was published as {event_id}, and is not in the stream" for event_id, token in missing]
    for token, count in tokens_of(stream).items():
        if count > published.tries[token]:
            problems.append(f"{token} is in the stream {count} times, and was sent {published.tries[token]} times")
    return problems


def place(event_id: str) -> tuple[int, int]:
    """Return the key by which ids are ordered."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


def difference(got: list[Event], stream: list[Event]) -> str:
    """Say where the events that a client was given depart from the stream."""
    for number, (event, entry) in enumerate(zip(got, stream, strict=False)):
        if event != entry:
            return f"event {number} is {event}, the stream has {entry} there"
    return f"{len(got)} events, the stream has {len(stream)}"


def say(text: str) -> None:
    print(text, flush=True)


async def main(log: TextIO) -> list[str]:
    async with Cluster(log=log, say=lambda text: None) as cluster:
        return await Check(cluster, say).run()


if __name__ == "__main__":
    with tempfile.TemporaryFile("w+") as log:
        try:
            problems = asyncio.run(main(log))
        except* ClusterError as group:
            problems = [f"check.py: {error}" for error in group.exceptions]
        except* KeyboardInterrupt:
            problems = ["check.py: interrupted"]
        if problems:
            log.seek(0)
            sys.stderr.write("".join(log.readlines()[-200:]))
            sys.stderr.write("\n".join([*problems[:20], f"{len(problems)} problems\n"]))
            sys.exit(1)
    say("Each client was given what the stream has: nothing missing, nothing twice, in order.")
