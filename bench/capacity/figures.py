"""The measured figures that a capacity sheet rests on: ``capacity.toml``, with when, where and how each was measured.

Thread: any. Pure, but for :func:`load_figures`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

__all__ = ["NAMES", "Figure", "Figures", "load_figures", "parse_figures"]

FILE = Path(__file__).parents[1] / "capacity.toml"

#: The figures that the file must have, and their units.
NAMES = {
    "idle_connection": "bytes",
    "parked_client": "bytes",
    "socket": "bytes",
    "worker": "bytes",
    "request": "µs",
    "application": "µs",
    "event": "µs",
    "arrival": "µs",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure.

    Args:
        value: in its unit of :data:`NAMES`.
        what: what it is, in a few words.
        how: how it was measured.
        date: of the measurement.
        machine: the one that it was measured on.
    """

    value: float
    what: str
    how: str
    date: str
    machine: str


Figures = Mapping[str, Figure]


def load_figures(path: Path = FILE) -> Figures:
    """Read the file.

    Raises:
        BenchError: it is missing or invalid.
    """
    try:
        return parse_figures(path.read_text())
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error


def parse_figures(text: str) -> Figures:
    """Parse the text of the file.

    Raises:
        BenchError: a figure is missing, unknown, not above 0, or does not say where it comes from.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"capacity.toml: {error}") from error
    problems = [f"{name}: missing" for name in NAMES if name not in tables]
    problems += [f"{name}: not known" for name in tables if name not in NAMES]
    figures = {}
    for name in NAMES.keys() & tables.keys():
        try:
            figure = Figure(**tables[name])
        except TypeError as error:
            problems.append(f"{name}: {error}")
            continue
        if not isinstance(figure.value, int | float) or figure.value <= 0:
            problems.append(f"{name}: value={figure.value}: must be a number above 0")
        problems += [f"{name}: {key}: empty" for key in ("what", "how", "date", "machine") if not getattr(figure, key)]
        figures[name] = figure
    if problems:
        raise BenchError("capacity.toml: " + "; ".join(problems))
    return figures
