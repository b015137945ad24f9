"""PEP 3333 "``environ`` Variables"."""

from __future__ import annotations

import sys

import pytest

from tests.pep3333.conftest import Calls

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def get(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: test", *fields, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "name",
    [
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "QUERY_STRING",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REQUEST_URI",
        "RAW_URI",
        "HTTP_HOST",
        "wsgi.url_scheme",
    ],
)
def test_environ_variable_is_a_native_string(environ_of, name):
    # "The following variables must be present"; "CGI-defined variables must be native strings"
    assert type(environ_of(GET)[name]) is str


def test_environ_of_a_request_with_everything_has_only_latin_1_native_strings(environ_of):
    # "a violation of this specification for any CGI variable's value to be of any type other than str"
    environ = environ_of(
        b"POST /caf%C3%A9?q=%E2%82%AC HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
        b"X-Raw: caf\xc3\xa9\r\nCookie: a=1\r\nCookie: b=2\r\n\r\nabc"
    )
    for name, value in environ.items():
        assert type(name) is str
        if name.isupper():
            assert type(value) is str, name
            value.encode("latin-1")  # "must not supply strings ... containing any other Unicode characters"


@pytest.mark.parametrize(
    "method",
    ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "M-SEARCH", "!#$%&'*+.^_`|~"],
)
def test_request_method_is_as_the_client_wrote_it(environ_of, method):
    # "cannot ever be an empty string, and so is always required"; RFC 9110 §9.1: methods are case-sensitive.
    assert environ_of(get("/", method=method))["REQUEST_METHOD"] == method


@pytest.mark.parametrize(
    ("target", "path_info"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("//a//b/", "//a//b/"),
        ("/a%20b", "/a b"),
        ("/a+b", "/a+b"),
        ("/a%2Fb", "/a/b"),
        ("/a%2fb", "/a/b"),
        ("/a%3Fb", "/a?b"),
        ("/a%25b", "/a%b"),
        ("/a%2520b", "/a%20b"),
        ("/a%00b", "/a\0b"),
        ("/a%0D%0Ab", "/a\r\nb"),
        ("/%C3%A9", "/\xc3\xa9"),
        ("/%E9", "/\xe9"),
        ("/%E2%82%AC", "/\xe2\x82\xac"),
        ("/%FF%FE", "/\xff\xfe"),
        ("/a;b=c", "/a;b=c"),
        ("/.", "/."),
        ("/../x", "/../x"),
        ("/%zz", "/%zz"),
        ("/%", "/%"),
        ("/%e", "/%e"),
        ("/a?b?c", "/a"),
        ("/?", "/"),
    ],
)
def test_path_info_is_the_decoded_path_as_latin_1(environ_of, target, path_info):
    # "The remainder of the request URL's path"; PEP 3333 "Unicode Issues": bytes as latin-1 text
    assert environ_of(get(target))["PATH_INFO"] == path_info


@pytest.mark.parametrize("text", ["café", "日本語", "emoji 🎉", "Ω≈ç√"])
def test_path_info_of_a_utf_8_path_makes_the_round_trip(environ_of, text):
    encoded = "".join(f"%{byte:02X}" for byte in text.encode())
    environ = environ_of(get(f"/{encoded}"))
    assert environ["PATH_INFO"].encode("latin-1").decode() == f"/{text}"


@pytest.mark.parametrize(
    ("target", "query_string"),
    [
        ("/", ""),
        ("/?", ""),
        ("/?a=b", "a=b"),
        ("/?a=%2F%C3%A9+%20&&;=", "a=%2F%C3%A9+%20&&;="),
        ("/?a?b", "a?b"),
        ("/a%3Fb?c", "c"),
        ("/?%zz", "%zz"),
        ("/?x=http://other/?y", "x=http://other/?y"),
        ("http://test/?a=%2F", "a=%2F"),
    ],
)
def test_query_string_is_what_follows_the_question_mark_untouched(environ_of, target, query_string):
    # "The portion of the request URL that follows the '?', if any."
    assert environ_of(get(target))["QUERY_STRING"] == query_string


