"""The vocabulary of :class:`~aiowsgi.process.roster.Roster`: the workers that it decides about, and its decisions.

Thread: the supervisor's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "Action",
    "AskToDrain",
    "Finish",
    "KeepConfiguration",
    "Lend",
    "Log",
    "Phase",
    "ReloadGivenUp",
    "SendSignal",
    "Settled",
    "Spawn",
    "StopListening",
    "Worker",
]


class Phase(enum.Enum):
    """The phase that a worker is in; :mod:`aiowsgi.process.roster` draws the transitions."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    SILENT = enum.auto()
    LEAVING = enum.auto()
    KILLED = enum.auto()


@dataclass(slots=True, eq=False)
class Worker:
    """One process. ``number`` counts every worker there has been; ``deadline`` is that of the current phase."""

    number: int
    slot: int
    generation: int
    begun_at: float
    deadline: float
    #: Seconds of silence that its configuration allows, which a reload's need not; 0 allows any.
    timeout: float
    phase: Phase = Phase.STARTING
    ready_at: float = 0.0
    #: The reason it gave for being unable to start.
    failure: str = ""
    #: Whether it has been sent SIGABRT, since it fell silent and its own handler dumped nothing.
    aborted: bool = False

    def __str__(self) -> str:
        return f"worker {self.number}"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for a worker."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class AskToDrain:
    """Tell a worker to leave, with ``seconds`` for its requests; ``serve_on`` adds ``drain_delay`` before that."""

    worker: Worker
    seconds: float
    leave_backlog: bool
    serve_on: bool = False


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send a signal to a worker's process."""

    worker: Worker
    signum: int


@dataclass(frozen=True, slots=True)
class Lend:
    """Give a worker the sockets of a slot that no worker serves."""

    worker: Worker
    slot: int


@dataclass(frozen=True, slots=True)
class StopListening:
    """Close the supervisor's listening sockets: the end has begun.

    Where the workers ``serve_on``, Unix sockets stay, whose files would go with them; it comes again after the delay.
    """

    serve_on: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """Every slot is served, and no reload is under way: after the start, a reload or a change in the worker count."""


@dataclass(frozen=True, slots=True)
class KeepConfiguration:
    """A reload has failed before any worker served with the new configuration: the old one stays in force."""


@dataclass(frozen=True, slots=True)
class ReloadGivenUp:
    """A worker of a reload cannot start: the workers that serve stay."""

    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """Write a line."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """All workers are gone; ``failure`` says why, if nothing asked for the end."""

    failure: str


Action = (
    Spawn | AskToDrain | SendSignal | Lend | StopListening | Settled | KeepConfiguration | ReloadGivenUp | Log | Finish
)
