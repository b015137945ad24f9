from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, BinaryIO
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from aiowsgi import demo
from tests.conftest import ServerThread

Serve = Callable[..., ServerThread]


class Answer:
    """What the application answered to a call without a server; held to PEP 3333 by wsgiref.validate."""

    def __init__(
        self, method: str = "GET", target: str = "/", content: BinaryIO | None = None, **variables: Any
    ) -> None:
        path, _, query = target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "wsgi.input": content or io.BytesIO(),
            **variables,
        }
        environ.setdefault("SCRIPT_NAME", "")
        setup_testing_defaults(environ)
        iterable = validator(demo.app)(environ, self._start_response)
        try:
            self.content = b"".join(iterable)
        finally:
            iterable.close()  # type: ignore[attr-defined]  # the validator's iterable has it

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        self.status = status
        self.headers = dict(headers)
        return io.BytesIO().write


class Page(HTMLParser):
    """The elements of a page, and where they point."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within in ("style", "script"):
            self.inline[self._within] = self.inline.get(self._within, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


# The page


def test_page_shows_the_thread_and_every_environ_variable() -> None:
    answer = Answer(HTTP_X_TOKEN="a token", SERVER_SOFTWARE="some/1")
    text = answer.content.decode()
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert threading.current_thread().name in text
    assert "some/1" in text
    for name in ("REQUEST_METHOD", "HTTP_X_TOKEN", "wsgi.multithread", "wsgi.input"):
        assert f"<code>{name}</code>" in text
    assert "&#x27;a token&#x27;" in text


def test_page_escapes_what_the_client_sends() -> None:
    hostile = "<script>alert(1)</script>\"'&"
    variables = {f"HTTP_{hostile}": "", "HTTP_X_TOKEN": hostile, "SERVER_SOFTWARE": hostile}
    text = Answer(target="/?" + hostile, SCRIPT_NAME="/" + hostile, **variables).content.decode()
    assert "alert(1)</script>" not in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'data-url="/%3Cscript%3Ealert%281%29%3C/script%3E%22%27%26/stream"' in text


def test_page_shows_bytes_that_are_no_text() -> None:
    assert "&#x27;\xff\\x80&#x27;" in Answer(HTTP_X_TOKEN="\xff\x80").content.decode()


def test_page_needs_nothing_from_elsewhere() -> None:
    page = Page(Answer().content.decode())
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset"):
            target = attributes.get(name)
            assert target is None or target == "data:,", (tag, attributes)
    assert "url(" not in page.inline["style"]
    assert "http" not in page.inline["style"] + page.inline["script"]


def test_page_allows_its_own_style_and_script_and_no_other() -> None:
    answer = Answer()
    page = Page(answer.content.decode())
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inline[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    # A policy with digests forbids these.
    assert not any(name == "style" or name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_page_is_accessible_in_what_a_machine_can_tell() -> None:
    text = Answer().content.decode()
    page = Page(text)
    attributes = dict(page.tags)
    ids = [found["id"] for _, found in page.tags if found.get("id")]
    assert attributes["html"]["lang"] == "en"
    assert "<title>" in text
    assert "prefers-color-scheme: dark" in text
    assert len(ids) == len(set(ids))
    for _, found in page.tags:
        for name in ("aria-labelledby", "for"):
            assert found.get(name) is None or found[name] in ids
    assert all(f'element("{name}")' not in text or name in ids for name in re.findall(r'element\("([^"]+)"\)', text))
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings == ["h1", "h2", "h2", "h2"]


@pytest.mark.parametrize(
    ("mount", "url"), [("", "/stream"), ("/site", "/site/stream"), ("/caf\xc3\xa9", "/caf%C3%A9/stream")]
)
def test_page_names_its_endpoints_where_it_is_mounted(mount: str, url: str) -> None:
    assert f'data-url="{url}"' in Answer(SCRIPT_NAME=mount).content.decode()
    assert Answer(target="", SCRIPT_NAME=mount or "/x").status == "200 OK"


# Methods and paths


@pytest.mark.parametrize("path", ["/nothing", "//", "/stream/", "/index.html", "/caf\xc3\xa9"])
def test_unknown_path_is_404(path: str) -> None:
    answer = Answer(target=path)
    assert answer.status == "404 Not Found"
    assert path.encode("latin-1") in answer.content
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/", "POST", "GET, HEAD"),
        ("/", "OPTIONS", "GET, HEAD"),
        ("/stream", "DELETE", "GET, HEAD"),
        ("/upload", "GET", "PUT, POST"),
    ],
)
def test_method_that_is_not_allowed_is_405_and_names_those_that_are(path: str, method: str, allowed: str) -> None:
    answer = Answer(method, path)
    assert answer.status == "405 Method Not Allowed"
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/stream"])
def test_head_has_the_headers_of_get(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "BLOCK_INTERVAL", 0)
    got, head = Answer("GET", path), Answer("HEAD", path)
    assert (head.status, head.headers.keys()) == (got.status, got.headers.keys())


def test_head_of_the_stream_does_not_run_it() -> None:
    begun = time.monotonic()
    assert Answer("HEAD", "/stream").content == b""
    assert time.monotonic() - begun < demo.BLOCK_INTERVAL * demo.BLOCK_COUNT / 2


# The stream


def test_stream_yields_numbered_blocks_from_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "BLOCK_INTERVAL", 0)
    lines = Answer(target="/stream").content.decode().splitlines()
    assert len(lines) == demo.BLOCK_COUNT
    assert lines[0].startswith(f"block 1 of {demo.BLOCK_COUNT}, 0.0")
    assert all(line.endswith(threading.current_thread().name) for line in lines)


def test_stream_lasts_a_few_seconds() -> None:
    assert 2 <= demo.BLOCK_COUNT * demo.BLOCK_INTERVAL <= 6


# The upload


class Reads(io.BytesIO):
    """Content that notes how it was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sizes: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.sizes.append(size)
        return super().read(size)


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 300_000])
def test_upload_is_answered_with_what_arrived(method: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    content = Reads(data + b"the next request")
    answer = Answer(
        method, "/upload?name=%C3%A9t%C3%A9.txt", content, CONTENT_LENGTH=str(size), CONTENT_TYPE="text/x-test"
    )
    told = json.loads(answer.content)
    assert answer.status == "200 OK"
    assert told["name"] == "été.txt"
    assert told["size"] == size
    assert told["sha256"] == hashlib.sha256(data).hexdigest()
    assert told["type"] == "text/x-test"
    assert told["thread"] == threading.current_thread().name
    # Never whole in memory, never beyond its end.
    assert all(0 < asked <= 64 * 1024 for asked in content.sizes)
    assert content.tell() == size


def test_upload_cut_short_is_400() -> None:
    answer = Answer("PUT", "/upload", io.BytesIO(b"12345"), CONTENT_LENGTH="10")
    assert answer.status == "400 Bad Request"
    assert b"Only 5 of 10 bytes" in answer.content


def test_upload_of_unknown_length_is_read_to_its_end_where_the_server_marks_it() -> None:
    data = b"x" * 100_000
    marked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    assert json.loads(Answer("PUT", "/upload", io.BytesIO(data), **marked).content)["size"] == len(data)
    assert json.loads(Answer("PUT", "/upload", io.BytesIO(data), CONTENT_LENGTH="").content)["size"] == 0


def test_upload_without_name_is_answered() -> None:
    assert json.loads(Answer("PUT", "/upload").content)["name"] == ""


# Served


def test_demo_served_streams_block_by_block(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "BLOCK_COUNT", 4)
    server = serve(demo.app)
    with server.connect() as client:
        client.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        head = client.receive_head()
        assert head.value("Transfer-Encoding") == "chunked"
        arrivals, blocks = [], []
        while block := client.read_chunk():
            arrivals.append(time.monotonic())
            blocks.append(block)
    assert len(blocks) == 4
    assert arrivals[-1] - arrivals[0] >= 2 * demo.BLOCK_INTERVAL


def test_demo_served_shows_page_and_upload(serve: Serve, tmp_path: Path) -> None:
    server = serve(demo.app, stream_body=False, request_buffer=1024)
    data = b"0123456789" * 50_000
    with server.connect() as client:
        page = client.get("/?q=1")
        assert page.status_code == 200
        assert b"&#x27;q=1&#x27;" in page.content
        assert client.get("/", method="HEAD").content == b""
        told = json.loads(client.post(data, "/upload?name=%C3%A9").content)
    assert (told["name"], told["size"], told["sha256"]) == ("é", len(data), hashlib.sha256(data).hexdigest())
