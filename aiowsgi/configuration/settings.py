"""The settings of a process, read from everywhere that they may come from, and read again on request.

Thread: any; reads the file system and the variables that it is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiowsgi.config import OPTIONS, Config
from aiowsgi.configuration.file import find_file, read_file
from aiowsgi.configuration.folder import working_folder
from aiowsgi.configuration.option import Option
from aiowsgi.configuration.sources import Given, common_variables, merge, settle, variables
from aiowsgi.configuration.values import Kind, format_value
from aiowsgi.errors import ConfigError

__all__ = ["APP_IS_MISSING", "Settings", "Sources", "toml_value"]

APP_IS_MISSING = "APP is missing: name the application to serve, as in module:application"


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration, and where each setting came from.

    Args:
        config: all options.
        origins: option name to ``--threads``, ``AIOWSGI_THREADS``, ``aiowsgi.toml:3`` or ``PORT``; not for defaults.
        path: the configuration file, if there was one.
    """

    config: Config
    origins: Mapping[str, str]
    path: Path | None

    def lines(self) -> list[str]:
        """Every option with its value, as a configuration file has it, and its origin in a comment."""
        rows = [_row(item, getattr(self.config, item.name), self.origins.get(item.name)) for item in OPTIONS]
        width = min(40, max(len(text) for text, _ in rows))
        return [f"{text:<{width}}  # {comment}" for text, comment in rows]


def _row(item: Option, value: object, origin: str | None) -> tuple[str, str]:
    if value is None:
        return f"# {item.name}", f"{origin or 'default'}: {item.default_text or 'none'}"
    return f"{item.name} = {toml_value(item, value)}", origin or "default"


def toml_value(item: Option, value: Any) -> str:
    """A value as a configuration file has it; sizes and durations with their units."""
    if item.secret:
        return '"***"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_quoted(part) for part in value)}]"
    if item.kind is Kind.COUNT:
        return str(value)
    text = format_value(item.kind, value)
    is_number = item.kind in (Kind.SIZE, Kind.RATE) and text.isdigit()
    return text if is_number else _quoted(text)


def _quoted(text: str) -> str:
    # TOML's basic strings know every escape that JSON writes; but JSON does not escape DEL.
    # A path that is not UTF-8 has surrogates, which TOML has no way to write.
    text = text.encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the settings of a process come from.

    ::

        settings = Sources(flags=[Given("threads", "4", "--threads")]).read()

    Args:
        flags: what the command line says.
        path: the configuration file; default: ``AIOWSGI_CONFIG``, else the one that is found in ``folder``.
        folder: where the process was started; the same file is read again after ``chdir``.
        environ: the variables; default ``os.environ``.
        problems: those of the command line itself.
    """

    flags: Sequence[Given] = ()
    path: str | None = None
    folder: str = field(default_factory=working_folder)
    environ: Mapping[str, str] | None = None
    problems: Sequence[str] = ()

    def read(self) -> Settings:
        """Read them all.

        Raises:
            ConfigError: with all problems of all of them.
        """
        environ = os.environ if self.environ is None else self.environ
        problems = list(self.problems)
        path, from_file = self._read_file(environ, problems)
        chosen = merge([from_file or [], variables(OPTIONS, environ), self.flags], problems)
        chosen |= common_variables(OPTIONS, environ, chosen)
        if "app" not in chosen and from_file is not None:  # a file that could not be read may well name it
            problems.insert(0, APP_IS_MISSING)
        config = settle(Config, OPTIONS, chosen, problems)
        return Settings(config, {name: given.origin for name, given in chosen.items()}, path)

    def read_again(self, start: Settings) -> Settings:
        """Read them all as they are now.

        Args:
            start: what was read at the start.

        Raises:
            ConfigError: as :meth:`read`; also if the file that was read at the start is gone: then defaults, or another
                file, are hardly what is wanted.
        """
        if start.path is not None and not os.path.exists(start.path):
            shown = os.path.relpath(start.path, self.folder) if start.path.is_relative_to(self.folder) else start.path
            raise ConfigError([f"{shown}, which was read at the start, is gone"])
        return self.read()

    def _read_file(self, environ: Mapping[str, str], problems: list[str]) -> tuple[Path | None, list[Given] | None]:
        """Return the file, if there is one, and what it says; ``None`` where it could not be read."""
        named = self.path or environ.get("AIOWSGI_CONFIG")
        path = Path(self.folder, named) if named else find_file(self.folder)
        if path is None:
            return None, []
        try:
            return path, read_file(path, named or path.name, OPTIONS, problems)
        except ConfigError as error:
            problems.extend(error.problems)
            return path, None
