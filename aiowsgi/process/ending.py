"""What ends a server, and what follows from it: the first signal, a second one, and orders that are no signal.

An order is ``aiowsgi drain``, or a terminal that is closed. A deployment gives it and then sends SIGTERM, as systemd
does after ``ExecStop=`` and Kubernetes after ``preStop``; several people may give it. So it begins a drain or finds one
under way, and so does the first signal; only a second signal ends all at once.

Thread: the main thread.
"""

from __future__ import annotations

import enum
import logging
import signal

__all__ = ["END_SIGNALS", "QUICK_SECONDS", "Ending", "Step"]

#: What SIGINT and SIGQUIT leave to requests. Arbitrary: what is nearly done is done.
QUICK_SECONDS = 1.0

END_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGQUIT") if hasattr(signal, name))


class Step(enum.Enum):
    """What is to be done."""

    DRAIN = enum.auto()  # requests may end
    HASTEN = enum.auto()  # they may for QUICK_SECONDS, whether a drain is under way or not
    GO_ON = enum.auto()  # with what is under way
    FORCE = enum.auto()  # ends all at once


class Ending:
    """How far the end of a server has come.

    Args:
        logger: is told what has asked for it.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._begun = False
        self._signalled = False

    def ordered(self, name: str) -> Step:
        """Take an order, which may be the first thing or come after any other."""
        self._logger.info("%s: running requests may finish", name)
        return self._drain()

    def signalled(self, signum: int) -> Step:
        """Take one of :data:`END_SIGNALS`."""
        name = signal.Signals(signum).name
        if self._signalled:
            self._logger.warning("%s again: ending at once", name)
            return Step.FORCE
        self._signalled = True
        if signum == signal.SIGTERM:
            self._logger.info("%s: running requests may finish, a second signal ends at once", name)
            return self._drain()
        self._logger.info("%s: stopping quickly, a second signal ends at once", name)
        self._begun = True
        return Step.HASTEN

    def _drain(self) -> Step:
        step = Step.GO_ON if self._begun else Step.DRAIN
        self._begun = True
        return step
