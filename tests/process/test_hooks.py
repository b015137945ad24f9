from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from aiowsgi.config import HOOK_NAMES, Config
from aiowsgi.errors import ConfigError, HookError
from aiowsgi.process.hooks import SERVER_HOOKS, WORKER_HOOKS, HookInfo, Hooks
from tests.process.conftest import WriteFiles
from tests.process.server_process import connect_unix, server_process
from tests.process.test_cli import HELLO

SOURCE = """
calls = []
text = "no function"
class Inside:
    @staticmethod
    def hook(info):
        calls.append(info)
def hook(info):
    calls.append(info)
def failing(info):
    raise ValueError("no database")
def leaving(info):
    raise SystemExit(1)
def without_arguments():
    pass
async def asynchronous(info):
    pass
"""


@pytest.fixture(autouse=True)
def _hooked(files: WriteFiles) -> None:
    sys.path.insert(0, str(files({"hooked.py": SOURCE, "broken.py": "1 / 0\n"})))


def test_hooks_are_all_of_their_process() -> None:
    assert sorted(SERVER_HOOKS + WORKER_HOOKS) == sorted(HOOK_NAMES)


def test_hook_is_called_with_its_process(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(worker_ready="hooked:hook", on_exit="hooked:Inside.hook")
    hooks = Hooks(config, worker=3)
    for name in HOOK_NAMES:
        hooks.call(name, ["http://localhost:80"])
    assert sys.modules["hooked"].calls == [
        HookInfo("worker_ready", config, os.getpid(), 3, ("http://localhost:80",)),
        HookInfo("on_exit", config, os.getpid(), 3, ("http://localhost:80",)),
    ]
    assert not caplog.records


def test_hooks_of_other_processes_are_not_imported() -> None:
    hooks = Hooks(Config(worker_init="nowhere:hook", on_exit="hooked:hook"), SERVER_HOOKS)
    hooks.call("worker_init")
    hooks.call("on_exit")
    assert len(sys.modules["hooked"].calls) == 1


@pytest.mark.parametrize("text", ["hooked", "hooked:", ":hook", "hooked:hook()", "a/b.py:hook", "hooked hook", ""])
def test_hook_of_no_known_form_is_a_problem_of_the_configuration(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(worker_init=text)
    assert caught.value.problems == (f"worker_init={text}: must be module:callable",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hoked:hook", "no module named 'hoked'"),
        ("hooked:hok", "there is no 'hok'; did you mean 'hook'?"),
        ("hooked:hook.deeper", "there is no 'deeper'"),
        ("hooked:text", "is str and cannot be called"),
        ("hooked:asynchronous", "is asynchronous; it must be a plain function"),
        ("broken:hook", "module 'broken' failed while it was imported: ZeroDivisionError"),
    ],
)
def test_hook_that_cannot_be_had_is_named(text: str, message: str) -> None:
    with pytest.raises(HookError) as caught:
        Hooks(Config(on_exit=text))
    assert str(caught.value).startswith(f"hook on_exit={text}: ")
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) is text.startswith("broken")


@pytest.mark.parametrize("name", ["on_starting", "worker_init"])
@pytest.mark.parametrize(
    ("function", "message"), [("failing", "ValueError: no database"), ("leaving", "SystemExit: 1")]
)
def test_hook_that_fails_before_anything_serves_is_a_failed_start(name: str, function: str, message: str) -> None:
    hooks = Hooks(Config(**{name: f"hooked:{function}"}))
    with pytest.raises(HookError) as caught:
        hooks.call(name)
    assert str(caught.value) == f"hook {name}=hooked:{function} failed: {message}"
    trace = caught.value.__cause__.__traceback__ if caught.value.__cause__ else None
    assert trace is not None
    assert trace.tb_frame.f_code.co_name == function


