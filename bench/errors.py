"""What can go wrong in the harness itself, and in a cell of its table."""

from __future__ import annotations

__all__ = ["BenchError", "CellVoid", "MissingField", "ServerFailed", "ToolMissing", "Unsupported"]


class BenchError(Exception):
    """The base class; its message is for the person at the terminal."""


class ToolMissing(BenchError):
    """A program that a measurement needs is not installed; the message names the command that installs it."""


class MissingField(BenchError):
    """The output of a tool or a file of the kernel lacks a field that is read from it."""


class CellVoid(BenchError):
    """A measurement has no figure; the message is the reason, and appears in the cell instead."""


class Unsupported(CellVoid):
    """The server cannot do what the scenario asks, by its design or as it is configured."""


class ServerFailed(CellVoid):
    """The server did not start, did not answer, or ended on its own."""
