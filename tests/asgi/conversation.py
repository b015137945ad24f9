"""One ASGI conversation, with both ends in the test's hands."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from typing import Any

from aiowsgi.asgi import ASGIAdapter
from aiowsgi.server.messages import Message

#: Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 10.0


def http_scope(method: str = "GET", path: str = "/", **changes: Any) -> dict[str, Any]:
    """Return a scope as a server makes it for a request without content."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("ascii"),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test")],
        "client": ("192.0.2.1", 4711),
        "server": ("198.51.100.1", 8000),
    }
    return scope | changes


class Gone(OSError):
    """What a server's ``send`` raises when its client is gone: ASGI 2.4."""


class Conversation:
    """Calls an application with one scope, as a server does.

    Args:
        application: any ASGI application.
        scope: of the request.
        content: whole; ``None`` if the test feeds it.
        slow: each ``send`` waits for :meth:`let_pass`.
    """

    def __init__(
        self, application: ASGIAdapter, scope: dict[str, Any], content: bytes | None = b"", *, slow: bool = False
    ) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        self._passes = asyncio.Semaphore(0 if slow else 1_000_000)
        self.gone = False
        if content is not None:
            self.feed(content)
        self.call = asyncio.ensure_future(application(scope, self._incoming.get, self._send))

    async def _send(self, message: Message) -> None:
        if self.gone:
            raise Gone
        self._outgoing.put_nowait(message)
        await self._passes.acquire()

    def let_pass(self) -> None:
        """Let one more ``send`` return."""
        self._passes.release()

    def feed(self, content: bytes, *, more: bool = False) -> None:
        """Deliver content of the request."""
        self._incoming.put_nowait({"type": "http.request", "body": content, "more_body": more})

    def disconnect(self) -> None:
        """Tell that the client is gone."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def sent(self) -> Message:
        """Return the next message that the application sends."""
        return await asyncio.wait_for(self._outgoing.get(), PATIENCE)

    async def start(self) -> tuple[int, dict[str, str]]:
        """Return the status and the fields of the response; no field comes twice."""
        message = await self.sent()
        assert message["type"] == "http.response.start"
        fields = [(name.decode(), value.decode()) for name, value in message["headers"]]
        assert len(dict(fields)) == len(fields)
        return message["status"], dict(fields)

    async def content(self) -> bytes:
        """Return the content of the response, to its end."""
        content, more = b"", True
        while more:
            message = await self.sent()
            assert message["type"] == "http.response.body"
            content += message["body"]
            more = message["more_body"]
        return content

    async def ended(self) -> None:
        """Wait for the application's end, and raise what it raises."""
        await asyncio.wait_for(asyncio.shield(self.call), PATIENCE)

    def nothing_sent(self) -> bool:
        return self._outgoing.empty()


async def answer(
    application: ASGIAdapter, scope: dict[str, Any], content: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Return the whole response to one request, after the application has ended."""
    conversation = Conversation(application, scope, content)
    status, fields = await conversation.start()
    body = await conversation.content()
    await conversation.ended()
    assert conversation.nothing_sent()
    return status, fields, body


async def until(condition: Callable[[], object]) -> None:
    """Poll for a condition that nothing announces, while the loop goes on."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], object]) -> None:
    """Poll for the same in a test without a loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} seconds: {condition}"
        time.sleep(0.001)


class Notes(queue.SimpleQueue[Any]):
    """What an application tells its test, in order."""

    def take(self) -> Any:
        """Return the next note, waiting for it in the calling thread."""
        return self.get(timeout=PATIENCE)

    async def arrive(self) -> Any:
        """Return the next note, waiting for it while the loop goes on."""
        await until(lambda: not self.empty())
        return self.get_nowait()
