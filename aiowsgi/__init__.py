"""An asyncio event-loop WSGI server with a thread-pool bridge: the public names, and nothing else."""

from aiowsgi.bridge.pool import ThreadPool
from aiowsgi.config import Config
from aiowsgi.errors import (
    AiowsgiError,
    ApplicationError,
    ApplicationImportError,
    ClientDisconnected,
    ConfigError,
    StartupError,
)
from aiowsgi.process.run import run
from aiowsgi.server.server import DrainReport, Server
from aiowsgi.version import __version__

__all__ = [
    "AiowsgiError",
    "ApplicationError",
    "ApplicationImportError",
    "ClientDisconnected",
    "Config",
    "ConfigError",
    "DrainReport",
    "Server",
    "StartupError",
    "ThreadPool",
    "__version__",
    "run",
]
