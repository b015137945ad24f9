"""Configuration: one frozen dataclass, from which everything that knows options is derived.

Each option is written once, as a field of :class:`Config` with its kind, default, help, unit, bounds and group. The
command line, the ``AIOWSGI_*`` variables, validation and the table in the README read :data:`OPTIONS`.
All problems are reported together, each naming the option as its author spelled it, the value and the rule.

Thread: any; a :class:`Config` is immutable.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from aiowsgi.errors import ConfigError

__all__ = [
    "OPTIONS",
    "BindAddress",
    "Config",
    "FileDescriptorAddress",
    "Kind",
    "Option",
    "TCPAddress",
    "UnixAddress",
    "markdown_table",
    "parse_bind",
]

T = TypeVar("T")


class Kind(enum.Enum):
    """What an option's value is, hence how its text is read and shown."""

    COUNT = "count"
    SIZE = "bytes"
    SECONDS = "seconds"
    RATE = "bytes/s"
    FLAG = "flag"
    TEXT = "text"
    CHOICE = "choice"
    TEXTS = "texts"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: everything that the command line, the environment, validation and the README say of it."""

    name: str
    kind: Kind
    default: Any
    default_text: str
    help: str
    group: str
    least: float | None
    most: float | None
    choices: tuple[str, ...]
    flags: tuple[str, ...]
    optional: bool

    @property
    def flag(self) -> str:
        """The option's long flag on the command line: ``--queue-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable that sets the option: ``AIOWSGI_QUEUE_SIZE``."""
        return "AIOWSGI_" + self.name.upper()

    def shown_default(self) -> str:
        """The default as a person would type it."""
        if self.default_text:
            return self.default_text
        return format_value(self.kind, self.default)

    def parse(self, text: str) -> Any:
        """Read a value from the text of a flag or a variable.

        Raises:
            ValueError: the text is not of the option's kind; the message is the rule alone.
        """
        if self.kind is Kind.COUNT:
            return _parse_count(text)
        if self.kind in (Kind.SIZE, Kind.RATE):
            return _parse_size(text)
        if self.kind is Kind.SECONDS:
            return _parse_seconds(text)
        if self.kind is Kind.FLAG:
            return _parse_flag(text)
        if self.kind is Kind.TEXTS:
            return tuple(part for part in re.split(r"[,\s]+", text) if part)
        return text

    def problem_with(self, value: object) -> str | None:
        """Say which rule a value breaks, or ``None``."""
        if value is None and self.optional:
            return None
        types: dict[Kind, tuple[type, ...]] = {
            Kind.COUNT: (int,),
            Kind.SIZE: (int,),
            Kind.RATE: (int,),
            Kind.SECONDS: (int, float),
            Kind.FLAG: (bool,),
            Kind.TEXTS: (tuple,),
        }
        expected = types.get(self.kind, (str,))
        if not isinstance(value, expected) or (self.kind is not Kind.FLAG and isinstance(value, bool)):
            return f"must be {_KIND_WORDS[self.kind]}"
        if isinstance(value, tuple) and not all(isinstance(part, str) for part in value):
            return f"must be {_KIND_WORDS[self.kind]}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if isinstance(value, float) and not math.isfinite(value):
                return "must be a finite number"
            if self.least is not None and value < self.least:
                return f"must be at least {format_value(self.kind, self.least)}"
            if self.most is not None and value > self.most:
                return f"must be at most {format_value(self.kind, self.most)}"
        return None


_KIND_WORDS = {
    Kind.COUNT: "a whole number",
    Kind.SIZE: "a whole number of bytes",
    Kind.RATE: "a whole number of bytes per second",
    Kind.SECONDS: "a number of seconds",
    Kind.FLAG: "true or false",
    Kind.TEXT: "text",
    Kind.CHOICE: "text",
    Kind.TEXTS: "a sequence of texts",
}


