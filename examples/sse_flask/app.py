"""A board on which every open tab immediately sees what somebody says.

Run it in this folder with ``aiowsgi app:app``.
"""

from __future__ import annotations

import json

from flask import Flask, Response, render_template, request

import aiowsgi

# A tab that was away gets the last hundred messages when it comes back.
board = aiowsgi.Channel("board", history=100)

app = Flask(__name__)


@app.get("/")
def index() -> str:
    return render_template("index.html")


@app.get("/events")
def events() -> Response:
    stream = aiowsgi.sse(board, request.environ, retry=2)
    # From here on the event loop carries on alone: this thread is free as soon as the view has returned.
    body = aiowsgi.park(request.environ, stream)
    # The second header keeps nginx from collecting the events before it passes them on.
    return Response(
        body, mimetype="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


@app.post("/messages")
def say() -> tuple[str, int]:
    text = request.form.get("text", "").strip()[:200]
    if not text:
        return "there is no text\n", 400
    return board.send(json.dumps({"text": text}), event="said") + "\n", 201


@app.get("/state")
def state() -> dict[str, int]:
    stats = board.stats()
    return {"sent": stats.sent, "watching": stats.subscribers}
