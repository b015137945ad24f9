from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from aiowsgi.config import Config
from aiowsgi.errors import StartupError
from aiowsgi.process import changes
from aiowsgi.process.changes import Watched, watch, watcher_name, what_to_watch
from tests.process.conftest import WriteFiles
from tests.process.server_process import PATIENCE

WITHOUT = "file times"
watchers = pytest.mark.parametrize(
    "watcher",
    [
        pytest.param(
            "watchfiles",
            marks=pytest.mark.skipif(importlib.util.find_spec("watchfiles") is None, reason="watchfiles is missing"),
        ),
        WITHOUT,
    ],
)


def watched(folder: Path, **options: Any) -> Watched:
    return what_to_watch(Config(**options))


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("app.py", True),
        ("shop/views.py", True),
        ("shop/page.html", False),
        ("shop/templates/page.jinja", True),
        ("page.jinja", False),
        ("app.pyc", False),
        ("__pycache__/app.py", False),
        (".git/hook.py", False),
        (".#app.py", False),
        ("venv/lib/site-packages/flask/app.py", False),
        ("node_modules/x.py", False),
        ("tests/test_app.py", False),
        ("conf/any.thing", True),
        ("conf/deep/any.thing", True),
        ("conf/.swp", False),
        ("settings.ini", True),
        ("other.ini", False),
        ("one.yaml", True),
        ("two.yaml", True),
        ("../outside.py", False),
    ],
)
def test_file_counts_by_its_folder_and_its_name(files: WriteFiles, path: str, counts: bool) -> None:
    folder = files({"conf/x": "", "settings.ini": "", "one.yaml": "", "two.yaml": ""})
    watches = watched(
        folder,
        reload_include=["templates/*.jinja"],
        reload_exclude=["tests/*.py"],
        reload_extra=["conf", "settings.ini", "*.yaml"],
    )
    assert watches.concerns(os.path.normpath(os.path.realpath(folder) + "/" + path)) is counts


def test_folders_are_the_current_one_and_those_of_pythonpath_or_those_that_are_named(files: WriteFiles) -> None:
    folder = Path(os.path.realpath(files({"src/a.py": "", "lib/b.py": ""})))
    assert watched(folder, pythonpath=["src,lib", "none"]).folders == (
        str(folder),
        str(folder / "src"),
        str(folder / "lib"),
    )
    assert watched(folder, pythonpath=["lib"], reload_dir=["src", "src"]).folders == (str(folder / "src"),)


@pytest.mark.parametrize("option", ["reload_dir", "reload_extra"])
def test_what_is_to_be_watched_and_is_not_there_is_named(files: WriteFiles, option: str) -> None:
    with pytest.raises(StartupError, match=rf"{option}=\S*none: no such"):
        watched(files({}), **{option: ["none"]})


def test_watcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watcher_name() in ("watchfiles", "file times; install the extra 'reload' for less work and delay")
    monkeypatch.setattr(changes, "_has_watchfiles", lambda: False)
    assert "file times" in watcher_name()


@watchers
async def test_changes_are_told_and_nothing_else(
    files: WriteFiles, monkeypatch: pytest.MonkeyPatch, watcher: str
) -> None:
    if watcher == WITHOUT:
        monkeypatch.setattr(changes, "_has_watchfiles", lambda: False)
        monkeypatch.setattr(changes, "STAT_SECONDS", 0.02)
    folder = Path(os.path.realpath(files({"app.py": "", "shop/views.py": "", "settings.ini": "", "page.html": ""})))
    told: set[str] = set()
    some = anyio.Event()

    def changed(paths: Sequence[str]) -> None:
        nonlocal some
        assert list(paths) == sorted(paths)
        told.update(os.path.relpath(path, folder) for path in paths)
        some.set()

    async def until_told(path: str) -> None:
        nonlocal some
        while path not in told:
            some = anyio.Event()
            await some.wait()

    replacement = folder / "new.ini"
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, watched(folder, reload_extra=["settings.ini"]), changed)
            # Whoever watches begins at some time: what was written before is not told.
            number = 0
            while not told:
                number += 1
                (folder / "app.py").write_text("#" * number)
                with anyio.move_on_after(0.2):
                    await until_told("app.py")
            (folder / "page.html").write_text("changed")
            (folder / "shop" / "views.py").write_text("changed")
            await until_told("shop/views.py")
            (folder / "shop" / "new.py").write_text("")
            await until_told("shop/new.py")
            (folder / "shop" / "new.py").unlink()
            replacement.write_text("as an editor does")
            replacement.replace(folder / "settings.ini")
            await until_told("settings.ini")
            tasks.cancel_scope.cancel()
    assert told == {"app.py", "shop/views.py", "shop/new.py", "settings.ini"}


@watchers
async def test_watch_of_folders_that_are_gone_waits(
    files: WriteFiles, monkeypatch: pytest.MonkeyPatch, watcher: str
) -> None:
    if watcher == WITHOUT:
        monkeypatch.setattr(changes, "_has_watchfiles", lambda: False)
        monkeypatch.setattr(changes, "STAT_SECONDS", 0.01)
    folder = files({})
    gone = Watched((str(folder / "none"),), (), frozenset({str(folder / "none" / "file")}), ("*.py",), ())
    with anyio.move_on_after(0.05):
        await watch(gone, lambda paths: pytest.fail(f"told of {paths}"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),  # of a folder's name
    ],
)
async def test_watcher_that_gives_up_is_replaced_by_file_times(
    files: WriteFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def no_more_watches(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(changes, "_has_watchfiles", lambda: True)
    monkeypatch.setattr(changes, "_watch_folders", no_more_watches)
    monkeypatch.setattr(changes, "STAT_SECONDS", 0.01)
    folder = Path(os.path.realpath(files({"app.py": ""})))
    told = anyio.Event()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, watched(folder), lambda paths: told.set())
            number = 0
            while not told.is_set():
                number += 1
                (folder / "app.py").write_text("#" * number)
                with anyio.move_on_after(0.2):
                    await told.wait()
            tasks.cancel_scope.cancel()
    assert f"watchfiles cannot watch, file times are looked at instead: {error}" in caplog.text