def option(
    default: T,
    kind: Kind,
    help: str,
    *,
    group: str,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    default_text: str = "",
) -> T:
    """Declare one option as a dataclass field; see :class:`Option` for the arguments."""
    metadata = {
        "kind": kind,
        "help": help,
        "group": group,
        "least": least,
        "most": most,
        "choices": choices,
        "flags": flags,
        "default_text": default_text,
    }
    declared: T = field(default=default, metadata=metadata)
    return declared


LISTEN = "Where to listen"
THREADS = "Threads and queue"
REQUESTS = "Request limits"
RESPONSES = "Responses"
TIMEOUTS = "Timeouts"
ENGINE = "Engine"
APPLICATION = "What the application sees"

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a server, validated.

    Raises:
        ConfigError: with all problems at once.
    """

    # fmt: off
    bind: Sequence[str] = option(
        (), Kind.TEXTS, "Address to listen on: host:port, :port, [::1]:port, unix:path or fd://N. Repeatable.",
        group=LISTEN, flags=("-b",), default_text="127.0.0.1:8000")
    host: str | None = option(
        None, Kind.TEXT, "Host to listen on, together with --port.", group=LISTEN, default_text="127.0.0.1")
    port: int | None = option(
        None, Kind.COUNT, "Port to listen on, together with --host; 0 takes a free one.",
        group=LISTEN, least=0, most=65535, default_text="8000")
    uds: str | None = option(
        None, Kind.TEXT, "Path of a Unix socket to listen on.", group=LISTEN, default_text="none")
    backlog: int = option(
        2048, Kind.COUNT, "Connections that the kernel may hold before they are accepted.",
        group=LISTEN, least=1, most=65535)
    max_connections: int | None = option(
        None, Kind.COUNT, "Connections held open at once; near it idle ones are closed, at it accepting pauses.",
        group=LISTEN, least=1, default_text="from the file-descriptor limit, at most 50000")

    threads: int = option(
        8, Kind.COUNT, "Threads that run the application at once.", group=THREADS, least=1, most=10_000)
    max_threads: int | None = option(
        None, Kind.COUNT, "Threads in all, counting those that wait for a slow client.",
        group=THREADS, least=1, most=100_000, default_text="threads + 64; 1 where threads is 1")
    thread_idle_timeout: float = option(
        60.0, Kind.SECONDS, "A thread without work ends after this time.", group=THREADS, least=0.01)
    queue_size: int = option(
        1000, Kind.COUNT, "Requests that may wait for a thread; more are answered 503.", group=THREADS, least=1)
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
        64 * KiB, Kind.SIZE, "Largest request head in all; larger is 431.", group=REQUESTS, least=256, most=16 * MiB)
    limit_request_body: int = option(
        GiB, Kind.SIZE, "Largest request content; larger is 413.", group=REQUESTS, least=0)
    request_buffer: int = option(
        512 * KiB, Kind.SIZE, "Request content held in memory; what is beyond goes to a temporary file.",
        group=REQUESTS, least=0)
    request_buffer_total: int = option(
        256 * MiB, Kind.SIZE, "Request content held in memory over all requests; beyond it all goes to files.",
        group=REQUESTS, least=64 * KiB)
    stream_body: bool = option(
        False, Kind.FLAG, "Start the application at the head and let it read the content as it arrives; "
        "chunked content then has no CONTENT_LENGTH.",
        group=REQUESTS)

    response_buffer: int = option(
        256 * KiB, Kind.SIZE, "How far a streaming application may run ahead of its client.",
        group=RESPONSES, least=1)
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
        group=TIMEOUTS, least=0)
    graceful_timeout: float = option(
        25.0, Kind.SECONDS, "How long running requests may take to end at shutdown.", group=TIMEOUTS, least=0)

    loop: str = option(
        "auto", Kind.CHOICE, "Event loop; auto takes uvloop where it is installed.",
        group=ENGINE, choices=("auto", "asyncio", "uvloop"))
    http: str = option(
        "auto", Kind.CHOICE, "Parser of request heads; auto takes httptools where it is installed.",
        group=ENGINE, choices=("auto", "h11", "httptools"))
    log_level: str = option(
        "info", Kind.CHOICE, "Least severe messages to log.",
        group=ENGINE, choices=("critical", "error", "warning", "info", "debug"))

    root_path: str = option(
        "", Kind.TEXT, "SCRIPT_NAME: the path under which a proxy mounts the application.",
        group=APPLICATION, default_text="none")
    environ: Sequence[str] = option(
        (), Kind.TEXTS, "A variable to place in every environ, as NAME=value. Repeatable.",
        group=APPLICATION, default_text="none")
    # fmt: on

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):  # bind=["..."] reads naturally; the field stays immutable
                object.__setattr__(self, name, tuple(value))
        problems = self._problems()
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> list[str]:
        problems = []
        for item in OPTIONS:
            value = getattr(self, item.name)
            problem = item.problem_with(value)
            if problem:
                problems.append(f"{item.name}={_shown(value)}: {problem}")
        if not problems:
            problems.extend(self._cross_problems())
        return problems

    def _cross_problems(self) -> Iterable[str]:
        if self.bind and (self.host is not None or self.port is not None or self.uds is not None):
            yield f"bind={','.join(self.bind)}: cannot be combined with host, port or uds"
        if self.uds == "":
            yield "uds=: must be the path of a Unix socket"
        if self.uds is not None and (self.host is not None or self.port is not None):
            yield f"uds={self.uds}: cannot be combined with host or port"
        for text in self.bind:
            try:
                parse_bind(text)
            except ValueError as error:
                yield f"bind={text}: {error}"
        if self.max_threads is not None and self.max_threads < self.threads:
            yield f"max_threads={self.max_threads}: must be at least threads ({self.threads})"
        for text in self.environ:
            name, equals, _ = text.partition("=")
            if not (name and equals) or name.startswith(("wsgi.", "HTTP_", "CONTENT_")):
                yield f"environ={text}: must be NAME=value, and not a name of the server's own"
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            yield f"root_path={self.root_path}: must start with a slash and not end with one"
        if self.limit_request_head < self.limit_request_line:
            yield (
                f"limit_request_head={self.limit_request_head}: "
                f"must be at least limit_request_line ({self.limit_request_line})"
            )

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
    def thread_limit(self) -> int:
        """The most threads that may exist: ``max_threads``, or its default.

        One thread is a promise: an application that is not safe in threads never runs twice at once, not even beside a
        thread that waits for a slow client.
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
        variables = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        spelled: dict[str, tuple[str, object]] = {}
        problems: list[str] = []
        # A flag that says where to listen replaces all that the environment says of it.
        listen = {"bind", "host", "port", "uds"}
        ignored = listen if listen & flags.keys() else set()
        for item in OPTIONS:
            given: Any = flags.get(item.name)
            origin = item.flag
            if given is None and item.name not in ignored:
                # A variable that is set to nothing is a way to unset it.
                given, origin = variables.get(item.variable) or None, item.variable
            if given is None:
                continue
            spelled[item.name] = (origin, given)
            try:
                value = item.parse(given) if isinstance(given, str) else given
            except ValueError as error:
                problems.append(f"{origin}={_shown(given)}: {error}")
                continue
            problem = item.problem_with(value)
            if problem:
                problems.append(f"{origin}={_shown(given)}: {problem}")
            else:
                values[item.name] = value
        try:
            config = cls(**values)
        except ConfigError as error:
            problems.extend(_respell(problem, spelled) for problem in error.problems)
        if problems:
            raise ConfigError(problems)
        return config


