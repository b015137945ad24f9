"""The project's claims about its speed, and what a run says about each.

A claim holds where all of its interval lies on the right side of its bound, fails where all of it lies on the wrong
side, and is open in between.

Thread: any.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.figures import FIGURES
from bench.method.statistics import Estimate, paired_ratio
from bench.results import Results

__all__ = ["Claim", "Verdict", "judge", "load_claims"]

_FILE = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, as ``claims.toml`` has it."""

    text: str
    scenario: str
    server: str
    figure: str
    against: str = ""
    beside: str = ""
    most: float | None = None
    least: float | None = None
    aim: float | None = None

    @property
    def scenarios(self) -> tuple[str, ...]:
        """What must be measured for it."""
        return (self.scenario, self.beside) if self.beside else (self.scenario,)

    @property
    def bound(self) -> str:
        """The bound, as text."""
        return f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:g}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says about a claim.

    Args:
        estimate: of the claimed value; ``None`` if the run has none.
        word: ``holds``, ``fails``, ``open`` or ``not measured``.
        reason: why it was not measured.
    """

    claim: Claim
    estimate: Estimate | None
    word: str
    reason: str = ""


def load_claims() -> list[Claim]:
    """Read the file.

    Raises:
        BenchError: it is invalid.
    """
    try:
        claims = [Claim(**values) for values in tomllib.loads(_FILE.read_text())["claim"]]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise BenchError(f"{_FILE.name}: {error!r}") from error
    for claim in claims:
        if claim.figure not in FIGURES or (claim.most is None) == (claim.least is None):
            raise BenchError(f"{_FILE.name}: {claim.text}: needs a known figure, and either most or least")
    return claims


def judge(results: Results, claim: Claim) -> Verdict:
    """Return what the results say about a claim."""
    cell = results.cell(claim.scenario, claim.server)
    if claim.against or claim.beside:
        other = results.cell(claim.beside or claim.scenario, claim.against or claim.server)
        reason = cell.reason or other.reason
        found = None if reason else paired_ratio(cell.values(claim.figure), other.values(claim.figure))
    else:
        reason = cell.reason
        found = cell.estimate(claim.figure)
    if found is None:
        return Verdict(claim, None, "not measured", reason or "no figure")
    low = found.median if found.low is None else found.low
    high = found.median if found.high is None else found.high
    if claim.most is not None:
        word = "holds" if high <= claim.most else "fails" if low > claim.most else "open"
    else:
        assert claim.least is not None
        word = "holds" if low >= claim.least else "fails" if high < claim.least else "open"
    return Verdict(claim, found, word)
