"""An asyncio event-loop WSGI server with a thread-pool bridge: the public names, and nothing else."""

from aiowsgi.asgi import ASGIAdapter
from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.channel import BrokerStats, Channel, ChannelStats, Event, Subscription
from aiowsgi.config import Config
from aiowsgi.embedding import SimpleServer, make_server, run_in_thread, serve
from aiowsgi.errors import (
    AiowsgiError,
    ApplicationError,
    ApplicationImportError,
    BrokerUnavailable,
    ClientDisconnected,
    ConfigError,
    StartupError,
)
from aiowsgi.event_stream import sse
from aiowsgi.parking import park
from aiowsgi.process.run import run
from aiowsgi.server.drain import DrainReport
from aiowsgi.server.server import Server
from aiowsgi.server.stats import ServerStats
from aiowsgi.version import __version__

__all__ = [
    "ASGIAdapter",
    "AiowsgiError",
    "ApplicationError",
    "ApplicationImportError",
    "BrokerStats",
    "BrokerUnavailable",
    "Channel",
    "ChannelStats",
    "ClientDisconnected",
    "Config",
    "ConfigError",
    "DrainReport",
    "Event",
    "Server",
    "ServerStats",
    "SimpleServer",
    "StartupError",
    "Subscription",
    "ThreadPool",
    "__version__",
    "make_server",
    "park",
    "run",
    "run_in_thread",
    "serve",
    "sse",
]
