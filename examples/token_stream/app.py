"""A completion, sent token by token, by an imitation of a model.

Run it in this folder with ``aiowsgi app:app``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator

from flask import Flask, Response, request

import aiowsgi

TOKEN_SECONDS = float(os.environ.get("TOKEN_SECONDS", "0.05"))
WORDS = [
    "light",
    "blue",
    "the",
    "of",
    "a",
    "scattered",
    "molecules",
    "air",
    "shorter",
    "waves",
    "more",
    "than",
    "red",
    "sky",
    "and",
    "our",
    "eyes",
    "see",
    "it",
]

app = Flask(__name__)
counts: Counter[str] = Counter(begun=0, finished=0, cancelled=0)


async def generate(prompt: str) -> AsyncIterator[str]:
    """Stand in for a model's asynchronous client: one with a connection of its own, which is closed in the end."""
    counts["begun"] += 1
    chance = random.Random(prompt)
    try:
        for number in range(200):
            await asyncio.sleep(TOKEN_SECONDS)
            if prompt == "fail" and number == 5:
                raise ConnectionError("the model is overloaded")
            yield chance.choice(WORDS) + " "
        counts["finished"] += 1
    except (asyncio.CancelledError, GeneratorExit):
        counts["cancelled"] += 1  # the reader has gone: a real client would stop the model here
        raise


async def events(prompt: str) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(generate(prompt)) as tokens:
        async for token in tokens:
            yield b"data: " + json.dumps({"token": token}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@app.post("/complete")
def complete() -> Response:
    # Everything that needs the request is read here: the generator runs when the view has returned.
    prompt = request.form["prompt"]
    # finish: a server that is being stopped lets completions end, within its --graceful-timeout.
    body = aiowsgi.park(request.environ, events(prompt), finish=True)
    return Response(body, mimetype="text/event-stream")


@app.get("/state")
def state() -> dict[str, int]:
    return dict(counts)
