"""The commands, given in place of an application: ``aiowsgi migrate gunicorn.conf.py``.

As the first argument, a word of this table is always the command. A module of the same name is served as
``migrate:application``, as ``./migrate.py``, or behind a flag: ``aiowsgi --app migrate``.

Thread: the main thread.
"""

from __future__ import annotations

import importlib
import os

import click

__all__ = ["COMMANDS", "load_command", "module_hint"]

#: Name to where its :class:`click.Command` is, which is imported only when called, and its line in the help.
COMMANDS = {
    "migrate": ("aiowsgi.process.migrate:command", "Translate gunicorn's configuration file."),
    "top": ("aiowsgi.process.top:command", "Show what a server is doing, refreshed every second."),
    "stats": ("aiowsgi.process.control:stats", "Print a server's figures."),
    "stacks": ("aiowsgi.process.control:stacks", "Print what every thread of a server is doing."),
    "reload": ("aiowsgi.process.control:reload", "Have a server's workers replaced one by one."),
    "drain": ("aiowsgi.process.control:drain", "Let a server's requests finish, then end it."),
    "ping": ("aiowsgi.process.ping:command", "Ask a server whether it is well: a container's health check."),
}


def load_command(name: str) -> click.Command:
    """Import the command of that name."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    return command


def module_hint(name: str | None) -> str:
    """What to add to a usage error, where a module with the name of the command may have been meant."""
    if name is not None and (os.path.exists(f"{name}.py") or os.path.isdir(name)):
        return f"; to serve the module {name!r}, type {name}:application"
    return ""
