"""``aiowsgi migrate gunicorn.conf.py``: gunicorn's configuration file as this server's, on standard output.

The file is a program of the deployer's own; it is executed, as gunicorn executes it.

Thread: the main thread.

Source: gunicorn 27, ``gunicorn/app/base.py``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path

import click

from aiowsgi.configuration.gunicorn import translate
from aiowsgi.errors import ApplicationImportError
from aiowsgi.process.module import application_error, import_module, make_importable, summary

__all__ = ["command", "settings_of"]

DEFAULT_FILE = "gunicorn.conf.py"
# What gunicorn calls the file's module.
MODULE_NAME = "__config__"

HELP = """Print the aiowsgi.toml that says what gunicorn's configuration FILE says.

\b
FILE is executed, as gunicorn executes it: a path, or python:MODULE. Default: ./gunicorn.conf.py.
What has no counterpart is listed in comments, with what to do instead.

\b
  aiowsgi migrate > aiowsgi.toml && aiowsgi --check-config project.wsgi
"""


def settings_of(location: str) -> Mapping[str, object]:
    """Execute gunicorn's configuration file and return what it has assigned.

    What the file prints goes to standard error.

    Args:
        location: a path, ``file:`` and a path, or ``python:`` and a module.

    Raises:
        ApplicationImportError: there is no such file, or it failed, and that failure is the cause.
    """
    make_importable(os.getcwd())
    with contextlib.redirect_stdout(sys.stderr):
        if location.startswith("python:"):
            return vars(import_module(location.removeprefix("python:")))
        return _executed(Path(location.removeprefix("file:")))


def _executed(path: Path) -> Mapping[str, object]:
    if not os.path.isfile(path):  # not path.is_file(), which fails where a folder cannot be read
        raise ApplicationImportError(f"no file {str(path)!r}; name gunicorn's configuration file")
    if path.suffix == ".ini":  # not a program
        raise ApplicationImportError(f"{str(path)!r} is no configuration file of gunicorn's; uWSGI's are not read")
    loader = SourceFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_loader(MODULE_NAME, loader)
    assert spec is not None  # a loader was given
    module = sys.modules[MODULE_NAME] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[MODULE_NAME]
        raise ApplicationImportError(f"{str(path)!r} failed: {summary(error)}") from application_error(error)
    return vars(module)


@click.command("migrate", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", default=DEFAULT_FILE, metavar="[FILE]")
def command(file: str) -> None:
    """Do what the help says."""
    for line in translate(settings_of(file), file):
        click.echo(line)
