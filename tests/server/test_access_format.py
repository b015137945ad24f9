"""Lines of the access log: gunicorn's names mean what gunicorn means, and no value forges anything."""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger, SafeAtoms
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.config import Config
from aiowsgi.semantics import ConnectionInfo, ResponseHead
from aiowsgi.server.access_format import ATOMS, compile_format, escape
from tests.server.observing import ended_exchange, refused_exchange

GUNICORN_NAMES = "hlutrmUqHsBbfaTMDLp"
FIELDS = (
    ("host", "example.com"),
    ("user-agent", "curl/8"),
    ("referer", "http://example.com/from"),
    ("authorization", "Basic " + base64.b64encode(b"alice:secret").decode()),
    ("x-forwarded-for", "198.51.100.7"),
)
RESPONSE = ResponseHead("201 Created", 201, "Content-Type: text/plain\r\nX-Cache: HIT\r\n", 13)


def line(text: str, *arguments: Any, **options: Any) -> str:
    return compile_format(text).make_line(ended_exchange(*arguments, **options))


@pytest.fixture(autouse=True, scope="module")
def gunicorn_loggers() -> Iterator[None]:
    """Leave gunicorn's loggers as they were; its Logger claims them."""
    loggers = [logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access")]
    states = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, state in zip(loggers, states, strict=True):
        logger.handlers[:], _, logger.propagate = state
        logger.setLevel(state[1])


def gunicorn_line(text: str, environ: dict[str, str]) -> str:
    """What gunicorn logs for the same request."""
    logger = Logger(GunicornConfig())
    response = SimpleNamespace(status="201 Created", headers=list(RESPONSE.fields), sent=13)
    atoms = logger.atoms(response, list(FIELDS), environ, timedelta(seconds=3.75))
    return str(text % SafeAtoms(atoms)) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        *(f"%({name})s" for name in GUNICORN_NAMES if name != "t"),
        Config().access_logformat.replace("%(t)s ", ""),
        "%({x-forwarded-for}i)s %({X-Forwarded-For}i)s %({none}i)s",
        "%({x-cache}o)s %({Content-Type}o)s %({none}o)s",
        "%({server_protocol}e)s %({raw_uri}e)s %({none}e)s",
        "%(m)-6s|%(m)6s|%(m).2s|%(D)010d|%(B)5d|%(s)4s|%(M)x|100%%|{x}|'\"|\\n",
    ],
)
def test_line_is_what_gunicorn_writes(text: str) -> None:
    environ = {
        "REMOTE_ADDR": "192.0.2.1",
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/a/b?c=d",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "c=d",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_REFERER": "http://example.com/from",
        "HTTP_USER_AGENT": "curl/8",
        "HTTP_AUTHORIZATION": FIELDS[3][1],
    }
    assert line(text, "/a/b?c=d", FIELDS, RESPONSE, environ=environ) == gunicorn_line(text, environ)


def test_names_of_gunicorn_are_all_there() -> None:
    logger = Logger(GunicornConfig())
    environ = dict.fromkeys(("REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL"), "")
    atoms = logger.atoms(SimpleNamespace(status="200 OK", headers=[]), [], environ, timedelta())
    assert {name for name in atoms if "{" not in name} <= ATOMS.keys()


def test_time_is_that_of_the_common_log_format() -> None:
    assert re.fullmatch(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]\n", line("%(t)s"))


def test_names_of_our_own_say_where_the_time_went() -> None:
    text = "%(queue_time)s %(thread_time)s %(write_time)s %(L)s %(outcome)s %(reason)s %(request_id)s"
    assert line(text, request_id="abc") == "2.000000 0.500000 1.250000 3.750000 complete - abc\n"


def test_request_that_was_not_understood_has_dashes() -> None:
    make_line = compile_format(Config().access_logformat).make_line
    text = make_line(refused_exchange())
    assert re.fullmatch(r'192\.0\.2\.1 - - \[[^]]+\] "-" 400 40 "-" "-"\n', text)
    text = compile_format("%(m)s %(U)s %(q)s %(H)s %(D)s %({host}i)s %({x}o)s %(reason)s").make_line(refused_exchange())
    assert text == "- - - - 0 - - malformed\\x20request\\x20line\n"


