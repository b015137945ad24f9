from __future__ import annotations

import importlib
import re
import signal
import socket
import subprocess
import sys

import pytest

import aiowsgi
from aiowsgi.config import OPTIONS, Kind
from aiowsgi.process.cli import main
from aiowsgi.process.commands import COMMANDS
from tests.process.conftest import WriteFiles
from tests.process.server_process import connect_unix, server_process

pytestmark = pytest.mark.usefixtures("own_process")

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


# Help and version


def test_help_lists_every_option_with_its_default_under_its_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = outcome(capsys, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    sections = {
        heading: " ".join(body.split())
        for heading, body in re.findall(r"^(\w[^\n]*):\n((?:  .*\n?|\n)+)", out, re.MULTILINE)
    }
    for option in OPTIONS:
        section = sections[option.group]
        assert all(flag in section for flag in (option.flag, *option.flags))
        assert f"{option.help}" in section
        assert f"[default: {option.shown_default()}]" in section[section.index(option.flag) :]
        assert all(choice in section for choice in option.choices)
        if option.kind is Kind.FLAG:
            assert f"{option.flag} / --no-{option.flag.removeprefix('--')}" in section
    assert "--header-timeout SECONDS" in sections["Timeouts"]
    assert "--request-buffer BYTES" in sections["Request limits"]
    assert "--factory" in sections["Application"]
    assert "--version" in sections["Other"]
    assert out.startswith("Usage: aiowsgi [OPTIONS] APP\n")


def test_help_in_a_narrow_terminal_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = outcome(capsys, "-h")
    assert code == 0
    assert len(out.splitlines()) > 60
    # Only the verbatim paragraphs, which are not wrapped, may be wider.
    assert [line for line in out.splitlines() if len(line) > 80 and "default" in line] == []


def test_version_names_the_package_and_python(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "--version")
    assert code == 0
    assert re.fullmatch(rf"aiowsgi {re.escape(aiowsgi.__version__)} \(\w+ 3\.\d+\.\S+\)\n", out)


# Bad usage


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "APP is missing"),
        ([""], "APP is missing"),
        (["hello", "world"], "(world)"),
        (["hello", "--thread", "4"], "--thread"),
        (["hello", "-x"], "-x"),
        (["hello", "--port"], "--port"),
        (["hello", "--stream-body=yes"], "--stream-body"),
    ],
)
def test_usage_error_is_one_line_and_exit_3(
    capsys: pytest.CaptureFixture[str], arguments: list[str], culprit: str
) -> None:
    code, out, err = outcome(capsys, *arguments)
    assert code == 3
    assert out == ""
    assert err.startswith("aiowsgi: ")
    assert culprit in err
    assert err.count("\n") == 1


def test_problems_of_flags_variables_and_usage_are_all_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOWSGI_QUEUE_SIZE", "many")
    monkeypatch.setenv("AIOWSGI_STREAM_BODY", "perhaps")
    code, _, err = outcome(capsys, "--threads", "0", "--loop=trio", "--keep-alive", "-1", "--port=70000")
    assert code == 3
    assert set(err.splitlines()) == {
        "aiowsgi: APP is missing: name the application to serve, as in module:application",
        "aiowsgi: --threads=0: must be at least 1",
        "aiowsgi: --loop=trio: must be one of auto, asyncio, uvloop",
        "aiowsgi: --keep-alive=-1: must be at least 0s",
        "aiowsgi: --port=70000: must be at most 65535",
        "aiowsgi: AIOWSGI_QUEUE_SIZE=many: must be a whole number",
        "aiowsgi: AIOWSGI_STREAM_BODY=perhaps: must be true or false",
    }


def test_bad_option_is_found_before_the_application_is_imported(
    capsys: pytest.CaptureFixture[str], files: WriteFiles
) -> None:
    files({"loud.py": "print('imported')\n"})
    code, out, err = outcome(capsys, "loud", "--bind", "nowhere:port")
    assert code == 3
    assert out == ""
    assert "--bind=nowhere:port: must be host:port" in err


# Failures to start


