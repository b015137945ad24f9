"""PEP 3333 "URL Reconstruction": the algorithm printed there gives the URL that the client asked for."""

from __future__ import annotations

from urllib.parse import quote

import pytest


def reconstructed_url(environ):
    """The PEP's own algorithm, with the encoding that ``wsgiref.util.request_uri`` gives to ``quote``."""
    url = environ["wsgi.url_scheme"] + "://"
    if environ.get("HTTP_HOST"):
        url += environ["HTTP_HOST"]
    else:
        url += environ["SERVER_NAME"]
        if environ["wsgi.url_scheme"] == "https":
            if environ["SERVER_PORT"] != "443":
                url += ":" + environ["SERVER_PORT"]
        elif environ["SERVER_PORT"] != "80":
            url += ":" + environ["SERVER_PORT"]
    url += quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1")
    url += quote(environ.get("PATH_INFO", ""), encoding="latin-1")
    if environ.get("QUERY_STRING"):
        url += "?" + environ["QUERY_STRING"]
    return url


@pytest.mark.parametrize("root_path", ["", "/mount"])
@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("example.org", "/"),
        ("example.org:8080", "/a/b"),
        ("[::1]:8080", "/a%20b?c=%20d"),
        ("127.0.0.1", "/%E6%97%A5?q=%E6%9C%AC"),
        ("example.org", "/a?b?c"),
        ("example.org", "/a//b/"),
    ],
)
def test_url_is_that_of_the_request(environ_of, root_path, host, target):
    request = f"GET {root_path}{target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert reconstructed_url(environ_of(request, root_path=root_path)) == f"http://{host}{root_path}{target}"


def test_url_without_a_host_is_where_the_server_listens(environ_of):
    # "When HTTP_HOST is not set, these variables can be combined to determine a default."
    environ = environ_of(b"GET /a HTTP/1.0\r\n\r\n")
    assert reconstructed_url(environ) == f"http://127.0.0.1:{environ['SERVER_PORT']}/a"
