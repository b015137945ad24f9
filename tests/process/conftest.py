"""Folders with applications in them, and a process that is afterwards as it was before."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiowsgi.config import OPTIONS
from aiowsgi.process.log import LOGGERS

WriteFiles = Callable[[dict[str, str]], Path]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteFiles]:
    """Return a function that writes source files into the current folder, which is one of its own.

    What was imported from there is forgotten in the end.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(sources: dict[str, str]) -> Path:
        for name, source in sources.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        importlib.invalidate_caches()  # two files may be written within the file system's clock tick
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")) or name.startswith("namespace"):
            del sys.modules[name]


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test set signal handlers and loggers, and start without ``AIOWSGI_*`` variables."""
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    loggers = [logging.getLogger(name) for name in LOGGERS]
    states = [(logger.handlers[:], logger.level, logger.propagate, logger.disabled) for logger in loggers]
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    for logger, state in zip(loggers, states, strict=True):
        logger.handlers[:], logger.level, logger.propagate, logger.disabled = state
        logger.setLevel(state[1])  # empties the cache of what is enabled
