from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from aiowsgi.config import Config
from aiowsgi.process.spawn import describe_exit
from aiowsgi.process.worker import Order


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (0, "exited with code 0"),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-35, "was killed by signal 35"),  # of real time, between those that have names
    ],
)
def test_end_of_a_process_is_told_whatever_has_ended_it(exit_code: int, text: str) -> None:
    assert describe_exit(exit_code) == text


def test_order_has_of_the_module_path_what_python_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", [Path("/a/path"), *path])
    fields = json.loads(json.dumps(Order(1, "app", False, Config(), []).as_fields()))
    assert fields["sys_path"] == path
