"""The servers that are measured: one row each.

A row says how a server is started, what becomes of ``threads``, how many connections it is told to expect, and what it
cannot do. To add a server, add a row, and a distribution to the ``bench`` extra.

Every server is configured as its own documentation would have it for the load: limits on connections that lie below
what a scenario opens are raised, access logs are off, keep-alive lasts longer than a measurement, and nothing else is
tuned.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import Unsupported

__all__ = ["BASELINE", "NULL", "ROWS", "SERVERS", "Launch", "Server"]

BASELINE = "granian"
_KEEP_ALIVE = "75"
# What Linux allows a listening socket by default (net.core.somaxconn).
_BACKLOG = "4096"
# How many requests wait in aiowsgi by default, before more are refused.
_QUEUE_SIZE = 5000


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is to serve.

    Args:
        application: ``module:attribute``.
        port: on 127.0.0.1.
        threads: how many requests it is to run at once.
        connections: the most that a scenario opens.
        reloadable: it will be told to reload, for which it may need a supervising process.
    """

    application: str
    port: int
    threads: int = 8
    connections: int = 1024
    reloadable: bool = False

    @property
    def address(self) -> str:
        """Where to listen."""
        return f"127.0.0.1:{self.port}"

    @property
    def limit(self) -> str:
        """A limit on connections that the scenario stays below."""
        return str(max(1024, self.connections + 1024))


@dataclass(frozen=True, slots=True)
class Server:
    """A row.

    Args:
        name: in tables and on the command line.
        distributions: all must be installed; their versions are recorded.
        mapping: what becomes of ``threads`` and of processes, in a sentence.
        command: the command line for a launch.
        lacks: scenario feature to the reason why this server has no figure there. Features: ``keep-alive``,
            ``concurrency`` (more than one request at once), ``streams`` (many that stay open, one per client),
            ``reload``, ``embedding``.
        extra: the extra of this project that installs it.
        variables: added to its environment.
        host: the name that ``bench.programs.host`` knows it by, if it can be embedded in an event loop.
        reload_signal: the one that makes it load a new version of the application while it serves.
        stream_threads: whether it takes a thread for each open stream, so that it is given as many as there are
            clients.
    """

    name: str
    distributions: tuple[str, ...]
    mapping: str
    command: Callable[[Launch], list[str]]
    lacks: dict[str, str] = field(default_factory=dict)
    extra: str = "bench"
    variables: Callable[[Launch], dict[str, str]] = lambda launch: {}
    host: str = ""
    stream_threads: bool = True
    reload_signal: signal.Signals | None = None

    def versions(self) -> dict[str, str]:
        """Return the installed versions of its distributions.

        Raises:
            Unsupported: one is not installed; the message says how to install it.
        """
        versions = {}
        for name in self.distributions:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                raise Unsupported(f"not installed: pip install '.[{self.extra}]'") from None
        return versions

    def require(self, features: Sequence[str]) -> None:
        """Raise :class:`Unsupported` if a feature is lacking."""
        for feature in features:
            if feature in self.lacks:
                raise Unsupported(self.lacks[feature])


