"""Configuration: one frozen dataclass, from which everything that deals with options is derived.

Each option is written once, as a field of :class:`Config` with its kind, default, help, unit, bounds, aliases and
group. The command line, the configuration file, the ``AIOWSGI_*`` variables, validation and the tables in the README
read :data:`OPTIONS`. All problems are reported together, each naming the option as its author spelled it, the value
and the rule.

Thread: any; a :class:`Config` is immutable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from aiowsgi.configuration.addresses import (
    BindAddress,
    FileDescriptorAddress,
    TCPAddress,
    UnixAddress,
    parse_bind,
)
from aiowsgi.configuration.option import Form, Option, option, options_of
from aiowsgi.configuration.own_variables import is_own_variable, remedy_for
from aiowsgi.configuration.peers import Peers
from aiowsgi.configuration.sources import Given, merge, settle, variables
from aiowsgi.configuration.values import GiB, KiB, Kind, MiB, format_value
from aiowsgi.errors import ConfigError

__all__ = [
    "HOOK_NAMES",
    "OPTIONS",
    "BindAddress",
    "Config",
    "FileDescriptorAddress",
    "Kind",
    "Option",
    "TCPAddress",
    "UnixAddress",
    "format_value",
    "markdown_table",
    "parse_bind",
]

APP = "Application"
LISTEN = "Where to listen"
PROCESSES = "Processes"
THREADS = "Threads and queue"
REQUESTS = "Request limits"
RESPONSES = "Responses"
TIMEOUTS = "Timeouts"
PROXIES = "Behind proxies"
TLS = "TLS"
ENGINE = "Engine"
HEALTH = "Health"
LOGS = "Logs"
METRICS = "Metrics"
CONTROL = "Seeing inside"
APPLICATION = "What the application sees"
DEVELOPMENT = "Development"
HOOKS = "Hooks"

HOOK_NAMES = ("on_starting", "worker_init", "worker_ready", "worker_exit", "on_exit")

ACCESS_LOGFORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


REQUEST_TIMEOUT_ACTIONS = ("log", "504", "recycle")

_FILE = Form(r".+", "must be the path of a file")
_PATH = Form(r"/[!-\"$->@-~]*", "must start with a slash, and have neither a query nor anything to be encoded")
_STATSD_TEXT = Form(r"[A-Za-z0-9_.:,/@-]*", "must be letters, digits and any of _ . : , / @ -")
_HOOK = Form(r"\w+(\.\w+)*:\w+(\.\w+)*", "must be module:callable")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a server, validated.

    Raises:
        ConfigError: with all problems at once.
    """

    # fmt: off
    app: str | None = option(
        None, Kind.TEXT, "The application to serve: what APP names on the command line.",
        group=APP, aliases=("wsgi_app",), default_text="none")
    factory: bool = option(
        False, Kind.FLAG, "Call the named attribute for the application.", group=APP, aliases=("call",))
    chdir: str | None = option(
        None, Kind.TEXT, "Folder to change to before anything is imported or opened; relative paths are seen from it.",
        group=APP, default_text="none")
    pythonpath: Sequence[str] = option(
        (), Kind.TEXTS, "Folder to import from, before all others. Repeatable, or several with commas.",
        group=APP, aliases=("app_dir",), default_text="none")

    bind: Sequence[str] = option(
        (), Kind.TEXTS, "Address to listen on: host:port, :port, [::1]:port, unix:path or fd://N. Repeatable.",
        group=LISTEN, flags=("-b",), aliases=("listen",), default_text="127.0.0.1:8000")
    host: str | None = option(
        None, Kind.TEXT, "Host to listen on, together with --port.", group=LISTEN, default_text="127.0.0.1")
    port: int | None = option(
        None, Kind.COUNT, "Port to listen on, together with --host; 0 takes a free one.",
        group=LISTEN, least=0, most=65535, default_text="8000")
    uds: str | None = option(
        None, Kind.TEXT, "Path of a Unix socket to listen on; @name for an abstract one.",
        group=LISTEN, aliases=("unix_socket",), default_text="none",
        form=Form(r".+", "must be the path of a Unix socket"))
    uds_mode: int | None = option(
        None, Kind.MODE, "Permissions of the Unix sockets' files, in octal.",
        group=LISTEN, least=0, most=0o777, aliases=("unix_socket_perms",), default_text="as the umask has it")
    reuse_port: bool = option(
        False, Kind.FLAG, "A listening socket for each worker (SO_REUSEPORT): the kernel spreads connections evenly.",
        group=LISTEN)
    backlog: int = option(
        2048, Kind.COUNT, "Connections that the kernel may hold before they are accepted.",
        group=LISTEN, least=1, most=65535)
    max_connections: int | None = option(
        None, Kind.COUNT, "Connections held open at once; near it idle ones are closed, at it accepting pauses.",
        group=LISTEN, least=1, aliases=("worker_connections", "connection_limit"),
        default_text="from the file-descriptor limit, at most 50000")

    workers: int | None = option(
        None, Kind.COUNT, "Processes that serve, each with threads of its own, under a supervisor.",
        group=PROCESSES, flags=("-w",), common_variable="WEB_CONCURRENCY", least=1, most=1000,
        default_text="1, without a supervisor")
    preload: bool = option(
        False, Kind.FLAG, "Import the application once, in the supervisor, and fork the workers.",
        group=PROCESSES, aliases=("preload_app",))
    timeout: float | None = option(
        None, Kind.SECONDS, "A worker whose event loop is silent for this long is replaced; 0 turns it off.",
        group=PROCESSES, flags=("-t",), least=0, aliases=("timeout_worker_healthcheck",),
        default_text="30s under a supervisor")
    max_requests: int = option(
        0, Kind.COUNT, "A worker is replaced after this many requests; 0 is never.", group=PROCESSES, least=0,
        aliases=("limit_max_requests",))
    max_requests_jitter: int = option(
        0, Kind.COUNT, "Up to this many more, at random, so that workers are not replaced together.",
        group=PROCESSES, least=0, aliases=("limit_max_requests_jitter",))
    max_worker_age: float = option(
        0.0, Kind.SECONDS, "A worker is replaced at this age; 0 is never.", group=PROCESSES, least=0)
    max_worker_rss: int = option(
        0, Kind.SIZE, "A worker is replaced once its resident memory is over this; 0 is never.",
        group=PROCESSES, least=0)
    user: str | None = option(
        None, Kind.TEXT, "User, by name or number, that workers become once the sockets are bound.",
        group=PROCESSES, flags=("-u",), default_text="none")
    group: str | None = option(
        None, Kind.TEXT, "Group, by name or number, that workers become once the sockets are bound.",
        group=PROCESSES, flags=("-g",), default_text="the user's")
    umask: int | None = option(
        None, Kind.MODE, "Permissions withheld from files that the application creates, in octal.",
        group=PROCESSES, flags=("-m",), least=0, most=0o777, default_text="as it is")
    pid: str | None = option(
        None, Kind.TEXT, "File to write the process's number to; that of a running server is refused.",
        group=PROCESSES, flags=("-p",), aliases=("pidfile",), default_text="none")
    name: str | None = option(
        None, Kind.TEXT, "Name in the titles of the processes, where setproctitle is installed.",
        group=PROCESSES, flags=("-n",), aliases=("proc_name",), default_text="the application's")

    threads: int = option(
        8, Kind.COUNT, "Threads that run the application at once.", group=THREADS, least=1, most=10_000)
    max_threads: int | None = option(
        None, Kind.COUNT, "Threads in all, counting those that are stuck or wait for a slow client.",
        group=THREADS, least=1, most=100_000, default_text="threads + 64; 1 where threads is 1")
    thread_idle_timeout: float = option(
        60.0, Kind.SECONDS, "A thread without work ends after this time.", group=THREADS, least=0.01)
    queue_size: int = option(
        5000, Kind.COUNT, "Requests that may wait for a thread; more are answered 503.", group=THREADS, least=1)
    queue_timeout: float = option(
        30.0, Kind.SECONDS, "A request that has waited this long for a thread is answered 503.",
        group=THREADS, least=0.01)

    limit_request_line: int = option(
        8190, Kind.SIZE, "Longest request line; longer is 414.", group=REQUESTS, least=64, most=MiB)
    limit_request_fields: int = option(
        100, Kind.COUNT, "Most header fields in a request; more is 431.", group=REQUESTS, least=1, most=10_000)
    limit_request_field_size: int = option(
        8190, Kind.SIZE, "Longest header field line; longer is 431.", group=REQUESTS, least=64, most=MiB)
    limit_request_head: int = option(
        64 * KiB, Kind.SIZE, "Largest request head in all; larger is 431.", group=REQUESTS, least=256, most=16 * MiB,
        aliases=("max_request_header_size",))
    limit_request_body: int = option(
        GiB, Kind.SIZE, "Largest request content; larger is 413.", group=REQUESTS, least=0,
        aliases=("max_request_body_size",))
    request_buffer: int = option(
        MiB, Kind.SIZE, "Request content held in memory; larger content goes to a temporary file.",
        group=REQUESTS, least=0, aliases=("inbuf_overflow",))
    request_buffer_total: int = option(
        256 * MiB, Kind.SIZE, "Request content held in memory over all requests; beyond it all goes to files, or, with "
        "stream_body, waits with the client.",
        group=REQUESTS, least=64 * KiB)
    stream_body: bool = option(
        False, Kind.FLAG, "Start the application at the head and let it read the content as it arrives; "
        "chunked content then has no CONTENT_LENGTH.",
        group=REQUESTS)

    # A thread that has run so far ahead sleeps and has to be woken: 10 MB in blocks of 64 KB cost 3.8 ms of CPU at
    # 256 KB, 3.2 at 512 and 3.0 at 1 MB.
    response_buffer: int = option(
        512 * KiB, Kind.SIZE, "How far a streaming application may run ahead of its client.",
        group=RESPONSES, least=1, aliases=("outbuf_high_watermark",))
    server_header: bool = option(
        False, Kind.FLAG, "Send a Server field.", group=RESPONSES)

    header_timeout: float = option(
        10.0, Kind.SECONDS, "From a request's first byte to the end of its head.", group=TIMEOUTS, least=0.01)
    body_timeout: float = option(
        30.0, Kind.SECONDS, "Longest wait for more request content.", group=TIMEOUTS, least=0.01)
    body_min_rate: int = option(
        240, Kind.RATE, "Slowest average at which content may arrive, after body_timeout; 0 turns it off.",
        group=TIMEOUTS, least=0)
    write_timeout: float = option(
        60.0, Kind.SECONDS, "Longest wait for a client to take more of its response.", group=TIMEOUTS, least=0.01)
    write_min_rate: int = option(
        240, Kind.RATE, "Slowest rate over write_timeout at which a client may take its response; 0 turns it off.",
        group=TIMEOUTS, least=0)
    keep_alive: float = option(
        75.0, Kind.SECONDS, "How long an idle connection is kept; 0 closes after each response.",
        group=TIMEOUTS, least=0, aliases=("keepalive", "timeout_keep_alive"))
    graceful_timeout: float = option(
        25.0, Kind.SECONDS, "How long running requests may take to end at shutdown.", group=TIMEOUTS, least=0,
        aliases=("timeout_graceful_shutdown",))
    drain_rate: int = option(
        500, Kind.COUNT, "Parked streams that a worker ends per second at shutdown, or more if needed to finish in "
        "time; 0 ends all at once.", group=TIMEOUTS, least=0)
    slow_request: float = option(
        0.0, Kind.SECONDS, "The stack of a request that has run for this long is logged, once; 0 turns it off.",
        group=TIMEOUTS, least=0)
    request_timeout: float = option(
        0.0, Kind.SECONDS, "A request that has run for this long is given up; 0 turns it off.", group=TIMEOUTS, least=0)
    request_timeout_actions: Sequence[str] = option(
        REQUEST_TIMEOUT_ACTIONS, Kind.TEXTS,
        "What happens then: log its stack; answer 504, or break the response off; recycle the worker once more than "
        "stuck_threads are stuck.", group=TIMEOUTS)
    stuck_threads: float = option(
        0.5, Kind.SHARE, "Share of threads that may be stuck before the worker is recycled.",
        group=TIMEOUTS, least=0, most=1)

    ssl_certfile: str | None = option(
        None, Kind.TEXT, "Certificate and its intermediate ones, PEM; with it all listeners speak TLS.",
        group=TLS, aliases=("certfile",), default_text="none")
    ssl_keyfile: str | None = option(
        None, Kind.TEXT, "Private key of the certificate, PEM.",
        group=TLS, aliases=("keyfile",), default_text="in ssl_certfile")
    ssl_keyfile_password: str | None = option(
        None, Kind.TEXT, "Password of an encrypted key; fewer eyes see it in the variable than in the flag.",
        group=TLS, aliases=("keyfile_password",), secret=True, default_text="none")
    ssl_ca_certs: str | None = option(
        None, Kind.TEXT, "Authorities whose client certificates are accepted, a PEM file or an OpenSSL folder.",
        group=TLS, aliases=("ca_certs",), default_text="none")
    ssl_cert_reqs: str = option(
        "none", Kind.CHOICE, "Whether clients have to show a certificate.",
        group=TLS, aliases=("cert_reqs",), choices=("none", "optional", "required", "0", "1", "2"))
    ssl_ciphers: str | None = option(
        None, Kind.TEXT, "Ciphers for TLS 1.2, as OpenSSL writes a list of them.",
        group=TLS, aliases=("ciphers",), default_text="Python's")
    ssl_min_version: str = option(
        "TLSv1.2", Kind.CHOICE, "Oldest version of TLS.", group=TLS, choices=("TLSv1.2", "TLSv1.3"))
    ssl_context: str | None = option(
        None, Kind.TEXT, "module:callable that is given the ssl.SSLContext that the other options make, and returns "
        "the one to use: for certificates by server name, and all else that TLS can do.",
        group=TLS, default_text="none")

    forwarded_allow_ips: Sequence[str] = option(
        ("unix",), Kind.TEXTS, "Proxies that may say whom they speak for: addresses, networks such as 10.0.0.0/8, unix "
        "for the peers of Unix sockets, * for every peer, none. Repeatable.",
        group=PROXIES, common_variable="FORWARDED_ALLOW_IPS")
    forwarded_headers: str = option(
        "x-forwarded", Kind.CHOICE, "How they say it: X-Forwarded-For and its family, or Forwarded (RFC 7239).",
        group=PROXIES, choices=("x-forwarded", "forwarded"))
    forwarded_parts: Sequence[str] = option(
        ("for", "proto"), Kind.TEXTS, "What they may say: for, proto, host, port, prefix. They have to set or remove "
        "each of these fields.", group=PROXIES)
    strip_untrusted_forwarded: bool = option(
        False, Kind.FLAG, "Remove such fields from environ if they come from others, or say what is not asked for.",
        group=PROXIES)
    proxy_protocol: str = option(
        "off", Kind.CHOICE, "Connections begin with a PROXY header, also before TLS.",
        group=PROXIES, choices=("off", "v1", "v2", "auto"))
    proxy_allow_from: Sequence[str] = option(
        ("127.0.0.1", "::1", "unix"), Kind.TEXTS, "Who may send a PROXY header; others are not served then.",
        group=PROXIES, aliases=("proxy_allow_ips",))
    health_path: str | None = option(
        None, Kind.TEXT, "Path that says whether the process is alive, without a thread.",
        group=HEALTH, default_text="none", form=_PATH)
    ready_path: str | None = option(
        None, Kind.TEXT, "Path that says whether a request sent now is welcome, without a thread.",
        group=HEALTH, default_text="none", form=_PATH)
    ready_broker: bool = option(
        False, Kind.FLAG, "Not ready while a broker of the application's channels is away.",
        group=HEALTH)
    drain_delay: float = option(
        0.0, Kind.SECONDS, "At shutdown, not ready and still serving for this long, so that no balancer is surprised.",
        group=HEALTH, least=0)

    loop: str = option(
        "auto", Kind.CHOICE, "Event loop; auto takes uvloop where it is installed.",
        group=ENGINE, choices=("auto", "asyncio", "uvloop"))
    http: str = option(
        "auto", Kind.CHOICE, "Parser of request heads; auto takes httptools where it is installed.",
        group=ENGINE, choices=("auto", "h11", "httptools"))
    switch_interval: float | None = option(
        None, Kind.SECONDS, "How soon a thread that computes lets the event loop have the interpreter, "
        "while long requests hold the loop up; 0 leaves Python's interval, 5ms, as it is.",
        group=ENGINE, least=0, most=1, default_text="0.1ms inside a program; 0 in a process of the server's own")
    concurrency: str = option(
        "adaptive", Kind.CHOICE, "Adaptive has threads work one after another while they only compute and keep a core "
        "busy, when more would only be in each other's way.",
        group=ENGINE, choices=("adaptive", "fixed"))

    log_level: str = option(
        "info", Kind.CHOICE, "Least severe messages to log.",
        group=LOGS, aliases=("loglevel",), choices=("critical", "error", "warning", "info", "debug"))
    log_format: str = option(
        "text", Kind.CHOICE, "Lines for people, or an object of JSON each, with the names of OpenTelemetry.",
        group=LOGS, choices=("text", "json"))
    log_config: str | None = option(
        None, Kind.TEXT, "File for logging.config: TOML, JSON, or ini.",
        group=LOGS, aliases=("logconfig", "logconfig_json", "log_config_json"), default_text="none", form=_FILE)
    access_log: bool = option(
        False, Kind.FLAG, "Log each request.", group=LOGS)
    access_logfile: str | None = option(
        None, Kind.TEXT, "File of the access log, turning it on; - for standard output. Reopened when it was moved.",
        group=LOGS, aliases=("accesslog",), default_text="-", form=_FILE)
    access_logformat: str = option(
        ACCESS_LOGFORMAT, Kind.TEXT, "What a line of the access log says, as gunicorn spells it.",
        group=LOGS, aliases=("access_log_format",), default_text="the combined one")
    request_id_header: str | None = option(
        None, Kind.TEXT, "Field with a request's id, as X-Request-ID: a trusted proxy's is taken, else one is made; "
        "the application finds it there.",
        group=LOGS, default_text="none",
        form=Form(r"[A-Za-z0-9-]+", "must be the name of a field, such as X-Request-ID"))

    metrics_bind: str | None = option(
        None, Kind.TEXT, "Address on which Prometheus finds metrics: host:port or unix:path. Needs aiowsgi[metrics].",
        group=METRICS, default_text="none")
    statsd_host: str | None = option(
        None, Kind.TEXT, "A statsd to send figures to, with gunicorn's names: host:port or unix:path.",
        group=METRICS, default_text="none")
    statsd_prefix: str = option(
        "", Kind.TEXT, "Prefix of each name sent to statsd.", group=METRICS, default_text="none", form=_STATSD_TEXT)
    dogstatsd_tags: str = option(
        "", Kind.TEXT, "Tags for each figure, as name:value,name:value, for a statsd that knows them.",
        group=METRICS, default_text="none", form=_STATSD_TEXT)
    queue_start: bool = option(
        False, Kind.FLAG, "Set HTTP_X_QUEUE_START to when a request arrived, unless a trusted proxy has, "
        "so that an APM agent shows how long it waited.",
        group=METRICS)
    server_timing: bool = option(
        False, Kind.FLAG, "Send a Server-Timing field, which browsers show: time in the queue and in the application.",
        group=METRICS)

    control: str | None = option(
        None, Kind.TEXT, "Unix socket, unix:path, for `aiowsgi top`, `stats`, `stacks`, `reload` and `drain`; only its "
        "owner can open it.", group=CONTROL, default_text="none")

    root_path: str = option(
        "", Kind.TEXT, "SCRIPT_NAME: the path under which a proxy mounts the application.",
        group=APPLICATION, aliases=("url_prefix",), default_text="none",
        form=Form(r"(/.*[^/])?", "must start with a slash and not end with one"))
    environ: Sequence[str] = option(
        (), Kind.TEXTS, "A variable to place in every environ, as NAME=value. Repeatable.",
        group=APPLICATION, default_text="none")

    reload: bool = option(
        False, Kind.FLAG, "Serve with one worker that is replaced when code changes.", group=DEVELOPMENT)
    reload_dir: Sequence[str] = option(
        (), Kind.TEXTS, "Folder to watch, with all that is below it. Repeatable.",
        group=DEVELOPMENT, default_text="the current one, and those of pythonpath")
    reload_include: Sequence[str] = option(
        (), Kind.TEXTS, "Pattern of files to watch there, besides *.py. Repeatable.",
        group=DEVELOPMENT, default_text="none")
    reload_exclude: Sequence[str] = option(
        (), Kind.TEXTS, "Pattern of files not to watch there. Repeatable.", group=DEVELOPMENT, default_text="none")
    reload_extra: Sequence[str] = option(
        (), Kind.TEXTS, "File or folder to watch whatever its name is. Repeatable.",
        group=DEVELOPMENT, aliases=("reload_extra_file", "reload_extra_files"), default_text="none")

    on_starting: str | None = option(
        None, Kind.TEXT, "module:callable, called once before anything listens.",
        group=HOOKS, default_text="none", form=_HOOK)
    worker_init: str | None = option(
        None, Kind.TEXT, "module:callable, called in each worker before the application is imported.",
        group=HOOKS, default_text="none", form=_HOOK)
    worker_ready: str | None = option(
        None, Kind.TEXT, "module:callable, called in each worker once it serves.",
        group=HOOKS, default_text="none", form=_HOOK)
    worker_exit: str | None = option(
        None, Kind.TEXT, "module:callable, called in each worker once its requests have ended.",
        group=HOOKS, default_text="none", form=_HOOK)
    on_exit: str | None = option(
        None, Kind.TEXT, "module:callable, called once when all has ended.",
        group=HOOKS, default_text="none", form=_HOOK)
    # fmt: on

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):  # bind=["..."] reads naturally; the field stays immutable
                object.__setattr__(self, name, tuple(value))
        problems = self._problems()
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> list[str]:
        # If a value is not even of its kind, the other rules may not be able to read it.
        return self._broken(Option.problem_with) or [*self._broken(Option.misformed), *self._cross_problems()]

    def _broken(self, check: Callable[[Option, object], str | None]) -> list[str]:
        given = ((item, getattr(self, item.name)) for item in OPTIONS)
        return [f"{item.name}={item.shown(value)}: {rule}" for item, value in given if (rule := check(item, value))]

    def _cross_problems(self) -> Iterable[str]:
        if self.bind and (self.host is not None or self.port is not None or self.uds is not None):
            yield f"bind={','.join(self.bind)}: cannot be combined with host, port or uds"
        if self.uds is not None and (self.host is not None or self.port is not None):
            yield f"uds={self.uds}: cannot be combined with host or port"
        for text in self.bind:
            try:
                parse_bind(text)
            except ValueError as error:
                yield f"bind={text}: {error}"
        if self.uds_mode is not None:
            abstract = [text for text in (*self.bind, f"unix:{self.uds}") if text.startswith("unix:@")]
            if abstract:
                mode = format_value(Kind.MODE, self.uds_mode)
                yield f"uds_mode={mode}: cannot be combined with {abstract[0]}: an abstract socket has no permissions"
        for text in self.timeout_actions:
            if text not in REQUEST_TIMEOUT_ACTIONS:
                yield f"request_timeout_actions={text}: must be one of {', '.join(REQUEST_TIMEOUT_ACTIONS)}"
        if self.max_threads is not None and self.max_threads < self.threads:
            yield f"max_threads={self.max_threads}: must be at least threads ({self.threads})"
        for text in self.environ:
            name, equals, _ = text.partition("=")
            if not (name and equals):
                yield f"environ={text}: must be NAME=value"
            elif is_own_variable(name):
                yield f"environ={text}: {name} is set, or left out, by the server itself: {remedy_for(name)}"
        for name in ("metrics_bind", "statsd_host"):
            text = getattr(self, name)
            try:
                if text is not None and isinstance(parse_bind(text), FileDescriptorAddress):
                    yield f"{name}={text}: must be host:port or unix:path"
            except ValueError:
                yield f"{name}={text}: must be host:port or unix:path"
        if self.control is not None and not re.fullmatch(r"unix:.+", self.control):
            yield f"control={self.control}: must be unix:path"
        elif self.control is not None and self.control.startswith("unix:@"):
            yield f"control={self.control}: must be the path of a file: an abstract socket has no permissions"
        yield from self._proxy_problems()
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            yield f"ssl_keyfile={self.ssl_keyfile}: needs ssl_certfile"
        if self.limit_request_head < self.limit_request_line:
            yield (
                f"limit_request_head={self.limit_request_head}: "
                f"must be at least limit_request_line ({self.limit_request_line})"
            )

    def _proxy_problems(self) -> Iterable[str]:
        for name in ("forwarded_allow_ips", "proxy_allow_from"):
            try:
                Peers(getattr(self, name))
            except ValueError as error:
                yield f"{name}={','.join(getattr(self, name))}: {error}"
        allowed = {"for", "proto", "host"} | ({"port", "prefix"} if self.forwarded_headers == "x-forwarded" else set())
        strange = sorted(set(self.forwarded_parts) - allowed)
        if strange:
            parts = ",".join(self.forwarded_parts)
            yield f"forwarded_parts={parts}: {self.forwarded_headers} has no {', '.join(strange)}"

    @property
    def addresses(self) -> tuple[BindAddress, ...]:
        """Where to listen: what ``bind``, ``host``, ``port`` and ``uds`` say together."""
        if self.bind:
            return tuple(parse_bind(text) for text in self.bind)
        if self.uds is not None:
            return (UnixAddress(self.uds),)
        host = "127.0.0.1" if self.host is None else self.host
        return (TCPAddress(host.strip("[]"), 8000 if self.port is None else self.port),)

    @property
    def supervisor_option(self) -> str:
        """The name of an option that is set and needs a supervisor; empty if there is none."""
        asks = {
            "workers": self.workers is not None,
            "preload": self.preload,
            "timeout": self.timeout is not None,
            "max_requests": self.max_requests,
            "max_worker_age": self.max_worker_age,
            "max_worker_rss": self.max_worker_rss,
            "user": self.user is not None,
            "group": self.group is not None,
            "request_timeout_actions": self.request_timeout and "recycle" in self.timeout_actions,
        }
        return next((name for name, is_asking in asks.items() if is_asking), "")

    @property
    def timeout_actions(self) -> tuple[str, ...]:
        """What ``request_timeout_actions`` lists, whether as several texts or as one with commas."""
        return tuple(part.strip() for part in ",".join(self.request_timeout_actions).split(",") if part.strip())

    @property
    def silence_timeout(self) -> float:
        """``timeout``, or its default: seconds that a worker's event loop may be silent; 0 means for ever."""
        return 30.0 if self.timeout is None else self.timeout

    def for_own_process(self) -> Config:
        """Return this configuration as it applies to a process in which nothing but the server runs.

        Nothing else on its loop could be late, so a shorter switch interval would only cost.
        """
        return self if self.switch_interval is not None else replace(self, switch_interval=0.0)

    @property
    def thread_limit(self) -> int:
        """The most threads that may exist: ``max_threads``, or its default.

        One thread is a promise: an application that is not thread-safe never runs twice at the same time, not even
        beside a thread that waits for a slow client.
        """
        if self.max_threads is not None:
            return self.max_threads
        return 1 if self.threads == 1 else self.threads + 64

    @classmethod
    def from_texts(
        cls, flags: Mapping[str, str | bool | tuple[str, ...]], environ: Mapping[str, str] | None = None
    ) -> Config:
        """Build a configuration from the texts of the command line and of the environment.

        Args:
            flags: option name to text as typed; a tuple for a repeated option, a bool for a bare switch.
            environ: the ``AIOWSGI_*`` variables are read from it; default ``os.environ``. A flag wins.

        Raises:
            ConfigError: with all problems of both, each spelled as it was given.
        """
        given = [Given(item.name, flags[item.name], item.flag) for item in OPTIONS if flags.get(item.name) is not None]
        problems: list[str] = []
        chosen = merge([variables(OPTIONS, os.environ if environ is None else environ), given], problems)
        return settle(cls, OPTIONS, chosen, problems)


OPTIONS: tuple[Option, ...] = options_of(Config)


def markdown_table() -> str:
    """The README's option table."""
    lines = ["| option | default | what it sets |", "|---|---|---|"]
    group = ""
    for item in OPTIONS:
        if item.group != group:
            group = item.group
            lines.append(f"| **{group}** | | |")
        names = ", ".join(f"`{flag}`" for flag in (*item.flags, item.flag))
        choices = f" One of {', '.join(f'`{choice}`' for choice in item.choices)}." if item.choices else ""
        aliases = ", ".join(f"`--{alias.replace('_', '-')}`" for alias in item.aliases)
        also = f" Also {aliases}." if aliases else ""
        lines.append(f"| {names} | {item.shown_default()} | {item.help}{choices}{also} |")
    return "\n".join(lines) + "\n"
