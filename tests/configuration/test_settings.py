from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from aiowsgi.config import OPTIONS, Config, Kind, TCPAddress, UnixAddress
from aiowsgi.configuration.settings import APP_IS_MISSING, Settings, Sources
from aiowsgi.configuration.sources import Given
from aiowsgi.errors import ConfigError


def flags(**values: Any) -> list[Given]:
    return [Given(name, value, "--" + name.replace("_", "-")) for name, value in values.items() if value is not None]


def read(folder: Path, environ: dict[str, str] | None = None, path: str | None = None, **values: Any) -> Settings:
    values.setdefault("app", "hello")
    return Sources(flags(**values), path, str(folder), environ or {}).read()


def problems(folder: Path, environ: dict[str, str] | None = None, **values: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(folder, environ, **values)
    return caught.value.problems


def write(folder: Path, text: str, name: str = "aiowsgi.toml") -> None:
    (folder / name).write_text(text)


# Who wins


def test_each_source_wins_over_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, "threads = 2\nqueue_size = 2\nbacklog = 2\n")
    settings = read(tmp_path, {"AIOWSGI_THREADS": "3", "AIOWSGI_QUEUE_SIZE": "3"}, threads="4")
    config = settings.config
    assert (config.threads, config.queue_size, config.backlog, config.limit_request_fields) == (4, 3, 2, 100)
    assert settings.origins == {
        "app": "--app",
        "threads": "--threads",
        "queue_size": "AIOWSGI_QUEUE_SIZE",
        "backlog": "aiowsgi.toml:3",
    }
    assert settings.path == tmp_path / "aiowsgi.toml"


def test_own_file_is_read_instead_of_the_project_file(tmp_path: Path) -> None:
    write(tmp_path, "[tool.aiowsgi]\nthreads = 2\nbacklog = 2\n", "pyproject.toml")
    assert read(tmp_path).origins["threads"] == "pyproject.toml:2"
    write(tmp_path, "threads = 3\n")
    assert (read(tmp_path).config.threads, read(tmp_path).config.backlog) == (3, 2048)


def test_file_that_is_named_is_read_instead_of_those_that_are_found(tmp_path: Path) -> None:
    write(tmp_path, "threads = 2\n")
    write(tmp_path, "threads = 3\n", "other.toml")
    write(tmp_path, "threads = 4\n", "third.toml")
    assert read(tmp_path, path="other.toml").origins["threads"] == "other.toml:1"
    assert read(tmp_path, {"AIOWSGI_CONFIG": "third.toml"}).config.threads == 4
    assert read(tmp_path, {"AIOWSGI_CONFIG": "third.toml"}, path=str(tmp_path / "other.toml")).config.threads == 3


def test_sources_read_again_see_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "app = 'hello'\nthreads = 2\n")
    sources = Sources(environ={})
    assert sources.read().config.threads == 2
    write(tmp_path, "app = 'hello'\nthreads = 3\n")
    monkeypatch.chdir("/")
    assert sources.read().config.threads == 3


@pytest.mark.parametrize("path", [None, "aiowsgi.toml"])
def test_sources_read_again_without_the_file_of_the_start_are_refused(tmp_path: Path, path: str | None) -> None:
    write(tmp_path, "threads = 2\n")
    sources = Sources(flags(app="hello"), path, str(tmp_path), {})
    start = sources.read()
    write(tmp_path, "threads = 3\n")
    assert sources.read_again(start).config.threads == 3
    write(tmp_path, "[tool.aiowsgi]\nthreads = 4\n", "pyproject.toml")
    (tmp_path / "aiowsgi.toml").unlink()
    with pytest.raises(ConfigError, match=r"^aiowsgi\.toml, which was read at the start, is gone$"):
        sources.read_again(start)


def test_sources_read_again_have_a_file_that_was_not_there_at_the_start(tmp_path: Path) -> None:
    sources = Sources(flags(app="hello"), None, str(tmp_path), {})
    start = sources.read()
    assert sources.read_again(start).config.threads == Config().threads
    write(tmp_path, "threads = 3\n")
    assert sources.read_again(start).config.threads == 3


