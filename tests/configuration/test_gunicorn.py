from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS  # type: ignore[import-untyped] # gunicorn has no types
from gunicorn.workers.sync import SyncWorker  # type: ignore[import-untyped] # gunicorn has no types

from aiowsgi.config import OPTIONS, Config
from aiowsgi.configuration.gunicorn import SETTINGS, translate
from aiowsgi.configuration.settings import Sources
from tests.configuration.test_foreign import PENDING

DEFAULTS = {setting.name: setting.default for setting in KNOWN_SETTINGS}


def lines(**settings: Any) -> list[str]:
    return list(translate(settings, "gunicorn.conf.py"))


def config_of(folder: Path, **settings: Any) -> Config:
    """The configuration that a translation gives."""
    (folder / "aiowsgi.toml").write_text("\n".join(lines(wsgi_app="hello", **settings)))
    return Sources(folder=str(folder), environ={}).read().config


def comment_of(**settings: Any) -> str:
    """What a translation says of what has no counterpart."""
    text = " ".join(line.lstrip("# ") for line in lines(**settings))
    assert "Without a counterpart: " in text, text
    return text.partition("Without a counterpart: ")[2]


def test_settings_are_those_of_the_newest_gunicorn() -> None:
    assert set(DEFAULTS) <= SETTINGS


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_setting_of_gunicorn_is_translated_or_explained(name: str) -> None:
    value = DEFAULTS[name]
    if value is None or value in ("", [], {}, 0, False):
        value = True if value is False else "1"
    text = "\n".join(lines(**{name: value}))
    assert name in PENDING or "not available" not in text
    own = {item.name for item in OPTIONS if name in (item.name, *item.aliases)}
    said = {line.partition(" = ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert own & said or f"\n# {name} = " in text
    assert tomllib.loads(text)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bind": "tcp://0.0.0.0:80"}, {"bind": ("0.0.0.0:80",)}),
        (
            {"bind": ["[::1]:80", "unix:/run/app.sock", "fd://3"]},
            {"bind": ("[::1]:80", "unix:/run/app.sock", "fd://3")},
        ),
        ({"bind": "127.0.0.1:80,unix:s"}, {"bind": ("127.0.0.1:80", "unix:s")}),
        ({"threads": "4"}, {"threads": 4}),
        ({"keepalive": 5}, {"keep_alive": 5.0}),
        ({"keepalive": 0}, {"keep_alive": 0.0}),
        ({"graceful_timeout": 120}, {"graceful_timeout": 120.0}),
        ({"worker_connections": 2000}, {"max_connections": 2000}),
        ({"loglevel": "DEBUG"}, {"log_level": "debug"}),
        ({"chdir": "/srv", "pythonpath": "/a, b"}, {"chdir": "/srv", "pythonpath": ("/a", "b")}),
        ({"limit_request_line": 8000}, {"limit_request_line": 8000}),
        ({"limit_request_fields": 50, "limit_request_field_size": 4000}, {"limit_request_field_size": 4000}),
        ({"backlog": 64}, {"backlog": 64}),
        ({"root_path": "/x/"}, {"root_path": "/x"}),
        (
            {"workers": 3, "max_requests": 1000, "preload_app": True},
            {"workers": 3, "max_requests": 1000, "preload": True},
        ),
        ({"umask": 0o22, "user": 1000, "group": "web"}, {"umask": 0o22, "user": "1000", "group": "web"}),
        ({"pidfile": "p", "proc_name": "n", "timeout": 90}, {"pid": "p", "name": "n", "timeout": 90.0}),
        ({"certfile": "c", "keyfile": "k", "cert_reqs": 2}, {"ssl_certfile": "c", "ssl_cert_reqs": "required"}),
        ({"reload_extra_files": ["a"], "reload": True}, {"reload": True, "reload_extra": ("a",)}),
        ({}, {"threads": 1}),
        ({"worker_class": "gthread"}, {"threads": 1}),
        ({"worker_class": "gevent"}, {"threads": 8}),
        ({"chdir": None, "bind": None, "keepalive": None}, {"bind": (), "keep_alive": 75.0}),
    ],
)
def test_setting_with_a_counterpart_is_translated(
    tmp_path: Path, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = config_of(tmp_path, **settings)
    assert {name: getattr(config, name) for name in expected} == expected


def hook(server: object) -> None:
    """Stand for one of a file's own."""


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"worker_class": "sync"}, "leave it out, there is one kind of worker"),
        ({"worker_class": "gevent"}, "greenlets become threads"),
        ({"worker_class": "uvicorn.workers.UvicornWorker"}, "an ASGI application needs an ASGI server"),
        ({"post_fork": hook}, "post_fork = hook: use the hook worker_init"),
        ({"post_worker_init": hook}, "use the hook worker_ready"),
        ({"on_exit": hook}, "on_exit = hook: write module:callable"),
        ({"pre_request": hook}, "wrap the application in a WSGI middleware"),
        ({"raw_env": ["A=1"]}, "raw_env = ['A=1']: set the variable where the process is started"),
        ({"daemon": True}, "let systemd or a container run it"),
        ({"limit_request_line": 0}, "limit_request_line must be at least 64; 0 is no limit there"),
        ({"keepalive": "soon"}, "keep_alive must be a duration"),
        ({"bind": 8000}, "bind = 8000: "),
        ({"bind": ["127.0.0.1:80", 8000]}, "bind must be text"),
        ({"loglevel": 10}, "log_level must be text"),
        ({"print_config": True}, "use --print-config on the command line"),
        ({"paste": "app.ini"}, "paste.deploy.loadapp"),
    ],
)
def test_setting_without_a_counterpart_is_explained(settings: dict[str, Any], advice: str) -> None:
    assert advice in comment_of(**settings)


