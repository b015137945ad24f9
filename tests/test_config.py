from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.config import (
    OPTIONS,
    BindAddress,
    Config,
    FileDescriptorAddress,
    Kind,
    Option,
    TCPAddress,
    UnixAddress,
    format_value,
    markdown_table,
    parse_bind,
)
from aiowsgi.errors import AiowsgiError, ConfigError

BY_NAME = {option.name: option for option in OPTIONS}
NUMERIC = [option for option in OPTIONS if option.kind in (Kind.COUNT, Kind.SIZE, Kind.RATE, Kind.SECONDS)]

KiB = 1024


def problems(**values: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    return caught.value.problems


def text_problems(environ: dict[str, str] | None = None, **flags: str | bool | tuple[str, ...]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Config.from_texts(flags, environ or {})
    return caught.value.problems


def companions(name: str, value: Any) -> dict[str, Any]:
    """What has to be set along with an option at its bound, so that only the bound is tried."""
    if name == "threads":
        return {"max_threads": value}
    if name == "max_threads":
        return {"threads": min(value, 8)}
    if name == "limit_request_line":
        return {"limit_request_head": max(value, 256)}
    if name == "limit_request_head":
        return {"limit_request_line": 64}
    return {}


# Values


def test_config_without_values_is_valid_and_has_the_documented_defaults() -> None:
    config = Config()
    assert (config.threads, config.thread_limit, config.queue_size) == (8, 72, 5000)
    assert config.addresses == (TCPAddress("127.0.0.1", 8000),)
    assert (config.loop, config.http, config.server_header) == ("auto", "auto", False)


def test_config_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().threads = 9  # type: ignore[misc]


@pytest.mark.parametrize("option", [option for option in NUMERIC if option.least is not None], ids=lambda o: o.name)
def test_option_below_its_least_value_is_refused(option: Option) -> None:
    assert option.least is not None
    least: float = option.least if option.kind is Kind.SECONDS else int(option.least)
    assert getattr(Config(**{option.name: least, **companions(option.name, least)}), option.name) == least
    below = least - (0.001 if option.kind is Kind.SECONDS else 1)
    bound = format_value(option.kind, least)
    assert problems(**{option.name: below}) == (f"{option.name}={below!r}: must be at least {bound}",)


@pytest.mark.parametrize("option", [option for option in NUMERIC if option.most is not None], ids=lambda o: o.name)
def test_option_above_its_most_value_is_refused(option: Option) -> None:
    assert option.most is not None
    most = int(option.most)
    assert getattr(Config(**{option.name: most, **companions(option.name, most)}), option.name) == most
    bound = format_value(option.kind, most)
    assert problems(**{option.name: most + 1}) == (f"{option.name}={most + 1}: must be at most {bound}",)


def test_every_numeric_option_has_a_least_value() -> None:
    assert [option.name for option in NUMERIC if option.least is None] == []


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("port", -1, "must be at least 0"),
        ("port", 65536, "must be at most 65535"),
        ("threads", 0, "must be at least 1"),
        ("threads", 10_001, "must be at most 10000"),
        ("queue_size", 0, "must be at least 1"),
        ("limit_request_line", 63, "must be at least 64"),
        ("limit_request_fields", 0, "must be at least 1"),
        ("limit_request_body", -1, "must be at least 0"),
        ("request_buffer_total", 64 * KiB - 1, "must be at least 64K"),
        ("body_min_rate", -1, "must be at least 0/s"),
        ("header_timeout", 0, "must be at least 0.01s"),
        ("graceful_timeout", -0.5, "must be at least 0s"),
        ("keep_alive", float("inf"), "must be a finite number"),
        ("keep_alive", float("nan"), "must be a finite number"),
        ("threads", 10**400, "must be at most 10000"),
    ],
)
def test_bound_written_out_is_what_the_documentation_says(name: str, value: object, rule: str) -> None:
    assert problems(**{name: value}) == (f"{name}={value!r}: {rule}",)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_option_of_another_type_is_refused(option: Option) -> None:
    for value in (object(), b"8", {}):
        (problem,) = problems(**{option.name: value})
        assert problem.startswith(f"{option.name}={'***' if option.secret else repr(value)}: must be ")


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.kind is not Kind.FLAG], ids=lambda o: o.name)
def test_option_that_is_no_flag_refuses_a_truth_value(option: Option) -> None:
    # bool is an int in Python: threads=True would be one thread.
    assert problems(**{option.name: True})


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_none_is_allowed_exactly_where_it_is_the_default(option: Option) -> None:
    if option.default is None:
        assert getattr(Config(**{option.name: None}), option.name) is None
    else:
        assert len(problems(**{option.name: None})) == 1


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.choices], ids=lambda o: o.name)
def test_choice_is_one_of_those_listed(option: Option) -> None:
    for choice in option.choices:
        assert getattr(Config(**{option.name: choice}), option.name) == choice
    listed = ", ".join(option.choices)
    assert problems(**{option.name: "trio"}) == (f"{option.name}=trio: must be one of {listed}",)


