"""The configuration file: TOML, found by its name, and the line that each of its values is on.

Thread: any; reads the file system.

Source: https://toml.io/en/v1.0.0; PEP 518 for ``[tool.aiowsgi]`` in ``pyproject.toml``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiowsgi.configuration.foreign import explain
from aiowsgi.configuration.option import Option
from aiowsgi.configuration.sources import Given
from aiowsgi.errors import ConfigError

__all__ = ["find_file", "read_file"]

FILE_NAME = "aiowsgi.toml"
PROJECT_FILE_NAME = "pyproject.toml"
PROJECT_TABLE = "tool.aiowsgi"

# A larger file is no configuration but a device, a log or a mistake. Arbitrary.
MOST_SIZE = 1024 * 1024


def find_file(folder: str | os.PathLike[str] = "") -> Path | None:
    """The file to use if none is named: ``aiowsgi.toml``, else a ``pyproject.toml`` with ``[tool.aiowsgi]``."""
    path = Path(folder, FILE_NAME)
    if os.path.isfile(path):  # not path.is_file(), which fails in a folder that this user may not enter
        return path
    path = Path(folder, PROJECT_FILE_NAME)
    try:
        # A project's file may be broken or unreadable for reasons that are none of a server's business.
        mentioned = f"[{PROJECT_TABLE}" in path.read_text(errors="replace")
    except OSError:
        return None
    return path if mentioned else None


def read_file(path: Path, shown: str, options: Iterable[Option], problems: list[str]) -> list[Given]:
    """Read a configuration file.

    Args:
        path: the file.
        shown: its name in problems and origins.
        options: all there are; each is known by its name, its aliases, and with hyphens for underscores.
        problems: gets one sentence for each key that is not an option.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
    """
    text = _text(path, shown)
    try:
        table: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{shown}: {_not_toml(path, error)}"]) from None
    heading = ""
    if path.name == PROJECT_FILE_NAME:
        heading = PROJECT_TABLE
        for name in heading.split("."):
            table = table.get(name, {}) if isinstance(table, dict) else {}
        if not isinstance(table, dict):
            raise ConfigError([f"{shown}: {heading} must be a table"])
    names = {name: item.name for item in options for name in (*item.aliases, item.name)}
    given = []
    for key, value in table.items():
        origin = _origin(shown, text, heading, key)
        name = key.replace("-", "_")
        if name in names:
            given.append(Given(names[name], value, origin, key))
        else:
            problems.append(f"{origin}: {key}: {explain(name, names)}")
    return given


def _text(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_SIZE + 1)
        if len(content) > MOST_SIZE:
            raise ConfigError([f"{shown}: is larger than any configuration file"])
        return content.decode()
    except OSError as error:
        raise ConfigError([f"{shown}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{shown}: is not UTF-8 text"]) from error


def _not_toml(path: Path, error: Exception) -> str:
    if path.suffix == ".py":
        return f"is a Python file, and the configuration file is TOML; 'aiowsgi migrate {path}' prints it"
    return f"is not TOML: {error}"


def _origin(shown: str, text: str, heading: str, key: str) -> str:
    """``aiowsgi.toml:3`` where the line is certain, else the file alone."""
    begins = re.compile(rf"""[ \t]*\[{{0,2}}[ \t]*["']?{re.escape(key)}["']?[ \t]*[=.\]]""")
    inside = not heading
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if heading and line.lstrip().startswith("["):
            inside = re.sub(r"\s", "", line).startswith(f"[{heading}]")
        elif inside and begins.match(line) and _is_complete("\n".join(lines[:index])):
            return f"{shown}:{index + 1}"
    return shown


def _is_complete(text: str) -> bool:
    """Whether the text before a line is complete, so that the line does not continue a value."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
