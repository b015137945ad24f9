"""Every flag of the servers that people come from is an option, an alias, or answered with what to use."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from gunicorn.config import KNOWN_SETTINGS  # type: ignore[import-untyped] # gunicorn has no types
from uvicorn.main import main as uvicorn

from aiowsgi.config import OPTIONS
from aiowsgi.configuration.foreign import FOREIGN, advice_for, explain

# What nobody here has to know.
OWN_OF_THE_COMMAND = {"config", "check_config", "print_config", "version", "help"}
ANSWERED = {name for item in FOREIGN for name in item.names}
KNOWN = {name for item in OPTIONS for name in (item.name, *item.aliases)} | ANSWERED | OWN_OF_THE_COMMAND


# What other parts of the server will have an option for.
PENDING = {"statsd_host", "statsd_prefix"}

# waitress 3.0: waitress.adjustments.Adjustments._params, and its runner's own.
WAITRESS = """
    app call help asyncore_loop_timeout asyncore_use_poll backlog channel_request_lookahead channel_timeout
    cleanup_interval clear_untrusted_proxy_headers connection_limit expose_tracebacks host ident inbuf_overflow ipv4
    ipv6 listen log_socket_errors log_untrusted_proxy_headers max_request_body_size max_request_header_size
    outbuf_high_watermark outbuf_overflow port recv_bytes send_bytes server_name sockets threads trusted_proxy
    trusted_proxy_count trusted_proxy_headers unix_socket unix_socket_perms url_prefix url_scheme
"""
# hypercorn 0.18: --help.
HYPERCORN = """
    access_log access_logfile access_logformat backlog bind ca_certs certfile cert_reqs ciphers config daemon debug
    error_log error_logfile log_file graceful_timeout read_timeout max_requests max_requests_jitter group worker_class
    keep_alive keyfile keyfile_password insecure_bind log_config log_level pid quic_bind reload root_path server_name
    statsd_host statsd_prefix umask user verify_mode websocket_ping_interval workers
"""
# uWSGI 2.0: what its documentation's examples and the README's table name.
UWSGI = """
    buffer_size callable cheaper chdir check_static chmod_socket cron daemonize die_on_term disable_logging emperor
    enable_threads env gid group harakiri home http11_socket http_socket https lazy_apps limit_post listen logto master
    max_requests max_worker_lifetime module mule need_app offload_threads post_buffering processes py_autoreload
    pythonpath reload_on_rss single_interpreter socket spooler static_map stats threads thunder_lock touch_reload uid
    umask vacuum virtualenv workers wsgi_file
"""


def names_of_flags(flags: Iterable[str]) -> set[str]:
    return {flag.removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")}


def gunicorn_names() -> set[str]:
    flags = {flag for setting in KNOWN_SETTINGS for flag in setting.cli or ()}
    return names_of_flags(flags) | {setting.name for setting in KNOWN_SETTINGS}


def uvicorn_names() -> set[str]:
    return names_of_flags(flag for param in uvicorn.params for flag in (*param.opts, *param.secondary_opts))


@pytest.mark.parametrize(
    ("server", "names"),
    [
        ("gunicorn", gunicorn_names()),
        ("uvicorn", uvicorn_names()),
        ("waitress", set(WAITRESS.split())),
        ("hypercorn", set(HYPERCORN.split())),
        ("uWSGI", set(UWSGI.split())),
    ],
)
def test_every_name_of_another_server_is_known_or_answered(server: str, names: set[str]) -> None:
    assert len(names) > 30
    assert names - KNOWN - PENDING - {f"no_{name}" for name in KNOWN | PENDING} == set()


def test_name_is_answered_once() -> None:
    names = [name for item in FOREIGN for name in item.names]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("item", FOREIGN, ids=lambda item: item.names[0])
def test_advice_continues_a_sentence_and_says_what_to_do(item: object) -> None:
    advice = getattr(item, "advice", "")
    assert re.match(r"(leave it out|use|set|let|log|write|wrap|run|redirect)\b", advice)
    assert not re.search(r"[^.]\.$", advice)


def test_advice_names_options_that_there_are() -> None:
    own = {item.flag for item in OPTIONS} | {f"--no-{item.flag[2:]}" for item in OPTIONS}
    own |= {f"--{name.replace('_', '-')}" for name in PENDING}
    assert {flag for item in FOREIGN for flag in re.findall(r"--[a-z-]+", item.advice)} - own == set()


def test_advice_in_a_file_names_options_as_keys() -> None:
    assert advice_for("limit_concurrency") == "use max_connections, and queue_size for the requests that may wait"
    assert str(advice_for("harakiri")).startswith("use request_timeout, which answers 504")
    assert advice_for("threads") is None
    assert explain("thread", ["threads"]) == "no such option; did you mean 'threads'?"
