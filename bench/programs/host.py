"""``python -m bench.programs.host GUEST MODULE:ATTRIBUTE PORT THREADS``: an asyncio program with a server in its loop.

Beside the guest a timer is due every five milliseconds; ``/lags`` answers how late it was each time. Guests are
imported by name, inside this program under test: the harness itself imports no server.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter as clock
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import uvloop

__all__ = ["main"]

_INTERVAL = 0.005
_lags: list[float] = []


async def _tick() -> None:
    due = clock()
    while True:
        # After a delay it starts afresh: one stall is one late timer, not a hundred.
        due = max(due + _INTERVAL, clock())
        await asyncio.sleep(due - clock())
        _lags.append(max(0.0, clock() - due))


def _with_lags(application: WSGIApplication) -> WSGIApplication:
    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/lags":
            return application(environ, start_response)
        content = json.dumps([round(lag, 6) for lag in _lags]).encode()
        _lags.clear()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
        return [content]

    return wrapped


async def _aiowsgi(application: WSGIApplication, port: int, threads: int) -> None:
    server = importlib.import_module("aiowsgi").Server(application, bind=[f"127.0.0.1:{port}"], threads=threads)
    async with server:
        await asyncio.Event().wait()


async def _uvicorn(application: WSGIApplication, port: int, threads: int) -> None:
    uvicorn, a2wsgi = importlib.import_module("uvicorn"), importlib.import_module("a2wsgi")
    config = uvicorn.Config(
        a2wsgi.WSGIMiddleware(application, workers=threads),
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
    )
    await uvicorn.Server(config).serve()


async def _hypercorn(application: WSGIApplication, port: int, threads: int) -> None:
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "WARNING"
    await importlib.import_module("hypercorn.asyncio").serve(application, config, mode="wsgi")


_GUESTS: dict[str, Callable[[Any, int, int], Awaitable[None]]] = {
    "aiowsgi": _aiowsgi,
    "hypercorn": _hypercorn,
    "uvicorn": _uvicorn,
}


async def _run(guest: str, application: str, port: int, threads: int) -> None:
    module, _, attribute = application.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    ticking = asyncio.create_task(_tick())
    try:
        await _GUESTS[guest](_with_lags(loaded), port, threads)
    finally:
        ticking.cancel()


def main() -> None:
    """Serve until a signal ends the process."""
    guest, application, port, threads = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(guest, application, int(port), int(threads)))


if __name__ == "__main__":
    main()
