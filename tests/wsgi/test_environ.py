"""aiowsgi.wsgi.environ: pure calls; what a client sends is in ``tests/pep3333/test_environ.py``."""

from __future__ import annotations

import io
import sys

import pytest

from aiowsgi.semantics import ConnectionInfo, RequestHead
from aiowsgi.wsgi.environ import base_environ, build_environ, endpoint_environ
from aiowsgi.wsgi.file_wrapper import FileWrapper

TCP = ConnectionInfo("http", "192.0.2.7", "51234", "192.0.2.1", "8080")
UNIX = ConnectionInfo("http", "", "", "", "")


def head(target="/", variables=None, *, method="GET", http_version="1.1", content_length=0):
    path, _, query = target.partition("?")
    return RequestHead(method, target, path, query, http_version, variables or {}, content_length, True, False)


def base(root_path="", multithread=True, multiprocess=False):
    return base_environ(software="aiowsgi/1", root_path=root_path, multithread=multithread, multiprocess=multiprocess)


def build(request=None, connection=TCP, content=None, content_size=None, **options):
    shared = endpoint_environ(base(**options), connection)
    return build_environ(shared, connection, request or head(), content or io.BytesIO(), content_size)


def test_environ_of_a_plain_request_has_exactly_these_variables():
    content = io.BytesIO()
    assert build(head("/a%20b?c=d", {"HTTP_HOST": "example.org", "HTTP_X_FIELD": "1"}), content=content) == {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": content,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "SERVER_SOFTWARE": "aiowsgi/1",
        "SERVER_NAME": "192.0.2.1",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "51234",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/a%20b?c=d",
        "RAW_URI": "/a%20b?c=d",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=d",
        "HTTP_HOST": "example.org",
        "HTTP_X_FIELD": "1",
    }


def test_environ_is_a_copy_of_the_base():
    server = base()
    before = dict(server)
    endpoint = endpoint_environ(server, TCP)
    assert server == before
    before = dict(endpoint)
    build_environ(endpoint, TCP, head(variables={"HTTP_HOST": "x"}), io.BytesIO(), None)["wsgi.version"] = None
    assert endpoint == before


@pytest.mark.parametrize("multithread", [True, False])
@pytest.mark.parametrize("multiprocess", [True, False])
def test_base_environ_flags_are_what_it_was_told(multithread, multiprocess):
    environ = build(multithread=multithread, multiprocess=multiprocess)
    assert environ["wsgi.multithread"] is multithread
    assert environ["wsgi.multiprocess"] is multiprocess


def test_content_size_of_chunked_content_is_content_length():
    assert build(head(content_length=None), content_size=0)["CONTENT_LENGTH"] == "0"
    assert build(head(content_length=None), content_size=7)["CONTENT_LENGTH"] == "7"
    assert "CONTENT_LENGTH" not in build(head(content_length=None))


@pytest.mark.parametrize(
    ("scheme", "host", "name", "port"),
    [
        ("http", "example.org", "example.org", "80"),
        ("https", "example.org", "example.org", "443"),
        ("http", "example.org:8080", "example.org", "8080"),
        ("http", "example.org:", "example.org", "80"),
        ("http", "[::1]", "[::1]", "80"),
        ("http", "[::1]:8080", "[::1]", "8080"),
        ("http", "", "localhost", "80"),
        ("http", None, "localhost", "80"),
        ("https", None, "localhost", "443"),
    ],
)
def test_server_name_and_port_of_a_unix_socket_are_those_of_host(scheme, host, name, port):
    # PEP 3333: "SERVER_NAME and SERVER_PORT are required strings and must never be empty"
    variables = {} if host is None else {"HTTP_HOST": host}
    environ = build(head(variables=variables), ConnectionInfo(scheme, "", "", "", ""))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)
    assert environ["REMOTE_ADDR"] == environ["REMOTE_PORT"] == ""


def test_server_name_of_a_tcp_socket_is_not_the_clients_to_choose():
    environ = build(head(variables={"HTTP_HOST": "elsewhere:1"}))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("192.0.2.1", "8080")


def test_tls_connection_has_https_on():
    # PEP 3333: "if SSL is in use, the server ... should also provide ... HTTPS=on"
    environ = build(connection=ConnectionInfo("https", "192.0.2.7", "51234", "192.0.2.1", "443"))
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"


@pytest.mark.parametrize("connection", [TCP, UNIX], ids=["tcp", "unix"])
def test_plain_connection_has_no_https(connection):
    assert "HTTPS" not in build(connection=connection)


@pytest.mark.parametrize(
    ("root_path", "target", "path_info"),
    [
        ("", "/a", "/a"),
        ("/m", "/m", ""),
        ("/m", "/m/", "/"),
        ("/m", "/m/a", "/a"),
        ("/m", "/ma", "/ma"),
        ("/m", "/M/a", "/M/a"),
        ("/m/n", "/m/n/a", "/a"),
        ("/m/n", "/m/a", "/m/a"),
        ("/m", "*", "*"),
    ],
)
def test_path_info_is_what_follows_the_root_path(root_path, target, path_info):
    environ = build(head(target), root_path=root_path)
    assert environ["SCRIPT_NAME"] == root_path
    assert environ["PATH_INFO"] == path_info


@pytest.mark.parametrize("root_path", ["/caf\xe9", "/日本", "/emoji-\U0001f389"])
def test_root_path_beyond_ascii_matches_the_paths_that_clients_send(root_path):
    encoded = "".join(f"%{byte:02X}" if byte > 127 else chr(byte) for byte in root_path.encode())
    environ = build(head(f"{encoded}/a"), root_path=root_path)
    assert environ["SCRIPT_NAME"].encode("latin-1").decode() == root_path
    assert environ["PATH_INFO"] == "/a"


def test_root_path_of_undecodable_bytes_from_the_command_line_is_those_bytes():
    # PEP 383: argv carries them as surrogates.
    assert build(root_path="/\udcff")["SCRIPT_NAME"] == "/\xff"


def test_http_1_0_is_server_protocol():
    assert build(head(http_version="1.0"))["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_errors_follows_a_replaced_standard_error(monkeypatch):
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)
    assert build()["wsgi.errors"] is replaced


def test_errors_without_standard_error_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    errors = build()["wsgi.errors"]
    assert errors.write("caf\xe9 \udce9\n") == 7
    errors.writelines(["a", "b"])
    errors.flush()
    print("printed", file=errors, flush=True)


def test_deployer_s_own_variables_are_in_environ_and_give_way_to_the_server_s() -> None:
    base = base_environ(
        software="aiowsgi/1",
        root_path="",
        multithread=True,
        multiprocess=False,
        extra={"MYAPP_MODE": "live", "SERVER_SOFTWARE": "mine"},
    )
    assert base["MYAPP_MODE"] == "live"
    assert base["SERVER_SOFTWARE"] == "aiowsgi/1"
