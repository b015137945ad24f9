"""wrk, for the throughput of closed loops.

Its latencies are not used: a connection of a closed loop does not ask while it waits, so that a stall of a second
counts as one slow request and not as the thousand that users would have sent.

Thread: any; runs ``wrk`` as a child, bounded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import CellVoid, MissingField, ToolMissing

__all__ = ["WrkResult", "parse_result", "require", "run"]

_SCRIPT = Path(__file__).with_name("request.lua")
_MARK = "wrk-result "
_FIELDS = ("duration_us", "requests", "bytes", "connect", "read", "write", "status", "timeout")


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What a run of wrk counted.

    Args:
        duration: seconds.
        requests: answers that were read whole.
        bytes: received, including those of answers that were incomplete at the end.
        errors: how many of each kind, if there were any.
    """

    duration: float
    requests: int
    bytes: int
    errors: Mapping[str, int]


def require() -> str:
    """Return the path of wrk.

    Raises:
        ToolMissing: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise ToolMissing("wrk is not installed: apt-get install wrk (or, on macOS, brew install wrk)")
    return path


def parse_result(output: str) -> WrkResult:
    """Read the line of JSON that ``request.lua`` prints.

    Raises:
        MissingField: it is not there, or lacks a field.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise MissingField(f"wrk: no line of results in {output[-200:]!r}")
    try:
        values = json.loads(line.removeprefix(_MARK))
    except ValueError as error:
        raise MissingField(f"wrk: its line of results is not JSON: {line!r}") from error
    for name in _FIELDS:
        if not isinstance(values.get(name), int):
            raise MissingField(f"wrk: {name}: not in {line!r}")
    errors = {name: values[name] for name in ("connect", "read", "write", "status", "timeout") if values[name]}
    return WrkResult(values["duration_us"] / 1e6, values["requests"], values["bytes"], errors)


def run(
    port: int,
    path: str,
    *,
    connections: int,
    seconds: float,
    method: str = "GET",
    fields: Mapping[str, str] | None = None,
    body_size: int = 0,
) -> WrkResult:
    """Load a server of 127.0.0.1 for whole seconds.

    Raises:
        ToolMissing: wrk is not installed.
        CellVoid: it failed, or did not end.
    """
    seconds = max(1, math.ceil(seconds))
    threads = min(connections, max(1, (os.cpu_count() or 1) // 2))
    command = [require(), "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "--timeout", "5s"]
    for name, value in (fields or {}).items():
        command += ["-H", f"{name}: {value}"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}{path}", "--", method, str(body_size)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 20, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise CellVoid(f"wrk did not end within {seconds + 20} s") from None
    if done.returncode:
        raise CellVoid(f"wrk: exit {done.returncode}: {done.stderr.strip()[-200:]}")
    return parse_result(done.stdout)
