"""The server: protocol, exchanges, listeners, deadlines, lifecycle. It joins ``http``, ``wsgi`` and ``bridge``."""

from aiowsgi.server.drain import DrainReport
from aiowsgi.server.server import Server

__all__ = ["DrainReport", "Server"]
