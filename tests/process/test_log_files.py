"""The logs of the command: where they go, how they look, and that nothing in them can be forged."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.process.log import configure_logs, load_log_config
from aiowsgi.process.log_format import JSONFormatter, LineFormatter
from tests.hosting import PATIENCE
from tests.process.server_process import connect_unix, environment, server_process, wait_until

HOSTILE = "a\n[2026-11-21 00:00:00 +0000] [1] [INFO] forged\r\x1b[2J\x85\u2028\u202e"


def failing_record(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except ValueError:
        return logging.LogRecord("aiowsgi.error", 40, "x.py", 1, "%s failed", (HOSTILE,), sys.exc_info())


def test_text_record_begins_one_line_and_all_others_are_indented() -> None:
    text = LineFormatter().format(failing_record(ValueError(HOSTILE)))
    first, *rest = text.split("\n")
    assert re.fullmatch(r"\[[^]]+\] \[\d+\] \[ERROR\] a", first)
    assert re.fullmatch(r"    \[.*forged\\x0d\\x1b\[2J\\x85\\u2028\\u202e failed", rest[0])
    assert len(rest) > 2
    assert all(line.startswith("    ") for line in rest)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)


def test_json_record_is_one_object_with_the_exception() -> None:
    record = failing_record(ValueError(HOSTILE))
    record.shelf = Path("/a")
    text = JSONFormatter().format(record)
    assert re.fullmatch(r"[\x20-\x7e]+", text)
    fields = json.loads(text)
    assert fields["message"] == f"{HOSTILE} failed"
    assert fields["severity_text"] == "ERROR"
    assert fields["exception.type"] == "ValueError"
    assert fields["exception.message"] == HOSTILE
    assert fields["exception.stacktrace"].startswith("Traceback")
    assert fields["shelf"] == "/a"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", fields["timestamp"])


def test_json_record_without_exception_has_none() -> None:
    record = logging.LogRecord("aiowsgi.error", 20, "x.py", 1, "ready", (), None)
    assert not [name for name in json.loads(JSONFormatter().format(record)) if name.startswith("exception")]


TOML = """
[formatters.short]
format = "toml says %(message)s"
[handlers.file]
class = "logging.FileHandler"
filename = "FILE"
formatter = "short"
[loggers."aiowsgi"]
handlers = ["file"]
propagate = false
"""
JSON = """{"formatters": {"short": {"format": "json says %(message)s"}},
"handlers": {"file": {"class": "logging.FileHandler", "filename": "FILE", "formatter": "short"}},
"root": {"handlers": ["file"], "level": "INFO"}}"""
INI = """
[loggers]
keys=root
[handlers]
keys=file
[formatters]
keys=short
[logger_root]
level=INFO
handlers=file
[handler_file]
class=FileHandler
args=("FILE",)
formatter=short
[formatter_short]
format=ini says %(message)s
"""


@pytest.mark.parametrize(("name", "text"), [("log.toml", TOML), ("log.json", JSON), ("log.ini", INI)])
def test_log_config_says_where_records_go(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text.replace("FILE", str(tmp_path / "out")))
    with server_process(tmp_path, "tests.hosting:hello", "--log-config", name, "-b", "127.0.0.1:0") as server:
        wait_until(lambda: (tmp_path / "out").exists() and "on http" in (tmp_path / "out").read_text(), "a start line")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    kind = name.partition(".")[2]
    assert re.match(rf"{kind} says aiowsgi .* on http", (tmp_path / "out").read_text())
    assert server.log == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.toml", "[x", "TOMLDecodeError"),
        ("log.json", "{", "JSONDecodeError"),
        ("log.json", '{"handlers": {"a": {"class": "no.such"}}}', "Unable to configure handler 'a'"),
        ("log.ini", "[x", "MissingSectionHeaderError|ParsingError|RuntimeError"),
    ],
)
def test_log_config_that_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"log_config=.*{name}: .*({message})"):
        load_log_config(Config(log_config=str(path)))


@pytest.mark.parametrize("name", ["missing.toml", "missing.ini"])
def test_log_config_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: FileNotFoundError"):
        load_log_config(Config(log_config=str(tmp_path / name)))


@pytest.mark.usefixtures("own_process")
def test_access_log_goes_to_standard_output_unless_somebody_else_takes_it() -> None:
    logger = logging.getLogger("aiowsgi.access")
    logger.handlers.clear()
    assert configure_logs(Config()).access_logfile is None
    assert configure_logs(Config(access_log=True)).access_logfile == "-"
    assert configure_logs(Config(access_logfile="/a")).access_logfile == "/a"
    logger.addHandler(logging.NullHandler())
    assert configure_logs(Config(access_log=True)).access_logfile is None


def test_access_log_of_the_command_goes_to_standard_output(tmp_path: Path) -> None:
    arguments = ("tests.hosting:hello", "--access-log", "-b", "127.0.0.1:0", "--log-format", "json")
    with server_process(tmp_path, *arguments) as server:
        message = json.loads(server.wait_for_log(r".*on http.*")[0])["message"]
        port = int(message.partition("127.0.0.1:")[2].split()[0])
        with server.connect_to(port) as client:
            client.get('/a"b', 'User-Agent: "\x85"')
        server.signal(signal.SIGTERM)
        assert server.process.stdout is not None
        fields = json.loads(server.process.stdout.read())
        assert server.wait() == 0
    assert fields["url.path"] == '/a"b'
    assert fields["user_agent.original"] == '"\x85"'
    assert all(json.loads(line)["logger"] == "aiowsgi.error" for line in server.log.splitlines())


def test_standard_error_that_nobody_reads_holds_up_nothing(tmp_path: Path) -> None:
    """Each request fails with a traceback; a pipe takes twenty of them."""
    (tmp_path / "app.py").write_text("def app(environ, start_response):\n    raise ValueError('x' * 10_000)\n")
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiowsgi", "app", "--uds", str(tmp_path / "socket")],
        cwd=tmp_path,
        env=environment(),
        stderr=writing,
    )
    os.close(writing)
    try:
        for _ in range(100):
            with connect_unix(tmp_path / "socket") as client:
                assert client.get("/").status_code == 500
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
