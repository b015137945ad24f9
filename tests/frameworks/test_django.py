"""The Django example, served for real."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import httpx
import pytest

from .command_line import EXAMPLES, readme_commands, run_to_end, served_by_command
from .serving import THREADS, Probe, Served, serve

FOLDER = EXAMPLES / "django_project"
# Below and above what the server holds in memory (512 KiB), and what Django does (2.5 MB).
SIZES = [1, 100_000, 512 * 1024, 512 * 1024 + 1, 3_000_000]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The project with its database, static files and an administrator, as its README sets it up.

    Django is configured here and not at import, so that other tests know nothing of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("django_data")))
        patch.setenv("SECRET_KEY", "only for tests, and long enough that Django has nothing to say about it")
        patch.setenv("DJANGO_SETTINGS_MODULE", f"{__package__}.django_settings")
        patch.setenv("DJANGO_SUPERUSER_PASSWORD", "secret")
        for name in ("DEBUG", "ALLOWED_HOSTS"):
            patch.delenv(name, raising=False)
        patch.syspath_prepend(str(FOLDER))

        import django
        from django.core.management import call_command
        from django.db import connections

        django.setup()
        call_command("migrate", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        call_command("createsuperuser", username="admin", email="admin@example.com", interactive=False, verbosity=0)
        connections.close_all()

        from project.wsgi import application

        from .django_urls import probe

        yield SimpleNamespace(application=application, probe=probe)


@pytest.fixture(scope="module")
def served(project: SimpleNamespace, loop_name: str) -> Iterator[Served]:
    with serve(project.application, loop_name) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


class FormParser(HTMLParser):
    """Collects the hidden fields, the links and the style sheets of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hidden: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.styles: list[str] = []
        self._link = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "input" and values.get("type") == "hidden" and "name" in values:
            self.hidden[values["name"]] = values.get("value") or ""
        elif tag == "a":
            self._link = values.get("href") or ""
        elif tag == "link" and values.get("rel") == "stylesheet":
            self.styles.append(values["href"])

    def handle_data(self, data: str) -> None:
        if self._link:
            self.links[data.strip()] = self._link
            self._link = ""


def submit(client: httpx.Client, path: str, fields: dict[str, str], **content: object) -> httpx.Response:
    """Fill a page's form and send it, as a browser does: with its hidden fields and the CSRF cookie."""
    page = client.get(path)
    assert page.status_code == 200
    hidden = FormParser(page.text).hidden
    assert "csrfmiddlewaretoken" in hidden
    return client.post(path, data=hidden | fields, **content)


