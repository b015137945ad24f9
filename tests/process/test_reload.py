"""``--reload`` as a developer meets it: save, look into the browser, break it, mend it, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiowsgi.errors import StartupError
from aiowsgi.process.run import run
from tests.process.server_process import (
    PATIENCE,
    ServerProcess,
    connect_unix,
    environment,
    server_in_a_terminal,
    server_of_a_program,
    server_process,
    wait_until,
)

APP = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"one {environ.get('MODE')} {os.getpid()}".encode()]
"""
# What Python finds instead of watchfiles.
WITHOUT_WATCHFILES = "import sys\nsys.modules['watchfiles'] = None\n"


def get(folder: Path) -> tuple[str, str, int]:
    """Ask; return what the code, the configuration and the process are."""
    with connect_unix(folder / "sock") as client:
        word, mode, pid = client.get("/").content.decode().split()
    return word, mode, int(pid)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, though nobody here has waited for it."""
    try:
        os.kill(pid, 0)
        # One whose parent is gone may be there until somebody waits for it.
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except OSError:
        return True


def write(path: Path, text: str) -> None:
    """Save as an editor does, so that nobody reads one half."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site_app.py").write_text(APP)
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT_WATCHFILES)
    return tmp_path


def start_line(server: ServerProcess) -> str:
    return server.wait_for_log(r"aiowsgi \S+ on unix:\S*sock \(reloading, .*\n")[0]


@pytest.mark.parametrize("watcher", ["installed", "times"])
def test_code_that_is_broken_and_mended_is_served_anew_and_no_connection_is_refused(folder: Path, watcher: str) -> None:
    variables = {"PYTHONPATH": f"{folder / 'without'}:{environment()['PYTHONPATH']}"} if watcher == "times" else {}
    with server_process(folder, "site_app", "--uds=sock", "--reload", **variables) as server:
        start_line(server)
        if watcher == "times":
            assert "file times" in server.log
        word, _, first_pid = get(folder)
        assert word == "one"
        with connect_unix(folder / "sock") as kept:
            assert kept.get("/").status_code == 200

            write(folder / "site_app.py", APP.replace("one", "two"))
            server.wait_for_log("site_app.py changed: reloading\n")
            wait_until(lambda: is_gone(first_pid), "the end of the first worker")
            assert kept.at_end()
            word, _, second_pid = get(folder)
            assert (word, second_pid == first_pid) == ("two", False)

        write(folder / "site_app.py", APP + "\nthis is no Python\n")
        server.wait_for_log(r"SyntaxError: .*\n.*waiting for the next change")
        assert "site_app.py" in server.log
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(get, folder)
            assert not answer.done()
            write(folder / "site_app.py", APP.replace("one", "three"))
            assert answer.result(PATIENCE)[0] == "three"
        last_pid = get(folder)[2]

        wait_until(lambda: server.log.count("ready in ") == 2, "the report of the last reload")
        before = server.log.count("\n")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert server.log.splitlines()[before:][0].endswith("SIGINT: stopping quickly, a second signal ends at once")
        assert server.log.count("\n") == before + 1
    assert is_gone(last_pid)
    assert is_gone(second_pid)
    assert not (folder / "sock").exists()


def test_code_that_is_broken_from_the_beginning_is_waited_for(folder: Path) -> None:
    (folder / "site_app.py").write_text("import nowhere_to_be_found\n")
    with server_process(folder, "site_app", "--uds=sock", "--reload") as server:
        server.wait_for_log("imports 'nowhere_to_be_found', which is not found; waiting for the next change")
        write(folder / "site_app.py", APP)
        assert get(folder)[0] == "one"
        start_line(server)
        assert server.log.count("waiting for the next change") == 1


def test_configuration_file_that_changes_is_read_again_and_shown_when_it_is_broken(folder: Path) -> None:
    config = folder / "aiowsgi.toml"
    config.write_text("app = 'site_app'\nuds = 'sock'\nenviron = ['MODE=a']\nreload = true\n")
    with server_process(folder) as server:
        start_line(server)
        assert get(folder)[1] == "a"
        write(config, "app = 'site_app'\nuds = 'sock'\nenviron = ['MODE=b']\nthreads = 0\n")
        server.wait_for_log("aiowsgi.toml:4: threads=0: must be at least 1; waiting for the next change")
        (folder / "shop.py").write_text(APP.replace("one", "two") + "\ndef make():\n    return app\n")
        write(config, "app = 'shop:make'\nfactory = true\nuds = 'sock'\nenviron = ['MODE=b']\n")
        assert get(folder)[:2] == ("two", "b")
        write(config, "app = 'site_app'\nuds = 'other'\nenviron = ['MODE=c']\n")
        wait_until(lambda: get(folder)[:2] == ("one", "c"), "the first application")
        server.wait_for_log("where to listen has changed: that takes a restart")


