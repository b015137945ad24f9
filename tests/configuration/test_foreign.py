"""Every flag of the servers that people come from is an option, an alias, or answered with what to use."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import uvicorn.main
from gunicorn.config import KNOWN_SETTINGS  # type: ignore[import-untyped] # gunicorn has no types

from aiowsgi.config import OPTIONS
from aiowsgi.configuration.foreign import FOREIGN, advice_for, explain

# What nobody here has to know.
OWN_OF_THE_COMMAND = {"config", "check_config", "print_config", "version", "help"}
ANSWERED = {name for item in FOREIGN for name in item.names}
KNOWN = {name for item in OPTIONS for name in (item.name, *item.aliases)} | ANSWERED | OWN_OF_THE_COMMAND


def gunicorn_names() -> Iterator[str]:
    for setting in KNOWN_SETTINGS:
        yield setting.name
        yield from (flag.removeprefix("--").replace("-", "_") for flag in setting.cli or () if flag.startswith("--"))


def uvicorn_names() -> Iterator[str]:
    for param in uvicorn.main.main.params:
        yield from (flag.removeprefix("--").replace("-", "_") for flag in param.opts if flag.startswith("--"))


def test_name_is_answered_once() -> None:
    names = [name for item in FOREIGN for name in item.names]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("item", FOREIGN, ids=lambda item: item.names[0])
def test_advice_continues_a_sentence_and_says_what_to_do(item: object) -> None:
    advice = getattr(item, "advice", "")
    assert re.match(r"(leave it out|use|set|let|log|write|wrap|run|redirect)\b", advice)
    assert not re.search(r"[^.]\.$", advice)


def test_advice_in_a_file_names_options_as_keys() -> None:
    assert advice_for("limit_concurrency") == "use max_connections, and queue_size for the requests that may wait"
    assert advice_for("threads") is None
    assert explain("thread", ["threads"]) == "no such option; did you mean 'threads'?"