def log_in(client: httpx.Client, path: str = "/admin/login/?next=/admin/") -> httpx.Response:
    return submit(client, path, {"username": "admin", "password": "secret"})


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def chunks_of(content: bytes, size: int = 50_000) -> Iterator[bytes]:
    """Content without a length, which httpx sends chunked."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stored_document(client: httpx.Client, content: bytes, name: str = "document.bin") -> str:
    """Put a document there; return its path."""
    return f"/documents/{client.put(f'/import/{name}', content=content).json()['id']}/"


# Requests, as Django sees them


def test_environ_of_a_request_names_server_and_client(client: httpx.Client, served: Served) -> None:
    seen = client.get("/request/", params={"q": "☕ & more"}).json()
    assert seen["url"] == f"{served.url}/request/?q=%E2%98%95+%26+more"
    assert seen["host"] == served.host
    assert seen["secure"] is False
    assert seen["arguments"] == {"q": ["☕ & more"]}
    environ = seen["environ"]
    assert environ["SERVER_NAME"] == "127.0.0.1"
    assert environ["SERVER_PORT"] == str(served.port)
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == "/request/"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"].isdigit()


@pytest.mark.parametrize("path", ["/mounted/request/", "/request/"])
def test_root_path_is_the_script_name(project: SimpleNamespace, loop_name: str, path: str) -> None:
    with serve(project.application, loop_name, root_path="/mounted") as served, served.client() as client:
        seen = client.get(path).json()
        assert seen["environ"]["SCRIPT_NAME"] == "/mounted"
        assert seen["path_info"] == "/request/"
        assert seen["url"] == f"{served.url}/mounted/request/"
        assert client.get("/visits").headers["location"] == "/mounted/visits/"


@pytest.mark.parametrize("name", ["Ada", "Zoë", "日本", "a b", "100%", "%41", "q?#", "+"])
def test_path_with_escapes_is_decoded_once(client: httpx.Client, name: str) -> None:
    quoted = "".join(f"%{octet:02x}" for octet in name.encode())
    assert client.get(f"/hello/{quoted}/").text == f"Hello, {name}!\n"


def test_field_values_beyond_ascii_reach_django_intact(client: httpx.Client) -> None:
    seen = client.get("/request/", headers={"X-Latin": "café".encode("latin-1"), "X-UTF-8": "☕".encode()}).json()
    assert seen["headers"]["X-Latin"] == "café"
    assert seen["headers"]["X-Utf-8"].encode("latin-1").decode() == "☕"


def test_host_that_is_not_allowed_is_djangos_400(client: httpx.Client) -> None:
    response = client.get("/visits/", headers={"Host": "evil.example"})
    assert response.status_code == 400
    assert "Bad Request (400)" in response.text


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [
        ("/home/", 301, "/"),
        ("/visits", 301, "/visits/"),
        ("/profile/", 302, "/accounts/login/?next=/profile/"),
    ],
)
def test_redirect_goes_where_django_says(client: httpx.Client, path: str, status: int, location: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.headers["location"]) == (status, location)


# Sessions, forms and the admin


def test_session_over_keep_alive_counts_on(client: httpx.Client) -> None:
    before = client.get("/request/").json()["environ"]["REMOTE_PORT"]
    assert [client.get("/visits/").json()["visits"] for _ in range(3)] == [1, 2, 3]
    after = client.get("/request/").json()["environ"]["REMOTE_PORT"]
    assert before == after, "not the same connection"


def test_session_over_new_connections_counts_on(served: Served) -> None:
    cookies = httpx.Cookies()
    for visit in (1, 2, 3):
        with served.client(cookies=cookies) as client:
            assert client.get("/visits/").json() == {"visits": visit}
            cookies = client.cookies


def test_login_and_logout_through_the_forms(client: httpx.Client) -> None:
    response = log_in(client, client.get("/profile/").headers["location"])
    assert (response.status_code, response.headers["location"]) == (302, "/profile/")
    names = {value.partition("=")[0] for value in response.headers.get_list("set-cookie")}
    assert names == {"csrftoken", "sessionid"}
    assert client.get("/profile/").json() == {"user": "admin", "staff": True}
    token = FormParser(client.get("/").text).hidden["csrfmiddlewaretoken"]
    response = client.post("/accounts/logout/", data={"csrfmiddlewaretoken": token})
    assert (response.status_code, response.headers["location"]) == (302, "/")
    assert client.get("/profile/").status_code == 302


def test_login_with_a_wrong_password_stays_on_the_form(client: httpx.Client) -> None:
    response = submit(client, "/admin/login/?next=/admin/", {"username": "admin", "password": "wrong"})
    assert response.status_code == 200
    assert "Please enter the correct" in response.text


def test_admin_adds_changes_and_deletes_a_document(client: httpx.Client) -> None:
    assert client.get("/admin/").headers["location"] == "/admin/login/?next=/admin/"
    assert log_in(client).headers["location"] == "/admin/"
    assert "Site administration" in client.get("/admin/").text

    response = submit(
        client,
        "/admin/documents/document/add/",
        {"title": "Żółć ☕", "_save": "Save"},
        files={"file": ("añadido.txt", b"from the admin")},
    )
    assert (response.status_code, response.headers["location"]) == (302, "/admin/documents/document/")
    listed = client.get("/admin/documents/document/?q=Żółć")
    assert "was added successfully" in listed.text
    change = FormParser(listed.text).links["Żółć ☕"]

    response = submit(client, change, {"title": "Renamed", "_save": "Save"})
    assert response.status_code == 302
    page = FormParser(client.get("/").text)
    download = client.get(page.links["Renamed"])
    assert download.content == b"from the admin"
    assert re.search(r"filename\*=utf-8''a%C3%B1adido\w*\.txt", download.headers["content-disposition"])

    response = submit(client, change.replace("/change/", "/delete/"), {"post": "yes"})
    assert response.status_code == 302
    assert client.get(page.links["Renamed"]).status_code == 404


def test_form_without_its_csrf_token_is_djangos_403(client: httpx.Client) -> None:
    client.get("/")
    response = client.post("/", data={"title": "forged"}, files={"file": ("a", b"a")})
    assert response.status_code == 403
    assert "CSRF verification failed" in response.text


# Content of requests


@pytest.mark.parametrize("size", SIZES)
def test_form_upload_arrives_whole(client: httpx.Client, size: int) -> None:
    content, title = content_of(size), f"upload of {size}"
    response = submit(client, "/", {"title": title}, files={"file": ("upload.bin", content)})
    assert (response.status_code, response.headers["location"]) == (302, "/")
    page = client.get("/").text
    assert f"{title} is here, {size} bytes." in page
    download = client.get(FormParser(page).links[title])
    assert download.content == content
    assert int(download.headers["content-length"]) == size


@pytest.mark.parametrize("size", [0, *SIZES])
def test_raw_upload_with_length_arrives_whole(client: httpx.Client, size: int) -> None:
    content = content_of(size)
    response = client.put("/import/raw.bin", content=content)
    assert response.status_code == 201
    assert (response.json()["size"], response.json()["sha256"]) == (size, sha256(content))


@pytest.mark.parametrize("size", [0, *SIZES])
def test_raw_upload_in_chunks_arrives_whole(client: httpx.Client, size: int) -> None:
    content = content_of(size)
    response = client.put("/import/chunked.bin", content=chunks_of(content))
    assert response.status_code == 201
    assert (response.json()["size"], response.json()["sha256"]) == (size, sha256(content))


def test_form_upload_in_chunks_arrives_whole(client: httpx.Client) -> None:
    content = content_of(700_000)
    hidden = FormParser(client.get("/").text).hidden
    form = httpx.Request("POST", "http://a/", data=hidden | {"title": "in chunks"}, files={"file": ("a.bin", content)})
    response = client.post("/", content=chunks_of(form.read()), headers={"Content-Type": form.headers["content-type"]})
    assert response.status_code == 302
    assert client.get(FormParser(client.get("/").text).links["in chunks"]).content == content


def test_form_fields_in_chunks_are_parsed_and_have_a_length(client: httpx.Client) -> None:
    content = b"name=Zo%C3%AB&name=Ada&empty="
    response = client.post(
        "/request/",
        content=chunks_of(content, 5),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert response.json()["fields"] == {"name": ["Zoë", "Ada"], "empty": [""]}
    assert response.json()["environ"]["CONTENT_LENGTH"] == str(len(content))
    assert "Transfer-Encoding" not in response.json()["headers"]


# Content of responses


def test_stream_sends_the_first_block_before_the_last_is_made(client: httpx.Client, project: SimpleNamespace) -> None:
    with client.stream("GET", "/gated/") as response:
        blocks = response.iter_raw()
        assert next(blocks) == b"first\n"
        project.probe.gate.release()
        assert b"".join(blocks) == b"last\n"


def test_stream_from_the_database_is_chunked_and_whole(client: httpx.Client) -> None:
    stored_document(client, b"x", "first.txt")
    stored_document(client, b"x", "second.txt")
    response = client.get("/documents.csv")
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    lines = response.text.splitlines()
    assert lines[0] == "id,title,file"
    assert [line.split(",")[1] for line in lines[-2:]] == ['"first.txt"', '"second.txt"']


def test_stream_that_raises_midway_ends_visibly(client: httpx.Client, project: SimpleNamespace) -> None:
    ended = project.probe.count("failing blocks ended")
    with client.stream("GET", "/midway/") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    project.probe.wait("failing blocks ended", ended + 1)
    assert client.get("/visits/").status_code == 200


def test_file_response_is_sent_whole_with_its_length(client: httpx.Client) -> None:
    content = content_of(1_500_000)
    response = client.get(stored_document(client, content, "large.bin"))
    assert response.content == content
    assert response.headers["content-length"] == "1500000"
    assert response.headers["content-type"] == "application/octet-stream"
    assert "transfer-encoding" not in response.headers


@pytest.mark.parametrize("path", ["/hello/Ada/", "/documents.csv", "/profile/", "/missing/", "/broken/", "/home/"])
def test_head_has_the_fields_of_get_and_no_content(client: httpx.Client, path: str) -> None:
    assert_head_is_get_without_content(client, path)


def test_head_of_a_file_has_the_fields_of_get_and_no_content(client: httpx.Client) -> None:
    assert_head_is_get_without_content(client, stored_document(client, content_of(100_000)))


def assert_head_is_get_without_content(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    # RFC 9110 §9.3.2: those that depend on generating the content may be missing; Django's ETag does.
    ignored = {"date", "transfer-encoding", "etag"}
    expected = {name: value for name, value in got.headers.items() if name not in ignored}
    assert {name: value for name, value in head.headers.items() if name not in ignored} == expected


def test_head_pipelined_before_get_leaves_no_stray_content(client: httpx.Client, served: Served) -> None:
    path = stored_document(client, content_of(100_000)).encode()
    host = served.host.encode()
    answer = served.exchange(
        b"HEAD %b HTTP/1.1\r\nHost: %b\r\n\r\nHEAD /documents.csv HTTP/1.1\r\nHost: %b\r\n\r\n"
        b"GET /hello/Ada/ HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host, host, host)
    )
    heads = answer.split(b"\r\n\r\n")
    assert [head[:15] for head in heads[:3]] == [b"HTTP/1.1 200 OK"] * 3
    assert heads[3:] == [b"Hello, Ada!\n"]


def test_conditional_request_with_the_same_etag_is_304(client: httpx.Client) -> None:
    etag = client.get("/hello/Ada/").headers["etag"]
    response = client.get("/hello/Ada/", headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert "transfer-encoding" not in response.headers
    assert client.get("/hello/Zoë/", headers={"If-None-Match": etag}).status_code == 200


# Static files


@pytest.fixture
def style(client: httpx.Client) -> str:
    """The path of the style sheet that the pages name, with the hash of its content."""
    [path] = FormParser(client.get("/").text).styles
    assert re.fullmatch(r"/static/documents/style\.[0-9a-f]{12}\.css", path)
    return path


def test_static_file_with_a_hash_may_be_kept_for_ever(client: httpx.Client, style: str) -> None:
    response = client.get(style, headers={"Accept-Encoding": "identity"})
    assert response.content == (FOLDER / "documents/static/documents/style.css").read_bytes()
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["content-type"].startswith("text/css")
    unhashed = client.get("/static/documents/style.css")
    assert unhashed.status_code == 200
    assert "immutable" not in unhashed.headers["cache-control"]


def test_static_file_of_the_admin_is_sent_compressed(client: httpx.Client) -> None:
    path = FormParser(client.get("/admin/login/").text).styles[0]
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as response:
        compressed = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) == len(compressed) < len(plain.content)
    assert gzip.decompress(compressed) == plain.content


def test_static_file_on_a_conditional_request_is_304(client: httpx.Client, style: str) -> None:
    fields = client.get(style).headers
    for condition in (
        {"If-None-Match": fields["etag"]},
        {"If-Modified-Since": fields["last-modified"]},
    ):
        response = client.get(style, headers=condition)
        assert (response.status_code, response.content) == (304, b"")
    assert client.get(style, headers={"If-None-Match": '"other"'}).status_code == 200


def test_static_file_in_a_range_is_206(client: httpx.Client, style: str) -> None:
    content = (FOLDER / "documents/static/documents/style.css").read_bytes()
    headers = {"Accept-Encoding": "identity", "Range": "bytes=5-14"}
    response = client.get(style, headers=headers)
    assert (response.status_code, response.content) == (206, content[5:15])
    assert response.headers["content-range"] == f"bytes 5-14/{len(content)}"
    beyond = client.get(style, headers=headers | {"Range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416


def test_static_file_on_head_has_no_content(client: httpx.Client, style: str) -> None:
    assert_head_is_get_without_content(client, style)


# Errors


def test_unknown_path_is_the_projects_404_page(client: httpx.Client) -> None:
    response = client.get("/missing/ż/")
    assert response.status_code == 404
    assert "<h1>Not found</h1>" in response.text


def test_view_that_raises_is_the_projects_500_page(client: httpx.Client) -> None:
    before = client.get("/request/").json()["environ"]["REMOTE_PORT"]
    response = client.get("/broken/")
    assert response.status_code == 500
    assert "It has been written down." in response.text
    assert "RuntimeError" not in response.text
    after = client.get("/request/").json()["environ"]["REMOTE_PORT"]
    assert before == after, "the connection has not been kept"


def test_method_that_the_view_refuses_is_djangos_405(client: httpx.Client) -> None:
    response = client.post("/broken/", content=content_of(100_000))
    # The CSRF check comes first, as with any other server.
    assert response.status_code == 403
    response = client.delete("/import/a")
    assert (response.status_code, response.headers["allow"]) == (405, "PUT")


# Exactly once


@contextmanager
def finished_requests() -> Iterator[Probe]:
    """Count Django's ``request_finished``, which closing a response sends."""
    from django.core.signals import request_finished

    noted = Probe()

    def note(**_: object) -> None:
        noted.note("request_finished")

    request_finished.connect(note)
    try:
        yield noted
    finally:
        request_finished.disconnect(note)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/hello/Ada/",
        "/documents.csv",
        "/missing/",
        "/broken/",
        "/midway/",
        "/static/documents/style.css",
        "file",
    ],
)
def test_request_finished_is_sent_exactly_once(
    project: SimpleNamespace, loop_name: str, method: str, path: str
) -> None:
    application = project.application
    with finished_requests() as noted, serve(application, loop_name) as served, served.client() as client:
        before = 0
        if path == "file":
            path, before = stored_document(client, content_of(700_000)), 1
            noted.wait("request_finished", before)
        try:
            client.request(method, path)
        except httpx.RemoteProtocolError:
            assert path == "/midway/"
        noted.wait("request_finished", before + 1)
    assert noted.count("request_finished") == before + 1


