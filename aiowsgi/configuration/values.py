"""Kinds of values, and how each is read from text and shown: ``512K``, ``500ms``, ``on``.

Thread: any; pure functions.
"""

from __future__ import annotations

import enum
import re
from typing import Any

__all__ = ["GiB", "KiB", "Kind", "MiB", "format_value", "parse_value"]

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB


class Kind(enum.Enum):
    """What an option's value is, hence how its text is read and shown."""

    COUNT = "count"
    SIZE = "bytes"
    SECONDS = "seconds"
    RATE = "bytes/s"
    FLAG = "flag"
    TEXT = "text"
    CHOICE = "choice"
    TEXTS = "texts"
    MODE = "octal"
    SHARE = "share"


def parse_value(kind: Kind, text: str) -> Any:
    """Read a value of a kind from text.

    Raises:
        ValueError: the text is not of that kind; the message is the rule alone.
    """
    if kind is Kind.COUNT:
        return _parse_count(text)
    if kind in (Kind.SIZE, Kind.RATE):
        return _parse_size(text)
    if kind is Kind.SECONDS:
        return _parse_seconds(text)
    if kind is Kind.FLAG:
        return _parse_flag(text)
    if kind is Kind.MODE:
        return _parse_mode(text)
    if kind is Kind.SHARE:
        return _parse_share(text)
    if kind is Kind.TEXTS:
        return tuple(part for part in re.split(r"[,\s]+", text) if part)
    return text


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+(?:_[0-9]+)*", text.strip()):
        raise ValueError("must be a whole number")
    return int(text)


_SIZE_UNITS = {"": 1, "k": KiB, "m": MiB, "g": GiB}


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"([+-]?[0-9]+)\s*([kmg]?)(?:i?b)?(?:/s)?", text.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 65536, 512K, 10M or 1G")
    return int(match[1]) * _SIZE_UNITS[match[2]]


_SECOND_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


def _parse_seconds(text: str) -> float:
    match = re.fullmatch(r"([+-]?[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|min|h)?", text.strip().lower())
    if match is None:
        raise ValueError("must be a duration such as 30, 2.5, 500ms or 2m")
    return float(match[1]) * _SECOND_UNITS[match[2] or ""]


def _parse_flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be true or false")


def _parse_mode(text: str) -> int:
    match = re.fullmatch(r"(?:0o)?([0-7]{1,4})", text.strip())
    if match is None:
        raise ValueError("must be an octal number such as 022 or 660")
    return int(match[1], 8)


def _parse_share(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(%?)", text.strip())
    if match is None:
        raise ValueError("must be a share such as 0.5 or 50%")
    return float(match[1]) / (100 if match[2] else 1)


def format_value(kind: Kind, value: Any) -> str:
    """Show a value as a person would type it: ``512K``, ``30s``, ``off``."""
    if value is None:
        return "none"
    if kind in (Kind.SIZE, Kind.RATE):
        suffix = "/s" if kind is Kind.RATE else ""
        for letter, factor in (("G", GiB), ("M", MiB), ("K", KiB)):
            if value and value % factor == 0:
                return f"{value // factor:.0f}{letter}{suffix}"
        return f"{value:.0f}{suffix}"
    if kind is Kind.SECONDS:
        return f"{_decimal(value)}s"
    if kind is Kind.FLAG:
        return "on" if value else "off"
    if kind is Kind.MODE:
        return f"{value:03o}"
    if kind is Kind.SHARE:
        return f"{_decimal(100 * value)}%"
    if kind is Kind.TEXTS:
        return ",".join(value)
    return str(value)


def _decimal(value: float) -> str:
    """Write a number without an exponent, which nobody types, and without what rounding has left behind."""
    return f"{value:.9f}".rstrip("0").rstrip(".")
