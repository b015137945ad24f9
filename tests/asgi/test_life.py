"""Scopes that are no requests, and the adapter's beginning and end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.asgi import ASGIAdapter
from aiowsgi.errors import ConfigError
from tests.asgi.conftest import returning
from tests.asgi.conversation import PATIENCE, Conversation, Notes, answer, http_scope, until

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Adapt = Callable[..., ASGIAdapter]


class Lifespan(Conversation):
    """The conversation of a server that starts and ends."""

    def __init__(self, adapter: ASGIAdapter) -> None:
        super().__init__(adapter, {"type": "lifespan", "asgi": {"version": "3.0"}}, None)

    async def say(self, what: str) -> str:
        """Say "startup" or "shutdown"; return the answer."""
        self._incoming.put_nowait({"type": f"lifespan.{what}"})
        answered: str = (await self.sent())["type"]
        return answered


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("aiowsgi")}


async def test_lifespan_is_answered_and_shutdown_ends_the_threads(adapt: Adapt) -> None:
    before = thread_names()
    adapter = adapt(returning([b"alive"]))
    lifespan = Lifespan(adapter)
    assert await lifespan.say("startup") == "lifespan.startup.complete"
    assert (await answer(adapter, http_scope()))[2] == b"alive"
    assert thread_names() - before
    assert await lifespan.say("shutdown") == "lifespan.shutdown.complete"
    await lifespan.ended()
    await until(lambda: not thread_names() - before)


async def test_request_after_shutdown_is_503_until_the_next_startup(adapt: Adapt) -> None:
    adapter = adapt(returning([b"alive"]))
    await Lifespan(adapter).say("shutdown")
    assert (await answer(adapter, http_scope()))[0] == 503
    lifespan = Lifespan(adapter)
    await lifespan.say("startup")
    assert (await answer(adapter, http_scope()))[2] == b"alive"
    await lifespan.say("shutdown")


async def test_aclose_waits_for_the_request_that_runs(adapt: Adapt) -> None:
    notes = Notes()
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put("running")
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]

    adapter = adapt(application)
    conversation = Conversation(adapter, http_scope())
    await notes.arrive()
    closing = asyncio.ensure_future(adapter.aclose())
    assert (await answer(adapter, http_scope()))[0] == 503
    assert not closing.done()
    go_on.set()
    assert (await conversation.start())[0] == 200
    await asyncio.wait_for(closing, PATIENCE)
    await adapter.aclose()


async def test_websocket_is_closed_before_it_is_accepted(adapt: Adapt) -> None:
    conversation = Conversation(adapt(returning([])), {"type": "websocket", "path": "/"}, None)
    conversation._incoming.put_nowait({"type": "websocket.connect"})
    message = await conversation.sent()
    assert (message["type"], message["code"]) == ("websocket.close", 1008)
    await conversation.ended()


async def test_unknown_scope_raises(adapt: Adapt) -> None:
    with pytest.raises(ValueError, match="scope type 'carrier pigeon'"):
        await Conversation(adapt(returning([])), {"type": "carrier pigeon"}).ended()


@pytest.mark.parametrize(
    ("application", "options", "error", "text"),
    [
        (None, {}, TypeError, "application must be callable, not NoneType"),
        (returning([]), {"threads": 0}, ConfigError, "threads=0: must be at least 1"),
        (returning([]), {"response_buffer": 0}, ConfigError, "response_buffer=0: must be at least"),
        (returning([]), {"colour": "red"}, TypeError, "colour"),
    ],
)
def test_wrong_arguments_raise(application: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ASGIAdapter(application, **options)
