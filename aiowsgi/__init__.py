"""An asyncio event-loop WSGI server with a thread-pool bridge: the public names, and nothing else."""

from aiowsgi.errors import (
    AiowsgiError,
    ApplicationError,
    ApplicationImportError,
    ClientDisconnected,
    ConfigError,
    StartupError,
)

__version__ = "0.1.0"

__all__ = [
    "AiowsgiError",
    "ApplicationError",
    "ApplicationImportError",
    "ClientDisconnected",
    "ConfigError",
    "StartupError",
    "__version__",
]
