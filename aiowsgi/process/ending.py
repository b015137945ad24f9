"""What ends a server, and how: the first signal, a second one, and orders that are not signals.

An order is ``aiowsgi drain``, or the closing of the terminal. A deployment may give an order and then send SIGTERM, as
systemd does after ``ExecStop=`` and Kubernetes after ``preStop``; several people may give one. So an order, like the
first signal, begins a drain or joins one under way; only a second signal ends everything immediately.

One signal may arrive twice: timeout(1) sends it to its child and then to the group that the child is in, and a terminal
or a container's script does the like. So the same signal within half a second of the first counts as the first.

Thread: the main thread.
"""

from __future__ import annotations

import enum
import logging
import signal
import time
from collections.abc import Callable

__all__ = ["END_SIGNALS", "QUICK_SECONDS", "Ending", "Step"]

#: What SIGINT and SIGQUIT leave to requests. Arbitrary: enough for those that are nearly done.
QUICK_SECONDS = 1.0

# Arbitrary: programs that send a signal twice take microseconds; people who mean two signals take longer than this.
_ECHO_SECONDS = 0.5

END_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGQUIT") if hasattr(signal, name))


class Step(enum.Enum):
    """What is to be done."""

    DRAIN = enum.auto()  # let requests finish
    HASTEN = enum.auto()  # let them, for QUICK_SECONDS, whether or not a drain is under way
    GO_ON = enum.auto()  # with what is under way
    FORCE = enum.auto()  # end everything immediately


class _State(enum.Enum):
    """How far the end of a server has come."""

    SERVING = enum.auto()
    ORDERED = enum.auto()  # to end, though not by a signal yet
    SIGNALLED = enum.auto()


class _Event(enum.Enum):
    """What asks for the end."""

    ORDER = enum.auto()
    TERM = enum.auto()
    QUICK = enum.auto()  # SIGINT, SIGQUIT


_STEPS = {
    (_State.SERVING, _Event.ORDER): (_State.ORDERED, Step.DRAIN),
    (_State.SERVING, _Event.TERM): (_State.SIGNALLED, Step.DRAIN),
    (_State.SERVING, _Event.QUICK): (_State.SIGNALLED, Step.HASTEN),
    (_State.ORDERED, _Event.ORDER): (_State.ORDERED, Step.GO_ON),
    (_State.ORDERED, _Event.TERM): (_State.SIGNALLED, Step.GO_ON),
    (_State.ORDERED, _Event.QUICK): (_State.SIGNALLED, Step.HASTEN),
    (_State.SIGNALLED, _Event.ORDER): (_State.SIGNALLED, Step.GO_ON),
    (_State.SIGNALLED, _Event.TERM): (_State.SIGNALLED, Step.FORCE),
    (_State.SIGNALLED, _Event.QUICK): (_State.SIGNALLED, Step.FORCE),
}


class Ending:
    """Decides what to do each time something asks for the end of a server.

    Args:
        logger: records what has asked.
        clock: monotonic, in seconds.
    """

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._first_signal = 0
        # Until when that signal may arrive again without counting.
        self._echo_end = 0.0
        self._state = _State.SERVING

    def ordered(self, name: str) -> Step:
        """Take an order, whether it comes first or after other orders and signals."""
        self._logger.info("%s: running requests may finish", name)
        return self._take(_Event.ORDER)

    def signalled(self, signum: int) -> Step:
        """Take one of :data:`END_SIGNALS`."""
        name = signal.Signals(signum).name
        now = self._clock()
        if signum == self._first_signal and now < self._echo_end:
            return Step.GO_ON
        if not self._first_signal:
            self._first_signal, self._echo_end = signum, now + _ECHO_SECONDS
        event = _Event.TERM if signum == signal.SIGTERM else _Event.QUICK
        step = self._take(event)
        if step is Step.FORCE:
            self._logger.warning("%s again: ending at once", name)
        elif event is _Event.TERM:
            self._logger.info("%s: running requests may finish, a second signal ends at once", name)
        else:
            self._logger.info("%s: stopping quickly, a second signal ends at once", name)
        return step

    def _take(self, event: _Event) -> Step:
        self._state, step = _STEPS[self._state, event]
        return step
