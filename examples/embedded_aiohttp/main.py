"""An aiohttp program with a WSGI application for its administrators: two ports, one event loop, one process."""

import os
import threading

from aiohttp import WSMsgType, web
from flask import Flask, abort, redirect, render_template_string

import aiowsgi

PORT = int(os.environ.get("PORT", "8000"))
ADMIN_PORT = int(os.environ.get("ADMIN_PORT", "8001"))

PAGE = """<!doctype html><title>Messages</title>
<ul>{% for number, text in messages %}<li><form method=post action="/delete/{{ number }}">
{{ text }} <button>delete</button></form></li>{% endfor %}</ul>"""


class Board:
    """Messages, which the loop and the threads of the WSGI application share: hence the lock, held for moments."""

    def __init__(self):
        self._lock = threading.Lock()
        self._messages = {}
        self._next_number = 1

    def add(self, text):
        with self._lock:
            number, self._next_number = self._next_number, self._next_number + 1
            self._messages[number] = text
        return number

    def delete(self, number):
        with self._lock:
            return self._messages.pop(number, None) is not None

    def all(self):
        with self._lock:
            return list(self._messages.items())


BOARD = web.AppKey("board", Board)


async def post(request):
    number = request.app[BOARD].add(await request.text())
    return web.json_response({"number": number}, status=201)


async def messages(request):
    return web.json_response([text for _, text in request.app[BOARD].all()])


async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            request.app[BOARD].add(message.data)
            await socket.send_json([text for _, text in request.app[BOARD].all()])
    return socket


def make_admin(board):
    """An ordinary Flask application: it knows nothing of the loop."""
    admin = Flask("admin")

    @admin.get("/")
    def index():
        return render_template_string(PAGE, messages=board.all())

    @admin.post("/delete/<int:number>")
    def delete(number):
        if not board.delete(number):
            abort(404)
        return redirect("/")

    return admin


async def serve_admin(app):
    """Serve the admin in aiohttp's loop, from the program's start to its end."""
    async with aiowsgi.Server(make_admin(app[BOARD]), host="127.0.0.1", port=ADMIN_PORT, threads=2) as server:
        print(f"admin at {server.url}", flush=True)
        yield


def make_app():
    app = web.Application()
    app[BOARD] = Board()
    app.add_routes([web.post("/messages", post), web.get("/messages", messages), web.get("/chat", chat)])
    app.cleanup_ctx.append(serve_admin)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=PORT)
