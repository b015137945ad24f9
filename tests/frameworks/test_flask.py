"""The Flask example, served for real."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import random
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from wsgiref.validate import validator

import httpx
import pytest
from flask import Blueprint, Flask, Response, current_app, g, request, stream_with_context
from werkzeug.test import EnvironBuilder, run_wsgi_app

from .command_line import EXAMPLES, readme_commands, served_by_command
from .serving import THREADS, Probe, Served, serve

FOLDER = EXAMPLES / "flask_app"
# Below and above what is held in memory, at which the rest goes to a temporary file.
SIZES = [0, 1, 100_000, 512 * 1024, 512 * 1024 + 1, 1_500_000]

probes = Blueprint("probes", __name__)


def probe() -> Probe:
    return current_app.extensions["probe"]


@probes.teardown_app_request
def note_teardown(error: BaseException | None) -> None:
    probe().note(f"teardown {request.path}")


@probes.get("/gated")
def gated() -> Response:
    return Response(probe().gated_blocks())


@probes.get("/endless")
def endless() -> Response:
    return Response(stream_with_context(probe().endless_blocks()))


@probes.get("/midway")
def midway() -> Response:
    return Response(stream_with_context(probe().failing_blocks()))


@probes.get("/closing")
def closing() -> Response:
    response = Response(iter(["closing", "\n"]))
    noted = probe()
    response.call_on_close(lambda: noted.note("close"))
    return response


@probes.get("/meet/<token>")
def meet(token: str) -> dict[str, object]:
    """Answer once every thread is here, so that all run at the same time."""
    g.token = token
    probe().barrier.wait(15)
    return {
        "token": g.token,
        "path": request.path,
        "header": request.headers["X-Token"],
        "cookie": request.cookies["token"],
        "thread": threading.current_thread().name,
    }


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The example's module, as ``aiowsgi app:app`` would import it."""
    spec = importlib.util.spec_from_file_location("flask_app_example", FOLDER / "app.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FILES_FOLDER", str(tmp_path_factory.mktemp("flask_files")))
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def create(example: ModuleType, **config: object) -> Flask:
    app = example.create_app(SECRET_KEY="only for tests", **config)
    app.register_blueprint(probes)
    app.extensions["probe"] = Probe()
    return app


@pytest.fixture(scope="module")
def app(example: ModuleType, loop_name: str) -> Flask:
    return create(example)


@pytest.fixture(scope="module")
def served(app: Flask, loop_name: str) -> Iterator[Served]:
    with serve(app, loop_name) as served:
        yield served


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


def stored_file(client: httpx.Client, name: str, content: bytes) -> str:
    """Put a file there; return its path."""
    client.put(f"/files/{name}", content=content).raise_for_status()
    return f"/files/{name}"


# Requests, as Flask sees them


