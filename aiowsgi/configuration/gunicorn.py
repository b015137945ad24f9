"""gunicorn's settings as options of this server: the TOML, and comments about the rest.

A default of gunicorn's that decides how an application is run, or whom it believes, is in the TOML too.

Thread: any; pure functions.

Source: gunicorn 27, ``gunicorn/config.py``; https://docs.gunicorn.org/en/stable/settings.html
"""

from __future__ import annotations

import re
import reprlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiowsgi.config import OPTIONS
from aiowsgi.configuration.foreign import advice_for
from aiowsgi.configuration.option import Option
from aiowsgi.configuration.settings import toml_value
from aiowsgi.configuration.values import Kind

__all__ = ["SETTINGS", "translate"]

_NAMES_OF_SETTINGS = """
access_log_format accesslog asgi_disconnect_grace_period asgi_lifespan asgi_loop backlog bind ca_certs capture_output
casefold_http_method cert_reqs certfile chdir check_config child_exit ciphers config control_socket
control_socket_disable control_socket_mode daemon default_proc_name dirty_apps dirty_graceful_timeout dirty_post_fork
dirty_threads dirty_timeout dirty_worker_exit dirty_worker_init dirty_workers disable_redirect_access_to_syslog
do_handshake_on_connect dogstatsd_tags enable_backlog_metric enable_stdio_inheritance errorlog forwarded_allow_ips
forwarder_headers graceful_timeout group header_map http2_cleartext http2_initial_window_size
http2_max_concurrent_streams http2_max_frame_size http2_max_header_list_size http_parser http_protocols initgroups
keepalive keyfile limit_request_field_size limit_request_fields limit_request_line logconfig logconfig_dict
logconfig_json logger_class loglevel max_requests max_requests_jitter nworkers_changed on_dirty_starting on_exit
on_reload on_starting paste permit_obsolete_folding permit_unconventional_http_method
permit_unconventional_http_version pidfile post_fork post_request post_worker_init pre_exec pre_fork pre_request
preload_app print_config proc_name protocol proxy_allow_ips proxy_protocol pythonpath raw_env raw_paste_global_conf
reload reload_engine reload_extra_files reuse_port root_path secure_scheme_headers sendfile spew ssl_context
ssl_version statsd_host statsd_prefix strip_header_spaces suppress_ragged_eofs syslog syslog_addr syslog_facility
syslog_prefix threads timeout tmp_upload_dir umask user uwsgi_allow_ips websocket_max_message_size when_ready
worker_abort worker_class worker_connections worker_exit worker_int worker_tmp_dir workers wsgi_app
"""

#: The names that gunicorn looks for in its file; every other name there is the file's own.
SETTINGS = frozenset(_NAMES_OF_SETTINGS.split())

# A function in gunicorn's file belongs in a module here.
_HOOKS = {
    "on_starting": "write module:callable; it is called with one argument, before anything listens",
    "worker_exit": "write module:callable; it is called with one argument, in each worker as it ends",
    "on_exit": "write module:callable; it is called with one argument, as the last process ends",
    "ssl_context": "write module:callable; it is given the ssl.SSLContext that the options make, and returns one",
}
_OF_THE_COMMAND = {"config": "-c FILE", "check_config": "--check-config", "print_config": "--print-config"}

_GREENLETS = ("gevent", "eventlet", "tornado")
_GREENLETS_ADVICE = (
    "leave it out; greenlets become threads: set threads to the number of requests that are to run at once (clients "
    "that are slow or idle take none), and take gevent's patching out of the application"
)
_ASGI_ADVICE = "an ASGI application needs an ASGI server"

# What gunicorn does by default, if that decides how an application is run or whom it believes.
_DEFAULTS: dict[str, tuple[Any, str]] = {
    "threads": (1, "gunicorn's default; aiowsgi's is 8, for an application that is safe in threads"),
    "forwarded_allow_ips": ("127.0.0.1,::1", "gunicorn's default: the proxies on this machine are believed"),
}

# Seconds that a request may take in a sync worker, if the file does not set ``timeout``.
_SYNC_TIMEOUT = 30.0

_WIDTH = 100
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_CERTIFICATES_REQUIRED = ("none", "optional", "required")
_NAMES = {name: item for item in OPTIONS for name in (*item.aliases, item.name)}


def translate(settings: Mapping[str, object], source: str) -> Iterator[str]:
    """Yield the lines of a configuration file.

    Args:
        settings: what gunicorn's file assigns; names that are no settings are the file's own and left out.
        source: its name.
    """
    given = {name: value for name, value in settings.items() if name in SETTINGS and value is not None}
    said: dict[str, str] = {}
    unsaid: dict[str, str] = {}
    needless: list[str] = []
    for name, value in given.items():
        try:
            item, converted = _convert(name, value)
            said[item.name] = f"{item.name} = {toml_value(item, converted)}"
        except _NoCounterpartError as error:
            if value or name in _NAMES:
                unsaid[name] = str(error)
            else:
                needless.append(name)
    yield f"# aiowsgi.toml, from {source}"
    yield ""
    if "app" not in said:
        yield '# app = "module:application", which gunicorn is given on its command line'
    for name, line in said.items():
        yield line
        if name == "timeout":
            yield from _timeout_advice(given)
    yield from _defaults(given)
    if unsaid:
        yield ""
        yield "# Without a counterpart:"
    for name, why in unsaid.items():
        yield from _comment(f"{name} = {_shown(given[name])}: {why}")
    if needless:
        yield ""
        yield from _comment(f"Nothing to do for: {', '.join(needless)}")


