"""What proxies say: believed of those that are trusted, refused where malformed, of no effect from anybody else."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.http.events import Refusal
from aiowsgi.http.forwarded import forwarding_of

PROXY = "10.0.0.1"
ALL = ("for", "proto", "host", "port", "prefix")


def environ_of(peer: str = PROXY, path: str = "/there", **fields: str) -> dict[str, Any]:
    return {
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "REMOTE_ADDR": peer,
        "REMOTE_PORT": "40000" if peer else "",
        "SERVER_NAME": "10.0.0.2",
        "SERVER_PORT": "8000",
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "inner:8000",
        **{f"HTTP_{name.upper()}": value for name, value in fields.items()},
    }


def seen(environ: dict[str, Any], *allowed: str, **options: Any) -> dict[str, Any]:
    """Return what the application sees."""
    config = Config(forwarded_allow_ips=allowed or (PROXY,), **options)
    forwarding = forwarding_of(config)
    function = None if forwarding is None else forwarding.of_peer(environ["REMOTE_ADDR"])
    if function is not None:
        function(environ)
    return environ


def changes(environ: dict[str, Any], *allowed: str, **options: Any) -> dict[str, Any]:
    """Return what the application sees that would not be there otherwise."""
    before = environ.copy()
    return {name: value for name, value in seen(environ, *allowed, **options).items() if before.get(name) != value}


# Who is trusted.


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("10.0.0.1", ["192.0.2.1", "10.0.0.0/8"]),
        ("10.0.0.1", ["*"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("2001:db8::7", ["2001:db8::/32"]),
        ("2001:db8::7", ["2001:DB8:0::7"]),
        ("", ["unix"]),
        ("", ["*"]),
    ],
)
def test_trusted_peer_is_believed(peer: str, allowed: list[str]) -> None:
    environ = environ_of(peer, x_forwarded_for="192.0.2.7", x_forwarded_proto="https")
    seen(environ, *allowed)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTPS"]) == ("192.0.2.7", "https", "on")


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("10.0.0.1", ["unix"]),
        ("10.0.0.1", ["none"]),
        ("10.0.0.1", ["10.0.0.2", "10.1.0.0/16", "unix"]),
        ("", ["10.0.0.1"]),
        ("", ["none"]),
        ("2001:db8::7", ["10.0.0.0/8"]),
    ],
)
@pytest.mark.parametrize("family", ["x-forwarded", "forwarded"])
def test_untrusted_peer_changes_nothing(peer: str, allowed: list[str], family: str) -> None:
    environ = environ_of(
        peer,
        x_forwarded_for="127.0.0.1",
        x_forwarded_proto="https",
        x_forwarded_host="evil.example",
        x_forwarded_port="1",
        x_forwarded_prefix="/admin",
        x_forwarded_ssl="on",
        forwarded="for=127.0.0.1;proto=https;host=evil.example",
    )
    parts = ALL[:3] if family == "forwarded" else ALL
    assert changes(environ, *allowed, forwarded_parts=parts, forwarded_headers=family) == {}


def test_default_trusts_the_peers_of_unix_sockets_and_no_other() -> None:
    forwarding = forwarding_of(Config())
    assert forwarding is not None
    assert forwarding.of_peer("") is not None
    assert forwarding.of_peer("127.0.0.1") is None
    assert forwarding_of(Config(forwarded_allow_ips=["none"])) is None


# Who the client is.


@pytest.mark.parametrize(
    ("value", "address", "port"),
    [
        ("192.0.2.7", "192.0.2.7", ""),
        ("192.0.2.7:5000", "192.0.2.7", "5000"),
        ("2001:DB8::7", "2001:db8::7", ""),
        ("[2001:db8::7]", "2001:db8::7", ""),
        ("[2001:db8::7]:5000", "2001:db8::7", "5000"),
        ("::ffff:192.0.2.7", "192.0.2.7", ""),
        # Each proxy adds on the right: what the client has sent is on the left, and is not even read.
        ("127.0.0.1, 192.0.2.7", "192.0.2.7", ""),
        ("<script>, ', unknown, 192.0.2.7", "192.0.2.7", ""),
        ("127.0.0.1,192.0.2.7,10.0.0.9", "192.0.2.7", ""),
        ("192.0.2.7 ,\t10.0.0.9, 10.0.0.8:80", "192.0.2.7", ""),
        # All are proxies: the first is where it began.
        ("10.0.0.9, 10.0.0.8", "10.0.0.9", ""),
        ("unknown", "", ""),
        ("192.0.2.1, unknown", "", ""),
        ("_hidden:_port", "", ""),
    ],
)
def test_right_most_hop_that_is_not_trusted_is_the_client(value: str, address: str, port: str) -> None:
    environ = seen(environ_of(x_forwarded_for=value), "10.0.0.0/24")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (address, port)


def test_star_trusts_the_peer_and_no_hop_beyond() -> None:
    environ = seen(environ_of("198.51.100.1", x_forwarded_for="127.0.0.1, 192.0.2.7"), "*")
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    environ = seen(environ_of("198.51.100.1", x_forwarded_for="127.0.0.1, 192.0.2.7, 10.0.0.1"), "*", "10.0.0.1")
    assert environ["REMOTE_ADDR"] == "192.0.2.7"


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("name", ["x_forwarded_for", "x_forwarded_proto", "x_forwarded_host", "x_forwarded_prefix"])
def test_empty_field_says_nothing(name: str, value: str) -> None:
    assert changes(environ_of(**{name: value}), forwarded_parts=ALL) == {}


@pytest.mark.parametrize(
    "value",
    [
        "192.0.2.7,",
        ",",
        "localhost",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.007",
        "192.0.2.7:",
        "192.0.2.7:x",
        "192.0.2.7:0",
        "192.0.2.7:65536",
        "192.0.2.7:123456",
        "192.0.2.7 10.0.0.9",
        "[192.0.2.7]:80:80",
        "[2001:db8::7",
        "2001:db8::7]",
        "[2001:db8::7]x",
        "fe80::1%eth0",
        '"192.0.2.7"',
        "for=192.0.2.7",
        "192.0.2.7\xa0",
        "١٩٢.0.2.7",
        "192.0.2.7, x, 10.0.0.9",
    ],
)
def test_malformed_client_is_refused(value: str) -> None:
    with pytest.raises(Refusal) as caught:
        seen(environ_of(x_forwarded_for=value), "10.0.0.0/24")
    assert caught.value.status_code == 400
    assert value not in caught.value.detail


# The scheme, host, port and prefix.


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http", "http"),
        # A proxy that adds its own to what the client sent:
        ("https, http", "http"),
    ],
)
def test_scheme_is_what_the_nearest_proxy_says(value: str, scheme: str) -> None:
    environ = seen(environ_of(x_forwarded_proto=value, x_forwarded_for="192.0.2.7"))
    assert environ["wsgi.url_scheme"] == scheme
    assert environ.get("HTTPS") == ("on" if scheme == "https" else None)


def test_field_with_a_value_for_each_hop_speaks_of_the_client() -> None:
    environ = environ_of(
        x_forwarded_for="127.0.0.1, 192.0.2.7, 10.0.0.9",
        x_forwarded_proto="http, https, http",
        x_forwarded_host="evil, outer, inner",
        x_forwarded_port="1, 443, 8000",
    )
    seen(environ, "10.0.0.0/24", forwarded_parts=ALL)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.7", "https")
    assert (environ["HTTP_HOST"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("outer", "outer", "443")


def test_field_with_one_value_speaks_of_the_client_however_many_hops_there_are() -> None:
    environ = environ_of(x_forwarded_for="192.0.2.7, 10.0.0.9, 10.0.0.8", x_forwarded_proto="https")
    assert seen(environ, "10.0.0.0/24")["wsgi.url_scheme"] == "https"


def test_field_with_too_few_values_for_its_hops_is_refused() -> None:
    environ = environ_of(x_forwarded_for="192.0.2.7, 10.0.0.9, 10.0.0.8", x_forwarded_proto="https, http")
    with pytest.raises(Refusal):
        seen(environ, "10.0.0.0/24")


@pytest.mark.parametrize("value", ["ftp", "on", "https,", "https http", "httpss", "javascript", '"https"'])
def test_scheme_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(Refusal):
        seen(environ_of(x_forwarded_proto=value))


@pytest.mark.parametrize(
    ("fields", "host", "name", "port"),
    [
        ({"x_forwarded_host": "shop.example"}, "shop.example", "shop.example", "80"),
        ({"x_forwarded_host": "shop.example:8080"}, "shop.example:8080", "shop.example", "8080"),
        ({"x_forwarded_host": "[2001:db8::1]"}, "[2001:db8::1]", "[2001:db8::1]", "80"),
        ({"x_forwarded_host": "[2001:db8::1]:81"}, "[2001:db8::1]:81", "[2001:db8::1]", "81"),
        ({"x_forwarded_host": "shop.example", "x_forwarded_proto": "https"}, "shop.example", "shop.example", "443"),
        ({"x_forwarded_port": "80"}, "inner", "inner", "80"),
        ({"x_forwarded_port": "8443"}, "inner:8443", "inner", "8443"),
        ({"x_forwarded_host": "a:1", "x_forwarded_port": "443", "x_forwarded_proto": "https"}, "a", "a", "443"),
    ],
)
def test_host_and_port_are_what_the_client_came_to(fields: dict[str, str], host: str, name: str, port: str) -> None:
    environ = seen(environ_of(**fields), forwarded_parts=ALL)
    assert (environ["HTTP_HOST"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == (host, name, port)


def test_port_that_nobody_said_follows_the_scheme() -> None:
    environ = environ_of("", x_forwarded_proto="https") | {"SERVER_PORT": "80"}  # as of a Unix socket
    assert seen(environ, "unix")["SERVER_PORT"] == "443"


@pytest.mark.parametrize(
    ("prefix", "path", "script_name", "path_info"),
    [
        ("/shop", "/there", "/shop", "/there"),
        ("/shop", "/shop/there", "/shop", "/there"),
        ("/shop/", "/shop", "/shop", ""),
        ("/shop", "/shopping", "/shop", "/shopping"),
        ("/a/b%20c", "/a/b c/d", "/a/b c", "/d"),
        ("/", "/there", "", "/there"),
    ],
)
def test_prefix_is_where_the_application_is_mounted(prefix: str, path: str, script_name: str, path_info: str) -> None:
    environ = seen(environ_of(path=path, x_forwarded_prefix=prefix), forwarded_parts=ALL)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"x_forwarded_host": value}
            for value in ("", "a b", "a/b", "a@b", "a:b", "a:1:2", "a:65536", "a\\b", "a?b", "[::1", "[::::]", "ö")
        ),
        *({"x_forwarded_port": value} for value in ("0", "65536", "-1", "+80", "8 0", "08", "http", "1e3")),
        *({"x_forwarded_prefix": value} for value in ("shop", "//evil.example", "/a//b", "/\\evil", "/a/../b", "/..")),
        *({"x_forwarded_prefix": value} for value in ("/%2fevil", "/%2e%2E/b", "/b/%2e", "/b%0d%0a", "/%00")),
        *({"x_forwarded_prefix": value} for value in ("/a?b", "/a#b", "/%zz", "/a b", "https://evil", "/./a")),
    ],
    ids=str,
)
def test_malformed_host_port_or_prefix_is_refused(fields: dict[str, str]) -> None:
    if not next(iter(fields.values())):
        fields = dict.fromkeys(fields, ",")
    with pytest.raises(Refusal):
        seen(environ_of(**fields), forwarded_parts=ALL)


def test_parts_that_were_not_asked_for_change_nothing() -> None:
    environ = environ_of(
        x_forwarded_for="192.0.2.7", x_forwarded_host="evil", x_forwarded_port="x", x_forwarded_prefix="//evil"
    )
    assert changes(environ) == {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": ""}


# RFC 7239.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=192.0.2.7", ("192.0.2.7", "", "http")),
        ("For=192.0.2.7;PROTO=HTTPS", ("192.0.2.7", "", "https")),
        ('for="192.0.2.7:5000"; proto=https', ("192.0.2.7", "5000", "https")),
        ('for="[2001:db8::7]:5000";proto=https;by=_proxy', ("2001:db8::7", "5000", "https")),
        ("for=127.0.0.1;proto=https, for=192.0.2.7;proto=http", ("192.0.2.7", "", "http")),
        ("for=192.0.2.7;proto=https, for=10.0.0.9;proto=http", ("192.0.2.7", "", "https")),
        ("proto=https", (PROXY, "40000", "https")),
        ("proto=https, for=10.0.0.9", ("10.0.0.9", "", "https")),
        ('for=unknown;ext="a,b;c=\\"d\\""', ("", "", "http")),
        ("for=_hidden", ("", "", "http")),
        ("", (PROXY, "40000", "http")),
        # RFC 9110 §5.6.1.2: empty elements are ignored.
        (", ,\t", (PROXY, "40000", "http")),
        (",for=192.0.2.7", ("192.0.2.7", "", "http")),
        ("for=192.0.2.7 ,", ("192.0.2.7", "", "http")),
        ("for=127.0.0.1, for=192.0.2.7,, ,for=10.0.0.9, ,", ("192.0.2.7", "", "http")),
        # What stands left of the client is not read.
        ("bad bad bad, for=192.0.2.7", ("192.0.2.7", "", "http")),
        ("for=127.0.0.1;for=127.0.0.1, for=192.0.2.7, for=10.0.0.9", ("192.0.2.7", "", "http")),
        # Separators and marks in a quoted string are a part of it.
        ('for=192.0.2.7;x=", for=127.0.0.1"', ("192.0.2.7", "", "http")),
        (r'for=192.0.2.7;x=", for=\"127.0.0.1\""', ("192.0.2.7", "", "http")),
        (r'for=192.0.2.7;x="\\";y="\\\""', ("192.0.2.7", "", "http")),
        (r'for="192.0.2.7";x="\,";proto="http\s"', ("192.0.2.7", "", "https")),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(value: str, expected: tuple[str, str, str]) -> None:
    environ = seen(
        environ_of(forwarded=value, x_forwarded_for="127.0.0.1"), "10.0.0.0/24", forwarded_headers="forwarded"
    )
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"], environ["wsgi.url_scheme"]) == expected


def test_forwarded_host_is_believed_where_it_is_asked_for() -> None:
    environ = environ_of(forwarded='for=192.0.2.7;host="shop.example:8080";proto=https')
    seen(environ, forwarded_headers="forwarded", forwarded_parts=("for", "host"))
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"]) == ("shop.example:8080", "8080")
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    "value",
    [
        "for",
        "for=",
        "for=192.0.2.7;",
        ";for=192.0.2.7",
        ", ;for=192.0.2.7",
        "bad for=192.0.2.7",
        "for=192.0.2.7 proto=https",
        "for=192.0.2.7;for=127.0.0.1",
        "for=192.0.2.7;For=127.0.0.1",
        "for=2001:db8::7",
        'for="2001:db8::7"',
        "for=[2001:db8::7]",
        "for=192.0.2.7:80",
        'for="192.0.2.7',
        "for =192.0.2.7",
        "for=localhost",
        "for=192.0.2.7;proto=ftp",
        # What a trusted hop has passed on from another is read, and so judged.
        "bad, for=10.0.0.1",
        'for=", for=10.0.0.1',
        # A quoted string that has no end, or no beginning.
        r'for=192.0.2.7;x="\"',
        r'for=192.0.2.7;x="\\\"',
        'for=192.0.2.7;x=a"',
        'for=192.0.2.7;x=""a"',
        'for=192.0.2.7;x=\\"a"',
    ],
)
def test_malformed_forwarded_is_refused(value: str) -> None:
    with pytest.raises(Refusal):
        seen(environ_of(forwarded=value), forwarded_headers="forwarded")


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("for=192.0.2.7;proto=https", "192.0.2.7"),
        ('for="[2001:db8::7]:5000";proto="https"', "2001:db8::7"),
        (r'for=192.0.2.7;x=";,=\"\\";proto=https', "192.0.2.7"),
    ],
)
@pytest.mark.parametrize("beginning", ["", 'for=127.0.0.1;x="', "for=10.0.0.1;proto=http;host="])
def test_client_changes_nothing_of_what_its_proxy_says_whatever_it_leaves_open(
    said: str, address: str, beginning: str
) -> None:
    forwarding = forwarding_of(Config(forwarded_allow_ips=[PROXY], forwarded_headers="forwarded"))
    assert forwarding is not None
    function = forwarding.of_peer(PROXY)
    assert function is not None
    for end in map("".join, product('",;\\= a', repeat=4)):
        environ = environ_of(forwarded=f"{beginning}{end}, {said}")
        function(environ)
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (address, "https"), environ["HTTP_FORWARDED"]


def test_what_a_trusted_peer_passes_on_of_forwarded_is_cut_to_what_is_believed() -> None:
    environ = environ_of(forwarded='for=127.0.0.1;x=", for="192.0.2.7" ,, for=10.0.0.9,')
    seen(environ, "10.0.0.0/24", forwarded_headers="forwarded", strip_untrusted_forwarded=True)
    assert (environ["REMOTE_ADDR"], environ["HTTP_FORWARDED"]) == ("192.0.2.7", 'for="192.0.2.7" ,, for=10.0.0.9,')


def test_family_that_was_not_chosen_changes_nothing() -> None:
    assert changes(environ_of(forwarded="for=127.0.0.1;proto=https;host=evil")) == {}
    environ = environ_of(x_forwarded_for="127.0.0.1", x_forwarded_proto="https")
    assert changes(environ, forwarded_headers="forwarded") == {}


# Stripping.


def test_fields_of_untrusted_peers_are_removed_on_request() -> None:
    fields = {
        "x_forwarded_for": "127.0.0.1",
        "x_forwarded_proto": "https",
        "x_forwarded_ssl": "on",
        "x_forwarded_user": "root",
        "forwarded": "for=127.0.0.1",
        "x_real_ip": "127.0.0.1",
        "user_agent": "x",
    }
    environ = seen(environ_of("192.0.2.9", **fields), strip_untrusted_forwarded=True)
    assert [name for name in environ if name.startswith("HTTP_")] == ["HTTP_HOST", "HTTP_USER_AGENT"]
    assert environ["REMOTE_ADDR"] == "192.0.2.9"


def test_what_trusted_peers_say_is_cut_to_what_is_believed() -> None:
    environ = environ_of(
        x_forwarded_for="127.0.0.1, 192.0.2.7, 10.0.0.9",
        x_forwarded_proto="http, https, http",
        x_forwarded_host="evil",
        forwarded="for=127.0.0.1",
        x_real_ip="127.0.0.1",
    )
    seen(environ, "10.0.0.0/24", strip_untrusted_forwarded=True)
    assert {name: value for name, value in environ.items() if name.startswith("HTTP_")} == {
        "HTTP_HOST": "inner:8000",
        "HTTP_X_FORWARDED_FOR": "192.0.2.7, 10.0.0.9",
        "HTTP_X_FORWARDED_PROTO": "https",
    }
    assert environ["REMOTE_ADDR"] == "192.0.2.7"


# Gunicorn's fields about the scheme.

SECURE = {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_SSL": "on"}


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ({"x_forwarded_proto": "https"}, "https"),
        ({"x_forwarded_ssl": "on"}, "https"),
        ({"x_forwarded_ssl": "on", "x_forwarded_proto": "https"}, "https"),
        ({"x_forwarded_proto": "HTTPS"}, "http"),
        ({"x_forwarded_proto": "http"}, "http"),
        ({}, "http"),
    ],
)
def test_scheme_may_be_said_as_gunicorn_has_it(fields: dict[str, str], scheme: str) -> None:
    forwarding = forwarding_of(Config(forwarded_allow_ips=[PROXY], forwarded_parts=[]), SECURE)
    assert forwarding is not None
    function = forwarding.of_peer(PROXY)
    assert function is not None
    environ = environ_of(**fields)
    function(environ)
    assert (environ["wsgi.url_scheme"], environ["REMOTE_ADDR"]) == (scheme, PROXY)
    with pytest.raises(Refusal, match="contradict"):
        function(environ_of(x_forwarded_proto="https", x_forwarded_ssl="off"))


# The options.


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"forwarded_allow_ips": ["proxy.example"]}, "forwarded_allow_ips=proxy.example: "),
        ({"forwarded_allow_ips": ["10.0.0.1/8"]}, "forwarded_allow_ips=10.0.0.1/8: "),
        ({"proxy_allow_from": ["10.0.0"]}, "proxy_allow_from=10.0.0: "),
        ({"forwarded_parts": ["for", "by"]}, "forwarded_parts=for,by: x-forwarded has no by"),
        (
            {"forwarded_parts": ALL, "forwarded_headers": "forwarded"},
            "forwarded_parts=for,proto,host,port,prefix: forwarded has no port, prefix",
        ),
    ],
)
def test_option_that_means_nothing_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert caught.value.problems[0].startswith(problem)
