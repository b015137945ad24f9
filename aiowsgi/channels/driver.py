"""redis-py, as far as channels need it: connections, and the few commands that are sent over them.

This is the only module that imports redis-py. Commands are sent and answers read one by one over RESP2, below
redis-py's clients: those repeat commands that may have been carried out already, and read some answers differently from
one version to the next.

Thread: event loop; :class:`Sender` any.

Source: https://redis.io/docs/latest/commands/ XADD, XINFO STREAM, XRANGE, XREAD, XREVRANGE.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import select
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio as redis_asyncio
import redis.asyncio.sentinel as redis_asyncio_sentinel
import redis.sentinel as redis_sentinel
from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.connection import parse_url as parse_url_sync
from redis.retry import Retry

from aiowsgi.channels.address import BrokerAddress
from aiowsgi.channels.event import Event, is_event_name

__all__ = ["Away", "Connector", "Page", "Refused", "Sender", "StreamInfo", "Wire", "entry_words", "read_entry"]

# Answers of a server that is starting, loading, or not a master (any more): to be asked again, perhaps elsewhere.
_AWAY_CODES = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "UNBLOCKED", "BUSY")

# For redis-py's pools, some of which have a lower limit if none is given, and fail at once when it is reached. It
# also replaces one that a URL gives, as for other programs: that is not what limits connections here.
_UNLIMITED = 2**31


class Away(Exception):
    """The broker cannot be reached, or does not serve.

    Args:
        reason: for people, without secrets.
        credentials: it is there, but refuses the user and password.
        sent: the command may have been carried out.
    """

    def __init__(self, reason: str, *, credentials: bool = False, sent: bool = False) -> None:
        super().__init__(reason)
        self.credentials = credentials
        self.sent = sent


class Refused(Exception):
    """The broker is there, and has refused a command: no stream is at the key, or this user may not read it."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream at one moment.

    Args:
        last_id: of the last event that it ever got.
        length: events that it holds.
        added: events that it ever got; ``None`` if Redis does not say: it does from version 7 on.
    """

    last_id: str
    length: int
    added: int | None

    @property
    def whole(self) -> bool:
        """Whether nothing has ever been trimmed from it, as far as that is known."""
        return self.added == self.length


@dataclass(frozen=True, slots=True)
class Page:
    """Events after an id, as they were at one moment.

    Args:
        continuous: nothing is missing between the id, or the beginning, and the first of these.
        events: the oldest ones.
        stream: as a whole.
    """

    continuous: bool
    events: list[Event]
    stream: StreamInfo


class Connector:
    """Makes connections to one address.

    Args:
        address: of the broker.
        timeout: seconds for each answer, unless said otherwise.

    Raises:
        ValueError: an option of the address is unknown.
    """

    def __init__(self, address: BrokerAddress, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        # This opens nothing, but checks what the query says.
        try:
            self._pool(timeout).make_connection()
            Sender(self, timeout)
        except (TypeError, ValueError, AttributeError, exceptions.RedisError) as error:
            raise ValueError(address.without_secrets(f"{error}")) from None

    def _options(self, timeout: float, parsed: dict[str, Any]) -> dict[str, Any]:
        options = parsed | {
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "max_connections": _UNLIMITED,
        }
        if not issubclass(parsed.get("connection_class", object), _UNIX):
            options["socket_keepalive"] = True
        return options

    def _sentinel_options(self, timeout: float) -> tuple[dict[str, Any], dict[str, Any]]:
        address = self.address
        options: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for name, text in address.options.items():
            word = name.removeprefix("sentinel_")
            read: Any = URL_QUERY_ARGUMENT_PARSERS.get(word, str)
            try:
                (options if word == name else own)[word] = read(text)
            except (TypeError, ValueError):  # as redis-py says of its own URLs
                raise ValueError(f"Invalid value for '{name}' in connection URL.") from None
        master = self._options(timeout, {**options, "db": address.db, "ssl": address.tls})
        master |= {"username": address.username or None, "password": address.password or None}
        return master, {**own, "protocol": 2, "socket_timeout": timeout, "socket_connect_timeout": timeout}

    def _pool(self, timeout: float) -> Any:
        address = self.address
        retry = AsyncRetry(NoBackoff(), 0)
        if address.sentinels:
            master, own = self._sentinel_options(timeout)
            sentinel = redis_asyncio_sentinel.Sentinel(address.sentinels, sentinel_kwargs={**own, "retry": retry})
            return redis_asyncio_sentinel.SentinelConnectionPool(address.service, sentinel, retry=retry, **master)
        options = self._options(timeout, dict(parse_url(address.url)))
        return redis_asyncio.ConnectionPool(retry=retry, **options)

    def sync_pool(self, timeout: float) -> Any:
        """Return redis-py's pool for threads; the caller limits how many connections are in use."""
        address = self.address
        retry = Retry(NoBackoff(), 0)
        if address.sentinels:
            master, own = self._sentinel_options(timeout)
            sentinel = redis_sentinel.Sentinel(address.sentinels, sentinel_kwargs={**own, "retry": retry})
            return redis_sentinel.SentinelConnectionPool(address.service, sentinel, retry=retry, **master)
        options = self._options(timeout, dict(parse_url_sync(address.url)))
        return redis.ConnectionPool(retry=retry, **options)

    async def connect(self, timeout: float | None = None) -> Wire:
        """Open a connection.

        Raises:
            Away: that cannot be done.
        """
        pool = self._pool(self._timeout if timeout is None else timeout)
        wire = Wire(self, pool.make_connection(), pool)
        try:
            async with asyncio.timeout(self._timeout):
                await wire.connection.connect()
        except BaseException as error:
            await wire.close()
            if isinstance(error, Exception):
                raise self.translated(error) from None
            raise
        finally:
            await _leave_sentinels(pool)
        return wire

    def translated(self, error: Exception, *, sent: bool = False) -> Away | Refused:
        """Return what an exception of redis-py means, with its text but without secrets."""
        if isinstance(error, (Away, Refused)):
            return error
        while isinstance(error.__cause__, exceptions.RedisError):  # some connections wrap what Redis says
            error = error.__cause__
        text = self.address.without_secrets(str(error)).strip() or type(error).__name__
        if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
            text = "it does not answer"
        if isinstance(error, exceptions.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
            return Away(f"it refuses the user and password: {text}", credentials=True)
        code = getattr(error, "status_code", None) or text.partition(" ")[0]
        refused = isinstance(error, exceptions.ResponseError) and not isinstance(error, exceptions.ReadOnlyError)
        if refused and code not in _AWAY_CODES:
            return Refused(text)
        return Away(text, sent=sent and not isinstance(error, exceptions.ResponseError))


_UNIX = (redis.UnixDomainSocketConnection, redis_asyncio.UnixDomainSocketConnection)


class Sender:
    """Sends commands from any thread, and waits for the answers; each step has about a third of the timeout.

    Args:
        connector: makes the connections.
        timeout: seconds in all: for a free connection, for opening it, for the answer.
        count: of connections at most.
    """

    def __init__(self, connector: Connector, timeout: float, count: int = 16) -> None:
        self._connector = connector
        self._timeout = timeout / 3
        self._pool = connector.sync_pool(self._timeout)
        # redis-py's only pool that waits for a free connection is not for Sentinels.
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self._places.put(None)

    def ask(self, *words: bytes | str | int) -> Any:
        """Send one command; return its answer.

        Raises:
            Away: there is none in time; ``sent`` tells whether the command may have been carried out.
            Refused: the answer is an error.
        """
        try:
            self._places.get(timeout=self._timeout)
        except queue.Empty:
            raise Away("no connection is free") from None
        try:
            return self._ask(words)
        finally:
            self._places.put(None)

    def _ask(self, words: Sequence[bytes | str | int]) -> Any:
        connection = None
        sent = False
        try:
            # A connection that Redis has closed in the meantime is reopened.
            connection = self._pool.get_connection()
            sent = True
            connection.send_command(*words)
            # Not the default of connections that a Sentinel manages: one that is still owed an answer would give it to
            # the next command.
            return connection.read_response(disconnect_on_error=True)
        except (exceptions.RedisError, OSError) as error:
            found = self._connector.translated(error, sent=sent)
            if connection is not None and isinstance(found, Away):
                # Also where that is an answer: after a failover, a new connection may lead to the master.
                connection.disconnect()
            raise found from None
        finally:
            if connection is not None:
                self._pool.release(connection)

    def close(self) -> None:
        """Close what is open."""
        self._pool.disconnect()
        manager = getattr(self._pool, "sentinel_manager", None)
        for sentinel in manager.sentinels if manager is not None else ():
            sentinel.connection_pool.disconnect()

    def last_id(self, key: str) -> str:
        """Return the id of the last event that a stream ever got.

        Raises:
            Away, Refused: as :meth:`ask`.
        """
        try:
            info = self.ask("XINFO", "STREAM", key)
        except Refused as error:
            info = error
        return _read_info(info).last_id


class Wire:
    """One connection, for one user at a time. Whatever goes wrong closes it, but for a refusal.

    Args:
        connector: that made it.
        connection: redis-py's.
        pool: redis-py's, from which the connection comes.
    """

    def __init__(self, connector: Connector, connection: Any, pool: Any) -> None:
        self._connector = connector
        self.connection = connection
        self._pool = pool

    async def ask(self, *words: bytes | str | int) -> Any:
        """Send one command; return its answer.

        Raises:
            Away: there is none.
            Refused: the answer is an error.
        """
        await self.send(*words)
        return await self.receive()

    async def send(self, *words: bytes | str | int) -> None:
        """Send one command."""
        try:
            await self.connection.send_command(*words, check_health=False)
        except (exceptions.RedisError, OSError) as error:
            raise await self._failure(error, sent=True) from None

    async def receive(self) -> Any:
        """Return the answer to one command."""
        try:
            return await self.connection.read_response()
        except (exceptions.RedisError, OSError) as error:
            raise await self._failure(error, sent=True) from None

    async def _failure(self, error: Exception, *, sent: bool = False) -> Away | Refused:
        """Return what an exception means; close the connection, unless Redis has only refused a command."""
        found = self._connector.translated(error, sent=sent)
        if isinstance(found, Away):
            await self.close()
        return found

    async def ask_at_once(self, *commands: Sequence[bytes | str | int]) -> list[Any]:
        """Send commands as one transaction; return for each its answer, or why there is none."""
        connection = self.connection
        words = [("MULTI",), *commands, ("EXEC",)]
        failure: Exception | None = None
        answer: Any = None
        try:
            await connection.send_packed_command(connection.pack_commands(words), check_health=False)
            for _ in words:
                try:
                    answer = await connection.read_response()
                except exceptions.ResponseError as error:
                    failure = failure or error  # the others are still to be read
            if failure is not None:
                raise failure
        except (exceptions.RedisError, OSError) as error:
            raise await self._failure(error) from None
        return [self._connector.translated(found) if isinstance(found, Exception) else found for found in answer]

    async def page_after(self, key: str, id: str, count: int, added: int | None = None) -> Page:
        """Read events after an id, and tell whether none is missing.

        The proof is that the event itself is still there, or that it is the last that the stream ever got. For a stream
        from which nothing was ever trimmed, the beginning, ``0-0``, will do as well; and a stream that holds as many
        events as it has got since the id holds all of these. The last two need Redis 7, which counts events.

        Args:
            key: of the stream.
            id: of an event.
            count: events at most.
            added: events that the stream had ever got, including that one, if known.
        """
        found, info = await self.ask_at_once(
            ("XRANGE", key, id, "+", "COUNT", count + 1),
            ("XINFO", "STREAM", key),
        )
        stream = _read_info(info)
        entries = _read_entries(found)
        if entries and entries[0].id == id:
            return Page(True, entries[1:], stream)
        continuous = id == stream.last_id or (id == "0-0" and stream.whole)
        if not continuous and added is not None and stream.added is not None and entries:
            continuous = stream.added - added == stream.length
        return Page(continuous, entries[:count] if continuous else [], stream)

    async def last_events(self, key: str, count: int) -> Page:
        """Read the newest events, oldest first."""
        found, info = await self.ask_at_once(("XREVRANGE", key, "+", "-", "COUNT", count), ("XINFO", "STREAM", key))
        stream = _read_info(info)
        events = _read_entries(found)[::-1]
        return Page(stream.whole and len(events) == stream.length, events, stream)

    @property
    def is_open(self) -> bool:
        """Whether nothing has gone wrong with it."""
        return bool(self.connection.is_connected)

    @property
    def is_fresh(self) -> bool:
        """Tell whether it can be used again: Redis has not closed it in the meantime.

        The socket is polled as well: a loop that was busy while Redis went away and came back does not know yet.
        """
        stream: asyncio.StreamReader | None = getattr(self.connection, "_reader", None)
        writer: asyncio.StreamWriter | None = getattr(self.connection, "_writer", None)
        if not self.is_open or stream is None or writer is None or stream.at_eof():
            return False
        if writer.is_closing():
            return False
        poller = select.poll()
        try:
            poller.register(writer.get_extra_info("socket"), select.POLLIN)
            return not poller.poll(0)  # nothing has been asked: all there can be to read is the end
        except (OSError, ValueError):
            return False  # it was reset, and is closed already

    async def close(self) -> None:
        """Close it."""
        # A socket that cannot be closed cleanly is closed all the same.
        with contextlib.suppress(Exception):
            await self.connection.disconnect(nowait=True)


async def _leave_sentinels(pool: Any) -> None:
    """Close the connections to Sentinels that a pool has opened to find the master."""
    manager = getattr(pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        with contextlib.suppress(Exception):
            await sentinel.aclose()


def _read_info(info: Any) -> StreamInfo:
    """Return what XINFO STREAM says; for a key that does not exist, that nothing was ever added."""
    if isinstance(info, Exception):
        if "no such key" in str(info):
            return StreamInfo("0-0", 0, 0)
        raise info
    fields = dict(zip(info[::2], info[1::2], strict=True))
    return StreamInfo(fields[b"last-generated-id"].decode(), fields[b"length"], fields.get(b"entries-added"))


def _read_entries(found: Any) -> list[Event]:
    if isinstance(found, Exception):
        raise found
    return [read_entry(entry) for entry in found]


def read_entry(entry: Any) -> Event:
    """Make an event of a stream's entry, whatever its sender has written."""
    id, words = entry
    fields = dict(zip(words[::2], words[1::2], strict=False)) if words else {}
    name: str | None = None
    if b"event" in fields:
        with contextlib.suppress(UnicodeDecodeError):
            name = fields[b"event"].decode()
        if not name or not is_event_name(name):
            name = None
    return Event(fields.get(b"data", b""), id.decode(), name)


def entry_words(key: str, history: int, data: bytes, event: str | None) -> tuple[bytes | str | int, ...]:
    """Return the command that adds an event to a stream."""
    named = () if event is None else ("event", event)
    return ("XADD", key, "MAXLEN", "~", history, "*", "data", data, *named)
