"""What a server costs, as the kernel counts it: processor time, memory, threads and context switches.

A server is all processes of one session: the harness starts each in a session of its own, so that workers, routers and
what they forked are found whichever process is their parent. Processor time of processes that ended is in the counters
of the parent that waited for them, and is counted there.

Thread: any. Reads ``/proc`` only.

Sources: proc(5), "/proc/PID/stat", "/proc/PID/status", "/proc/PID/smaps_rollup".
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import MissingField

__all__ = ["Memory", "Snapshot", "memory", "parse_fields", "parse_stat", "processes", "snapshot"]

_TICKS = os.sysconf("SC_CLK_TCK")
# The fields after the command, counted from 3 as proc(5) counts them.
_FIRST_FIELD = 3
_FIELDS_NEEDED = 20


@dataclass(frozen=True, slots=True)
class Stat:
    """A line of ``/proc/PID/stat``; times in seconds."""

    pid: int
    command: str
    state: str
    parent: int
    session: int
    cpu: float
    ended_children_cpu: float
    threads: int


def parse_stat(text: str) -> Stat:
    """Read a line of ``/proc/PID/stat``.

    The command may hold spaces and parentheses: what follows its last ``)`` is split.

    Raises:
        MissingField: there are fewer fields than proc(5) lists.
    """
    head, parenthesis, tail = text.rpartition(")")
    pid, _, command = head.partition(" (")
    fields = tail.split()
    if not parenthesis or len(fields) < _FIELDS_NEEDED - _FIRST_FIELD + 1 or not pid.isdigit():
        raise MissingField(f"/proc/PID/stat: {text[:80]!r}: fewer than {_FIELDS_NEEDED} fields")

    def number(place: int) -> int:
        return int(fields[place - _FIRST_FIELD])

    return Stat(
        pid=int(pid),
        command=command,
        state=fields[0],
        parent=number(4),
        session=number(6),
        cpu=(number(14) + number(15)) / _TICKS,
        ended_children_cpu=(number(16) + number(17)) / _TICKS,
        threads=number(20),
    )


def parse_fields(text: str, *names: str) -> list[int]:
    """Read the named numbers of a ``name: number [kB]`` file; kilobytes become bytes.

    Raises:
        MissingField: one of them is not there.
    """
    values = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name in names:
            number, *unit = rest.split()
            values[name] = int(number) * (1024 if unit == ["kB"] else 1)
    for name in names:
        if name not in values:
            raise MissingField(f"{name}: not among the fields of {text[:60]!r}")
    return [values[name] for name in names]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters of a server at one moment.

    ``switches`` are voluntary and involuntary context switches by (process, thread); those of a thread that ended
    between two snapshots are lost.
    """

    at: float
    cpu: float
    threads: int
    processes: int
    switches: dict[tuple[int, int], int] = field(repr=False)

    def cpu_since(self, before: Snapshot) -> float:
        """Return the seconds of processor time, user and system, that were used since then."""
        return max(0.0, self.cpu - before.cpu)

    def switches_since(self, before: Snapshot) -> int:
        """Return the number of context switches since then, of all threads that are still alive."""
        return sum(count - before.switches.get(key, 0) for key, count in self.switches.items())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes over all processes of a server.

    ``proportional`` counts a shared page by its share (PSS), so that forked workers are not counted twice; ``peak`` is
    the sum of what each process had resident at its worst.
    """

    proportional: int
    resident: int
    peak: int


def processes(session: int) -> Iterator[Stat]:
    """Yield the living processes of a session."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = parse_stat(Path("/proc", name, "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat.session == session and stat.state != "Z":
                yield stat


def snapshot(session: int) -> Snapshot:
    """Read the counters of a session's processes."""
    cpu, threads, count = 0.0, 0, 0
    switches: dict[tuple[int, int], int] = {}
    for stat in processes(session):
        cpu += stat.cpu + stat.ended_children_cpu
        threads += stat.threads
        count += 1
        switches.update(_switches(stat.pid))
    return Snapshot(time.monotonic(), cpu, threads, count, switches)


def _switches(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return
    for task in tasks:
        try:
            text = Path(f"/proc/{pid}/task/{task}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield (pid, int(task)), sum(parse_fields(text, "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"))


def memory(session: int) -> Memory:
    """Read the memory of a session's processes."""
    proportional = resident = peak = 0
    for stat in processes(session):
        try:
            rollup = Path(f"/proc/{stat.pid}/smaps_rollup").read_text()
            status = Path(f"/proc/{stat.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        rss, pss = parse_fields(rollup, "Rss", "Pss")
        proportional += pss
        resident += rss
        peak += parse_fields(status, "VmHWM")[0]
    return Memory(proportional, resident, peak)
