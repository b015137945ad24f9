"""The text that names an application: ``project.wsgi:application``, ``app.py:make("production")``.

It is read with :mod:`ast` and never evaluated: the arguments of a factory are literals.

Thread: any. Looks at the file system only to tell ``project.wsgi`` the file from ``project.wsgi`` the module.
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from typing import Any

from aiowsgi.errors import ApplicationImportError

__all__ = ["Call", "Reference", "parse_reference"]


@dataclass(frozen=True, slots=True)
class Call:
    """How a factory is called: its arguments, and their text for messages (``("production")``)."""

    text: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an application is.

    ``location`` is a dotted module name, or a path where ``is_file``. Without ``attributes`` the conventional
    names are tried; with ``call`` the attribute is a factory.
    """

    location: str
    is_file: bool
    attributes: tuple[str, ...]
    call: Call | None

    def __str__(self) -> str:
        attributes = ":" + ".".join(self.attributes) if self.attributes else ""
        return f"{self.location}{attributes}"


def parse_reference(text: str, *, factory: bool = False) -> Reference:
    """Read the name of an application.

    Args:
        text: ``module``, ``module:attribute``, ``module:factory("arg", key=1)``, or a path in place of the
            module: one that contains a slash, ends in ``.py``, or is an existing file that ends in ``.wsgi``.
        factory: the attribute is to be called without arguments, as if ``()`` followed it.

    Raises:
        ApplicationImportError: the text has none of these forms.
    """
    location, colon, expression = text.strip().partition(":")
    is_file = _is_file(location)
    if not location:
        raise ApplicationImportError(f"APP {text!r}: must begin with a module or a file, as in module:application")
    if not is_file and not all(part.strip() == part != "" for part in location.split(".")):
        raise ApplicationImportError(f"APP {text!r}: {location!r} is not the name of a module")
    if colon and not expression.strip():
        raise ApplicationImportError(f"APP {text!r}: the name of the application is missing after the colon")
    attributes, call = _parse_expression(text, expression.strip()) if colon else ((), None)
    if factory:
        if call is not None:
            raise ApplicationImportError(f"APP {text!r}: has both a call and --factory; leave out one of them")
        call = Call("()", (), {})
    return Reference(location, is_file, attributes, call)


def _is_file(location: str) -> bool:
    # "project.wsgi" may be the module that Django generates, or a file made for mod_wsgi.
    return os.sep in location or location.endswith(".py") or (location.endswith(".wsgi") and os.path.isfile(location))


def _parse_expression(text: str, expression: str) -> tuple[tuple[str, ...], Call | None]:
    """Read what follows the colon: dotted names, and at most one call, at the end."""
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        # Without its cause, whose traceback would show only this package's own code.
        raise ApplicationImportError(_not_understood(text, expression)) from None
    call = node if isinstance(node, ast.Call) else None
    attributes = _names(call.func if call else node)
    if attributes is None:
        raise ApplicationImportError(_not_understood(text, expression))
    return attributes, _parse_call(text, call) if call else None


def _not_understood(text: str, expression: str) -> str:
    return (
        f"APP {text!r}: {expression!r} is neither an attribute (app, package.app) "
        f'nor a call of one with literals (make_app("production", debug=False))'
    )


def _names(node: ast.expr) -> tuple[str, ...] | None:
    """The names of ``a.b.c``, or ``None`` where the expression is anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    names.append(node.id)
    return tuple(reversed(names))


def _parse_call(text: str, call: ast.Call) -> Call:
    keywords: dict[str, Any] = {}
    try:
        arguments = tuple(ast.literal_eval(argument) for argument in call.args)
        for keyword in call.keywords:
            if keyword.arg is None:
                raise ValueError("** is not a literal")
            keywords[keyword.arg] = ast.literal_eval(keyword.value)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise ApplicationImportError(
            f"APP {text!r}: the arguments of a factory must be literals: texts, numbers, True, False, None, "
            f"and tuples, lists, dicts and sets of them"
        ) from None
    return Call(f"({', '.join(map(ast.unparse, [*call.args, *call.keywords]))})", arguments, keywords)