def test_hook_that_takes_no_argument_is_told_without_a_traceback_of_ours() -> None:
    with pytest.raises(HookError, match="takes 0 positional arguments but 1 was given") as caught:
        Hooks(Config(worker_init="hooked:without_arguments")).call("worker_init")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["worker_ready", "worker_exit", "on_exit"])
def test_hook_that_fails_later_is_logged_with_its_traceback(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "aiowsgi.error"):
        Hooks(Config(**{name: "hooked:failing"})).call(name)
    (record,) = caplog.records
    assert record.getMessage() == f"hook {name}=hooked:failing failed: ValueError: no database"
    assert record.exc_info
    assert "process/hooks.py" not in (caplog.text)


# Called by processes

WRITING = """
import os

def note(info):
    with open("hooks.txt", "a") as file:
        file.write(f"{info.hook} {info.worker} {info.pid == os.getpid()} {' '.join(info.urls)}\\n")

def failing(info):
    raise ValueError("no database")
"""
IMPORTED = "with open('hooks.txt', 'a') as file:\n    file.write('import\\n')\n" + HELLO
ALL_HOOKS = [f"--{name.replace('_', '-')}=writing:note" for name in HOOK_NAMES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "writing.py").write_text(WRITING)
    (tmp_path / "hello.py").write_text(IMPORTED)
    return tmp_path


def serve_and_stop(folder: Path, *arguments: str) -> list[str]:
    """Run a server until it has answered; return what its hooks have written."""
    with server_process(folder, "hello", "--uds=sock", *ALL_HOOKS, *arguments) as server:
        server.wait_for_log(r"aiowsgi \S+ on unix:\S+/sock")
        with connect_unix(folder / "sock") as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "Traceback" not in server.log
    return (folder / "hooks.txt").read_text().splitlines()


def test_hooks_of_one_process_are_called_in_order(folder: Path) -> None:
    assert serve_and_stop(folder) == [
        "on_starting None True ",
        "worker_init None True ",
        "import",
        f"worker_ready None True unix:{folder}/sock",
        "worker_exit None True ",
        "on_exit None True ",
    ]


@pytest.mark.parametrize("arguments", [["--workers=1"], ["--workers=1", "--preload"], ["--reload"]])
def test_hooks_of_a_worker_are_called_in_it(folder: Path, arguments: list[str]) -> None:
    expected = [
        "on_starting None True ",
        "worker_init 1 True ",
        "import",
        f"worker_ready 1 True unix:{folder}/sock",
        "worker_exit 1 True ",
        "on_exit None True ",
    ]
    if "--preload" in arguments:
        expected[:3] = ["on_starting None True ", "import", "worker_init 1 True "]
    assert serve_and_stop(folder, *arguments) == expected


@pytest.mark.parametrize("arguments", [[], ["--workers=1"]])
@pytest.mark.parametrize("name", ["on_starting", "worker_init"])
def test_hook_that_fails_before_serving_keeps_the_server_from_starting(
    folder: Path, name: str, arguments: list[str]
) -> None:
    flag = f"--{name.replace('_', '-')}=writing:failing"
    others = ["--on-exit=writing:note", "--worker-exit=writing:note"]
    with server_process(folder, "hello", "--uds=sock", flag, *others, *arguments) as server:
        assert server.wait() == 3
    assert f"hook {name}=writing:failing failed: ValueError: no database\n" in server.log
    assert "in failing" in server.log
    written = (folder / "hooks.txt").read_text() if (folder / "hooks.txt").exists() else ""
    # What has begun is ended, and nothing else.
    assert written == ("on_exit None True \n" if name == "worker_init" else "")


def test_hook_that_cannot_be_had_keeps_the_server_from_starting(folder: Path) -> None:
    for arguments in ([], ["--workers=1"], ["--check-config"]):
        with server_process(folder, "hello", "--uds=sock", "--worker-exit=writing:nothing", *arguments) as server:
            assert server.wait() == 3
        assert "hook worker_exit=writing:nothing: there is no 'nothing'" in server.log
