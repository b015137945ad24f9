"""Numbers as people write them: ``1M``, ``50k``, ``100/s``, ``32G``, ``60%``.

Thread: any. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

__all__ = ["parse_count", "parse_rate", "parse_share", "parse_size", "show_count", "show_size"]

_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([A-Za-z]?)", re.ASCII)
_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _parse(number: str, units: Mapping[str, int], text: str, rule: str) -> Fraction:
    match = _NUMBER.fullmatch(number)
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r}: must be {rule}")
    return Fraction(match[1]) * units[match[2]]


def parse_count(text: str) -> int:
    """Return a whole number: ``10000``, ``10k``, ``1.5M``.

    Raises:
        ValueError: the text is no number, or not a whole one.
    """
    rule = "a whole number, which k, M or G may follow: 10k, 1.5M"
    count = _parse(text, _THOUSANDS, text, rule)
    if count.denominator != 1:
        raise ValueError(f"{text!r}: must be {rule}")
    return int(count)


def parse_rate(text: str) -> float:
    """Return a number per second: ``100``, ``100/s``, ``50k/s``, ``6/min``.

    Raises:
        ValueError: the text is not such a number.
    """
    rule = "a number, which k, M or G and /s or /min may follow: 100/s, 50k, 6/min"
    number, slash, unit = text.partition("/")
    if slash and unit not in ("s", "min"):
        raise ValueError(f"{text!r}: must be {rule}")
    rate = _parse(number, _THOUSANDS, text, rule)
    return float(rate / (60 if unit == "min" else 1))


def parse_size(text: str) -> int:
    """Return bytes: ``512M``, ``32G``.

    Raises:
        ValueError: the text is no size, or not a whole number of bytes.
    """
    rule = "a number of bytes, which K, M, G or T may follow: 512M, 32G"
    size = _parse(text, _BINARY, text, rule)
    if size.denominator != 1:
        raise ValueError(f"{text!r}: must be {rule}")
    return int(size)


def parse_share(text: str) -> float:
    """Return a share: ``60%`` or ``0.6``.

    Raises:
        ValueError: the text is no share, or not above 0 and up to 1.
    """
    rule = "a share above 0 % and up to 100 %: 60% or 0.6"
    share = _parse(text.removesuffix("%"), {"": 1}, text, rule) / (100 if text.endswith("%") else 1)
    if not 0 < share <= 1:
        raise ValueError(f"{text!r}: must be {rule}")
    return float(share)


def show_count(count: float) -> str:
    """Return a number with its thousands separated."""
    return f"{count:,.0f}"


def show_size(size: float) -> str:
    """Return a size in the unit that fits."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.3g} TB"
