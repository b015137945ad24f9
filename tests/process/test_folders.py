"""Folders that are entered by their names, in the test's own process and by a supervisor's workers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.configuration.folder import working_folder
from aiowsgi.errors import StartupError
from aiowsgi.process.folders import Folders
from tests.process.server_process import ServerProcess, connect_unix, server_process

APPLICATION = """
import helper

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [helper.NAME]
"""


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two releases and a link, ``current``, to the first; it is the working folder."""
    for name in ("first", "second"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "shop.py").write_text(APPLICATION)
        (tmp_path / name / "lib" / "helper.py").write_text(f"NAME = {name.encode()!r}\n")
    (tmp_path / "current").symlink_to("first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def lead_to(link: Path, target: str) -> None:
    """Have a link lead elsewhere, as ``ln -sfn`` does."""
    new = link.with_name("new")
    new.symlink_to(target)
    new.replace(link)


def test_working_folder_has_the_name_that_it_was_entered_by(releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chdir("current")
    assert working_folder() == str(releases / "first")
    monkeypatch.setenv("PWD", str(releases / "current"))
    assert working_folder() == str(releases / "current")
    monkeypatch.setenv("PWD", "../current")
    assert working_folder() == str(releases / "first")
    lead_to(releases / "current", "second")
    monkeypatch.setenv("PWD", str(releases / "current"))
    assert working_folder() == str(releases / "first")


def test_working_folder_that_is_gone_is_told(releases: Path) -> None:
    os.chdir("first")
    shutil.rmtree(releases / "first")
    with pytest.raises(StartupError, match="the working folder is gone: No such file or directory"):
        working_folder()


@pytest.mark.parametrize("chdir", ["current", "second/../current", None])
def test_folders_entered_again_follow_a_link(
    releases: Path, monkeypatch: pytest.MonkeyPatch, chdir: str | None
) -> None:
    if chdir is None:
        os.chdir("current")
        monkeypatch.setenv("PWD", str(releases / "current"))
    folders = Folders()
    config = Config(chdir=chdir, pythonpath=["lib"])
    folders.enter(config)
    assert os.getcwd() == str(releases / "first")
    lead_to(releases / "current", "second")
    shutil.rmtree(releases / "first")
    folders.enter(config)
    assert os.getcwd() == str(releases / "second")
    assert os.path.realpath(sys.path[0]) == str(releases / "second" / "lib")
    assert not any("first" in entry for entry in sys.path)


def test_folders_of_another_configuration_take_the_place_of_those_before(releases: Path) -> None:
    before = list(sys.path)
    folders = Folders()
    folders.enter(Config(chdir="first", pythonpath=["lib"]))
    assert sys.path == [str(releases / "first" / "lib"), str(releases / "first"), *before]
    folders.enter(Config(chdir="second", pythonpath=["lib,../first"]))
    assert sys.path == [str(releases / "second/lib"), str(releases / "first"), str(releases / "second"), *before]


def test_folder_that_a_hook_has_changed_to_is_kept_while_names_mean_the_same(releases: Path) -> None:
    folders = Folders()
    folders.enter(Config(chdir="current"))
    os.chdir("lib")
    folders.enter(Config(chdir="current"))
    assert os.getcwd() == str(releases / "first" / "lib")


def test_paths_are_resolved_in_the_folder_that_the_configuration_names(releases: Path) -> None:
    given = Config(
        chdir="current",
        bind=["unix:app.sock", "unix:@app", "unix:/run/app.sock", "127.0.0.1:8000", "fd://3"],
        access_logfile="log/../access.log",
        log_config="./log.toml",
        ssl_certfile="/etc/cert.pem",
        ssl_keyfile="key.pem",
        control="unix:control",
        metrics_bind="unix:metrics",
        statsd_host="statsd",
    )
    config = Folders().resolved(given)
    current = releases / "current"
    # The folder's name is a link's, and stays so.
    assert config.bind == (
        f"unix:{current}/app.sock",
        "unix:@app",
        "unix:/run/app.sock",
        "127.0.0.1:8000",
        "fd://3",
    )
    assert (config.access_logfile, config.log_config) == (f"{current}/log/../access.log", f"{current}/log.toml")
    assert (config.ssl_certfile, config.ssl_keyfile) == ("/etc/cert.pem", f"{current}/key.pem")
    assert (config.control, config.metrics_bind) == (f"unix:{current}/control", f"unix:{current}/metrics")
    assert config.statsd_host == "statsd"
    assert Folders().resolved(Config(uds="app.sock")).uds == f"{releases}/app.sock"
    assert Folders().resolved(Config(access_logfile="-")) == Config(access_logfile="-")


def test_socket_whose_whole_path_is_too_long_keeps_the_one_that_is_given(releases: Path) -> None:
    folder = "d" * 103
    assert Folders().resolved(Config(chdir=folder, uds="app.sock")).uds == "app.sock"


@pytest.mark.parametrize("options", [[], ["-w1"], ["--preload"]], ids=["alone", "spawned", "preloaded"])
def test_files_of_a_server_are_where_it_was_started_though_its_application_goes_elsewhere(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "web").mkdir()
    source = "import os\nos.chdir('web')\n"
    (tmp_path / "shop.py").write_text(source + APPLICATION.replace("helper.NAME", "b''").replace("import helper", ""))
    files = ["--uds=sock", "--control=unix:ctl", "--access-logfile=log"]
    with server_process(tmp_path, "shop:app", *files, *options) as server:
        with connect_unix(tmp_path / "sock") as client:
            assert client.get("/").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "GET / " in (tmp_path / "log").read_text()
    assert list((tmp_path / "web").iterdir()) == []


def test_folder_of_the_start_without_its_link_is_importable_by_the_link(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chdir("current")
    monkeypatch.setenv("PWD", str(releases / "current"))
    sys.path.insert(0, os.getcwd())  # as python -m does
    Folders().enter(Config())
    assert sys.path[0] == str(releases / "current")


def test_folder_that_is_gone_is_told(releases: Path) -> None:
    os.chdir("first")
    folders = Folders()
    os.chdir("..")
    shutil.rmtree(releases / "first")
    with pytest.raises(StartupError, match=r"first, where the server was started: No such file or directory"):
        folders.enter(Config())
    with pytest.raises(StartupError, match=r"chdir=/none: No such file or directory"):
        folders.enter(Config(chdir="/none"))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user for a moment")
def test_folder_of_the_start_that_the_user_may_not_enter_is_stayed_in(releases: Path) -> None:
    os.chdir("first")
    (releases / "first").chmod(0o700)
    os.seteuid(65534)
    try:
        folders = Folders()
        folders.enter(Config())
        assert os.getcwd() == str(releases / "first")
        folders.enter(Config(chdir="/"))
        assert os.getcwd() == "/"
    finally:
        os.seteuid(0)


def get(server: ServerProcess) -> bytes:
    with server.connect() as client:
        return client.get("/").content


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("in_link", [False, True])
def test_worker_that_is_replaced_follows_a_link_when_the_old_release_is_gone(releases: Path, in_link: bool) -> None:
    current = releases / "current"
    cwd, arguments = (current, []) if in_link else (releases, ["--chdir=current"])
    arguments += ["shop", "-w", "1", "--pythonpath=lib", "-b", "127.0.0.1:0"]
    with server_process(releases, *arguments, cwd=cwd, PWD=str(cwd)) as server:
        assert get(server) == b"first"
        lead_to(current, "second")
        shutil.rmtree(releases / "first")
        [worker] = server.workers()
        os.kill(worker, signal.SIGKILL)
        server.wait_for_log("was killed by SIGKILL; it is replaced")
        assert get(server) == b"second"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "Traceback" not in server.log


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reload_follows_a_link_and_is_given_up_where_it_leads_nowhere(releases: Path) -> None:
    arguments = ["shop", "-w", "1", "--chdir=current", "--pythonpath=lib", "-b", "127.0.0.1:0"]
    with server_process(releases, *arguments) as server:
        assert get(server) == b"first"
        lead_to(releases / "current", "second")
        server.signal(signal.SIGHUP)
        server.wait_for_log("all workers serve: 1 worker\n")
        assert get(server) == b"second"
        (releases / "current").unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"reload given up, .*: worker 3 cannot start: chdir=current: No such file or directory\n")
        assert get(server) == b"second"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "Traceback" not in server.log
