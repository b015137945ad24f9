"""The command line: ``aiowsgi [OPTIONS] APP``, and the commands of :mod:`aiowsgi.process.commands`.

Its options are those of :class:`~aiowsgi.config.Config`, taken as text, so that every problem of flags, file and
variables is reported at once. Whatever keeps the server from starting is reported in a message, without a
traceback of the server's own code, and the exit code is then 3.

Thread: the main thread.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from aiowsgi.bridge.threads import lasting_threads
from aiowsgi.config import OPTIONS
from aiowsgi.configuration.names import did_you_mean
from aiowsgi.configuration.settings import Settings, Sources
from aiowsgi.configuration.sources import Given, misspelled_variables
from aiowsgi.errors import AiowsgiError, ApplicationImportError, ConfigError, HookError
from aiowsgi.process.arguments import flag_parameters, given_flags
from aiowsgi.process.commands import COMMANDS, load_command, module_hint
from aiowsgi.process.descriptors import open_standard_descriptors
from aiowsgi.process.exit import START_FAILURE, end_in_time, end_process, flush_streams
from aiowsgi.process.run import check, exit_at_next_signal, run
from aiowsgi.version import __version__

__all__ = ["command", "main"]

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
Options can be set in aiowsgi.toml (queue_size = 50), else under [tool.aiowsgi] in pyproject.toml,
or in a variable (AIOWSGI_QUEUE_SIZE=50), which wins over the file; a flag wins over both.
SIGTERM lets running requests finish, SIGINT for a second; a second signal ends all immediately.
"""

GROUPS = {item.name: item.group for item in OPTIONS}
GROUPS |= dict.fromkeys(("config", "check_config", "print_config"), "Configuration")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit.

    Args:
        arguments: what follows the program's name; default ``sys.argv[1:]``.

    Raises:
        SystemExit: always: 0 after a graceful end, 3 where the server could not start.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    threads = lasting_threads()
    served = False
    exit_code = 0
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        open_standard_descriptors()
        if name is None:
            served = command.main(args=arguments, prog_name="aiowsgi", standalone_mode=False)
        else:
            load_command(name).main(args=arguments[1:], prog_name=f"aiowsgi {name}", standalone_mode=False)
    except click.NoSuchOption as error:
        meant = did_you_mean(error.option_name, [item.flag for item in OPTIONS] if name is None else [])
        exit_code = _failed(f"{error.option_name}: no such option{meant}{module_hint(name)}")
    except click.ClickException as error:
        exit_code = _failed(error.format_message() + module_hint(name))
    except ConfigError as error:
        exit_code = _failed(*error.problems)
    except AiowsgiError as error:
        if isinstance(error, (ApplicationImportError, HookError)) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        exit_code = _failed(str(error))
    except (KeyboardInterrupt, click.Abort):
        exit_code = INTERRUPTED
    if served is True:
        exit_at_next_signal()
        end_in_time(exit_code)
    elif lasting_threads() - threads or (exit_code and not flush_streams()):
        end_process(exit_code)
    sys.exit(exit_code)


def _failed(*messages: str) -> int:
    with contextlib.suppress(OSError):  # standard error takes no more: the exit code is what is left to say it with
        for message in messages:
            click.echo(f"aiowsgi: {message}", err=True)
    return START_FAILURE


def _serve(app_argument: str | None, config: str | None, check_config: bool, print_config: bool, **flags: Any) -> bool:
    """Carry out the command with its parsed arguments; return whether it has served."""
    given, problems = given_flags(flags)
    if app_argument:
        given.append(Given("app", app_argument, "APP"))
    sources = Sources(flags=given, path=config, problems=problems)
    settings = sources.read()
    assert settings.config.app is not None  # or read() would have missed it
    misspelled = misspelled_variables(OPTIONS, os.environ)
    if print_config:
        _print(settings)
    if check_config and misspelled:
        raise ConfigError(misspelled)
    for sentence in misspelled:
        click.echo(f"aiowsgi: {sentence}", err=True)
    if check_config:
        check(settings.config)
        click.echo(f"aiowsgi: the configuration is good, and {settings.config.app} can be served")
    if print_config or check_config:
        return False
    run(
        settings.config.app,
        config=settings.config,
        reread=lambda: sources.read_again(settings).config,
        config_file=settings.path,
    )
    return True


def _print(settings: Settings) -> None:
    click.echo(f"# configuration file: {settings.path or 'none'}")
    for line in settings.lines():
        click.echo(line)


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
        with formatter.section("Commands, in the place of APP"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()], col_max=34)


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
        click.Argument(["app_argument"], required=False, metavar="APP"),
        *flag_parameters(),
        click.Option(
            ["-c", "--config"],
            metavar="FILE",
            help="Configuration file [default: aiowsgi.toml, else pyproject.toml with [tool.aiowsgi]]",
        ),
        click.Option(
            ["--check-config"],
            is_flag=True,
            help="Check the configuration, import the application, and exit: 0 if both are good, else 3.",
        ),
        click.Option(["--print-config"], is_flag=True, help="Show every option and where it was set, and exit."),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and exit.",
        ),
    ],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        # One of gunicorn's flags has an underscore in it; others are typed with one by mistake.
        "token_normalize_func": lambda flag: flag.replace("_", "-"),
    },
)