def test_bind_given_as_a_list_is_kept_as_a_tuple() -> None:
    assert Config(bind=["127.0.0.1:0", "unix:sock"]).bind == ("127.0.0.1:0", "unix:sock")


def test_bind_of_anything_but_texts_is_refused() -> None:
    assert problems(bind=[8000]) == ("bind=(8000,): must be a sequence of texts",)
    assert problems(bind=":8000") == ("bind=:8000: must be a sequence of texts",)


# Rules between options


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"bind": [":1"], "host": "::1"}, "bind=:1: cannot be combined with host, port or uds"),
        ({"bind": [":1", ":2"], "port": 3}, "bind=:1,:2: cannot be combined with host, port or uds"),
        ({"bind": [":1"], "uds": "sock"}, "bind=:1: cannot be combined with host, port or uds"),
        ({"uds": "sock", "port": 1}, "uds=sock: cannot be combined with host or port"),
        ({"uds": "sock", "host": ""}, "uds=sock: cannot be combined with host or port"),
        ({"uds": ""}, "uds=: must be the path of a Unix socket"),
        (
            {"uds": "@name", "uds_mode": 0o600},
            "uds_mode=600: cannot be combined with unix:@name: an abstract socket has no permissions",
        ),
        (
            {"bind": ["unix:sock", "unix:@name"], "uds_mode": 0},
            "uds_mode=000: cannot be combined with unix:@name: an abstract socket has no permissions",
        ),
        (
            {"control": "unix:@name"},
            "control=unix:@name: must be the path of a file: an abstract socket has no permissions",
        ),
        ({"bind": ["x:y"]}, "bind=x:y: must be host:port, :port, [v6]:port, unix:path or fd://N"),
        ({"threads": 8, "max_threads": 7}, "max_threads=7: must be at least threads (8)"),
        ({"root_path": "site"}, "root_path=site: must start with a slash and not end with one"),
        ({"root_path": "/site/"}, "root_path=/site/: must start with a slash and not end with one"),
        ({"root_path": "/"}, "root_path=/: must start with a slash and not end with one"),
        ({"limit_request_head": 256}, "limit_request_head=256: must be at least limit_request_line (8190)"),
    ],
)
def test_options_that_contradict_each_other_are_refused(values: dict[str, Any], problem: str) -> None:
    assert problems(**values) == (problem,)


def test_options_that_agree_are_taken() -> None:
    assert Config(uds="@name").uds_mode is None
    assert Config(bind=("unix:run/@name", ":1"), uds_mode=0o600).uds_mode == 0o600
    config = Config(threads=4, max_threads=4, root_path="/site", limit_request_head=256, limit_request_line=256)
    assert config.thread_limit == 4


def test_one_thread_is_one_thread_even_beside_those_that_wait_for_clients() -> None:
    assert Config(threads=1).thread_limit == 1
    assert Config(threads=2).thread_limit == 66
    assert Config(threads=1, max_threads=5).thread_limit == 5


