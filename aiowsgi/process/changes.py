"""Watching files, and reporting those that have changed: with watchfiles if it is installed, else by file times.

Thread: event loop; watchfiles waits in a thread of anyio's.

Source: https://watchfiles.helpmanual.io/; stat(2).
"""

from __future__ import annotations

import glob
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import anyio

from aiowsgi.config import Config
from aiowsgi.errors import StartupError

__all__ = ["Watched", "watch", "watcher_name", "what_to_watch"]

Changed = Callable[[Sequence[str]], object]

# Between two looks at the files' times. Arbitrary: soon enough for someone who saves and switches to the browser.
STAT_SECONDS = 0.5
# Folders that change without the code changing, besides those whose names begin with a dot.
IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})


_logger = logging.getLogger("aiowsgi.supervisor")


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched; all paths are absolute and real.

    Args:
        folders: whose files, and those in the folders below, count if a pattern matches them.
        extra_folders: whose files, and those below, count whatever their names.
        files: single files that count.
        include: patterns of names, or of the ends of paths.
        exclude: patterns of what does not count in ``folders``.
    """

    folders: tuple[str, ...]
    extra_folders: tuple[str, ...]
    files: frozenset[str]
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def concerns(self, path: str) -> bool:
        """Whether a change of this file counts."""
        if path in self.files:
            return True
        if any(_is_below(path, folder) for folder in self.extra_folders):
            return True
        if not any(_is_below(path, folder) for folder in self.folders):
            return False
        name = PurePath(path)
        return any(map(name.match, self.include)) and not any(map(name.match, self.exclude))


def _is_below(path: str, folder: str) -> bool:
    """Whether a file is in a folder, and not in a part of it that is ignored."""
    if not path.startswith(folder.rstrip(os.sep) + os.sep):
        return False
    *folders, name = path[len(folder) :].strip(os.sep).split(os.sep)
    return not name.startswith(".") and not any(map(_is_ignored, folders))


def _is_ignored(folder: str) -> bool:
    return folder.startswith(".") or folder in IGNORED_FOLDERS


def what_to_watch(config: Config, files: Iterable[Path] = ()) -> Watched:
    """Read the options; the folders are ``reload_dir``, or the current one and those of ``pythonpath``.

    Raises:
        StartupError: something that is to be watched does not exist.
    """
    folders = [_real(folder) for folder in config.reload_dir]
    for folder in folders:
        if not os.path.isdir(folder):
            raise StartupError(f"reload_dir={folder}: no such folder")
    if not folders:
        below = [part for text in config.pythonpath for part in text.split(",") if part]
        folders = [folder for folder in map(_real, [os.getcwd(), *below]) if os.path.isdir(folder)]
    extra = [_real(path) for text in config.reload_extra for path in _expanded(text)]
    return Watched(
        folders=tuple(dict.fromkeys(folders)),
        extra_folders=tuple(path for path in extra if os.path.isdir(path)),
        files=frozenset([path for path in extra if not os.path.isdir(path)] + [_real(str(file)) for file in files]),
        include=("*.py", *config.reload_include),
        exclude=tuple(config.reload_exclude),
    )


def _real(path: str) -> str:
    return os.path.realpath(path)


def _expanded(text: str) -> list[str]:
    found = [text] if os.path.exists(text) else glob.glob(text, recursive=True)
    if not found:
        raise StartupError(f"reload_extra={text}: no such file or folder")
    return found


def watcher_name() -> str:
    """What :func:`watch` uses, for people."""
    return "watchfiles" if _has_watchfiles() else "file times; install the extra 'reload' for less work and delay"


def _has_watchfiles() -> bool:
    return importlib.util.find_spec("watchfiles") is not None


async def watch(watched: Watched, changed: Changed) -> None:
    """Call ``changed`` with the sorted paths of files that were written, made or removed, until cancelled."""
    if _has_watchfiles():
        try:
            await _watch_events(watched, changed)
        except* (OSError, RuntimeError, UnicodeError) as group:  # the limit on watches, a folder's name
            _logger.warning("watchfiles cannot watch, file times are looked at instead: %s", group.exceptions[0])
    await _watch_times(watched, changed)


async def _watch_events(watched: Watched, changed: Changed) -> None:
    folders = {*watched.folders, *watched.extra_folders}
    # When an editor replaces a file, only a watch on its folder shows that.
    beside = {os.path.dirname(file) for file in watched.files}
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_folders, watched, changed, folders, True, stop)
        tasks.start_soon(_watch_folders, watched, changed, beside, False, stop)
        try:
            await anyio.sleep_forever()
        finally:
            stop.set()  # nothing else ends watchfiles' wait, not even cancellation


async def _watch_folders(
    watched: Watched, changed: Changed, folders: set[str], recursive: bool, stop: anyio.Event
) -> None:
    present = sorted(filter(os.path.isdir, folders))
    if not present:
        return
    # Not an import statement: types can then be checked where it is not installed.
    watchfiles: Any = importlib.import_module("watchfiles")

    def counts(change: object, path: str) -> bool:
        return watched.concerns(path)

    async for events in watchfiles.awatch(*present, watch_filter=counts, recursive=recursive, stop_event=stop):
        changed(sorted({path for _, path in events}))


async def _watch_times(watched: Watched, changed: Changed) -> None:
    known = _times(watched)
    never = anyio.Event()
    while True:
        with anyio.move_on_after(STAT_SECONDS):
            await never.wait()
        times = _times(watched)
        differing = {path for path, _ in known.items() ^ times.items()}
        known = times
        if differing:
            changed(sorted(differing))


def _times(watched: Watched) -> dict[str, tuple[int, int, int]]:
    """What distinguishes one state of the files from another."""
    times = {}
    for path in {*watched.files, *_files(watched)}:
        try:
            stat = os.stat(path)
        except OSError:  # removed in the meantime, or not there yet
            continue
        times[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return times


def _files(watched: Watched) -> Iterator[str]:
    for root in (*watched.folders, *watched.extra_folders):
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if not _is_ignored(name)]
            yield from (path for name in names if watched.concerns(path := os.path.join(folder, name)))