@pytest.mark.parametrize(
    ("file", "environ", "given", "addresses"),
    [
        ("", {}, {}, [TCPAddress("127.0.0.1", 8000)]),
        ("", {"PORT": "5000"}, {}, [TCPAddress("0.0.0.0", 5000)]),
        ("", {"AIOWSGI_PORT": "tcp://10.0.0.1:80", "PORT": "5000"}, {}, [TCPAddress("0.0.0.0", 5000)]),
        ("", {"PORT": ""}, {}, [TCPAddress("127.0.0.1", 8000)]),
        ("", {"PORT": "5000"}, {"host": "::1"}, [TCPAddress("::1", 5000)]),
        ("host = 'h'", {"PORT": "5000"}, {}, [TCPAddress("h", 5000)]),
        ("", {"PORT": "5000"}, {"port": "6000"}, [TCPAddress("127.0.0.1", 6000)]),
        ("", {"PORT": "5000", "AIOWSGI_PORT": "6000"}, {}, [TCPAddress("127.0.0.1", 6000)]),
        ("bind = ':1'", {"PORT": "5000"}, {}, [TCPAddress("", 1)]),
        ("uds = 'sock'", {"PORT": "5000"}, {}, [UnixAddress("sock")]),
        ("", {"PORT": "5000", "AIOWSGI_BIND": ":2"}, {}, [TCPAddress("", 2)]),
        ("bind = [':1']", {"AIOWSGI_PORT": "6000"}, {}, [TCPAddress("127.0.0.1", 6000)]),
        ("host = '0.0.0.0'", {}, {"port": "9000"}, [TCPAddress("0.0.0.0", 9000)]),
        ("host = 'h'\nport = 1", {"AIOWSGI_UDS": "sock"}, {}, [UnixAddress("sock")]),
        ("uds = 'sock'", {"AIOWSGI_UDS": "sock2"}, {"bind": ("*:8080",)}, [TCPAddress("", 8080)]),
    ],
)
def test_address_that_is_said_last_is_listened_on(
    tmp_path: Path, file: str, environ: dict[str, str], given: dict[str, Any], addresses: list[object]
) -> None:
    write(tmp_path, file)
    assert list(read(tmp_path, environ, **given).config.addresses) == addresses


# The file's values


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("threads = 4", "threads", 4),
        ("threads = '4'", "threads", 4),
        ("keep_alive = 5", "keep_alive", 5),
        ("keep_alive = 0.5", "keep_alive", 0.5),
        ("keep_alive = '500ms'", "keep_alive", 0.5),
        ("keep_alive = '2m'", "keep_alive", 120),
        ("limit_request_body = 512", "limit_request_body", 512),
        ("limit_request_body = '512K'", "limit_request_body", 512 * 1024),
        ("limit_request_body = '1G'", "limit_request_body", 1024**3),
        ("stream_body = true", "stream_body", True),
        ("stream_body = 'on'", "stream_body", True),
        ("bind = ['a:1', 'unix:b c']", "bind", ("a:1", "unix:b c")),
        ("bind = 'a:1'", "bind", ("a:1",)),
        ("environ = ['A=1 2', 'B=,']", "environ", ("A=1 2", "B=,")),
        ("loop = 'asyncio'", "loop", "asyncio"),
        ("umask = '027'", "umask", 0o27),
        ("umask = '0o27'", "umask", 0o27),
        ("factory = true", "factory", True),
        ("worker_connections = 50", "max_connections", 50),
        ("keepalive = 5", "keep_alive", 5),
    ],
)
def test_value_in_each_form_is_read(tmp_path: Path, text: str, name: str, value: object) -> None:
    write(tmp_path, text)
    assert getattr(read(tmp_path).config, name) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("threads = 0", "threads=0: must be at least 1"),
        ("threads = 4.0", "threads=4.0: must be a whole number"),
        ("threads = true", "threads=True: must be a whole number"),
        ("threads = 'four'", "threads=four: must be a whole number"),
        ("threads = [4]", "threads=[4]: must be a whole number"),
        ("threads = {a = 1}", "threads={'a': 1}: must be a whole number"),
        ("threads = 2026-11-21", "threads=datetime.date(2026, 11, 21): must be a whole number"),
        ("bind = [8000]", "bind=[8000]: must be a sequence of texts"),
        ("stream_body = 1", "stream_body=1: must be true or false"),
        ("host = 1", "host=1: must be text"),
        ("umask = 27", 'umask=27: must be an octal number in quotes, such as "022"'),
        ("umask = 0o27", 'umask=23: must be an octal number in quotes, such as "022"'),
        ("max_threads = 2", "max_threads=2: must be at least threads (8)"),
    ],
)
def test_value_that_breaks_a_rule_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    write(tmp_path, "\n" + text)
    assert problems(tmp_path) == (f"aiowsgi.toml:2: {problem}",)