@pytest.mark.parametrize("target", ["/", "/a%2Fb?c=%20", "//x//?", "/%C3%A9?a?b", "http://test/a?b", "/%zz"])
def test_request_uri_and_raw_uri_are_the_target_as_sent(environ_of, target):
    environ = environ_of(get(target))
    assert environ["REQUEST_URI"] == target
    assert environ["RAW_URI"] == target


def test_path_info_of_the_asterisk_form_is_the_asterisk(environ_of):
    environ = environ_of(get("*", method="OPTIONS"))
    assert environ["PATH_INFO"] == "*"
    assert environ["REQUEST_URI"] == "*"
    assert environ["QUERY_STRING"] == ""


def test_absolute_form_gives_path_query_and_host(environ_of):
    environ = environ_of(b"GET http://other:81/a%20b?c=d HTTP/1.1\r\nHost: test\r\n\r\n")
    assert environ["PATH_INFO"] == "/a b"
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["HTTP_HOST"] == "other:81"


def test_script_name_without_a_root_path_is_empty(environ_of):
    # "may be an empty string, if the application corresponds to the 'root' of the server"
    assert environ_of(GET)["SCRIPT_NAME"] == ""


@pytest.mark.parametrize(
    ("target", "path_info"),
    [
        ("/mount", ""),  # "may be an empty string, if the request URL targets the application root"
        ("/mount/", "/"),
        ("/mount/a", "/a"),
        ("/mount/mount/a", "/mount/a"),
        ("/mounted", "/mounted"),
        ("/%6Dount/a", "/a"),
        ("/other", "/other"),  # from a proxy that has cut the prefix off itself
    ],
)
def test_root_path_is_script_name_and_the_rest_is_path_info(environ_of, target, path_info):
    environ = environ_of(get(target), root_path="/mount")
    assert environ["SCRIPT_NAME"] == "/mount"
    assert environ["PATH_INFO"] == path_info


def test_root_path_beyond_ascii_is_latin_1_of_its_utf_8(environ_of):
    # "Similarly, servers and gateways must not supply strings ... containing any other Unicode characters"
    environ = environ_of(get("/%E6%97%A5/%C3%A9"), root_path="/日")
    assert environ["SCRIPT_NAME"].encode("latin-1").decode() == "/日"
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/é"


@pytest.mark.parametrize("value", ["text/plain", "multipart/form-data; boundary=x", "caf\xe9/\xff"])
def test_content_type_is_the_field_as_sent(environ_of, value):
    environ = environ_of(get("/", f"Content-Type: {value}"))
    assert environ["CONTENT_TYPE"] == value
    assert "HTTP_CONTENT_TYPE" not in environ


@pytest.mark.parametrize("name", ["CONTENT_TYPE", "CONTENT_LENGTH", "REMOTE_USER", "AUTH_TYPE", "HTTPS"])
def test_variable_without_a_value_is_left_out(environ_of, name):
    # "missing variables (such as REMOTE_USER ...) should be left out"
    assert name not in environ_of(GET)