def test_all_problems_are_reported_together() -> None:
    assert problems(threads=0, loop="trio", keep_alive=-1.0, bind=7) == (
        "bind=7: must be a sequence of texts",
        "threads=0: must be at least 1",
        "keep_alive=-1.0: must be at least 0s",
        "loop=trio: must be one of auto, asyncio, uvloop",
    )


def test_all_rules_between_options_that_are_broken_are_reported_together() -> None:
    assert len(problems(bind=["x:y", "z:"], max_threads=1, root_path="x")) == 4


def test_config_error_is_a_value_error_that_shows_every_problem() -> None:
    with pytest.raises(ValueError, match=r"threads=0: .*; loop=trio: ") as caught:
        Config(threads=0, loop="trio")
    assert isinstance(caught.value, AiowsgiError)


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TCPAddress("127.0.0.1", 8080)),
        ("localhost:0", TCPAddress("localhost", 0)),
        ("www.example.com", TCPAddress("www.example.com", 8000)),
        (":8080", TCPAddress("", 8080)),
        ("0.0.0.0:65535", TCPAddress("0.0.0.0", 65535)),
        ("[::1]:8080", TCPAddress("::1", 8080)),
        ("[::]", TCPAddress("::", 8000)),
        ("[fe80::1%eth0]:80", TCPAddress("fe80::1%eth0", 80)),
        ("unix:sock", UnixAddress("sock")),
        ("unix:/run/my app:1.sock", UnixAddress("/run/my app:1.sock")),
        ("unix:///run/app.sock", UnixAddress("/run/app.sock")),
        ("fd://3", FileDescriptorAddress(3)),
    ],
)
def test_bind_in_each_form_is_read(text: str, address: BindAddress) -> None:
    assert parse_bind(text) == address
    assert Config(bind=[text]).addresses == (address,)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must be host:port"),
        (":", "must be host:port"),
        ("host:", "must be host:port"),
        ("host:port", "must be host:port"),
        ("host:-1", "must be host:port"),
        ("host:٣", "must be host:port"),
        ("host:80 ", "must be host:port"),
        ("ho st:80", "must be host:port"),
        ("::1:80", "must be host:port"),
        ("[::1:80", "must be host:port"),
        ("[localhost]:80", "must be host:port"),
        ("http://host:80", "must be host:port"),
        ("host:65536", "a port is at most 65535"),
        ("host:999999", "must be host:port"),
        ("8000", "a port alone is written :8000"),
        ("unix:", "a Unix socket needs a path"),
        ("fd://", "a file descriptor is written fd://N"),
        ("fd://-1", "a file descriptor is written fd://N"),
        ("fd://three", "a file descriptor is written fd://N"),
    ],
)
def test_bind_of_no_known_form_is_refused(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        parse_bind(text)


@given(st.text(max_size=30))
def test_bind_of_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_bind(text)
    except ValueError:
        return
    assert parse_bind(str(address)) == address


@given(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.integers(0, 65535))
def test_bind_of_host_and_port_survives_being_shown(host: str, port: int) -> None:
    address = parse_bind(f"{host}:{port}")
    assert address == TCPAddress(host, port)
    assert str(address) == f"{host}:{port}"


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({"port": 0}, TCPAddress("127.0.0.1", 0)),
        ({"host": "localhost"}, TCPAddress("localhost", 8000)),
        ({"host": "", "port": 80}, TCPAddress("", 80)),
        ({"host": "::1"}, TCPAddress("::1", 8000)),
        ({"host": "[::1]"}, TCPAddress("::1", 8000)),
        ({"uds": "run/sock"}, UnixAddress("run/sock")),
    ],
)
def test_host_port_and_uds_say_where_to_listen(values: dict[str, Any], address: BindAddress) -> None:
    assert Config(**values).addresses == (address,)


def test_bind_repeated_is_every_address() -> None:
    assert Config(bind=[":1", "unix:sock"]).addresses == (TCPAddress("", 1), UnixAddress("sock"))


def test_address_is_shown_as_it_is_typed() -> None:
    for text in ("localhost:80", "[::1]:80", "unix:/run/sock", "fd://3"):
        assert str(parse_bind(text)) == text


