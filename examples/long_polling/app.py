"""Long polling: an answer that waits until there is one, and holds no thread.

Run it in this folder with ``aiowsgi app``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import aiowsgi

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# Less than proxies wait for an answer.
WAIT_SECONDS = float(os.environ.get("WAIT_SECONDS", "25"))

channel = aiowsgi.Channel("messages", history=1000)


async def answer(after: str | None) -> AsyncIterator[bytes]:
    """Wait for a message; answer with it and with all that have come by then."""
    subscription = channel.subscribe(after)
    last, missed = after or subscription.place, False
    messages: list[str] = []
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            event: aiowsgi.Event | None = await anext(subscription)
        while event is not None:
            last = event.id
            if event.event == "reset":
                missed = True
            else:
                messages.append(event.decode(errors="replace"))
            event = subscription.take()
    except (TimeoutError, StopAsyncIteration):
        pass
    finally:
        await subscription.aclose()
    yield json.dumps({"last": last, "messages": messages, "missed": missed}).encode() + b"\n"


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    method, target = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if target != "/messages":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there is /messages\n"]
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    if method == "GET":
        after = parse_qs(environ["QUERY_STRING"]).get("after", [None])[0]
        start_response("200 OK", fields)
        # A request that is waiting when the server drains is still answered: half an answer would not be JSON.
        return aiowsgi.park(environ, answer(after), finish=True)
    if method == "POST":
        size = min(int(environ.get("CONTENT_LENGTH") or 0), 10_000)
        id = channel.send(environ["wsgi.input"].read(size))
        start_response("201 Created", fields)
        return [json.dumps({"id": id}).encode() + b"\n"]
    start_response("405 Method Not Allowed", [("Allow", "GET, POST"), ("Content-Type", "text/plain")])
    return [b"GET or POST\n"]