def script(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(Path(sysconfig.get_path("scripts"), name))


def program(name: str) -> list[str]:
    """Return the command that runs a module of ``bench.programs``."""
    return [sys.executable, "-m", f"bench.programs.{name}"]


def _aiowsgi(parser: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [
            *(sys.executable, "-m", "aiowsgi", launch.application),
            *("--bind", launch.address, "--threads", str(launch.threads), "--http", parser, "--log-level", "warning"),
            *(("--queue-size", launch.limit) if launch.connections >= _QUEUE_SIZE else ()),
            *(("--workers", "1") if launch.reloadable else ()),
        ]

    return command


def _gunicorn(worker: str) -> Callable[[Launch], list[str]]:
    concurrency: dict[str, Callable[[Launch], tuple[str, ...]]] = {
        "sync": lambda launch: ("--workers", str(launch.threads)),
        "gthread": lambda launch: ("--threads", str(launch.threads), "--worker-connections", launch.limit),
        "gevent": lambda launch: ("--worker-connections", launch.limit),
    }

    def command(launch: Launch) -> list[str]:
        return [
            *(script("gunicorn"), "-k", worker, *concurrency[worker](launch), "--bind", launch.address),
            *("--keep-alive", _KEEP_ALIVE, "--backlog", _BACKLOG, "--log-level", "warning", "--no-control-socket"),
            launch.application,
        ]

    return command


def _waitress(launch: Launch) -> list[str]:
    return [
        *(script("waitress-serve"), f"--listen={launch.address}", f"--threads={launch.threads}"),
        *(f"--connection-limit={launch.limit}", f"--backlog={_BACKLOG}", "--asyncore-use-poll"),
        *(f"--channel-timeout={_KEEP_ALIVE}", launch.application),
    ]


def _cheroot(launch: Launch) -> list[str]:
    threads = str(launch.threads)
    return [
        *(script("cheroot"), "--bind", launch.address, "--threads", threads, "--max-threads", threads),
        *("--timeout", _KEEP_ALIVE, "--request-queue-size", _BACKLOG, launch.application),
    ]


def _uwsgi(*socket: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        module, _, attribute = launch.application.partition(":")
        options = [option.format(address=launch.address) for option in socket]
        return [
            *(script("uwsgi"), *options, "--master", "--threads", str(launch.threads)),
            *("--module", module, "--callable", attribute, "--need-app", "--die-on-term", "--listen", _BACKLOG),
            *("--disable-logging", "--http-timeout", _KEEP_ALIVE, "--buffer-size", "32768"),
        ]

    return command


def _uwsgi_variables(launch: Launch) -> dict[str, str]:
    # On a reload pyuwsgi starts an interpreter anew, but not that of the virtual environment.
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), sysconfig.get_path("purelib")])}