SYNC = "timeout: gunicorn killed its sync worker where a request took so long, and here it limits no request: "
NOT_SYNC = "timeout: as with gunicorn's worker of this kind, it limits no request: "


@pytest.mark.parametrize(
    ("settings", "was"),
    [
        ({}, SYNC),
        ({"worker_class": "sync", "threads": 1}, SYNC),
        ({"worker_class": "egg:gunicorn#sync"}, SYNC),
        ({"worker_class": SyncWorker, "threads": 4}, SYNC),
        ({"threads": "4"}, NOT_SYNC),
        ({"worker_class": "gthread"}, NOT_SYNC),
        ({"worker_class": "gevent"}, NOT_SYNC),
    ],
)
def test_timeout_is_told_from_the_limit_of_a_request(tmp_path: Path, settings: dict[str, Any], was: str) -> None:
    text = lines(timeout=120, **settings)
    at = text.index('# request_timeout = "120s"')
    remark = " ".join(line.lstrip("# ") for line in text[text.index('timeout = "120s"') + 1 : at])
    assert remark == f"{was}a worker is replaced whose event loop is silent. What limits requests is:"
    assert config_of(tmp_path, timeout=120, **settings).request_timeout == 0
    text[at] = text[at].removeprefix("# ")
    assert tomllib.loads("\n".join(text))["request_timeout"] == "120s"


@pytest.mark.parametrize("settings", [{}, {"worker_class": "sync"}, {"timeout": None}, {"threads": "1"}])
def test_limit_of_a_request_that_a_sync_worker_has_by_default_is_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    (line,) = [line for line in lines(**settings) if "request_timeout" in line]
    assert line.startswith('# request_timeout = "30s"  # gunicorn\'s default: a sync worker whose request takes longer')
    assert DEFAULTS["timeout"] == 30
    assert config_of(tmp_path, **settings).request_timeout == 0
    assert tomllib.loads(line.removeprefix("# ")) == {"request_timeout": "30s"}


NO_LIMIT = [{"timeout": 0}, {"timeout": "0"}, {"timeout": "soon"}, {"worker_class": "gthread"}, {"threads": 2}]


@pytest.mark.parametrize("settings", [*NO_LIMIT, {"worker_class": "gevent"}])
def test_timeout_that_limits_nothing_needs_no_advice(settings: dict[str, Any]) -> None:
    assert "request_timeout" not in "\n".join(lines(**settings))


def test_names_of_the_files_own_are_left_out() -> None:
    text = "\n".join(lines(port=8000, host="h", app=hook, os=Path, uds="x", _private=1))
    assert "port" not in text
    assert "uds" not in text
    assert "hook" not in text


def test_what_is_off_is_told_in_one_line() -> None:
    assert lines(daemon=False, raw_env=[], spew=False)[-1] == "# Nothing to do for: daemon, raw_env, spew"


def test_value_that_shows_itself_over_lines_stays_in_its_comment() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "a\nthreads = 0\n"

    assert all(
        line.startswith(("#", "threads = 1 ", "forwarded_allow_ips = ")) or not line for line in lines(raw_env=Odd())
    )
