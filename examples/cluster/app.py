"""A board that every tab follows, whichever worker of whichever instance it is connected to.

Run the whole cluster in this folder with ``python run.py``; or, if a Redis is running, one instance with
``aiowsgi app:app``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator

from flask import Flask, Response, render_template, request

import aiowsgi
from aiowsgi.event_stream import EventStream

# Which worker took a message, or serves a tab: so that people see that it does not matter.
WORKER = {"instance": os.environ.get("INSTANCE") or socket.gethostname(), "process": os.getpid()}

# Each worker has one connection to Redis for reading, whatever the number of its tabs.
board = aiowsgi.Channel("board", broker=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), history=2000)

app = Flask(__name__)


@app.get("/")
def index() -> str:
    return render_template("index.html")


@app.get("/events")
def events() -> Response:
    # A browser says which event it has seen last when it comes back by itself. One that was turned away does not come
    # back; the page makes a new EventSource then, which can only say it in its URL.
    request.environ.setdefault("HTTP_LAST_EVENT_ID", request.args.get("last", ""))
    stream = Introduced(aiowsgi.sse(board, request.environ, retry=1))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response(aiowsgi.park(request.environ, stream), mimetype="text/event-stream", headers=headers)


class Introduced(AsyncIterator[bytes]):
    """Lets the events pass, and says at their beginning who serves this tab."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        # After the first block, which has the id of the last event before the stream: the page is told that too. It has
        # no id of its own, so that it is no place to come back to.
        self._greeting = b"event: worker\ndata: " + json.dumps(WORKER).encode() + b"\n\n"

    async def __anext__(self) -> bytes:
        block = await anext(self._stream)
        greeting, self._greeting = self._greeting, b""
        return block + greeting

    def farewell(self, absence: float) -> bytes:
        """The worker is replaced: the browser is told when to come back."""
        return self._stream.farewell(absence)

    async def aclose(self) -> None:
        await self._stream.aclose()


@app.post("/messages")
def say() -> tuple[str, int] | tuple[str, int, dict[str, str]]:
    text = request.form.get("text", "").strip()[:200]
    if not text:
        return "there is no text\n", 400
    # The sender's name for this message: a sender that gets no answer may send it again, and tabs show it only once.
    token = request.form.get("token", "")[:64]
    try:
        event_id = board.send(json.dumps({"text": text, "token": token, **WORKER}), event="said")
    except aiowsgi.BrokerUnavailable as error:
        kept = "may not have been kept" if error.maybe_sent else "was not kept"
        return f"Redis does not answer. The message {kept}: send it again.\n", 503, {"Retry-After": "1"}
    return event_id + "\n", 201