# Texts


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        (" 512K ", 512 * KiB),
        ("512 k", 512 * KiB),
        ("512KB", 512 * KiB),
        ("512KiB", 512 * KiB),
        ("10M", 10 * KiB**2),
        ("10mb", 10 * KiB**2),
        ("2G", 2 * KiB**3),
        ("100B", 100),
    ],
)
def test_size_in_each_form_is_read(text: str, size: int) -> None:
    assert Config.from_texts({"limit_request_body": text}, {}).limit_request_body == size


@pytest.mark.parametrize("text", ["", "big", "1.5M", "1T", "M", "1 0", "0x10", "1e3", "1_000", "٣"])
def test_size_of_no_known_form_is_refused(text: str) -> None:
    assert text_problems(limit_request_body=text) == (
        f"--limit-request-body={text}: must be a size such as 65536, 512K, 10M or 1G",
    )


def test_rate_may_say_per_second() -> None:
    assert Config.from_texts({"body_min_rate": "1K/s"}, {}).body_min_rate == KiB


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("2.5", 2.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("30 S", 30.0),
        ("2m", 120.0),
        ("2min", 120.0),
        ("1h", 3600.0),
        ("0", 0.0),
    ],
)
def test_duration_in_each_form_is_read(text: str, seconds: float) -> None:
    assert Config.from_texts({"keep_alive": text}, {}).keep_alive == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1d", "1:30", "s", "1e3", "nan", "inf", "."])
def test_duration_of_no_known_form_is_refused(text: str) -> None:
    assert text_problems(keep_alive=text) == (f"--keep-alive={text}: must be a duration such as 30, 2.5, 500ms or 2m",)


def test_duration_beyond_all_numbers_is_refused() -> None:
    (problem,) = text_problems(keep_alive="9" * 400)
    assert problem.endswith("must be a finite number")


@pytest.mark.parametrize(("text", "count"), [("12", 12), (" 12\n", 12), ("+12", 12), ("1_000", 1000)])
def test_count_in_each_form_is_read(text: str, count: int) -> None:
    assert Config.from_texts({"queue_size": text}, {}).queue_size == count


@pytest.mark.parametrize("text", ["", "many", "1.0", "0x10", "1K", "1__0", "1_", "_1", "--1", "٣"])
def test_count_of_no_known_form_is_refused(text: str) -> None:
    assert text_problems(queue_size=text) == (f"--queue-size={text}: must be a whole number",)


@pytest.mark.parametrize(
    ("text", "truth"),
    [(text, True) for text in ("1", "true", "Yes", " ON ")]
    + [(text, False) for text in ("0", "False", "no", "off", "")],
)
def test_flag_in_a_variable_is_read(text: str, truth: bool) -> None:
    assert Config.from_texts({}, {"AIOWSGI_STREAM_BODY": text}).stream_body is truth


def test_flag_of_no_known_form_is_refused() -> None:
    assert text_problems({"AIOWSGI_STREAM_BODY": "2"}) == ("AIOWSGI_STREAM_BODY=2: must be true or false",)


@pytest.mark.parametrize("text", ["a:1,unix:b", "a:1 unix:b", " a:1 ,\n unix:b,"])
def test_bind_in_a_variable_may_name_several_addresses(text: str) -> None:
    assert Config.from_texts({}, {"AIOWSGI_BIND": text}).bind == ("a:1", "unix:b")


@pytest.mark.parametrize("option", NUMERIC, ids=lambda o: o.name)
@given(text=st.one_of(st.text(max_size=20), st.from_regex(r"[+-]?[0-9]{1,400}[a-z]{0,2}", fullmatch=True)))
def test_number_of_any_text_is_a_value_or_one_problem(option: Option, text: str) -> None:
    found: tuple[str, ...] = ()
    try:
        Config.from_texts({option.name: text}, {})
    except ConfigError as error:
        found = error.problems
    assert all(problem.startswith((option.flag, "limit_request_head")) for problem in found)