def test_all_problems_of_all_sources_are_told_together(tmp_path: Path) -> None:
    write(tmp_path, "threads = 0\nkeepalive = 1\nkeep_alive = 2\nthraed = 1\ndaemon = true\n")
    found = problems(tmp_path, {"AIOWSGI_LOOP": "trio", "PORT": "x"}, queue_size="0", app=None)
    assert set(found) == {
        APP_IS_MISSING,
        "aiowsgi.toml:1: threads=0: must be at least 1",
        "aiowsgi.toml:3: keep_alive: says the same as aiowsgi.toml:2: keepalive; leave out one of them",
        "aiowsgi.toml:4: thraed: no such option; did you mean 'threads'?",
        "aiowsgi.toml:5: daemon: let systemd or a container run it, for it stays in the foreground; "
        "or type 'nohup aiowsgi ... &'",
        "AIOWSGI_LOOP=trio: must be one of auto, asyncio, uvloop",
        "PORT=x: must be a whole number",
        "--queue-size=0: must be at least 1",
    }


def test_file_that_cannot_be_read_does_not_hide_the_other_problems(tmp_path: Path) -> None:
    write(tmp_path, "threads = \n")
    found = problems(tmp_path, threads="0")
    assert found[0].startswith("aiowsgi.toml: is not TOML")
    assert found[1] == "--threads=0: must be at least 1"


def test_application_may_be_named_by_any_source(tmp_path: Path) -> None:
    assert problems(tmp_path, app=None) == (APP_IS_MISSING,)
    assert read(tmp_path, {"AIOWSGI_APP": "a"}, app=None).config.app == "a"
    write(tmp_path, "wsgi_app = 'b'\n")
    assert read(tmp_path, app=None).config.app == "b"
    assert read(tmp_path, app="c").config.app == "c"


# What is shown


def test_settings_shown_are_a_file_that_says_the_same(tmp_path: Path) -> None:
    values: dict[str, Any] = {"bind": (":1", 'unix:a"b\\c\x7f'), "keep_alive": "500ms", "limit_request_body": "10M"}
    settings = read(tmp_path, {"AIOWSGI_ENVIRON": "A=ü"}, stream_body=True, **values)
    lines = settings.lines()
    assert len(lines) == len(OPTIONS)
    write(tmp_path, "\n".join(lines), "again.toml")
    assert Sources((), "again.toml", str(tmp_path), {}).read().config == settings.config


def test_settings_shown_have_their_origin(tmp_path: Path) -> None:
    write(tmp_path, "\nthreads = 4\n")
    lines = read(tmp_path, {"PORT": "80"}, keep_alive="5").lines()
    shown = {tuple(line.split("#", 1)[0].split(" = ")): line.rpartition("# ")[2] for line in lines if " = " in line}
    stripped = {(name, value.strip()): origin for (name, value), origin in shown.items()}
    assert stripped["threads", "4"] == "aiowsgi.toml:2"
    assert stripped["host", '"0.0.0.0"'] == stripped["port", "80"] == "PORT"
    assert stripped["keep_alive", '"5s"'] == "--keep-alive"
    assert stripped["backlog", "2048"] == "default"
    assert any(
        line.startswith("# max_threads") and line.endswith("default: threads + 64; 1 where threads is 1")
        for line in lines
    )


def test_default_settings_shown_are_the_defaults() -> None:
    lines = Settings(Config(), {}, None).lines()
    table = tomllib.loads("\n".join(lines))
    assert "app" not in table
    for item in OPTIONS:
        if item.default is not None and item.kind in (Kind.FLAG, Kind.COUNT, Kind.TEXT, Kind.CHOICE):
            assert table[item.name] == item.default


def test_secret_is_never_shown(tmp_path: Path) -> None:
    secret = {"ssl_certfile": "c", "ssl_keyfile": "k", "ssl_keyfile_password": "open sesame"}
    text = "\n".join(read(tmp_path, **secret).lines())
    assert "sesame" not in text
    assert 'ssl_keyfile_password = "***"' in text
    write(tmp_path, "ssl_keyfile_password = ['open sesame']\n")
    assert problems(tmp_path) == ("aiowsgi.toml:1: ssl_keyfile_password=***: must be text",)
    with pytest.raises(ConfigError) as caught:
        Config(ssl_keyfile_password=b"open sesame")  # type: ignore[arg-type]
    assert caught.value.problems == ("ssl_keyfile_password=***: must be text",)
