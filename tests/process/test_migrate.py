from __future__ import annotations

import sys
import tomllib

import pytest

from aiowsgi.process.cli import main
from tests.process.conftest import WriteFiles
from tests.process.test_cli import HELLO, outcome

pytestmark = pytest.mark.usefixtures("own_process")

Capture = pytest.CaptureFixture[str]

# As deployments have them: computed values, values of the environment, a logger, hooks.
GUNICORN = '''
"""gunicorn of the shop."""

import logging
import os

from deployment import SOCKET

port = os.environ.get("SHOP_PORT", "8080")
bind = [f"0.0.0.0:{port}", f"unix:{SOCKET}"]
worker_class = "gthread"
threads = 2 * 4
worker_connections = 2000
keepalive = 65
graceful_timeout = 40
limit_request_line = 8190
loglevel = os.environ.get("LOG_LEVEL", "warning")
errorlog = "-"
raw_env = ["DJANGO_SETTINGS_MODULE=shop.settings"]
wsgi_app = "hello:app"
daemon = False

print("read by", __name__)


def post_fork(server, worker):
    logging.getLogger(__name__).info("worker %s", worker.pid)


def when_ready(server):
    open("/tmp/app-initialized", "w").close()
'''


@pytest.fixture(autouse=True)
def _no_module_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__config__", sys)
    monkeypatch.delitem(sys.modules, "__config__")


def test_file_of_a_deployment_becomes_a_file_that_check_config_accepts(
    capsys: Capture, files: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files({"gunicorn.conf.py": GUNICORN, "deployment.py": "SOCKET = 'shop.sock'\n", "hello.py": HELLO})
    monkeypatch.setenv("LOG_LEVEL", "error")
    code, out, err = outcome(capsys, "migrate")
    assert (code, err) == (0, "read by __config__\n")
    table = tomllib.loads(out)
    assert table["bind"] == ["0.0.0.0:8080", "unix:shop.sock"]
    expected = {"threads": 8, "keep_alive": "65s", "graceful_timeout": "40s", "log_level": "error", "app": "hello:app"}
    assert {name: table[name] for name in expected} == expected
    for comment in ("# post_fork = post_fork: use the hook worker_init", "# when_ready = ", "# raw_env = ['DJANGO_"):
        assert comment in out
    (folder / "aiowsgi.toml").write_text(out)
    code, out, err = outcome(capsys, "--check-config")
    assert (code, err) == (0, "")
    assert "hello:app can be served" in out


@pytest.mark.parametrize("location", ["conf/g.py", "file:conf/g.py", "python:conf.g"])
def test_file_is_named_as_gunicorn_names_it(capsys: Capture, files: WriteFiles, location: str) -> None:
    files({"conf/__init__.py": "", "conf/g.py": "threads = 3\n"})
    code, out, _ = outcome(capsys, "migrate", location)
    assert (code, tomllib.loads(out)["threads"]) == (0, 3)
    for name in ("conf", "conf.g"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("threads = 1 / 0\n", "'gunicorn.conf.py' failed: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found\n", "'gunicorn.conf.py' failed: ModuleNotFoundError"),
        ("raise SystemExit(1)\n", "'gunicorn.conf.py' failed: SystemExit: 1"),
        ("threads = (\n", "'gunicorn.conf.py' failed: SyntaxError"),
    ],
)
def test_file_that_fails_shows_its_traceback_and_exit_3(
    capsys: Capture, files: WriteFiles, source: str, message: str
) -> None:
    files({"gunicorn.conf.py": source})
    code, out, err = outcome(capsys, "migrate")
    assert (code, out) == (3, "")
    assert f"\naiowsgi: {message}" in err
    assert "gunicorn.conf.py" in err.partition("\naiowsgi: ")[0]
    assert "__config__" not in sys.modules


def test_file_that_is_not_there_is_named(capsys: Capture, files: WriteFiles) -> None:
    files({})
    code, _, err = outcome(capsys, "migrate", "none.py")
    assert (code, err) == (3, "aiowsgi: no file 'none.py'; name gunicorn's configuration file\n")


def test_file_of_uwsgis_is_not_executed(capsys: Capture, files: WriteFiles) -> None:
    files({"shop.ini": "[uwsgi]\nmodule = shop\n"})
    code, out, err = outcome(capsys, "migrate", "shop.ini")
    message = "aiowsgi: 'shop.ini' is no configuration file of gunicorn's; uWSGI's are not read\n"
    assert (code, out, err) == (3, "", message)


def test_help_of_the_command_is_its_own(capsys: Capture) -> None:
    code, out, _ = outcome(capsys, "migrate", "--help")
    assert code == 0
    assert out.startswith("Usage: aiowsgi migrate [OPTIONS] [FILE]\n")
    _, out, _ = outcome(capsys, "--help")
    assert "Commands, in the place of APP:\n  migrate " in out


# A module of that name


def test_module_called_as_a_command_is_served_by_its_full_name(capsys: Capture, files: WriteFiles) -> None:
    files({"migrate.py": HELLO, "gunicorn.conf.py": "threads = 3\n"})
    assert "threads = 3" in outcome(capsys, "migrate")[1]
    for arguments in (["migrate:app"], ["./migrate.py"], ["--app", "migrate"], ["--threads=2", "migrate"]):
        code, out, _ = outcome(capsys, *arguments, "--check-config")
        assert (code, "can be served" in out) == (0, True)


def test_usage_error_where_a_module_may_have_been_meant_says_how_to_serve_it(
    capsys: Capture, files: WriteFiles
) -> None:
    files({"migrate.py": HELLO})
    for arguments in (["migrate", "--threads=4"], ["migrate", "a", "b"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 3
        assert capsys.readouterr().err.endswith("; to serve the module 'migrate', type migrate:application\n")
