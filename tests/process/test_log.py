from __future__ import annotations

import logging
import logging.config
import re

import pytest

from aiowsgi.process.log import configure_logging

pytestmark = pytest.mark.usefixtures("own_process")


@pytest.fixture(autouse=True)
def fresh_loggers() -> None:
    for name in ("aiowsgi", "aiowsgi.error", "aiowsgi.access"):
        logging.getLogger(name).handlers.clear()


def test_log_record_is_one_line_with_time_process_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("aiowsgi.error").info("ready at %s", "dawn")
    line = capsys.readouterr().err
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[INFO\] ready at dawn\n", line)


def test_log_below_the_level_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    logging.getLogger("aiowsgi.error").info("ready")
    logging.getLogger("aiowsgi.error").warning("late")
    err = capsys.readouterr().err
    assert "ready" not in err
    assert "late" in err


def test_log_configured_twice_writes_each_record_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    configure_logging("info")
    logging.getLogger("aiowsgi.error").info("ready")
    assert capsys.readouterr().err.count("ready") == 1


def test_log_is_not_repeated_by_a_root_handler(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        configure_logging("info")
        logging.getLogger("aiowsgi.error").info("ready")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err.count("ready") == 1


def test_loggers_that_the_application_silenced_unasked_speak_again(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("aiowsgi.error")
    logging.config.dictConfig({"version": 1})  # disables existing loggers unless it is told not to
    assert logger.disabled
    configure_logging("info")
    logger.info("ready")
    assert "ready" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["aiowsgi", "aiowsgi.error"])
def test_handler_that_the_application_set_is_the_only_one(capsys: pytest.CaptureFixture[str], name: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("the application's: %(message)s"))
    logging.getLogger(name).addHandler(handler)
    configure_logging("info")
    logging.getLogger("aiowsgi.error").info("ready")
    assert capsys.readouterr().err == "the application's: ready\n"