def test_request_line_that_was_refused_is_shown_escaped() -> None:
    make_line = compile_format('"%(r)s" %(s)s').make_line
    assert make_line(refused_exchange('GET /"\x1b[2J\xff HTTP/1.1')) == '"GET /\\x22\\x1b[2J\\xff HTTP/1.1" 400\n'


def test_client_of_a_unix_socket_is_a_dash() -> None:
    assert line("%(h)s", connection=ConnectionInfo("http", "", "", "", "")) == "-\n"


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        ("Basic " + base64.b64encode(b"fr ank:x").decode(), "fr\\x20ank"),
        ("Basic " + base64.b64encode(b'a" 200 0 "\nroot:x').decode(), "a\\x22\\x20200\\x200\\x20\\x22\\x0aroot"),
        ("bAsIc " + base64.b64encode("\u00e4\u2028".encode()).decode(), "\\xe4\\u2028"),
        ("Basic " + base64.b64encode(b"\xff:x").decode(), "\\x5cxff"),
        ("Basic %%%", "-"),
        ("Basic a", "-"),
        ("Basic ", "-"),
        ("Bearer abc", "-"),
    ],
)
def test_user_is_what_basic_authentication_says_in_one_column(authorization: str, user: str) -> None:
    assert line("%(u)s", fields=(("authorization", authorization),)) == user + "\n"


HOSTILE = st.text(st.characters(max_codepoint=0x2100), max_size=40)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_value_of_a_client_never_leaves_its_column(path: str, agent: str, name: str, cookie: str) -> None:
    fields = (("user-agent", agent), ("referer", name), ("cookie", cookie))
    text = line(
        '%(h)s "%(r)s" %({cookie}i)s %(U)s %(s)s "%(f)s" %(m)s "%(a)s" "%({c}e)s"', path, fields, environ={"C": cookie}
    )
    assert text.isascii()
    assert text[:-1].isprintable()
    assert text.endswith("\n")
    columns = r'192\.0\.2\.1 "[^"]*" [^ "]* [^ "]* 200 "[^"]*" GET "[^"]*" "[^"]*"\n'
    assert re.fullmatch(columns, text)


@given(HOSTILE)
def test_escaped_value_can_be_read_back(text: str) -> None:
    for quoted in (True, False):
        escaped = escape(text, quoted)
        assert escaped.encode("ascii").decode("unicode_escape") == text
        assert quoted or " " not in escaped


def test_plain_value_is_left_as_it_is() -> None:
    assert line("%(a)s|%(U)s", "/a;b=c", (("user-agent", "it's~fine{}[]"),)) == "it's~fine{}[]|/a;b=c\n"


def test_path_is_decoded_and_then_escaped() -> None:
    assert line('"%(U)s"', "/a%20b%0ac%C3%A9%22") == '"/a b\\x0ac\\xc3\\xa9\\x22"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%(nothing)s", r"%\(nothing\)s is not known"),
        ("%({x}z)s", r"%\(\{x\}z\)s is not known"),
        ("%h %s", "'%h %s' is not understood"),
        ("100%", "'%' is not understood"),
        ("%(h)", r"'%\(h\)' is not understood"),
        ("%(h)9999s", "is not understood"),
        ("%(__import__('os'))s", "is not understood"),
    ],
)
def test_format_that_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_format(text)


@pytest.mark.parametrize(
    "text", ["'", '"""', "\\", "{os}", "\n", "\x00", "é", "\U0001f680", "\udcff", "{{", "}}", '\\"', "%%(h)s", ""]
)
def test_text_of_a_format_stands_for_itself(text: str) -> None:
    assert line(text) == text.replace("%%", "%") + "\n"


def test_format_knows_whether_it_reads_environ() -> None:
    assert compile_format("%({remote_user}e)s").reads_environ
    assert not compile_format("%(a)s").reads_environ
    assert line("%({REMOTE_USER}e)s %({wsgi.url_scheme}e)s", environ=None) == "- -\n"


def test_process_id_is_in_angle_brackets() -> None:
    assert line("%(p)s") == f"<{os.getpid()}>\n"
    assert logging.getLogger("aiowsgi.access").handlers == []