@pytest.mark.parametrize(
    "option", [option for option in NUMERIC if option.default is not None], ids=lambda option: option.name
)
def test_default_that_is_shown_reads_back_as_the_default(option: Option) -> None:
    assert option.parse(option.shown_default()) == option.default


@given(st.integers(0, 2**50))
def test_size_that_is_shown_reads_back(size: int) -> None:
    assert BY_NAME["request_buffer"].parse(format_value(Kind.SIZE, size)) == size
    assert BY_NAME["body_min_rate"].parse(format_value(Kind.RATE, size)) == size


@given(st.floats(0, 1e9), st.floats(0, 1))
def test_duration_and_share_that_are_shown_read_back(seconds: float, share: float) -> None:
    assert BY_NAME["max_worker_age"].parse(format_value(Kind.SECONDS, seconds)) == pytest.approx(seconds, abs=1e-9)
    assert BY_NAME["stuck_threads"].parse(format_value(Kind.SHARE, share)) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Kind.SIZE, 0, "0"),
        (Kind.SIZE, 1536, "1536"),
        (Kind.SIZE, 3 * KiB**2, "3M"),
        (Kind.RATE, 240, "240/s"),
        (Kind.SECONDS, 0.25, "0.25s"),
        (Kind.SECONDS, 0, "0s"),
        (Kind.SECONDS, 336 * 3600.0, "1209600s"),
        (Kind.SECONDS, 0.05 * 0.001, "0.00005s"),
        (Kind.SECONDS, 700 * 0.001, "0.7s"),
        (Kind.SHARE, 0.07, "7%"),
        (Kind.FLAG, True, "on"),
        (Kind.FLAG, False, "off"),
        (Kind.TEXTS, ("a", "b"), "a,b"),
        (Kind.TEXT, None, "none"),
        (Kind.CHOICE, "auto", "auto"),
    ],
)
def test_value_is_shown_as_it_is_typed(kind: Kind, value: object, text: str) -> None:
    assert format_value(kind, value) == text


# Flags and variables


def test_flag_wins_over_a_variable_and_a_variable_over_the_default() -> None:
    environ = {"AIOWSGI_THREADS": "3", "AIOWSGI_QUEUE_SIZE": "5"}
    config = Config.from_texts({"threads": "4"}, environ)
    assert (config.threads, config.queue_size, config.backlog) == (4, 5, 2048)


def test_flag_that_switches_off_wins_over_a_variable() -> None:
    assert Config.from_texts({"stream_body": False}, {"AIOWSGI_STREAM_BODY": "1"}).stream_body is False


def test_variables_are_those_of_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.setenv("AIOWSGI_THREADS", "3")
    assert Config.from_texts({}).threads == 3
    assert Config.from_texts({}, {}).threads == 8


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_option_names_its_flag_and_its_variable(option: Option) -> None:
    assert option.flag == "--" + option.name.replace("_", "-")
    assert option.variable == "AIOWSGI_" + option.name.upper()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"uds": "x"}, {"uds": "x"}),
        ({"bind": (":1",)}, {"bind": (":1",)}),
        ({"port": "0"}, {"host": "h", "port": 0}),
        ({"host": "::1"}, {"host": "::1", "port": 6}),
    ],
)
def test_flag_that_says_where_to_listen_replaces_all_variables_but_the_other_half_of_its_address(
    flags: dict[str, Any], expected: dict[str, Any]
) -> None:
    environ = {"AIOWSGI_BIND": ":5", "AIOWSGI_HOST": "h", "AIOWSGI_PORT": "6", "AIOWSGI_UDS": "u"}
    assert Config.from_texts(flags, environ) == Config(**expected)


def test_variables_that_contradict_each_other_are_named_as_variables() -> None:
    assert text_problems({"AIOWSGI_BIND": ":5", "AIOWSGI_PORT": "6"}) == (
        "AIOWSGI_BIND=:5: cannot be combined with host, port or uds",
    )


