"""The command line as it joins flags, file and variables; other servers' flags; checking without serving."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from aiowsgi.config import OPTIONS
from aiowsgi.process.arguments import flag_parameters
from tests.process.conftest import WriteFiles
from tests.process.server_process import connect_unix, server_process
from tests.process.test_cli import HELLO, outcome

pytestmark = pytest.mark.usefixtures("own_process")

Capture = pytest.CaptureFixture[str]


# Flags


@pytest.mark.parametrize(
    ("flag", "row"),
    [
        ("--timeout-keep-alive=7", 'keep_alive = "7s"|--timeout-keep-alive'),
        ("--keepalive=7", 'keep_alive = "7s"|--keepalive'),
        ("--worker-connections=7", "max_connections = 7|--worker-connections"),
        ("--connection-limit=7", "max_connections = 7|--connection-limit"),
        ("--timeout-graceful-shutdown=7", 'graceful_timeout = "7s"|--timeout-graceful-shutdown'),
        ("--limit-request-field_size=700", "limit_request_field_size = 700|--limit-request-field-size"),
        ("--listen=*:7", 'bind = ["*:7"]|--listen'),
        ("--unix-socket=s", 'uds = "s"|--unix-socket'),
        ("--app-dir=src", 'pythonpath = ["src"]|--app-dir'),
        ("--call", "factory = true|--call"),
        ("--no-factory", "factory = false|--no-factory"),
        ("--app=other", 'app = "other"|--app'),
    ],
)
def test_alias_is_an_option_and_is_named_as_it_was_typed(
    capsys: Capture, files: WriteFiles, flag: str, row: str
) -> None:
    files({"aiowsgi.toml": "app = 'hello'\n"})
    code, out, err = outcome(capsys, "--print-config", flag)
    assert (code, err) == (0, "")
    assert row in {line.replace(" ", "").replace("=", " = ").replace("#", "|") for line in out.splitlines()}


def test_alias_with_a_bad_value_is_named_as_it_was_typed(capsys: Capture) -> None:
    code, _, err = outcome(capsys, "hello", "--timeout-keep-alive=soon", "--listen", "x:y")
    assert code == 3
    assert set(err.splitlines()) == {
        "aiowsgi: --timeout-keep-alive=soon: must be a duration such as 30, 2.5, 500ms or 2m",
        "aiowsgi: --listen=x:y: must be host:port, :port, [v6]:port, unix:path or fd://N",
    }


def test_option_given_twice_under_two_names_is_refused(capsys: Capture) -> None:
    code, _, err = outcome(capsys, "hello", "--keep-alive=1", "--keepalive=2", "--app", "other")
    assert code == 3
    assert set(err.splitlines()) == {
        "aiowsgi: --keepalive: says the same as --keep-alive; leave out one of them",
        "aiowsgi: APP: says the same as --app; leave out one of them",
    }


def test_flags_of_other_servers_are_all_answered_together_with_the_other_problems(capsys: Capture) -> None:
    arguments = ["-k", "gthread", "-D", "-e", "A=1", "-e", "B=2", "--spew", "--interface=wsgi", "--threads=0", "hello"]
    code, out, err = outcome(capsys, *arguments)
    assert (code, out) == (3, "")
    assert sorted(line.partition(": ")[2].partition(": ")[0] for line in err.splitlines()) == [
        "--daemon",
        "--env",
        "--interface",
        "--spew",
        "--threads=0",
        "--worker-class",
    ]
    assert "aiowsgi: --env: set the variable where the process is started" in err


def test_flag_that_nobody_has_is_answered_with_the_likeliest_of_ours(capsys: Capture) -> None:
    code, _, err = outcome(capsys, "hello", "--thraeds=4")
    assert (code, err) == (3, "aiowsgi: --thraeds: no such option; did you mean '--threads'?\n")


def test_every_flag_belongs_to_one_parameter() -> None:
    flags = [flag for param in flag_parameters() for flag in (*param.opts, *param.secondary_opts)]
    assert sorted(set(flags)) == sorted(flags)
    assert {item.flag for item in OPTIONS} <= set(flags)


def test_help_shows_no_flag_of_other_servers(capsys: Capture) -> None:
    _, out, _ = outcome(capsys, "--help")
    assert "--worker-class" not in out
    assert "--timeout-keep-alive" not in out
    assert "--print-config" in out


# Checking and printing


def test_check_config_imports_the_application_and_exits_0(capsys: Capture, files: WriteFiles) -> None:
    files({"hello.py": HELLO + "print('imported')\n"})
    code, out, err = outcome(capsys, "hello", "--check-config", "--uds=sock")
    assert (code, err) == (0, "")
    assert out == "imported\naiowsgi: the configuration is good, and hello can be served\n"
    assert not Path("sock").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["helo"], "no module named 'helo'"),
        (["failing"], "module 'failing' failed while it was imported: ZeroDivisionError"),
        (["hello", "--chdir=nowhere"], "chdir=nowhere: No such file or directory"),
        (["hello", "--threads=0"], "--threads=0: must be at least 1"),
        (["hello", "--ssl-certfile=none.pem"], "ssl_certfile=FOLDER/none.pem: "),
        (["hello", "--worker-init=hello:none"], "hook worker_init=hello:none: there is no 'none'"),
        (["hello", "--user=no-such-user"], "user=no-such-user: there is no such user"),
        (["hello", "--log-config=none.toml"], "log_config=FOLDER/none.toml: FileNotFoundError"),
        (["hello", "--access-logfile=none/log"], "cannot open the access log FOLDER/none/log: No such file"),
        (["hello", "-c", "none.toml"], "none.toml: cannot be read: No such file or directory"),
    ],
)
def test_check_config_of_what_is_bad_exits_3(
    capsys: Capture, files: WriteFiles, arguments: list[str], message: str
) -> None:
    folder = files({"hello.py": HELLO, "failing.py": "1 / 0\n"})
    code, out, err = outcome(capsys, "--check-config", *arguments)
    assert (code, out) == (3, "")
    assert f"aiowsgi: {message}".replace("FOLDER", str(folder)) in err


def test_check_config_makes_no_access_log(capsys: Capture, files: WriteFiles) -> None:
    files({"hello.py": HELLO, "old.log": "old\n"})
    os.mkfifo("fifo")  # nobody reads it
    for name in ("new.log", "old.log", "fifo"):
        code, _, err = outcome(capsys, "hello", "--check-config", f"--access-logfile={name}")
        assert (code, err) == (0, "")
    assert not Path("new.log").exists()
    assert Path("old.log").read_text() == "old\n"


LOG_CONFIG = """
[loggers]
keys=root
[handlers]
keys=new,old,watched
[formatters]
keys=
[logger_root]
level=DEBUG
handlers=new,old,watched
[handler_new]
class=handlers.RotatingFileHandler
args=("FOLDER/new.log",)
[handler_old]
class=FileHandler
args=("FOLDER/old.log", "w")
[handler_watched]
class=handlers.WatchedFileHandler
args=("FOLDER/watched.log",)
"""


def test_check_config_makes_and_empties_no_file_of_a_log_config(tmp_path: Path) -> None:
    for name in ("logs", "missing"):
        (tmp_path / f"{name}.ini").write_text(LOG_CONFIG.replace("FOLDER", name))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/old.log").write_text("old\n")
    arguments = ["tests.hosting:hello", "--check-config", "--loop=asyncio"]
    with server_process(tmp_path, *arguments, "--log-config=logs.ini") as server:
        assert server.wait() == 0
    assert server.log == ""
    assert (tmp_path / "logs/old.log").read_text() == "old\n"
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["old.log"]
    with server_process(tmp_path, *arguments, "--log-config=missing.ini") as server:
        assert server.wait() == 3
    assert re.search(r"log_config=.*/missing.ini: FileNotFoundError: .*missing/new\.log", server.log)


def test_list_of_a_flag_may_have_commas(capsys: Capture, files: WriteFiles) -> None:
    files({"hello.py": HELLO})
    arguments = ["--forwarded-parts=for,proto,host", "--forwarded-allow-ips=10.0.0.1, 10.1.0.0/16", "--environ=A=1,2"]
    code, out, err = outcome(capsys, "hello", "--print-config", "--proxy-allow-ips=::1,unix", *arguments)
    assert (code, err) == (0, "")
    assert 'forwarded_parts = ["for", "proto", "host"] ' in out
    assert 'forwarded_allow_ips = ["10.0.0.1", "10.1.0.0/16"] ' in out
    assert 'proxy_allow_from = ["::1", "unix"] ' in out
    assert 'environ = ["A=1,2"] ' in out


def test_application_that_is_misspelled_is_told_without_a_trace(capsys: Capture) -> None:
    code, _, err = outcome(capsys, "hello:make(")
    assert (code, err.count("\n"), "Traceback" in err) == (3, 1, False)
    code, _, err = outcome(capsys, "hello:make(x)")
    assert (code, err.count("\n"), "Traceback" in err) == (3, 1, False)


def test_print_config_shows_each_value_with_its_origin_and_imports_nothing(
    capsys: Capture, files: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files({"aiowsgi.toml": "app = 'hello'\n\nthreads = 4\n", "hello.py": "print('imported')\n"})
    monkeypatch.setenv("AIOWSGI_BACKLOG", "9")
    code, out, err = outcome(capsys, "--print-config", "--keep-alive=5")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head == f"# configuration file: {folder}/aiowsgi.toml"
    assert {tuple(row.split()) for row in rows} >= {
        ("app", "=", '"hello"', "#", "aiowsgi.toml:1"),
        ("threads", "=", "4", "#", "aiowsgi.toml:3"),
        ("backlog", "=", "9", "#", "AIOWSGI_BACKLOG"),
        ("keep_alive", "=", '"5s"', "#", "--keep-alive"),
        ("queue_size", "=", "5000", "#", "default"),
    }


def test_print_config_and_check_config_together_do_both(capsys: Capture, files: WriteFiles) -> None:
    files({"failing.py": "1 / 0\n"})
    code, out, err = outcome(capsys, "failing", "--print-config", "--check-config")
    assert code == 3
    assert 'app = "failing"' in out
    assert "ZeroDivisionError" in err


def test_variable_that_is_misspelled_is_told_where_the_configuration_is_looked_at(
    capsys: Capture, files: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files({"hello.py": HELLO})
    # The others are Kubernetes' beside a service of this name, an image's, and an option.
    others = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP_PORT", "VERSION", "BACKLOG"]
    for name in ("THRAEDS", *others):
        monkeypatch.setenv(f"AIOWSGI_{name}", "4")
    code, out, err = outcome(capsys, "hello", "--print-config")
    assert (code, "threads = 8" in out) == (0, True)
    assert err == "aiowsgi: AIOWSGI_THRAEDS: no such option; did you mean 'AIOWSGI_THREADS'?\n"


# What the file says of the application


def test_folders_of_the_file_count_before_the_import(capsys: Capture, files: WriteFiles) -> None:
    files(
        {
            "aiowsgi.toml": "app = 'site_app:make'\nfactory = true\nchdir = 'site'\npythonpath = 'lib, ../src'\n",
            "site/lib/site_app.py": "import shared\ndef make():\n    return shared.app\n",
            "src/shared.py": HELLO,
        }
    )
    code, _, err = outcome(capsys, "--check-config")
    assert (code, err) == (0, "")
    assert [Path(folder).name for folder in sys.path[:3]] == ["lib", "src", "site"]


def test_server_started_by_its_file_alone_serves(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'site'\n\n[tool.aiowsgi]\napp = 'hello'\nchdir = 'site'\nuds = 'sock'\nthreads = 2\n"
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hello.py").write_text(HELLO)
    with server_process(tmp_path, "--threads=3", PORT="1") as server:
        with connect_unix(tmp_path / "site" / "sock") as client:
            assert client.get("/").content == b"hello"
        assert server.wait_for_log(r"\((\d) threads")[1] == "3"


def test_file_that_cannot_be_read_is_not_said_to_name_no_application(
    capsys: pytest.CaptureFixture[str], files: WriteFiles
) -> None:
    files({"aiowsgi.toml": "app = 'hello\n"})
    code, _, err = outcome(capsys)
    assert code == 3
    assert err.startswith("aiowsgi: aiowsgi.toml: is not TOML: ")
    assert err.count("\n") == 1


def test_check_of_a_variable_that_nobody_knows_is_exit_3_and_proposes_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], files: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files({"hello.py": HELLO})
    monkeypatch.setenv("AIOWSGI_THREAD", "4")
    code, out, err = outcome(capsys, "hello", "--check-config")
    assert (code, out) == (3, "")
    assert err == "aiowsgi: AIOWSGI_THREAD: no such option; did you mean 'AIOWSGI_THREADS'?\n"


def test_server_tells_of_a_variable_that_nobody_knows_and_serves(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    with server_process(tmp_path, "hello", "--uds=sock", AIOWSGI_THREAD="4") as server:
        with connect_unix(tmp_path / "sock") as client:
            assert client.get("/").content == b"hello"
        server.process.terminate()
        assert server.wait() == 0
    assert server.log.startswith("aiowsgi: AIOWSGI_THREAD: no such option; did you mean 'AIOWSGI_THREADS'?\n")