def test_code_of_the_same_size_saved_in_the_same_second_is_served_anew(folder: Path) -> None:
    path = folder / "site_app.py"
    os.utime(path, ns=(10**18, 10**18))
    with server_process(folder, "site_app", "--uds=sock", "--reload", PYTHONDONTWRITEBYTECODE="") as server:
        start_line(server)
        word, _, pid = get(folder)
        assert word == "one"
        new = folder / "new"
        new.write_text(APP.replace("one", "two"))
        os.utime(new, ns=(10**18 + 5, 10**18 + 5))
        new.replace(path)
        wait_until(lambda: is_gone(pid), "the end of the first worker")
        assert get(folder)[0] == "two"


def test_worker_whose_watcher_is_killed_leaves(folder: Path) -> None:
    with server_process(folder, "site_app", "--uds=sock", "--reload") as server:
        start_line(server)
        pid = get(folder)[2]
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        wait_until(lambda: is_gone(pid), "the end of the worker")


def test_application_that_ends_its_process_is_told_and_started_at_the_next_change(folder: Path) -> None:
    with server_process(folder, "site_app", "--uds=sock", "--reload") as server:
        start_line(server)
        pid = get(folder)[2]
        os.kill(pid, signal.SIGKILL)
        server.wait_for_log("the application's process was killed by SIGKILL; waiting for the next change")
        os.utime(folder / "site_app.py")
        write(folder / "site_app.py", APP)
        assert get(folder)[2] != pid


def test_request_that_never_ends_does_not_keep_the_new_code_waiting(folder: Path) -> None:
    source = APP + "\nimport threading\n\ndef stuck(environ, start_response):\n    threading.Event().wait()\n"
    (folder / "site_app.py").write_text(source)
    with server_process(folder, "site_app:stuck", "--uds=sock", "--reload") as server:
        start_line(server)
        with connect_unix(folder / "sock") as client:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            write(folder / "site_app.py", APP + "\nstuck = app\n")
            wait_until(client.at_end, "the end of the connection")
            assert get(folder)[0] == "one"


def test_second_signal_ends_at_once(folder: Path) -> None:
    (folder / "site_app.py").write_text(
        "import threading\n\n"
        "def app(environ, start_response):\n    open('in', 'w').close()\n    threading.Event().wait()\n"
    )
    with server_process(folder, "site_app", "--uds=sock", "--reload") as server:
        start_line(server)
        with connect_unix(folder / "sock") as client:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            wait_until((folder / "in").exists, "the request")
            server.signal(signal.SIGINT)
            server.wait_for_log("SIGINT: stopping quickly")
            server.signal(signal.SIGINT)  # that one once more, which counts for nothing
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
    assert server.log.count("again: ending at once") == server.log.count("SIGTERM again") == 1


def test_closed_terminal_is_the_end_and_no_change(folder: Path) -> None:
    with server_in_a_terminal(folder, "site_app", "--uds=sock", "--reload") as (server, close_terminal):
        start_line(server)
        server.signal(signal.SIGHUP)
        server.wait_for_log("SIGHUP changed: reloading\n")
        server.wait_for_log("ready in")
        pid = get(folder)[2]
        close_terminal()
        assert server.wait() == 0
    assert "SIGHUP: running requests may finish" in server.log
    assert server.log.count("reloading\n") == 1
    assert is_gone(pid)
    assert not (folder / "sock").exists()


def test_program_that_reads_its_settings_again_need_not_name_the_application_there(folder: Path) -> None:
    program = (
        "from aiowsgi import Config, run\n"
        "def read(): return Config(uds='sock', reload=True)\n"
        "if __name__ == '__main__':\n"
        "    run('site_app', config=read(), reread=read)\n"
    )
    with server_of_a_program(folder, program) as server:
        assert get(folder)[0] == "one"
        server.signal(signal.SIGHUP)
        server.wait_for_log("ready in ")
        assert get(folder)[0] == "one"


def test_application_that_has_no_name_cannot_be_reloaded() -> None:
    with pytest.raises(StartupError, match="reload: the application must be given by its name"):
        run(lambda environ, start_response: [], reload=True, port=0)


def test_folder_to_watch_that_is_not_there_is_a_failed_start(folder: Path) -> None:
    with server_process(folder, "site_app", "--uds=sock", "--reload", "--reload-dir=none") as server:
        assert server.wait() == 3
    assert re.search(r"aiowsgi: reload_dir=\S+none: no such folder\n", server.log)
    assert not (folder / "sock").exists()