def test_problems_of_flags_and_variables_are_reported_together_as_they_were_given() -> None:
    environ = {"AIOWSGI_THREADS": "many", "AIOWSGI_LOOP": "trio", "AIOWSGI_MAX_THREADS": "1"}
    assert set(text_problems(environ, port="70000", queue_size="0", root_path="x", bind=("y:z",))) == {
        "AIOWSGI_THREADS=many: must be a whole number",
        "AIOWSGI_LOOP=trio: must be one of auto, asyncio, uvloop",
        "AIOWSGI_MAX_THREADS=1: must be at least threads (8)",
        "--port=70000: must be at most 65535",
        "--queue-size=0: must be at least 1",
        "--root-path=x: must start with a slash and not end with one",
        "--bind=y:z: must be host:port, :port, [v6]:port, unix:path or fd://N",
    }


# What is derived


def test_markdown_table_has_a_row_for_every_option_under_its_group() -> None:
    lines = markdown_table().splitlines()
    assert lines[:2] == ["| option | default | what it sets |", "|---|---|---|"]
    groups = [line for line in lines if line.startswith("| **")]
    assert groups == [f"| **{group}** | | |" for group in dict.fromkeys(option.group for option in OPTIONS)]
    rows = [line for line in lines[2:] if line not in groups]
    assert len(rows) == len(OPTIONS)
    assert any(row.startswith("| `-b`, `--bind` | 127.0.0.1:8000 | Address to listen on: ") for row in rows)
    assert any(row.startswith("| `--request-buffer` | 1M | ") for row in rows)
    assert any(row.endswith("One of `auto`, `asyncio`, `uvloop`. |") for row in rows)


def test_help_of_every_option_is_a_sentence() -> None:
    for option in OPTIONS:
        assert option.help.endswith(".")
        assert "|" not in option.help + option.default_text  # it stands in a table


@pytest.mark.parametrize("text", ["MODE", "=value"])
def test_environ_that_is_no_variable_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"environ={text}: must be NAME=value"):
        Config(environ=[text])


@pytest.mark.parametrize(
    "name",
    [
        "wsgi.version",
        "aiowsgi.park",
        "waitress.client_disconnected",
        "HTTP_X",
        "CONTENT_LENGTH",
        "PATH_INFO",
        "REQUEST_METHOD",
        "REMOTE_ADDR",
        "HTTPS",
        "SSL_CLIENT_VERIFY",
        "SSL_CLIENT_SAN_DNS_0",
        "SSL_PROTOCOL",
        "SERVER_NAME",
        "SCRIPT_NAME",
    ],
)
def test_environ_with_a_name_of_the_servers_own_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"environ={name}=1: {name} is set, or left out, by the server itself"):
        Config(environ=[f"{name}=1"])


def test_environ_with_a_name_that_only_looks_alike_is_taken() -> None:
    texts = ("REMOTE_USER=jo", "SERVER_ADMIN=jo@example.org", "SSL=no", "HTTPS_PORT=8443", "PATH=/bin", "myapp.x=")
    assert Config(environ=texts).environ == texts
    texts = ("SSL_MODE=strict", "SSL_CERT_FILE=/etc/ssl/ca.pem", "SSL_CIPHERS=HIGH")
    assert Config(environ=texts).environ == texts


@pytest.mark.parametrize("text", ["HTTPS=on", "wsgi.url_scheme=https"])
def test_environ_with_the_scheme_of_a_proxy_is_refused_with_the_ways_to_have_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(environ=[text])
    for word in ("X-Forwarded-Proto", "forwarded_allow_ips", "proxy_protocol", "middleware"):
        assert word in str(caught.value)
    assert "another name" not in str(caught.value)


def test_environ_repeats() -> None:
    assert Config.from_texts({"environ": ("A=1", "B=2 3")}, {}).environ == ("A=1", "B=2 3")


def test_variable_set_to_nothing_is_not_set() -> None:
    assert Config.from_texts({}, {"AIOWSGI_THREADS": ""}).threads == 8


def test_switch_interval_is_left_alone_in_a_process_of_the_server_s_own_unless_it_is_given() -> None:
    assert Config().for_own_process().switch_interval == 0.0
    assert Config(switch_interval=0.001).for_own_process().switch_interval == 0.001
    assert Config().switch_interval is None  # inside a program: what the engine takes