class _NoCounterpartError(Exception):
    """A setting cannot be translated; the message says what to do."""


def _defaults(given: Mapping[str, object]) -> Iterator[str]:
    """Say what gunicorn does where its file says nothing."""
    for name, (value, remark) in _DEFAULTS.items():
        item = _NAMES.get(name)
        # A greenlet is not a thread, and no setting says how many requests ran at once.
        if name in given or item is None or (name == "threads" and _is_one_of(given.get("worker_class"), _GREENLETS)):
            continue
        yield f"{item.name} = {toml_value(item, _value(item, name, value))}  # {remark}"
    if "timeout" not in given and _is_sync(given):
        item = _NAMES["request_timeout"]
        line = f"{item.name} = {toml_value(item, _SYNC_TIMEOUT)}"
        yield f"# {line}  # gunicorn's default: a sync worker whose request takes longer is killed; aiowsgi limits none"


def _timeout_advice(given: Mapping[str, object]) -> Iterator[str]:
    """Say that the line above limits no request, though it may have done so in gunicorn; and what does."""
    item = _NAMES["request_timeout"]
    value = _value(item, "timeout", given["timeout"])
    if not value:
        return
    if _is_sync(given):
        was = "gunicorn killed its sync worker where a request took so long, and here it limits no request"
    else:
        was = "as with gunicorn's worker of this kind, it limits no request"
    yield from _comment(f"timeout: {was}: a worker is replaced whose event loop is silent. What limits requests is:")
    yield f"# {item.name} = {toml_value(item, value)}"


def _is_sync(given: Mapping[str, object]) -> bool:
    """Whether gunicorn uses its sync worker: the default, unless there are several threads."""
    worker_class = given.get("worker_class", "sync")
    name = worker_class if isinstance(worker_class, str) else getattr(worker_class, "__name__", "")
    return name.endswith(("SyncWorker", "#sync")) or (name == "sync" and str(given.get("threads", 1)) in ("0", "1"))


def _convert(name: str, value: object) -> tuple[Option, Any]:
    """Return the option that a setting corresponds to, and its value there."""
    if name == "worker_class":
        raise _NoCounterpartError(_worker_class_advice(value))
    if name in _OF_THE_COMMAND:
        raise _NoCounterpartError(f"use {_OF_THE_COMMAND[name]} on the command line")
    if callable(value) and name in _HOOKS:
        raise _NoCounterpartError(_HOOKS[name])
    item = _NAMES.get(name)
    if item is None:
        raise _NoCounterpartError(advice_for(name) or "not available")
    try:
        converted = _value(item, name, value)
        problem = item.problem_with(tuple(converted) if isinstance(converted, list) else converted)
    except AttributeError:
        problem = "must be text"
    except (ValueError, TypeError, LookupError) as error:
        problem = str(error)
    if problem:
        raise _NoCounterpartError(f"{item.name} {problem}{'; 0 is no limit there, here it is' if value == 0 else ''}")
    return item, converted


def _worker_class_advice(value: object) -> str:
    if _is_one_of(value, _GREENLETS):
        return _GREENLETS_ADVICE
    return _ASGI_ADVICE if _is_one_of(value, ("asgi", "uvicorn")) else str(advice_for("worker_class"))


def _is_one_of(value: object, words: Iterable[str]) -> bool:
    name = value if isinstance(value, str) else getattr(value, "__module__", "")
    return any(word in name.lower() for word in words)


def _value(item: Option, name: str, value: Any) -> Any:
    """Read a value as gunicorn does, and write it as this server does."""
    if name == "bind":
        addresses = value.split(",") if isinstance(value, str) else value
        return [re.sub(r"^(?:tcp|http)://", "", address.strip()) for address in addresses]
    if name == "cert_reqs":
        return _CERTIFICATES_REQUIRED[int(value)]
    if name == "proxy_protocol" and isinstance(value, bool):
        return "auto" if value else "off"
    if name in ("forwarded_allow_ips", "proxy_allow_ips"):
        texts = value.split(",") if isinstance(value, str) else value
        return [*(text.strip() for text in texts), "unix"]  # gunicorn always trusts the peers of Unix sockets
    if name == "loglevel":
        return value.lower()
    if name == "root_path":
        return f"/{value.strip('/')}".rstrip("/")
    if item.kind is Kind.TEXTS:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if item.kind is Kind.TEXT:
        return str(value)
    return item.parse(value) if isinstance(value, str) else value


def _shown(value: object) -> str:
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return _REPR.repr(value)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False
    )
