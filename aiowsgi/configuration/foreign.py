"""Names that other servers use for what has no counterpart here, and what to use instead.

gunicorn 27, uvicorn 0.54, waitress 3.0 and hypercorn 0.18; of uWSGI's hundreds, those in most of its ini files. A name
that means the same as an option of this server is an alias of that option instead; if a name is both, the option wins.

Thread: any.

Source: each program's ``--help``; https://docs.gunicorn.org/en/stable/settings.html;
https://docs.pylonsproject.org/projects/waitress/en/stable/arguments.html;
https://uwsgi-docs.readthedocs.io/en/latest/Options.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiowsgi.configuration.names import did_you_mean

__all__ = ["FOREIGN", "Foreign", "advice_for", "explain"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """What other servers call by these names.

    Args:
        names: as in a configuration file; each is a flag too: ``--worker-class``.
        advice: what to do here; continues after "``--name``: ".
        short: a short flag of theirs.
        takes_value: on the command line.
    """

    names: tuple[str, ...]
    advice: str
    short: str = ""
    takes_value: bool = True


_ALWAYS = "leave it out, that is always so"
_NEEDLESS = "leave it out, nothing here needs it"
_ONE_KIND = "leave it out, there is one kind of worker: an event loop with a pool of threads (--threads)"
_NO_ASGI = "leave it out, the application is WSGI; an ASGI application needs an ASGI server"
_NO_HTTP2 = "leave it out and speak HTTP/2 in the proxy (nginx: http2 on); between it and this server HTTP/1.1"
_STRICT = "leave it out, such requests are refused; what needs them belongs behind a proxy that mends them"
_SYSLOG = "log to standard error, which systemd and containers collect, or use --log-config with a SysLogHandler"
_DIRTY = "run long jobs in a process of their own, such as a task queue's worker"
_CONTROL = "leave it out; signals control the processes: HUP reloads, TTIN and TTOU change the number of workers"
_PASTE = (
    "write a module for it, application = paste.deploy.loadapp('config:/path/to/app.ini'), and name that; "
    "or pass the path to a factory, module:make_app('app.ini')"
)
_PROXY = "use --forwarded-allow-ips, which names the proxies whose headers are believed"
_TUNING = "leave it out, the loop reads and writes what the kernel has"


def _off(*names: str, advice: str, short: str = "") -> Foreign:
    """Names that are switches on the command line."""
    return Foreign(names, advice, short, takes_value=False)


FOREIGN: tuple[Foreign, ...] = (
    # Workers and threads
    Foreign(("worker_class",), _ONE_KIND, "-k"),
    Foreign(("worker_tmp_dir",), "leave it out, workers report over a pipe and write no file"),
    Foreign(("tmp_upload_dir",), "set TMPDIR, where Python keeps temporary files"),
    Foreign(("limit_concurrency",), "use --max-connections, and --queue-size for the requests that may wait"),
    Foreign(
        ("dirty_app", "dirty_apps", "dirty_workers", "dirty_timeout", "dirty_threads", "dirty_graceful_timeout"), _DIRTY
    ),
    # Reloading and debugging
    Foreign(("reload_engine",), "leave it out, watchfiles is used where it is installed (the extra 'reload')"),
    Foreign(("reload_delay",), _NEEDLESS),
    _off("spew", advice="use a debugger or 'py-spy dump'"),
    _off("debug", advice="use --log-level debug"),
    _off("expose_tracebacks", "no_expose_tracebacks", advice="leave it out, tracebacks go to the log"),
    # Process
    _off(
        "daemon",
        short="-D",
        advice="let systemd or a container run it, for it stays in the foreground; or type 'nohup aiowsgi ... &'",
    ),
    Foreign(("env", "raw_env"), "set the variable where the process is started: env NAME=value aiowsgi ...", "-e"),
    Foreign(("env_file",), "let the shell read it: set -a; . ./FILE; set +a; or systemd's EnvironmentFile="),
    _off("initgroups", advice="leave it out, --user takes the user's groups with it"),
    _off("enable_stdio_inheritance", short="-R", advice=_ALWAYS),
    Foreign(("default_proc_name",), "use name"),
    # Sockets
    Foreign(("fd",), "use --bind fd://N"),
    Foreign(("insecure_bind",), "use --bind; a second server without TLS is a process of its own"),
    Foreign(("quic_bind",), "leave it out and speak HTTP/3 in the proxy"),
    _off("ipv4", "ipv6", "no_ipv4", "no_ipv6", advice="use --bind with the addresses: 0.0.0.0:8000 or [::]:8000"),
    Foreign(("sockets",), 'use bind=["fd://N"], where N is the socket\'s fileno()'),
    Foreign(("control_socket", "control_socket_mode"), _CONTROL),
    _off("no_control_socket", "control_socket_disable", advice=_CONTROL),
    # HTTP
    _off("no_sendfile", "sendfile", advice="leave it out, files are always sent in the cheapest way"),
    Foreign(("http_parser",), "use --http auto, h11 or httptools"),
    Foreign(("protocol",), "leave it out, HTTP only; nginx reaches it with proxy_pass instead of uwsgi_pass"),
    Foreign(("uwsgi_allow_from", "uwsgi_allow_ips"), "leave it out, HTTP only; nginx reaches it with proxy_pass"),
    _off("http2", advice=_NO_HTTP2),
    Foreign(
        (
            "http_protocols",
            "http2_cleartext",
            "http2_max_concurrent_streams",
            "http2_initial_window_size",
            "http2_max_frame_size",
            "http2_max_header_list_size",
        ),
        _NO_HTTP2,
    ),
    _off(
        "permit_obsolete_folding",
        "strip_header_spaces",
        "permit_unconventional_http_method",
        "permit_unconventional_http_version",
        "casefold_http_method",
        advice=_STRICT,
    ),
    Foreign(
        ("header_map", "forwarder_headers"),
        "leave it out, fields with an underscore in their name are dropped, so that none can pose as another",
    ),
    Foreign(("h11_max_incomplete_event_size",), "use --limit-request-head"),
    Foreign(("read_timeout",), "use --header-timeout and --body-timeout"),
    Foreign(("channel_timeout",), "use --keep-alive, --header-timeout, --body-timeout and --write-timeout"),
    Foreign(
        ("channel_request_lookahead",), "leave it out, waitress.client_disconnected in the environ works without it"
    ),
    Foreign(("recv_bytes", "send_bytes"), _TUNING),
    Foreign(("outbuf_overflow",), "leave it out, a complete response stays where the application made it"),
    Foreign(("cleanup_interval", "asyncore_loop_timeout"), _NEEDLESS),
    _off("asyncore_use_poll", "log_socket_errors", "no_log_socket_errors", advice=_NEEDLESS),
    Foreign(("ident",), "use --server-header or --no-server-header"),
    Foreign(("server_name",), "leave it out, SERVER_NAME is the address that the client came to"),
    Foreign(("header",), "set the field in the application, or in the proxy"),
    _off("date_header", "no_date_header", advice="leave it out, RFC 9110 demands a Date of a server with a clock"),
    # Proxies
    _off("proxy_headers", "no_proxy_headers", advice=_PROXY),
    Foreign(("secure_scheme_headers",), _PROXY),
    Foreign(("trusted_proxy", "trusted_proxy_count", "trusted_proxy_headers"), _PROXY),
    _off("clear_untrusted_proxy_headers", "no_clear_untrusted_proxy_headers", advice=_PROXY),
    _off("log_untrusted_proxy_headers", "no_log_untrusted_proxy_headers", advice=_PROXY),
    Foreign(("url_scheme",), _PROXY),
    # TLS
    Foreign(("ssl_version",), "use --ssl-min-version, TLSv1.2 or TLSv1.3"),
    Foreign(("verify_mode",), "use --ssl-cert-reqs"),
    _off("suppress_ragged_eofs", "do_handshake_on_connect", advice=_NEEDLESS),
    # Logs
    Foreign(("logger_class",), "use --log-config, which may name any class of logging's"),
    Foreign(("logconfig_dict",), "write the dict as JSON or TOML into a file and use --log-config"),
    _off("capture_output", advice="redirect it where the process is started: aiowsgi ... >>app.log 2>&1"),
    Foreign(("error_logfile", "log_file", "errorlog", "error_log"), "redirect standard error, or use --log-config"),
    _off("log_syslog", "syslog", "disable_redirect_access_to_syslog", advice=_SYSLOG),
    Foreign(
        (
            "log_syslog_to",
            "syslog_addr",
            "log_syslog_prefix",
            "syslog_prefix",
            "log_syslog_facility",
            "syslog_facility",
        ),
        _SYSLOG,
    ),
    _off("use_colors", "no_use_colors", advice="leave it out, or give --log-config a formatter with colours"),
    _off("enable_backlog_metric", advice="leave it out; 'ss -ltn' shows how much of the backlog is taken"),
    # Applications
    Foreign(("paste", "paster", "paste_global", "raw_paste_global_conf"), _PASTE),
    Foreign(("interface",), _NO_ASGI),
    Foreign(
        (
            "lifespan",
            "asgi_loop",
            "asgi_lifespan",
            "asgi_disconnect_grace_period",
            "ws",
            "ws_max_size",
            "ws_max_queue",
            "ws_ping_interval",
            "ws_ping_timeout",
            "ws_per_message_deflate",
            "websocket_max_message_size",
            "websocket_ping_interval",
        ),
        _NO_ASGI,
    ),
    _off("reset_contextvars", "no_reset_contextvars", advice=_ALWAYS),
    # uWSGI's
    Foreign(("harakiri",), "use --request-timeout, which answers 504 and gives the request's thread a successor"),
    Foreign(("socket", "uwsgi_socket"), "use --bind; HTTP only, nginx reaches it with proxy_pass"),
    Foreign(("http_socket", "http11_socket"), "use --bind"),
    Foreign(("https", "https_socket"), "use --bind, --ssl-certfile and --ssl-keyfile"),
    Foreign(("module", "wsgi", "wsgi_file", "callable"), "let it follow the options: aiowsgi ... module:callable"),
    Foreign(("processes",), "use --workers"),
    _off("master", "lazy_apps", "lazy", advice="use --workers, even 1; each imports the application"),
    Foreign(("cheaper", "cheaper_initial"), "leave it out, only TTIN and TTOU change the number of --workers"),
    Foreign(("max_worker_lifetime",), "use --max-worker-age"),
    Foreign(("reload_on_rss", "evil_reload_on_rss"), "use --max-worker-rss, such as 512M"),
    Foreign(("buffer_size",), "use --limit-request-head, --limit-request-line and --limit-request-field-size"),
    Foreign(("limit_post",), "use --limit-request-body"),
    Foreign(("post_buffering",), "use --request-buffer"),
    Foreign(("touch_reload", "touch_workers_reload"), "run 'aiowsgi reload', with --control, or 'kill -HUP'"),
    Foreign(("py_autoreload",), "use --reload"),
    _off("die_on_term", "vacuum", "need_app", "enable_threads", "single_interpreter", "no_orphans", advice=_ALWAYS),
    _off("thunder_lock", advice=_NEEDLESS),
    Foreign(("uid",), "use --user"),
    Foreign(("gid",), "use --group"),
    Foreign(("chmod_socket",), "use --uds-mode"),
    Foreign(("virtualenv", "venv", "home", "pyhome"), "run the aiowsgi of that environment: /path/to/venv/bin/aiowsgi"),
    Foreign(("stats", "stats_server"), "use --control and 'aiowsgi top', or --metrics-bind"),
    Foreign(("logto", "logto2", "daemonize"), "redirect standard error, or let systemd or a container run it"),
    _off("disable_logging", advice="leave it out, there is no access log without --access-log"),
    Foreign(("static_map", "check_static"), "let the proxy serve them: nginx's location /static/; or WhiteNoise"),
    Foreign(("offload_threads",), "leave it out, files leave without a thread"),
    Foreign(("spooler", "mule", "mules", "cron", "emperor"), "use a task queue such as Celery, or units of systemd"),
    # Hooks, in gunicorn's configuration file only
    Foreign(("when_ready",), "use the hook on_starting, before the workers start, or worker_ready, in each of them"),
    Foreign(("pre_fork",), "use the hook on_starting"),
    Foreign(("post_fork",), "use the hook worker_init: in each worker, before the application is imported"),
    Foreign(("post_worker_init",), "use the hook worker_ready: in each worker, once it listens"),
    Foreign(("child_exit", "worker_int", "worker_abort"), "use the hook worker_exit: in each worker, as it ends"),
    Foreign(("on_reload", "pre_exec", "nworkers_changed"), "leave it out, there is no such hook; the log says so"),
    Foreign(("pre_request", "post_request"), "wrap the application in a WSGI middleware"),
    Foreign(
        ("on_dirty_starting", "dirty_post_fork", "dirty_worker_init", "dirty_worker_exit"),
        _DIRTY,
    ),
)

_ADVICE = {name: item.advice for item in FOREIGN for name in item.names}


def advice_for(name: str) -> str | None:
    """What to do instead of using another server's name, or ``None`` if no server has it.

    Args:
        name: as in a configuration file, where the advice will be read: ``worker_class``.
    """
    advice = _ADVICE.get(name)
    return advice and re.sub(r"--([a-z][a-z-]+)", lambda match: match[1].replace("-", "_"), advice)


def explain(name: str, known: Iterable[str]) -> str:
    """Say what to use instead of a key that is no option: by advice, or by likeness to the options."""
    return advice_for(name) or f"no such option{did_you_mean(name, known)}"
