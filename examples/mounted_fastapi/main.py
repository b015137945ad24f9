"""A FastAPI program with a WSGI application mounted in it, beside asynchronous routes and a WebSocket."""

import contextlib
import sqlite3

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from flask import Flask, request

import aiowsgi

# The WSGI application: Flask, and a database that blocks. Nothing in it knows of FastAPI.
shop = Flask("shop")
database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE TABLE orders (thing TEXT)")


@shop.get("/")
def orders():
    return {"orders": [thing for (thing,) in database.execute("SELECT thing FROM orders")], "root": request.root_path}


@shop.post("/")
def order():
    with database:
        database.execute("INSERT INTO orders VALUES (?)", [request.form["thing"]])
    return {"ordered": request.form["thing"]}, 201


# A mounted application is not told of the program's end, so the program has to tell it.
adapter = aiowsgi.ASGIAdapter(shop, threads=4)


@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    await adapter.aclose()
    database.close()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def index():
    return {"shop": "/shop/", "echo": "/echo"}


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.send_text(await socket.receive_text())


app.mount("/shop", adapter)
