"""One option: everything that the command line, the file, the environment, validation and the README say about it.

Thread: any; an :class:`Option` is immutable.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from aiowsgi.configuration.values import Kind, format_value, parse_value

__all__ = ["Form", "Option", "option", "options_of", "shown_value"]

T = TypeVar("T")

_KIND_WORDS = {
    Kind.COUNT: "a whole number",
    Kind.SIZE: "a whole number of bytes",
    Kind.RATE: "a whole number of bytes per second",
    Kind.SECONDS: "a number of seconds",
    Kind.FLAG: "true or false",
    Kind.TEXT: "text",
    Kind.CHOICE: "text",
    Kind.TEXTS: "a sequence of texts",
    Kind.MODE: "an octal number",
    Kind.SHARE: "a share between 0 and 1",
}


class Form(NamedTuple):
    """How a text has to look."""

    pattern: str
    #: What is said of a text that the pattern does not match.
    rule: str


@dataclass(frozen=True, slots=True)
class Option:
    """A field of :class:`~aiowsgi.config.Config`.

    Args:
        name: the field's; a key of the configuration file.
        default_text: what is shown in place of a default that only the process knows.
        least: the least value allowed.
        most: the greatest value allowed.
        form: how its text has to look, beyond being text.
        flags: short flags.
        aliases: names that other servers give to the same thing, as keys: ``reload_extra_file``.
        common_variable: a variable of the platform that sets it if nothing else does: ``WEB_CONCURRENCY``.
        secret: the value is never shown.
        optional: ``None`` is a value.
    """

    name: str
    kind: Kind
    default: Any
    default_text: str
    help: str
    group: str
    least: float | None
    most: float | None
    form: Form | None
    choices: tuple[str, ...]
    flags: tuple[str, ...]
    aliases: tuple[str, ...]
    common_variable: str
    secret: bool
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

    def shown(self, value: object) -> str:
        """A value as a problem shows it."""
        return "***" if self.secret else shown_value(value)

    def parse(self, text: str) -> Any:
        """Read a value from the text of a flag or a variable.

        Raises:
            ValueError: the text is not of the option's kind; the message is the rule alone.
        """
        return parse_value(self.kind, text)

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
            Kind.MODE: (int,),
            Kind.SHARE: (int, float),
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

    def misformed(self, value: object) -> str | None:
        """Say that a value of the right kind does not look as it has to, or ``None``."""
        if self.form is None or not isinstance(value, str) or re.fullmatch(self.form.pattern, value, re.DOTALL):
            return None
        return self.form.rule


def option(
    default: T,
    kind: Kind,
    help: str,
    *,
    group: str,
    least: float | None = None,
    most: float | None = None,
    form: Form | None = None,
    choices: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    common_variable: str = "",
    secret: bool = False,
    default_text: str = "",
) -> T:
    """Declare one option as a dataclass field; see :class:`Option` for the arguments."""
    metadata = {
        "kind": kind,
        "help": help,
        "group": group,
        "least": least,
        "most": most,
        "form": form,
        "choices": choices,
        "flags": flags,
        "aliases": aliases,
        "common_variable": common_variable,
        "secret": secret,
        "default_text": default_text,
    }
    declared: T = field(default=default, metadata=metadata)
    return declared


def options_of(declaration: type) -> tuple[Option, ...]:
    """The options that a dataclass declares, in their order."""
    return tuple(
        Option(name=item.name, default=item.default, optional=item.default is None, **item.metadata)
        for item in dataclasses.fields(declaration)
    )


def shown_value(value: object) -> str:
    """Text as it is, anything else as Python writes it."""
    return value if isinstance(value, str) else repr(value)