def test_unknown_module_is_one_line_and_exit_3(capsys: pytest.CaptureFixture[str], files: WriteFiles) -> None:
    files({"hello.py": HELLO})
    code, _, err = outcome(capsys, "helo:app")
    assert code == 3
    assert err.count("\n") == 1
    assert "no module named 'helo'" in err


def test_failing_import_shows_the_traceback_of_the_application_and_one_message(
    capsys: pytest.CaptureFixture[str], files: WriteFiles
) -> None:
    files({"failing.py": "def f():\n    raise ValueError('no settings')\nf()\n"})
    code, _, err = outcome(capsys, "failing:app")
    assert code == 3
    *trace, message = err.splitlines()
    assert message == "aiowsgi: module 'failing' failed while it was imported: ValueError: no settings"
    assert trace[0] == "Traceback (most recent call last):"
    assert "failing.py" in trace[1]
    assert trace[-1] == "ValueError: no settings"
    assert "aiowsgi" not in "".join(trace)


def test_failing_factory_shows_its_traceback_and_exit_3(capsys: pytest.CaptureFixture[str], files: WriteFiles) -> None:
    files({"made.py": "def make():\n    raise ValueError('no settings')\n"})
    code, _, err = outcome(capsys, "made:make", "--factory")
    assert code == 3
    assert err.startswith("Traceback")
    assert err.endswith("\naiowsgi: factory 'made:make()' failed: ValueError: no settings\n")


def test_port_in_use_is_one_line_that_names_the_address_and_nothing_stays_open(
    capsys: pytest.CaptureFixture[str], files: WriteFiles
) -> None:
    folder = files({"hello.py": HELLO})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = outcome(capsys, "hello", "-b", f"unix:{folder}/sock", "-b", address)
    assert code == 3
    assert err == f"aiowsgi: cannot listen on {address}: Address already in use\n"
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError):
        client.connect(str(folder / "sock"))


def test_failed_import_listens_nowhere(capsys: pytest.CaptureFixture[str], files: WriteFiles) -> None:
    folder = files({"failing.py": "1 / 0\n"})
    code, _, _ = outcome(capsys, "failing", "--uds", f"{folder}/sock")
    assert code == 3
    assert not (folder / "sock").exists()


@pytest.mark.parametrize(
    ("module", "option", "message"),
    [
        ("uvloop", "--loop=uvloop", "loop=uvloop: "),
        ("httptools", "--http=httptools", "http=httptools: "),
    ],
)
def test_engine_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str],
    files: WriteFiles,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    option: str,
    message: str,
) -> None:
    files({"hello.py": HELLO})
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "aiowsgi.http.llhttp", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = outcome(capsys, "hello", "--port=0", option)
    assert code == 3
    assert err.startswith(f"aiowsgi: {message}")
    assert err.count("\n") == 1


def test_interrupted_import_is_exit_130_without_a_traceback(
    capsys: pytest.CaptureFixture[str], files: WriteFiles
) -> None:
    files({"stopped.py": "raise KeyboardInterrupt\n"})
    code, out, err = outcome(capsys, "stopped")
    assert (code, out, err.strip()) == (130, "", "")


# Serving


def test_command_line_serves_until_a_signal_and_exits_0(files: WriteFiles) -> None:
    folder = files({"hello.py": HELLO})
    arguments = ["hello", "--uds=sock", "--loop=asyncio", "--no-server-header"]
    with server_process(folder, *arguments, AIOWSGI_THREADS="3") as server:
        with connect_unix(folder / "sock") as client:
            assert client.get("/").content == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""
    assert f"unix:{folder}/sock (3 threads, asyncio, " in server.log
    assert "stopped; " in server.log
    assert not (folder / "sock").exists()


def test_python_dash_m_is_the_command_line() -> None:
    # In a process of its own: pytest, whose plugin this package has, imports it in a way that runpy cannot.
    command = [sys.executable, "-m", "aiowsgi", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.startswith("aiowsgi ")


def test_main_module_imported_does_nothing() -> None:
    assert importlib.import_module("aiowsgi.__main__").__all__ == []


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_of_every_command_is_without_marks_of_its_source(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = outcome(capsys, *arguments)
    assert (code, err) == (0, "")
    assert "\\b" not in out
    assert "\b" not in out
