"""``python -m bench.programs.serve SERVER MODULE:ATTRIBUTE PORT``: servers without a suitable command line.

wsgiref and bjoern have none; fastwsgi's cannot be silenced.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

__all__ = ["main"]

_BACKLOG = 4096


class _Server(WSGIServer):
    request_queue_size = _BACKLOG  # 5 by default: connections would be lost before there is anything to measure


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Write no line per request: the other servers do not either."""


def _wsgiref(application: Any, port: int) -> None:
    with make_server("127.0.0.1", port, application, _Server, _QuietHandler) as server:
        server.serve_forever()


def _bjoern(application: Any, port: int) -> None:
    importlib.import_module("bjoern").run(application, "127.0.0.1", port, listen_backlog=_BACKLOG)


def _fastwsgi(application: Any, port: int) -> None:
    fastwsgi = importlib.import_module("fastwsgi")
    fastwsgi.server.backlog = _BACKLOG
    fastwsgi.run(wsgi_app=application, host="127.0.0.1", port=port, loglevel=0)


_SERVERS: dict[str, Callable[[Any, int], None]] = {"bjoern": _bjoern, "fastwsgi": _fastwsgi, "wsgiref": _wsgiref}


def main() -> None:
    """Serve until a signal ends the process."""
    name, application, port = sys.argv[1:]
    module, _, attribute = application.partition(":")
    _SERVERS[name](getattr(importlib.import_module(module), attribute), int(port))


if __name__ == "__main__":
    main()
