"""The command line's flags: those of the options, their aliases, and other servers' flags, answered with advice.

Every value is taken as text, so that the problems of flags, file and variables are reported together.

Thread: any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from aiowsgi.config import OPTIONS, Kind, Option
from aiowsgi.configuration.foreign import FOREIGN, Foreign
from aiowsgi.configuration.sources import Given

__all__ = ["flag_parameters", "given_flags"]

METAVARS = {
    Kind.COUNT: "N",
    Kind.SIZE: "BYTES",
    Kind.RATE: "BYTES/S",
    Kind.SECONDS: "SECONDS",
    Kind.TEXT: "TEXT",
    Kind.CHOICE: "NAME",
    Kind.TEXTS: "TEXT",
    Kind.MODE: "MODE",
    Kind.SHARE: "SHARE",
}
# Those that say more than the option's kind.
OWN_METAVARS = {
    "app": "APP",
    "bind": "ADDRESS",
    "chdir": "FOLDER",
    "environ": "NAME=VALUE",
    "pid": "PATH",
    "pythonpath": "FOLDER",
    "reload_dir": "FOLDER",
    "reload_exclude": "PATTERN",
    "reload_extra": "PATH",
    "reload_include": "PATTERN",
    "uds": "PATH",
}

# click's parameters have the options' names; those for aliases and for other servers' flags have a prefix.
ALIAS = "alias__"
ELSEWHERE = "elsewhere__"

# Options whose texts hold no comma.
_LISTS = frozenset({"forwarded_allow_ips", "forwarded_parts", "proxy_allow_from"})

_ALIASES = {alias: item for item in OPTIONS for alias in item.aliases}
_FOREIGN = {name: item for item in FOREIGN for name in item.names}


def flag_parameters() -> list[click.Option]:
    """Every flag that the command line knows; only the options' own are shown in its help."""
    parameters = [_own_flag(item) for item in OPTIONS]
    parameters += [_alias_flag(alias, item) for alias, item in _ALIASES.items()]
    taken = {flag for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)} | {"-c", "-h"}
    for name, item in _FOREIGN.items():
        flags = [flag for flag in (_flag(name), item.short if name == item.names[0] else "") if flag]
        free = [flag for flag in flags if flag not in taken]
        if free:
            parameters.append(_foreign_flag(name, free, item))
    return parameters


def given_flags(parameters: Mapping[str, Any]) -> tuple[list[Given], list[str]]:
    """Return what the flags say, and a problem for each flag of another server.

    Args:
        parameters: what click has read; ``None`` and ``()`` mean that the flag was not given.
    """
    given, problems = [], []
    for name, value in parameters.items():
        if value in (None, ()):
            continue
        if name.startswith(ELSEWHERE):
            name = name.removeprefix(ELSEWHERE)
            problems.append(f"{_flag(name)}: {_FOREIGN[name].advice}")
        elif name.startswith(ALIAS):
            alias = name.removeprefix(ALIAS)
            name = _ALIASES[alias].name
            given.append(Given(name, _parts(name, value), _flag(alias)))
        else:
            given.append(Given(name, _parts(name, value), _flag(name) if value is not False else _flag(f"no_{name}")))
    return given, problems


def _parts(name: str, value: Any) -> Any:
    """Split the texts of a list flag at commas, as variables are split and as the help writes them."""
    if name not in _LISTS:
        return value
    return tuple(part.strip() for text in value for part in text.split(",") if part.strip())


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _own_flag(item: Option) -> click.Option:
    help = item.help
    if item.choices:
        help += f" One of {', '.join(item.choices)}."
    help = f"{help} [default: {item.shown_default()}]"
    if item.kind is Kind.FLAG:
        pair = f"{item.flag}/--no-{item.flag.removeprefix('--')}"
        return click.Option([item.name, *item.flags, pair], default=None, help=help)
    return click.Option([item.name, *item.flags, item.flag], help=help, **_value(item))


def _alias_flag(alias: str, item: Option) -> click.Option:
    names = [ALIAS + alias, _flag(alias)]
    if item.kind is Kind.FLAG:
        return click.Option(names, is_flag=True, default=None, hidden=True)
    return click.Option(names, hidden=True, **_value(item))


def _value(item: Option) -> dict[str, Any]:
    metavar = OWN_METAVARS.get(item.name, METAVARS.get(item.kind))
    return {"default": None, "type": str, "metavar": metavar, "multiple": item.kind is Kind.TEXTS}


def _foreign_flag(name: str, flags: list[str], item: Foreign) -> click.Option:
    kind: dict[str, Any] = {"type": str} if item.takes_value else {"is_flag": True}
    return click.Option([ELSEWHERE + name, *flags], default=None, hidden=True, multiple=item.takes_value, **kind)