def test_stream_whose_client_leaves_is_finished_exactly_once(project: SimpleNamespace, loop_name: str) -> None:
    ended = project.probe.count("endless blocks ended")
    with finished_requests() as noted, serve(project.application, loop_name) as served:
        with served.connect() as connection:
            connection.sendall(b"GET /endless/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        noted.wait("request_finished")
    assert noted.count("request_finished") == 1
    assert project.probe.count("endless blocks ended") == ended + 1


# Threads


def test_concurrent_requests_do_not_mix(served: Served) -> None:
    paths = [f"/meet/{number}/" for number in range(5 * THREADS)]
    answers = [response.json() for response in served.gather(paths)]
    threads = {answer.pop("thread") for answer in answers}
    assert len(threads) == THREADS
    assert answers == [
        {"token": str(number), "session": f"{number} again", "path": path, "header": path, "cookie": path}
        for number, path in enumerate(paths)
    ]


# The rules of PEP 3333


def test_project_under_the_validator_breaks_no_rule(project: SimpleNamespace, loop_name: str) -> None:
    application: WSGIApplication = validator(project.application)
    content = content_of(700_000)
    with serve(application, loop_name) as served, served.client() as client:
        path = stored_document(client, content)
        assert client.get(path).content == content
        assert submit(client, "/", {"title": "valid"}, files={"file": ("a", content)}).status_code == 302
        style = FormParser(client.get("/").text).styles[0]
        etag = client.get(style).headers["etag"]
        statuses = [
            client.put("/import/chunked.bin", content=chunks_of(content)).status_code,
            client.head(path).status_code,
            client.get("/request/?q=1").status_code,
            client.get("/visits/").status_code,
            client.get("/documents.csv").status_code,
            client.head("/documents.csv").status_code,
            client.get(style, headers={"If-None-Match": etag}).status_code,
            client.get(style, headers={"Range": "bytes=1-2", "Accept-Encoding": "identity"}).status_code,
            log_in(client).status_code,
            client.get("/admin/").status_code,
            client.get("/missing/").status_code,
            client.get("/broken/").status_code,
        ]
    assert statuses == [201, 200, 200, 200, 200, 200, 304, 206, 302, 200, 404, 500]


# The command line


def test_readme_commands_set_the_project_up_and_serve_it(tmp_path: Path) -> None:
    variables = {
        "DATA_DIR": str(tmp_path),
        "DJANGO_SUPERUSER_USERNAME": "admin",
        "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }
    migrate, collect_static, create_superuser, run_server = readme_commands(FOLDER)
    run_to_end(migrate, FOLDER, **variables)
    run_to_end(collect_static, FOLDER, **variables)
    run_to_end([*create_superuser, "--noinput"], FOLDER, **variables)  # a person is asked
    with (
        served_by_command([*run_server, "-b", "127.0.0.1:0"], FOLDER, **variables) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert log_in(client).headers["location"] == "/admin/"
        style = FormParser(client.get("/").text).styles[0]
        assert client.get(style).status_code == 200
        response = submit(client, "/", {"title": "First"}, files={"file": ("first.txt", b"first")})
        assert response.status_code == 302
        assert "First is here, 5 bytes." in client.get("/").text
    assert (tmp_path / "media/documents/first.txt").read_bytes() == b"first"


@pytest.mark.parametrize("path", ["/parked/", "/parked-and-joined/"])
def test_parked_response_passes_whitenoise_and_the_middleware_that_compresses_and_measures(
    client: httpx.Client, path: str
) -> None:
    response = client.get(path, headers={"Accept-Encoding": "gzip"})
    assert (response.status_code, response.text) == (200, "parked by Django")
    assert response.headers["Content-Type"] == "text/event-stream"
    assert not response.headers.keys() & {"content-length", "content-encoding", "etag"}
