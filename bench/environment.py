"""What a result was measured on: enough to decide whether it may be compared with another.

Thread: any. Runs ``git`` and reads ``/proc`` and ``/sys``.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.process import ROOT

__all__ = ["FEW_CORES", "capture", "warnings"]

# Server and load share the machine: with fewer cores they compete.
FEW_CORES = 4
_KERNEL_SETTINGS = ("net/core/somaxconn", "net/ipv4/ip_local_port_range", "net/ipv4/tcp_tw_reuse", "fs/nr_open")


def capture(arguments: list[str]) -> dict[str, Any]:
    """Return the environment, as JSON has it.

    Args:
        arguments: of the command that measures.
    """
    return {
        "command": ["python", "-m", "bench", *arguments],
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not shown by this machine",
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "virtual": "hypervisor" in (_text("/proc/cpuinfo") or ""),
        "kernel": platform.release(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "settings": {name.replace("/", "."): _text(f"/proc/sys/{name}") for name in _KERNEL_SETTINGS},
        "wrk": _wrk_version(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


def warnings(environment: dict[str, Any]) -> list[str]:
    """Return what a reader must know about the environment before looking at any number."""
    found = []
    cores = environment["usable_cores"]
    if cores < FEW_CORES:
        found.append(
            f"This machine has {cores} cores, fewer than {FEW_CORES}: the load generator and the server compete for "
            "them. Processor time per request holds; throughput and latency say less than on a larger machine."
        )
    busy = environment["load_average"][0]
    if busy > 0.5 * cores:
        found.append(f"The machine was busy when the run began: its load average was {busy:g}.")
    if environment["dirty"]:
        found.append("The tree had changes that were not committed.")
    return found


def _cpu() -> str:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _wrk_version() -> str:
    path = shutil.which("wrk")
    if path is None:
        return "not installed"
    done = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).splitlines()[0].partition(" Copyright")[0]