def test_content_length_is_the_field_as_sent(environ_of):
    environ = environ_of(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc")
    assert environ["CONTENT_LENGTH"] == "3"
    assert "HTTP_CONTENT_LENGTH" not in environ


def test_content_length_of_zero_is_not_left_out(environ_of):
    environ = environ_of(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
    assert environ["CONTENT_LENGTH"] == "0"


def test_server_name_and_port_are_where_the_client_connected(serve):
    # "SERVER_NAME and SERVER_PORT are required strings and must never be empty"
    calls = Calls()

    def application(environ, start_response):
        calls.put((environ["SERVER_NAME"], environ["SERVER_PORT"]))
        start_response("204 No Content", [])
        return []

    server = serve(application)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")  # no Host to take it from
        client.receive()
    assert calls.take() == ("127.0.0.1", str(server.port))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_server_protocol_is_that_of_the_request(environ_of, version):
    # "The version of the protocol the client used to send the request."
    assert environ_of(get("/", "Connection: close", version=version))["SERVER_PROTOCOL"] == f"HTTP/{version}"


def test_remote_address_and_port_are_the_clients_own(serve):
    # "should attempt to provide as many other CGI variables as are applicable"
    calls = Calls()

    def application(environ, start_response):
        calls.put((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]))
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        client.get("/", "X-Forwarded-For: 192.0.2.1")
        host, port = client.socket.getsockname()
    assert calls.take() == (host, str(port))


def test_server_software_names_product_and_version(environ_of):
    product, slash, version = environ_of(GET)["SERVER_SOFTWARE"].partition("/")
    assert product == "aiowsgi"
    assert slash
    assert version[0].isdigit()


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("X-One: 1", "HTTP_X_ONE", "1"),
        ("x-lower: 2", "HTTP_X_LOWER", "2"),
        ("X-EMPTY:", "HTTP_X_EMPTY", ""),
        ("X-Space:  \t three \t ", "HTTP_X_SPACE", "three"),
        ("X-Raw: caf\xc3\xa9", "HTTP_X_RAW", "caf\xc3\xa9"),
        ("X.Dot!: 4", "HTTP_X.DOT!", "4"),
        ("Accept: a/b, */*;q=0.1", "HTTP_ACCEPT", "a/b, */*;q=0.1"),
        ("Authorization: Basic eA==", "HTTP_AUTHORIZATION", "Basic eA=="),
    ],
)
def test_field_is_an_http_variable(environ_of, field, name, value):
    # "Variables corresponding to the client-supplied HTTP request headers"
    assert environ_of(get("/", field))[name] == value


def test_field_that_was_not_sent_is_absent(environ_of):
    # "presence or absence ... should correspond with the presence or absence of the appropriate HTTP header"
    environ = environ_of(GET)
    assert {name for name in environ if name.startswith("HTTP_")} == {"HTTP_HOST"}


def test_field_sent_twice_is_joined_with_a_comma(environ_of):
    assert environ_of(get("/", "X-Two: a", "X-Other: -", "x-two: b", "X-Two: c"))["HTTP_X_TWO"] == "a, b, c"


def test_cookie_sent_twice_is_joined_with_a_semicolon(environ_of):
    assert environ_of(get("/", "Cookie: a=1", "Cookie: b=2; c=3"))["HTTP_COOKIE"] == "a=1; b=2; c=3"


def test_field_with_an_underscore_cannot_pass_for_another(environ_of):
    environ = environ_of(get("/", "X_User: root", "Content_Length: 5", "X-User: guest"))
    assert environ["HTTP_X_USER"] == "guest"
    assert "CONTENT_LENGTH" not in environ


def test_wsgi_version_is_the_tuple_1_0(environ_of):
    # "The tuple (1, 0), representing WSGI version 1.0."
    version = environ_of(GET)["wsgi.version"]
    assert type(version) is tuple
    assert version == (1, 0)


def test_wsgi_url_scheme_over_plain_tcp_is_http(environ_of):
    # "Normally, this will have the value 'http' or 'https', as appropriate." A field of the client's changes nothing.
    assert environ_of(get("/", "X-Forwarded-Proto: https"))["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize("name", ["wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once", "wsgi.input_terminated"])
def test_wsgi_flag_is_a_bool(environ_of, name):
    assert type(environ_of(GET)[name]) is bool


def test_wsgi_multiprocess_and_run_once_of_one_lasting_process_are_false(environ_of):
    # "simultaneously invoked by another process"; "only be invoked this one time during the life of its ... process"
    environ = environ_of(GET)
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False


def test_wsgi_input_terminated_is_true(environ_of):
    assert environ_of(GET)["wsgi.input_terminated"] is True


def test_wsgi_file_wrapper_is_callable(environ_of):
    assert callable(environ_of(GET)["wsgi.file_wrapper"])


def test_wsgi_errors_is_the_standard_error_of_the_moment(environ_of):
    assert environ_of(GET)["wsgi.errors"] is sys.stderr


def test_environ_of_each_request_is_another_dict(serve):
    calls = Calls()

    def application(environ, start_response):
        calls.put(environ)
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        client.get()
        client.get()
    assert calls.take() is not calls.take()