def test_index_is_the_rendered_template(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert int(response.headers["content-length"]) == len(response.content)
    assert "Hello, stranger" in response.text
    assert response.text.endswith("</html>")


def test_request_with_unicode_everywhere_reaches_flask_intact(client: httpx.Client, served: Served) -> None:
    response = client.get(
        "/request",
        params={"drink": "żółć ☕", "plus": "a+b&c=d"},
        headers={"X-Latin": "café".encode("latin-1"), "X-UTF-8": "☕".encode()},
    )
    seen = response.json()
    headers = dict(seen["headers"])
    assert seen["arguments"] == {"drink": ["żółć ☕"], "plus": ["a+b&c=d"]}
    assert headers["X-Latin"] == "café"
    assert headers["X-Utf-8"].encode("latin-1").decode() == "☕"
    assert seen["url"].startswith(f"{served.url}/request?")
    assert (seen["method"], seen["script_name"], seen["protocol"]) == ("GET", "", "HTTP/1.1")


@pytest.mark.parametrize("name", ["Ada", "Zoë", "日本", "a b", "100%", "%41", "q?#", "a;b", "~é\u0301", "+"])
def test_path_with_escapes_is_decoded_once(client: httpx.Client, name: str) -> None:
    quoted = "".join(f"%{octet:02x}" for octet in name.encode())
    assert client.get(f"/hello/{quoted}").text == f"Hello, {name}!\n"


def test_repeated_fields_are_joined_and_cookies_merge(served: Served) -> None:
    answer = served.exchange(
        b"GET /request HTTP/1.1\r\nHost: a\r\nX-List: 1\r\nX-List: 2\r\nCookie: a=1\r\nCookie: b=2\r\n"
        b"Connection: close\r\n\r\n"
    )
    seen = httpx.Response(200, content=answer.partition(b"\r\n\r\n")[2]).json()
    assert dict(seen["headers"])["X-List"].replace(" ", "") == "1,2"
    assert seen["cookies"] == {"a": "1", "b": "2"}


def test_external_url_is_the_host_that_the_client_named(client: httpx.Client) -> None:
    response = client.put("/files/named.txt", content=b"x", headers={"Host": "files.example:8443"})
    assert response.status_code == 201
    assert response.headers["location"] == "http://files.example:8443/files/named.txt"


@pytest.mark.parametrize("path", ["/mounted/request", "/request"])
def test_root_path_is_the_script_name(example: ModuleType, loop_name: str, path: str) -> None:
    with serve(create(example), loop_name, root_path="/mounted") as served, served.client() as client:
        seen = client.get(path).json()
        assert (seen["script_name"], seen["path"]) == ("/mounted", "/request")
        assert seen["url"] == f"{served.url}/mounted/request"


def test_options_is_answered_by_flask(client: httpx.Client) -> None:
    response = client.options("/hello/Ada")
    assert response.status_code == 200
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert response.content == b""


# Sessions and cookies


def test_session_over_keep_alive_counts_on(client: httpx.Client) -> None:
    before = client.get("/request").json()["client"]
    pages = [client.get("/").text for _ in range(3)]
    after = client.get("/request").json()["client"]
    assert [re.search(r"been here (\d+) time", page)[1] for page in pages] == ["1", "2", "3"]
    assert before == after, "not the same connection"


def test_session_over_new_connections_counts_on(served: Served) -> None:
    cookies = httpx.Cookies()
    for visit in (1, 2, 3):
        with served.client(cookies=cookies) as client:
            assert f"been here {visit} time" in client.get("/").text
            cookies = client.cookies


def test_several_cookies_in_one_response_all_arrive(client: httpx.Client) -> None:
    response = client.post("/preferences", data={"name": "Zoë", "theme": "dark", "language": "fr"})
    assert response.status_code == 303
    names = [value.partition("=")[0] for value in response.headers.get_list("set-cookie")]
    assert sorted(names) == ["language", "session", "theme"]
    seen = client.get("/request").json()["cookies"]
    assert (seen["theme"], seen["language"]) == ("dark", "fr")
    assert "Hello, Zoë" in client.get(response.headers["location"]).text


# Content of requests


@pytest.mark.parametrize("size", SIZES)
def test_form_upload_arrives_whole(client: httpx.Client, size: int) -> None:
    content = content_of(size)
    response = client.post("/files", files={"file": (f"form-{size}.bin", content)})
    assert response.status_code == 201
    assert response.json()["sha256"] == sha256(content)
    assert client.get(response.json()["url"]).content == content


@pytest.mark.parametrize("size", SIZES)
def test_raw_upload_with_length_arrives_whole(client: httpx.Client, size: int) -> None:
    content = content_of(size)
    response = client.put(f"/files/raw-{size}.bin", content=content)
    assert response.status_code == 201
    assert (response.json()["size"], response.json()["sha256"]) == (size, sha256(content))


@pytest.mark.parametrize("size", SIZES)
def test_raw_upload_in_chunks_arrives_whole(client: httpx.Client, size: int) -> None:
    content = content_of(size)
    response = client.put(f"/files/chunked-{size}.bin", content=chunks_of(content))
    assert response.status_code == 201
    assert (response.json()["size"], response.json()["sha256"]) == (size, sha256(content))
    assert client.get("/request").status_code == 200


@pytest.mark.parametrize("size", SIZES)
def test_form_upload_in_chunks_arrives_whole(client: httpx.Client, size: int) -> None:
    content = content_of(size)
    form = httpx.Request("POST", "http://a/", files={"file": (f"form-chunked-{size}.bin", content)})
    response = client.post(
        "/files",
        content=chunks_of(form.read()),
        headers={"Content-Type": form.headers["content-type"]},
    )
    assert response.status_code == 201
    assert response.json()["sha256"] == sha256(content)


def test_form_fields_in_chunks_are_parsed(client: httpx.Client) -> None:
    response = client.post(
        "/request",
        content=chunks_of(b"name=Zo%C3%AB&name=Ada&empty=", 5),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert response.json()["fields"] == {"name": ["Zoë", "Ada"], "empty": [""]}


def test_expect_continue_is_asked_for_before_the_content_is_sent(served: Served) -> None:
    with served.connect() as connection, connection.makefile("rb") as received:
        connection.sendall(
            b"PUT /files/expected.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert received.readline() == b"HTTP/1.1 100 Continue\r\n"
        while received.readline() != b"\r\n":
            pass
        connection.sendall(b"hello")
        answer = received.read()
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert sha256(b"hello").encode() in answer


def test_content_that_the_view_ignores_leaves_the_connection_usable(client: httpx.Client) -> None:
    before = client.get("/request").json()["client"]
    assert client.post("/missing", content=content_of(200_000)).status_code == 404
    assert client.get("/request").json()["client"] == before


def test_content_over_flasks_own_limit_is_flasks_413(example: ModuleType, loop_name: str) -> None:
    with serve(create(example, MAX_CONTENT_LENGTH=1000), loop_name) as served, served.client() as client:
        assert client.put("/files/fits.bin", content=content_of(999)).status_code == 201
        for content in (content_of(1001), chunks_of(content_of(1001))):
            response = client.put("/files/large.bin", content=content)
            assert response.status_code == 413
            assert "Request Entity Too Large" in response.text


# Content of responses


def test_stream_sends_the_first_block_before_the_last_is_made(client: httpx.Client, app: Flask) -> None:
    with client.stream("GET", "/gated") as response:
        blocks = response.iter_raw()
        assert next(blocks) == b"first\n"
        app.extensions["probe"].gate.release()
        assert b"".join(blocks) == b"last\n"


def test_server_sent_events_arrive_as_they_are_said(served: Served) -> None:
    with (
        served.client() as speaking,
        served.client() as watching,
        watching.stream("GET", "/watch", params={"name": "Zoë"}) as response,
    ):
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-length" not in response.headers
        events = response.iter_text()
        assert next(events) == "event: welcome\ndata: Zoë\n\n"
        for text in ("one", "two ☕"):
            assert speaking.post("/say", data={"text": text}).json() == {"watchers": 1}
            assert next(events) == f"data: {text}\n\n"
        speaking.post("/say", data={"text": ""})
        assert list(events) == ["data: \n\n"]


def test_stream_of_many_blocks_is_chunked_and_whole(client: httpx.Client) -> None:
    response = client.get("/rows.csv", params={"rows": 20_000})
    lines = response.text.splitlines()
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers
    assert len(lines) == 20_001
    assert lines[-1] == "19999,399960001"


def test_stream_to_http10_ends_with_the_connection(served: Served) -> None:
    head, _, content = served.exchange(b"GET /rows.csv?rows=2 HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert content == b"number,square\n0,0\n1,1\n"


def test_stream_that_raises_midway_ends_visibly(client: httpx.Client, app: Flask) -> None:
    noted = app.extensions["probe"]
    ended = noted.count("failing blocks ended")
    with client.stream("GET", "/midway") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    noted.wait("failing blocks ended", ended + 1)
    assert client.get("/request").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/request",
        "/hello/Ada",
        "/report.txt",
        "/rows.csv",
        "/static/style.css",
        "/missing",
        "/broken",
        "/files/head",
    ],
)
def test_head_has_the_fields_of_get_and_no_content(client: httpx.Client, path: str) -> None:
    stored_file(client, "head", content_of(100_000))
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    # RFC 9110 §9.3.2: those that depend on generating the content may be missing.
    ignored = {"date", "transfer-encoding"}
    if path == "/request":  # its content shows the method
        ignored.add("content-length")
    fields = [
        {name: value for name, value in response.headers.items() if name not in ignored} for response in (got, head)
    ]
    assert fields[0] == fields[1]


def test_head_pipelined_before_get_leaves_no_stray_content(served: Served) -> None:
    answer = served.exchange(
        b"HEAD /rows.csv HTTP/1.1\r\nHost: a\r\n\r\nHEAD /report.txt HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /hello/Ada HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    heads = answer.split(b"\r\n\r\n")
    assert [head[:15] for head in heads[:3]] == [b"HTTP/1.1 200 OK"] * 3
    assert heads[3:] == [b"Hello, Ada!\n"]


@pytest.mark.parametrize("path", ["/hello/Ada", "/static/style.css", "/files/conditional.bin"])
def test_conditional_request_with_the_same_etag_is_304(client: httpx.Client, path: str) -> None:
    stored_file(client, "conditional.bin", content_of(1000))
    etag = client.get(path).headers["etag"]
    for method in ("GET", "HEAD"):
        response = client.request(method, path, headers={"If-None-Match": etag})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert "content-type" not in response.headers
        assert "transfer-encoding" not in response.headers
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_conditional_request_with_the_same_date_is_304(client: httpx.Client) -> None:
    path = stored_file(client, "dated.bin", content_of(1000))
    changed = client.get(path).headers["last-modified"]
    assert client.get(path, headers={"If-Modified-Since": changed}).status_code == 304
    earlier = "Mon, 01 Jan 2001 00:00:00 GMT"
    assert client.get(path, headers={"If-Modified-Since": earlier}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "part", "described"),
    [
        ("bytes=0-9", slice(0, 10), "bytes 0-9/700000"),
        ("bytes=-5", slice(-5, None), "bytes 699995-699999/700000"),
        ("bytes=600000-", slice(600_000, None), "bytes 600000-699999/700000"),
        ("bytes=10-99999999", slice(10, None), "bytes 10-699999/700000"),
    ],
)
def test_range_of_a_file_is_206(client: httpx.Client, asked: str, part: slice, described: str) -> None:
    content = content_of(700_000)
    path = stored_file(client, "range.bin", content)
    response = client.get(path, headers={"Range": asked})
    assert response.status_code == 206
    assert response.headers["content-range"] == described
    assert response.content == content[part]
    assert int(response.headers["content-length"]) == len(response.content)


def test_range_of_a_file_in_memory_is_206(client: httpx.Client) -> None:
    response = client.get("/report.txt", headers={"Range": "bytes=5-12"})
    assert (response.status_code, response.content) == (206, b"0\nline 1")


def test_range_beyond_a_file_is_416(client: httpx.Client) -> None:
    path = stored_file(client, "short.bin", b"short")
    response = client.get(path, headers={"Range": "bytes=5-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */5"


def test_file_in_memory_is_sent_whole_with_its_unicode_name(client: httpx.Client) -> None:
    response = client.get("/report.txt")
    assert response.content == b"".join(b"line %d\n" % number for number in range(1000))
    assert "filename*=UTF-8''report%20%E2%9C%93.txt" in response.headers["content-disposition"]


# Errors


def test_unknown_path_is_the_applications_404_page(client: httpx.Client) -> None:
    response = client.get("/missing")
    assert response.status_code == 404
    assert "<h1>Not Found</h1>" in response.text
    assert "Back to the start" in response.text


def test_method_that_no_view_takes_is_flasks_405(client: httpx.Client) -> None:
    response = client.delete("/hello/Ada")
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_view_that_raises_is_the_applications_500_page(client: httpx.Client) -> None:
    before = client.get("/request").json()["client"]
    response = client.get("/broken")
    assert response.status_code == 500
    assert "<h1>Internal Server Error</h1>" in response.text
    assert "RuntimeError" not in response.text
    assert client.get("/request").json()["client"] == before, "the connection has not been kept"


# Teardown


def teardowns_by_flask_alone(example: ModuleType, path: str, *, method: str = "GET", blocks: int | None = None) -> int:
    """How often Flask tears down without any server; for a ``stream_with_context`` it is twice."""
    app = create(example)
    iterable, _, _ = run_wsgi_app(app, EnvironBuilder(path, method=method).get_environ())
    for _ in itertools.islice(iterable, blocks):
        pass
    iterable.close()
    return app.extensions["probe"].count(f"teardown {path}")


@pytest.mark.parametrize("path", ["/hello/Ada", "/missing", "/broken", "/rows.csv", "/static/style.css", "/closing"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_teardown_runs_as_often_as_in_flask_alone(example: ModuleType, loop_name: str, method: str, path: str) -> None:
    expected = teardowns_by_flask_alone(example, path, method=method)
    app = create(example)
    noted = app.extensions["probe"]
    with serve(app, loop_name) as served, served.client() as client:
        client.request(method, path)
        noted.wait(f"teardown {path}", expected)
    assert noted.count(f"teardown {path}") == expected
    assert noted.count("close") == (path == "/closing")


def test_stream_whose_client_leaves_is_closed_exactly_once(example: ModuleType, loop_name: str) -> None:
    expected = teardowns_by_flask_alone(example, "/endless", blocks=2)
    app = create(example)
    noted = app.extensions["probe"]
    with serve(app, loop_name) as served:
        with served.connect() as connection:
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        noted.wait("endless blocks ended")
        noted.wait("teardown /endless", expected)
        with served.client() as client:
            assert client.get("/hello/Ada").status_code == 200
    assert noted.count("endless blocks ended") == 1
    assert noted.count("teardown /endless") == expected


def test_statistics_of_the_example_balance(example: ModuleType, loop_name: str) -> None:
    app = create(example)
    with serve(app, loop_name) as served, served.client() as client:
        for path in ("/", "/rows.csv", "/missing", "/broken"):
            client.get(path)
            app.extensions["probe"].wait(f"teardown {path}")
        # The request that asks has started and not finished.
        assert client.get("/statistics").json() == {"started": 5, "finished": 4, "failed": 1}


# Threads


def test_concurrent_requests_do_not_mix(served: Served) -> None:
    paths = [f"/meet/{number}" for number in range(5 * THREADS)]
    answers = [response.json() for response in served.gather(paths)]
    threads = {answer.pop("thread") for answer in answers}
    assert len(threads) == THREADS
    assert answers == [
        {"token": path.removeprefix("/meet/"), "path": path, "header": path, "cookie": path} for path in paths
    ]


# The rules of PEP 3333


def test_example_under_the_validator_breaks_no_rule(example: ModuleType, loop_name: str) -> None:
    large = content_of(700_000)
    with serve(validator(create(example)), loop_name) as served, served.client() as client:
        statuses = [
            client.get("/").status_code,
            client.get("/request?q=1").status_code,
            client.post("/preferences", data={"name": "Ada"}).status_code,
            client.post("/files", files={"file": ("large.bin", large)}).status_code,
            client.put("/files/chunked.bin", content=chunks_of(large)).status_code,
            client.get("/files/large.bin").status_code,
            client.head("/files/large.bin").status_code,
            client.get("/files/large.bin", headers={"Range": "bytes=1-2"}).status_code,
            client.get("/report.txt").status_code,
            client.get("/rows.csv").status_code,
            client.head("/rows.csv").status_code,
            client.get("/missing").status_code,
            client.get("/broken").status_code,
        ]
        etag = client.get("/static/style.css").headers["etag"]
        statuses.append(client.get("/static/style.css", headers={"If-None-Match": etag}).status_code)
        assert client.get("/files/chunked.bin").content == large
    assert statuses == [200, 200, 303, 201, 201, 200, 200, 206, 200, 200, 200, 404, 500, 304]


# The command line


def test_readme_command_serves_the_example(tmp_path: Path) -> None:
    [command] = readme_commands(FOLDER)
    with (
        served_by_command([*command, "-b", "127.0.0.1:0"], FOLDER, FILES_FOLDER=str(tmp_path)) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert "been here 1 time" in client.get("/").text
        assert client.put("/files/a.txt", content=b"a").json()["url"].startswith(url)
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def test_readme_factory_serves_the_example(tmp_path: Path) -> None:
    [command] = readme_commands(FOLDER)
    assert 'aiowsgi "app:create_app()"' in (FOLDER / "README.md").read_text()
    factory = [*command[:-1], "app:create_app()", "--bind", "127.0.0.1:0"]
    with served_by_command(factory, FOLDER, FILES_FOLDER=str(tmp_path)) as url:
        assert httpx.get(f"{url}/hello/Ada", trust_env=False).text == "Hello, Ada!\n"


def test_hello_example_serves_its_greeting() -> None:
    [command] = readme_commands(FOLDER)
    assert "`aiowsgi hello:app`" in (EXAMPLES / "README.md").read_text()
    with served_by_command([*command[:-1], "hello:app", "-b", "127.0.0.1:0"], EXAMPLES) as url:
        assert httpx.get(url, trust_env=False).text == "Hello, world!\n"
        assert httpx.get(f"{url}?Ada", trust_env=False).text == "Hello, Ada!\n"
