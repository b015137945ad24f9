"""The command line: ``aiowsgi [OPTIONS] APP``.

Its options are those of :class:`~aiowsgi.config.Config`, taken as text, so that every problem of flags and
variables is reported at once. Whatever keeps the server from starting is told in a message, without a
traceback of ours, and the exit code is then 3.

Thread: the main thread.
"""

from __future__ import annotations

import platform
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from aiowsgi.config import OPTIONS, Config, Kind, Option
from aiowsgi.errors import AiowsgiError, ApplicationImportError, ConfigError
from aiowsgi.process.run import exit_at_next_signal, run
from aiowsgi.version import __version__

__all__ = ["command", "main"]

START_FAILURE = 3
INTERRUPTED = 130

USAGE = """Serve the WSGI application APP.

\b
APP is one of
  module                      its "application" or "app"
  module:attribute            dotted attributes too
  module:factory("arg", n=1)  what the factory returns; literals only
  path/to/file.py             with or without :attribute or :factory()
  file.wsgi                   likewise
"""

NOTES = """\b
Sizes are bytes, or as in 512K, 10M, 1G; durations are seconds, or as in 500ms, 2m, 1h.
Variables set options too: AIOWSGI_QUEUE_SIZE=50 for --queue-size 50; a flag wins.
SIGTERM and SIGINT let running requests finish; a second one ends at once.
"""

GROUPS = {"factory": "Application"} | {item.name: item.group for item in OPTIONS}

METAVARS = {
    Kind.COUNT: "N",
    Kind.SIZE: "BYTES",
    Kind.RATE: "BYTES/S",
    Kind.SECONDS: "SECONDS",
    Kind.TEXT: "TEXT",
    Kind.CHOICE: "NAME",
    Kind.TEXTS: "ADDRESS",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit.

    Args:
        arguments: what follows the program's name; default ``sys.argv[1:]``.

    Raises:
        SystemExit: always: 0 after a graceful end, 3 where the server could not start.
    """
    try:
        command.main(args=arguments, prog_name="aiowsgi", standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except ConfigError as error:
        _fail(*error.problems)
    except AiowsgiError as error:
        if isinstance(error, ApplicationImportError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    exit_at_next_signal()
    sys.exit(0)


def _fail(*messages: str) -> NoReturn:
    for message in messages:
        click.echo(f"aiowsgi: {message}", err=True)
    sys.exit(START_FAILURE)


def _serve(app: str | None, factory: bool, **flags: str | bool | tuple[str, ...] | None) -> None:
    """What the command does with its parsed arguments."""
    problems = [] if app else ["APP is missing: name the application to serve, as in module:application"]
    try:
        config = Config.from_texts({name: value for name, value in flags.items() if value not in (None, ())})
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if not app:
        raise ConfigError(problems)
    run(app, factory=factory, config=config)


class _GroupedCommand(click.Command):
    """A command whose help lists the options under the headings of their groups."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in [*GROUPS.values(), "Other"]}
        for param in self.get_params(context):
            record = param.get_help_record(context)
            if record is not None and isinstance(param, click.Option):
                groups[GROUPS.get(param.name or "", "Other")].append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=34)


def _click_option(item: Option) -> click.Option:
    """The command-line option for a configuration option; its text is read and checked by :class:`Config`."""
    help = item.help
    if item.choices:
        help += f" One of {', '.join(item.choices)}."
    attributes: dict[str, Any] = {"default": None, "help": f"{help} [default: {item.shown_default()}]"}
    if item.kind is Kind.FLAG:
        return click.Option([item.name, f"{item.flag}/--no-{item.flag.removeprefix('--')}"], **attributes)
    metavar = "NAME=VALUE" if item.name == "environ" else METAVARS[item.kind]
    attributes |= {"type": str, "metavar": metavar, "multiple": item.kind is Kind.TEXTS}
    return click.Option([item.name, *item.flags, item.flag], **attributes)


def _show_version(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        python = f"{platform.python_implementation()} {platform.python_version()}"
        click.echo(f"aiowsgi {__version__} ({python})")
        context.exit()


command = _GroupedCommand(
    "aiowsgi",
    callback=_serve,
    help=USAGE,
    epilog=NOTES,
    options_metavar="[OPTIONS]",
    params=[
        click.Argument(["app"], required=False, metavar="APP"),
        click.Option(["--factory"], is_flag=True, help="Call the named attribute for the application."),
        *(_click_option(item) for item in OPTIONS),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and exit.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
