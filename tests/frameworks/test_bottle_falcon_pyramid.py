"""One small application in each of three more frameworks, served for real."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import httpx
import pytest

from . import bottle_app, falcon_app, pyramid_app
from .serving import THREADS, Probe, Served, serve

MAKERS: dict[str, Callable[[Path, Probe], WSGIApplication]] = {
    "bottle": bottle_app.make_application,
    "falcon": falcon_app.make_application,
    "pyramid": pyramid_app.make_application,
}
FILE = random.Random("file").randbytes(700_000)
# Below and above what is held in memory.
SIZES = [0, 1, 100_000, 1_500_000]


@pytest.fixture(scope="module", params=list(MAKERS))
def site(
    request: pytest.FixtureRequest, loop_name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "file.bin").write_bytes(FILE)
    probe = Probe()
    application = MAKERS[request.param](folder, probe)
    with serve(application, loop_name) as served:
        yield SimpleNamespace(framework=request.param, application=application, probe=probe, served=served)


@pytest.fixture
def served(site: SimpleNamespace) -> Served:
    return site.served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def chunks_of(content: bytes, size: int = 50_000) -> Iterator[bytes]:
    """Content without a length, which httpx sends chunked."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["Ada", "Zoë", "日本", "a b", "100%", "%41"])
def test_path_and_query_are_decoded_once(client: httpx.Client, name: str) -> None:
    quoted = "".join(f"%{octet:02x}" for octet in name.encode())
    response = client.get(f"/hello/{quoted}", params={"title": "Dr ☕ & "})
    assert (response.status_code, response.text) == (200, f"Hello, Dr ☕ & {name}!\n")


@pytest.mark.parametrize("size", SIZES)
def test_content_with_length_arrives_whole(client: httpx.Client, size: int) -> None:
    response = client.put("/content", content=content_of(size))
    assert response.json() == {"sha256": sha256(content_of(size))}


@pytest.mark.parametrize("size", SIZES)
def test_content_in_chunks_arrives_whole(client: httpx.Client, size: int) -> None:
    response = client.put("/content", content=chunks_of(content_of(size)))
    assert response.json() == {"sha256": sha256(content_of(size))}


@pytest.mark.parametrize("size", SIZES)
def test_form_upload_arrives_whole(client: httpx.Client, size: int) -> None:
    response = client.post("/upload", files={"file": ("upload.bin", content_of(size))})
    assert response.json() == {"name": "upload.bin", "sha256": sha256(content_of(size))}


def test_cookies_go_both_ways(client: httpx.Client) -> None:
    response = client.get("/cookies")
    names = [value.partition("=")[0] for value in response.headers.get_list("set-cookie")]
    assert sorted(names) == ["first", "second"]
    assert client.get("/cookies").json() == {"cookies": {"first": "1", "second": "2"}}


def test_stream_sends_the_first_block_before_the_last_is_made(client: httpx.Client, site: SimpleNamespace) -> None:
    with client.stream("GET", "/gated") as response:
        blocks = response.iter_raw()
        assert next(blocks) == b"first\n"
        site.probe.gate.release()
        assert b"".join(blocks) == b"last\n"


def test_stream_that_raises_midway_ends_visibly(client: httpx.Client, site: SimpleNamespace) -> None:
    ended = site.probe.count("failing blocks ended")
    with client.stream("GET", "/midway") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    site.probe.wait("failing blocks ended", ended + 1)
    assert client.get("/hello/Ada").status_code == 200


def test_file_is_sent_whole_with_its_length(client: httpx.Client) -> None:
    response = client.get("/file")
    assert response.content == FILE
    assert int(response.headers["content-length"]) == len(FILE)


def test_file_on_head_has_its_length_and_no_content(client: httpx.Client, site: SimpleNamespace) -> None:
    response = client.head("/file")
    assert response.content == b""
    if site.framework == "falcon":  # it takes HEAD only where a responder is written for it
        assert response.status_code == 405
    else:
        assert response.status_code == 200
        assert int(response.headers["content-length"]) == len(FILE)


def test_file_on_a_conditional_request_is_what_the_framework_makes_of_it(
    client: httpx.Client, site: SimpleNamespace
) -> None:
    conditions = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    response = client.get("/file", headers=conditions)
    if site.framework == "falcon":  # the stream that it was given has no date
        assert (response.status_code, response.content) == (200, FILE)
    else:
        assert (response.status_code, response.content) == (304, b"")


def test_file_in_a_range_is_what_the_framework_makes_of_it(client: httpx.Client, site: SimpleNamespace) -> None:
    response = client.get("/file", headers={"Range": "bytes=600000-600009"})
    if site.framework == "falcon":
        assert (response.status_code, response.content) == (200, FILE)
    else:
        assert (response.status_code, response.content) == (206, FILE[600_000:600_010])


def test_unknown_path_is_the_frameworks_404(client: httpx.Client) -> None:
    assert client.get("/missing").status_code == 404


def test_view_that_raises_is_a_500_without_internals(client: httpx.Client) -> None:
    # Bottle and Falcon answer themselves; Pyramid lets the exception through to the server.
    response = client.get("/broken")
    assert response.status_code == 500
    assert "RuntimeError" not in response.text
    assert "Traceback" not in response.text
    assert client.get("/hello/Ada").status_code == 200


def test_concurrent_requests_do_not_mix(served: Served) -> None:
    paths = [f"/meet/{number}" for number in range(5 * THREADS)]
    answers = [response.json() for response in served.gather(paths)]
    assert answers == [{"path": path, "header": path, "token": path.removeprefix("/meet/")} for path in paths]


def test_application_under_the_validator_breaks_no_rule(site: SimpleNamespace, loop_name: str) -> None:
    content = content_of(700_000)
    with serve(validator(site.application), loop_name) as served, served.client() as client:
        assert client.get("/hello/Ada").status_code == 200
        assert client.put("/content", content=content).json() == {"sha256": sha256(content)}
        assert client.put("/content", content=chunks_of(content)).json() == {"sha256": sha256(content)}
        assert client.post("/upload", files={"file": ("a", content)}).json()["sha256"] == sha256(content)
        assert client.get("/cookies").status_code == 200
        assert client.get("/file").content == FILE
        assert client.get("/missing").status_code == 404