def _respell(problem: str, spelled: Mapping[str, tuple[str, object]]) -> str:
    """Name an option in a problem as its author did: ``--max-threads=4`` for ``max_threads=4``."""
    name, _, rest = problem.partition("=")
    return f"{spelled[name][0]}={rest}" if name in spelled else problem


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A TCP address; an empty host is every interface, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix-domain socket's path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FileDescriptorAddress:
    """A listening socket that this process has inherited."""

    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


BindAddress = Union[TCPAddress, UnixAddress, FileDescriptorAddress]  # noqa: UP007 - exported as a value


def parse_bind(text: str) -> BindAddress:
    """Read one bind address.

    Args:
        text: ``host:port``, ``:port``, ``[v6]:port``, ``host`` (port 8000), ``unix:path`` or ``fd://N``.

    Raises:
        ValueError: naming what is wrong.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix://") if text.startswith("unix:///") else text.removeprefix("unix:")
        if not path:
            raise ValueError("a Unix socket needs a path")
        return UnixAddress(path)
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not re.fullmatch(r"[0-9]{1,6}", number):
            raise ValueError("a file descriptor is written fd://N with N a number")
        return FileDescriptorAddress(int(number))
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^:\[\]/\s]*))(?::(?P<port>[0-9]{1,5}))?", text
    )
    if match is None or not text:
        raise ValueError("must be host:port, :port, [v6]:port, unix:path or fd://N")
    if match["port"] is None and (match["host"] or "").isdigit():
        raise ValueError(f"must be host:port; a port alone is written :{text}")
    port = 8000 if match["port"] is None else int(match["port"])
    if port > 65535:
        raise ValueError("a port is at most 65535")
    return TCPAddress(match["v6"] or match["host"] or "", port)


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+(?:_[0-9]+)*", text.strip()):
        raise ValueError("must be a whole number")
    return int(text)


_SIZE_UNITS = {"": 1, "k": KiB, "m": MiB, "g": GiB}


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"([+-]?[0-9]+)\s*([kmg]?)(?:i?b)?(?:/s)?", text.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 65536, 512K, 10M or 1G")
    return int(match[1]) * _SIZE_UNITS[match[2]]


_SECOND_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


def _parse_seconds(text: str) -> float:
    match = re.fullmatch(r"([+-]?[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|min|h)?", text.strip().lower())
    if match is None:
        raise ValueError("must be a duration such as 30, 2.5, 500ms or 2m")
    return float(match[1]) * _SECOND_UNITS[match[2] or ""]


def _parse_flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be true or false")


def format_value(kind: Kind, value: Any) -> str:
    """Show a value as a person would type it: ``512K``, ``30s``, ``off``."""
    if value is None:
        return "none"
    if kind in (Kind.SIZE, Kind.RATE):
        suffix = "/s" if kind is Kind.RATE else ""
        for letter, factor in (("G", GiB), ("M", MiB), ("K", KiB)):
            if value and value % factor == 0:
                return f"{value // factor:.0f}{letter}{suffix}"
        return f"{value:.0f}{suffix}"
    if kind is Kind.SECONDS:
        return f"{value:g}s"
    if kind is Kind.FLAG:
        return "on" if value else "off"
    if kind is Kind.TEXTS:
        return ",".join(value)
    return str(value)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _options() -> tuple[Option, ...]:
    rows = []
    for item in dataclasses.fields(Config):
        metadata = item.metadata
        rows.append(
            Option(
                name=item.name,
                kind=metadata["kind"],
                default=item.default,
                default_text=metadata["default_text"],
                help=metadata["help"],
                group=metadata["group"],
                least=metadata["least"],
                most=metadata["most"],
                choices=metadata["choices"],
                flags=metadata["flags"],
                optional=item.default is None,
            )
        )
    return tuple(rows)


OPTIONS: tuple[Option, ...] = _options()


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
        lines.append(f"| {names} | {item.shown_default()} | {item.help}{choices} |")
    return "\n".join(lines) + "\n"
