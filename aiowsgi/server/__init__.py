"""The server: protocol, exchanges, listeners, deadlines, lifecycle. It joins ``http``, ``wsgi`` and ``bridge``."""

from aiowsgi.server.server import DrainReport, Server

__all__ = ["DrainReport", "Server"]
