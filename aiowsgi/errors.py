"""Every exception that this package raises on purpose.

Thread: any.

::

    AiowsgiError
    ├── ConfigError (ValueError)         an option's value breaks its rule; all problems at once
    ├── StartupError                     the server cannot start: application, socket, loop or parser
    │   ├── ApplicationImportError       the application could not be imported, found or made
    │   └── HookError                    a hook of the configuration cannot be loaded, or failed where it must not
    ├── ApplicationError                 an application broke a clause of PEP 3333 or RFC 9110
    ├── BrokerUnavailable (OSError)      a channel's broker did not take an event
    └── ClientDisconnected (OSError)     the client went away while its response or content was under way
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AiowsgiError",
    "ApplicationError",
    "ApplicationImportError",
    "BrokerUnavailable",
    "ClientDisconnected",
    "ConfigError",
    "HookError",
    "StartupError",
]


class AiowsgiError(Exception):
    """Base of all errors of this package."""


class ConfigError(AiowsgiError, ValueError):
    """One or more options have values that their rules do not allow.

    Args:
        problems: one sentence for each, naming the option, its value and the rule.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class StartupError(AiowsgiError):
    """The server could not start; nothing that it opened is left open."""


class ApplicationImportError(StartupError):
    """The application could not be imported, found or made.

    ``__cause__`` is the application's own exception where its code raised one.
    """


class HookError(StartupError):
    """A hook of the configuration cannot be loaded, or has failed where the server cannot start without it.

    ``__cause__`` is the hook's own exception where its code raised one.
    """


class ApplicationError(AiowsgiError):
    """An application broke a rule of PEP 3333 or RFC 9110.

    Raised inside the application's own call wherever that is possible, so that its error handling sees it.

    Args:
        message: what was done, and with which value.
        clause: the rule that was broken, as a citation: ``PEP 3333 "The start_response() Callable"``.
    """

    def __init__(self, message: str, clause: str) -> None:
        self.clause = clause
        super().__init__(f"{message} ({clause})")


class BrokerUnavailable(AiowsgiError, ConnectionError):
    """A channel's broker did not take an event in time, or has refused it.

    An ``OSError``, because that is what programs expect from a service that is unavailable.

    Args:
        message: which broker, and why; without its password.
        maybe_sent: the event was on its way when no answer came: subscribers may still get it.
    """

    def __init__(self, message: str, *, maybe_sent: bool = False) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent


class ClientDisconnected(AiowsgiError, ConnectionError):
    """The client is gone: its response cannot be delivered, or its content will not arrive.

    An ``OSError``, because that is what applications expect from a socket that failed.
    """
