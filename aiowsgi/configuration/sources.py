"""Where settings come from, which of them wins, and how one is named in a problem.

The platform's variables (``PORT``, ``WEB_CONCURRENCY``) set what nothing else sets; then come the file, the
``AIOWSGI_*`` variables and the flags, each of which wins over those before it.

Thread: any; pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aiowsgi.configuration.names import did_you_mean
from aiowsgi.configuration.option import Option
from aiowsgi.configuration.values import Kind
from aiowsgi.errors import ConfigError

__all__ = ["Given", "common_variables", "merge", "misspelled_variables", "settle", "variables"]

C = TypeVar("C")

# Least likeness of a variable to the option that it is taken for; with less it is somebody else's. Images have
# AIOWSGI_VERSION, which does not mean SSL_MIN_VERSION (0.64); THRAEDS and THREADS are at 0.86.
_LIKENESS = 0.75


@dataclass(frozen=True, slots=True)
class Given:
    """One value that was given for an option.

    Args:
        name: the option's.
        value: text, or what a TOML file holds.
        origin: ``--queue-size``, ``AIOWSGI_QUEUE_SIZE``, ``aiowsgi.toml:3``; what a person looks for to change it.
        key: how it is spelled there, if ``origin`` does not show that.
    """

    name: str
    value: object
    origin: str
    key: str = ""

    @property
    def spelled(self) -> str:
        """What comes before ``=value`` in a problem."""
        return f"{self.origin}: {self.key}" if self.key else self.origin


def variables(options: Iterable[Option], environ: Mapping[str, str]) -> list[Given]:
    """What the ``AIOWSGI_*`` variables say; an empty one says nothing."""
    given = [Given(item.name, environ[item.variable], item.variable) for item in options if environ.get(item.variable)]
    # Kubernetes sets AIOWSGI_PORT=tcp://10.0.0.1:80 in every container that can use a service called aiowsgi.
    return [item for item in given if not (item.name == "port" and str(item.value).startswith(("tcp://", "udp://")))]


def misspelled_variables(options: Iterable[Option], environ: Mapping[str, str]) -> list[str]:
    """Sentences about the variables that look like options of this server but are not, and so are ignored."""
    known = ["CONFIG", *(item.variable.removeprefix("AIOWSGI_") for item in options)]
    # Not those that Kubernetes sets for a service called aiowsgi: AIOWSGI_SERVICE_PORT, AIOWSGI_PORT_80_TCP.
    names = sorted(
        name.removeprefix("AIOWSGI_")
        for name in environ
        if name.startswith("AIOWSGI_") and not name.startswith(("AIOWSGI_SERVICE_", "AIOWSGI_PORT_"))
    )
    return [
        f"AIOWSGI_{name}: no such option{meant}"
        for name in names
        if name not in known and (meant := did_you_mean(name, known, prefix="AIOWSGI_", likeness=_LIKENESS))
    ]


def common_variables(
    options: Iterable[Option], environ: Mapping[str, str], chosen: Mapping[str, Given]
) -> dict[str, Given]:
    """What the platform's variables say, as far as nothing else says it.

    ``PORT`` alone means every IPv4 address, as platforms intend and gunicorn reads it.
    """
    given = {}
    for item in options:
        text = environ.get(item.common_variable)
        if text and item.name not in chosen:
            given[item.name] = Given(item.name, text, item.common_variable)
    port = environ.get("PORT")
    if port and not chosen.keys() & {"bind", "uds", "port"}:
        given["port"] = Given("port", port, "PORT")
        if "host" not in chosen:
            given["host"] = Given("host", "0.0.0.0", "PORT")
    return given


def merge(layers: Iterable[Sequence[Given]], problems: list[str]) -> dict[str, Given]:
    """Let each layer win over those before it.

    An address replaces the addresses of the layers before it, whichever option gives them; a host and a port from
    different layers make one address.

    Args:
        layers: the last one wins.
        problems: takes what is wrong within one layer.
    """
    chosen: dict[str, Given] = {}
    for layer in layers:
        named: dict[str, Given] = {}
        for given in layer:
            other = named.setdefault(given.name, given)
            if other is not given:
                problems.append(f"{given.spelled}: says the same as {other.spelled}; leave out one of them")
        replaced: set[str] = set()
        if named.keys() & {"bind", "uds"}:
            replaced = {"bind", "uds", "host", "port"}
        elif named.keys() & {"host", "port"}:
            replaced = {"bind", "uds"}
        chosen = {name: given for name, given in chosen.items() if name not in replaced} | named
    return chosen


def settle(
    make: Callable[..., C], options: Iterable[Option], chosen: Mapping[str, Given], problems: Sequence[str] = ()
) -> C:
    """Read every value that was given and make the configuration.

    Args:
        make: takes the options as keywords; :class:`~aiowsgi.config.Config`.
        options: all there are.
        chosen: option name to the value that has won.
        problems: those found so far.

    Raises:
        ConfigError: with all problems, each named as its author spelled it.
    """
    found = list(problems)
    values: dict[str, Any] = {}
    for item in options:
        given = chosen.get(item.name)
        if given is None:
            continue
        try:
            value = _read(item, given.value)
        except ValueError as error:
            found.append(f"{given.spelled}={item.shown(given.value)}: {error}")
            continue
        problem = item.problem_with(value)
        if problem:
            found.append(f"{given.spelled}={item.shown(given.value)}: {problem}")
        else:
            values[item.name] = value
    try:
        config = make(**values)
    except ConfigError as error:
        found.extend(_respell(problem, chosen) for problem in error.problems)
    if found:
        raise ConfigError(found)
    return config


def _read(item: Option, value: object) -> Any:
    if isinstance(value, str):
        return item.parse(value)
    if item.kind is Kind.MODE:
        # In a file 27 would be 0o33, and its author means 0o27; which tomllib returns as 23, like any 23.
        raise ValueError('must be an octal number in quotes, such as "022"')
    return tuple(value) if isinstance(value, list) else value


def _respell(problem: str, chosen: Mapping[str, Given]) -> str:
    """Name an option in a problem as its author did: ``--max-threads=4`` for ``max_threads=4``."""
    name, _, rest = problem.partition("=")
    return f"{chosen[name].spelled}={rest}" if name in chosen else problem