def _granian(launch: Launch) -> list[str]:
    return [
        *(script("granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(launch.port), "--http", "1"),
        *("--no-ws", "--workers", "1", "--blocking-threads", str(launch.threads)),
        *("--backlog", _BACKLOG, "--backpressure", launch.limit, "--log-level", "error"),
        # Also how long it keeps an idle connection; a minute is the most that it takes.
        *("--http1-header-read-timeout", "60000", launch.application),
    ]


def _uvicorn(launch: Launch) -> list[str]:
    return [
        *(
            script("uvicorn"),
            "--host",
            "127.0.0.1",
            "--port",
            str(launch.port),
            "--loop",
            "uvloop",
            "--http",
            "httptools",
        ),
        *("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", _KEEP_ALIVE, "--backlog", _BACKLOG),
        "bench.programs.asgi:application",
    ]


def _asgi_variables(launch: Launch) -> dict[str, str]:
    return {"BENCH_APPLICATION": launch.application, "BENCH_THREADS": str(launch.threads)}


def _hypercorn(launch: Launch) -> list[str]:
    return [
        *(script("hypercorn"), "--bind", launch.address, "--worker-class", "uvloop", "--keep-alive", _KEEP_ALIVE),
        *("--backlog", _BACKLOG, "--log-level", "warning", f"wsgi:{launch.application}"),
    ]


def _serve(name: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [*program("serve"), name, launch.application, str(launch.port)]

    return command


_NO_RELOAD = {"reload": "has no reload that keeps serving"}
_NO_EMBEDDING = {"embedding": "cannot run in an asyncio loop"}
_NO_STREAMS = {"streams": "runs one request at a time: an open stream would be its only client"}
_ONE_AT_A_TIME = {"concurrency": "runs one request at a time"} | _NO_STREAMS
_NO_KEEP_ALIVE = {"keep-alive": "closes after each response"}

ROWS: tuple[Server, ...] = (
    Server(
        "aiowsgi-httptools",
        ("aiowsgi", "httptools", "uvloop"),
        "threads are its threads; one process, or, if it is to reload, a worker and its supervisor",
        _aiowsgi("httptools"),
        host="aiowsgi",
        stream_threads=False,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "aiowsgi-h11",
        ("aiowsgi", "h11", "uvloop"),
        "threads are its threads; one process, or, if it is to reload, a worker and its supervisor",
        _aiowsgi("h11"),
        lacks={"embedding": "the same host as aiowsgi-httptools"},
        stream_threads=False,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "granian",
        ("granian",),
        "threads are its blocking threads; one worker process and its master",
        _granian,
        _NO_EMBEDDING,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "uwsgi",
        ("pyuwsgi",),
        "threads are its threads; one worker, its master, and its HTTP router, which holds the connections",
        _uwsgi("--http", "{address}", "--http-keepalive", "--http-auto-chunked"),
        _NO_EMBEDDING,
        variables=_uwsgi_variables,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "uwsgi-http11",
        ("pyuwsgi",),
        "threads are its threads, and each open connection holds one; one worker and its master, no router",
        _uwsgi("--http11-socket", "{address}"),
        _NO_EMBEDDING,
        variables=_uwsgi_variables,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "gunicorn-gthread",
        ("gunicorn",),
        "threads are its threads; one worker and its arbiter",
        _gunicorn("gthread"),
        _NO_EMBEDDING,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "gunicorn-gevent",
        ("gunicorn", "gevent"),
        "a greenlet for each connection, whatever threads says; one worker and its arbiter",
        _gunicorn("gevent"),
        _NO_EMBEDDING,
        stream_threads=False,
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "gunicorn-sync",
        ("gunicorn",),
        "threads become worker processes, as each runs one request at a time; and their arbiter",
        _gunicorn("sync"),
        _NO_KEEP_ALIVE | _NO_EMBEDDING | {"streams": "takes a process for each open stream"},
        reload_signal=signal.SIGHUP,
    ),
    Server(
        "waitress",
        ("waitress",),
        "threads are its threads; one process",
        _waitress,
        _NO_RELOAD | _NO_EMBEDDING,
    ),
    Server(
        "cheroot",
        ("cheroot",),
        "threads are its threads; one process",
        _cheroot,
        _NO_RELOAD | _NO_EMBEDDING,
    ),
    Server(
        "uvicorn-a2wsgi",
        ("uvicorn", "a2wsgi", "uvloop", "httptools"),
        "threads are the workers of a2wsgi's pool; one process",
        _uvicorn,
        _NO_RELOAD,
        variables=_asgi_variables,
        host="uvicorn",
    ),
    Server(
        "hypercorn",
        ("hypercorn", "uvloop"),
        "no option for threads: it uses the loop's default executor, with four more threads than cores; one worker",
        _hypercorn,
        _NO_RELOAD | {"streams": "its number of threads cannot be set"},
        host="hypercorn",
    ),
    Server(
        "bjoern",
        ("bjoern",),
        "no threads: the loop runs the application; one process",
        _serve("bjoern"),
        _NO_RELOAD | _NO_EMBEDDING | _ONE_AT_A_TIME,
        extra="bench-native",
    ),
    Server(
        "fastwsgi",
        ("fastwsgi",),
        "no threads: the loop runs the application; one process",
        _serve("fastwsgi"),
        _NO_RELOAD | _NO_EMBEDDING | _ONE_AT_A_TIME,
        extra="bench-native",
    ),
    Server(
        "wsgiref",
        (),
        "no threads: one request after the other; one process",
        _serve("wsgiref"),
        _NO_RELOAD | _NO_EMBEDDING | _ONE_AT_A_TIME | _NO_KEEP_ALIVE,
    ),
)

NULL = Server(
    "null",
    (),
    "no server: an epoll loop that answers everything with the same bytes, to measure the load generator",
    lambda launch: [*program("null"), str(launch.port)],
)

SERVERS = {row.name: row for row in (*ROWS, NULL)}
