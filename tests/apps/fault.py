"""What a faulty application is, to its test."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["SECRET", "Fault", "Faults", "Outcome"]

#: Appears in whatever applications do wrong; no client may ever see it.
SECRET = "an-internal-secret"


class Outcome(enum.Enum):
    """What a client sees of a fault."""

    REFUSED = "a 500 in place of the response"
    BROKEN_OFF = "a response that ends before its end"
    COMPLETE = "the whole response: the fault came after it"


@dataclass(frozen=True)
class Fault:
    """An application that does one thing wrong.

    Args:
        name: what it does.
        application: the application.
        outcome: what a client sees.
        logged: words that the log record must have: the clause that was broken, or the exception.
        content: what of the application's content a client may see.
    """

    name: str
    application: WSGIApplication
    outcome: Outcome
    logged: tuple[str, ...]
    content: bytes = b""

    def __str__(self) -> str:
        return self.name


class Faults(list[Fault]):
    """The faults of one family, gathered by :meth:`add`."""

    def __init__(self, *logged: str) -> None:
        self._logged = logged

    def add(
        self,
        name: str,
        application: WSGIApplication,
        *logged: str,
        outcome: Outcome = Outcome.REFUSED,
        content: bytes = b"",
    ) -> None:
        """Add a fault; ``logged`` is added to the words that the family has in common."""
        self.append(Fault(name, application, outcome, (*self._logged, *logged), content))
