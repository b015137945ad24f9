"""What proxies say about a request that they pass on: ``X-Forwarded-For`` and its family, or ``Forwarded``.

A trusted peer says who its client is; if that client is itself a trusted proxy, what it said is believed too, and so
on. The first hop from the right that is not trusted is the client. What stands to the left of it is only the client's
claim, and is neither read nor checked. What is read has to be valid, or the request is refused.

``*`` trusts every peer, but no hop beyond it: otherwise the left-most value would win, which every client can choose.
A list field with one value is about the client; one with several has a value for each hop, as ``X-Forwarded-For`` has.

Where no peer is trusted and nothing is stripped, all this costs nothing: a connection's
:class:`~aiowsgi.semantics.ConnectionInfo` then has no ``forwarding``.

Thread: worker; holds no state but a bounded cache.

Source: RFC 7239 sections 4 to 7; RFC 3986 section 3.3; else what nginx, HAProxy, Apache httpd and Envoy send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from aiowsgi.config import Config
from aiowsgi.configuration.peers import Peers, parse_address
from aiowsgi.http.events import Refusal
from aiowsgi.http.policy import is_host
from aiowsgi.semantics import TOKEN_CHARACTERS

__all__ = ["Forwarding", "forwarding_of"]

Environ = MutableMapping[str, Any]

# One hop's claims: "for", "proto", "host", "port", "prefix"; those that it did not make are missing.
_Claims = dict[str, str]

_X_FIELDS = {
    "for": "HTTP_X_FORWARDED_FOR",
    "proto": "HTTP_X_FORWARDED_PROTO",
    "host": "HTTP_X_FORWARDED_HOST",
    "port": "HTTP_X_FORWARDED_PORT",
    "prefix": "HTTP_X_FORWARDED_PREFIX",
}
_PORTS = {"http": "80", "https": "443"}

_PORT = re.compile(r"[1-9][0-9]{0,4}")
# RFC 7239 §6 with a port in decimal; for X-Forwarded-For also an address of IPv6 without brackets.
_NODE = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[0-9A-Fa-f:.]+)")
# RFC 7239 §6.2 and §6.3: a hop that does not give its address.
_NAMELESS = re.compile(r"(?:unknown|_[A-Za-z0-9._-]+)(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?", re.IGNORECASE)
# RFC 3986 §3.3: segments that are not empty, so that no prefix can begin another authority: "//elsewhere".
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)+/?")
# In a decoded prefix: a segment that is empty or made of dots, or a control character.
_NOT_IN_PREFIX = re.compile(r"//|/\.{1,2}(?:/|$)|[\x00-\x1f\x7f]")
# RFC 7239 §4, from right to left: a value, "=", a name, and what precedes it; spaces around the semicolon are common.
# A quotation mark after an odd number of backslashes is part of a quoted string; any other one ends it.
# RFC 9110 §5.6.1.2: a recipient MUST ignore empty elements.
_RIGHT_PAIR = re.compile(
    rf'[ \t]*+(?:([{TOKEN_CHARACTERS}]++)|"((?:\\\\)*+(?:[^"\\]\\*+|"\\(?:\\\\)*+)*+)")'
    rf"=([{TOKEN_CHARACTERS}]++)[ \t]*+(;|,[ \t,]*+|\Z)"
)
_ESCAPED = re.compile(r"\\(.)")


class Forwarding:
    """Applies what proxies say to environs.

    Args:
        config: the options ``forwarded_...``.
        scheme_values: gunicorn's ``secure_scheme_headers``, with the names as environ spells them: for each the value
            that means https. They replace ``X-Forwarded-Proto``.
    """

    def __init__(self, config: Config, scheme_values: Mapping[str, str] | None = None) -> None:
        self._peers = Peers(config.forwarded_allow_ips)
        self._parts = frozenset(config.forwarded_parts)
        self._rfc_7239 = config.forwarded_headers == "forwarded"
        self._strips = config.strip_untrusted_forwarded
        self._scheme_values = scheme_values

    def of_peer(self, host: str | None) -> Callable[[Environ], None] | None:
        """Return what is to be done with the environs of a connection.

        Args:
            host: the peer's; empty for a Unix socket; ``None`` for an unknown peer, which is not trusted.

        Returns:
            a function that changes an environ, or raises :class:`Refusal`; ``None`` where there is nothing to do.
        """
        if host in self._peers:
            return self._believe
        return _strip_all if self._strips else None

    def _believe(self, environ: Environ) -> None:
        if self._rfc_7239:
            claims, values = self._claims_of_forwarded(environ.get("HTTP_FORWARDED", ""))
        else:
            claims, values = self._claims_of_fields(environ)
        if self._strips:
            _strip_all(environ)
            environ.update(values)
        if claims:
            _apply({name: value for name, value in claims.items() if name in self._parts}, environ)
        if self._scheme_values:
            scheme = self._scheme_of(environ)
            if scheme:
                _apply({"proto": scheme}, environ)

    # The family of X-Forwarded-For.

    def _claims_of_fields(self, environ: Environ) -> tuple[_Claims, dict[str, str]]:
        """Return what is believed, and the fields that say it."""
        claims: _Claims = {}
        values: dict[str, str] = {}
        depth = 0
        if "for" in self._parts:
            hops = _list(environ.get(_X_FIELDS["for"], ""))
            while hops and depth + 1 < len(hops) and self._is_trusted(hops[-1 - depth]):
                depth += 1
            if hops:
                claims["for"] = hops[-1 - depth]
                _parse_node(claims["for"])
                values[_X_FIELDS["for"]] = ", ".join(hops[-1 - depth :])
        for name, key in _X_FIELDS.items():
            if name == "for" or name not in self._parts or (name == "proto" and self._scheme_values):
                continue
            entries = _list(environ.get(key, ""))
            if not entries:
                continue
            if 1 < len(entries) <= depth:
                raise _refusal(key, "has fewer values than there are proxies")
            claims[name] = values[key] = entries[0] if len(entries) == 1 else entries[-1 - depth]
        return claims, values

    def _is_trusted(self, node: str) -> bool:
        """Whether a hop may say who its client was."""
        address, _ = _parse_node(node)
        return bool(address) and self._peers.is_named(address)

    def _scheme_of(self, environ: Environ) -> str:
        said = {environ[key] == value for key, value in (self._scheme_values or {}).items() if key in environ}
        if len(said) > 1:
            raise Refusal(400, "the fields about the scheme contradict one another")
        return "" if not said else "https" if True in said else "http"

    # RFC 7239.

    def _claims_of_forwarded(self, value: str) -> tuple[_Claims, dict[str, str]]:
        believed: _Claims = {}
        believed_from = len(value)
        for claims, start in _elements_from_the_right(value):
            hop = {"for": believed["for"]} if "for" in believed else {}
            believed, believed_from = hop | claims, start
            if "for" not in claims or not self._is_trusted(claims["for"]):
                break
        return believed, {"HTTP_FORWARDED": value[believed_from:]} if believed else {}


def forwarding_of(config: Config, scheme_values: Mapping[str, str] | None = None) -> Forwarding | None:
    """Return what a server is to do with forwarded requests; ``None`` where that is nothing."""
    if config.strip_untrusted_forwarded or Peers(config.forwarded_allow_ips):
        return Forwarding(config, scheme_values)
    return None


def _refusal(key: str, problem: str) -> Refusal:
    name = key.removeprefix("HTTP_").replace("_", "-").title()
    return Refusal(400, f"{name} {problem}")


def _list(value: str) -> list[str]:
    """Split a list field; one that is empty says nothing."""
    return [entry.strip(" \t") for entry in value.split(",")] if value.strip(" \t") else []


def _parse_node(text: str) -> tuple[str, str]:
    """Read a hop: its address and its port, each empty if it does not give one."""
    match = _NODE.fullmatch(text)
    if match is None:
        if _NAMELESS.fullmatch(text):
            return "", ""
        raise Refusal(400, "a forwarded address is malformed")
    try:
        address = parse_address(match["v6"] or match["v4"] or match["bare"])
    except ValueError as error:
        raise Refusal(400, "a forwarded address is malformed") from error
    port = match["port"] or ""
    if port and not 0 < int(port) <= 65535:
        raise Refusal(400, "a forwarded port is malformed")
    return str(address), port


def _elements_from_the_right(value: str) -> Iterator[tuple[_Claims, int]]:
    """Read the elements of a Forwarded field, the last one first, each with the position where it begins.

    Nothing that a client has sent can swallow or forge what its proxy has added: where a well-formed element begins
    depends on nothing to its left. Read from its end, a quoted string begins at the next quotation mark that no
    backslash escapes; none can escape the real first one, because that follows a "=".
    """
    reverse = value.rstrip(" \t,")[::-1]
    position = 0
    while position < len(reverse):
        claims: _Claims = {}
        start = len(reverse)
        before = ";"
        while before == ";":
            match = _RIGHT_PAIR.match(reverse, position)
            if match is None:
                raise Refusal(400, "Forwarded is malformed")
            name = match[3][::-1].lower()
            if name in claims:
                raise Refusal(400, "Forwarded has a parameter twice")
            claims[name] = match[1][::-1] if match[2] is None else _ESCAPED.sub(r"\1", match[2][::-1])
            if name == "for" and claims[name].count(":") > 1 and not claims[name].startswith("["):
                raise Refusal(400, "a forwarded address is malformed")  # §6: brackets, or a port could be a part of it
            start, position, before = len(reverse) - match.end(3), match.end(), match[4]
        yield claims, start


def _apply(claims: _Claims, environ: Environ) -> None:
    """Change an environ to what was claimed."""
    if "for" in claims:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = _parse_node(claims["for"])
    if "proto" in claims:
        _apply_scheme(claims["proto"].lower(), environ)
    host, port = claims.get("host"), claims.get("port")
    if host is not None and not is_host(host):
        raise Refusal(400, "a forwarded host is malformed")
    if port is not None and not (_PORT.fullmatch(port) and int(port) <= 65535):
        raise Refusal(400, "a forwarded port is malformed")
    if host is not None or port is not None:
        _apply_host(environ.get("HTTP_HOST", "") if host is None else host, port, environ)
    if "prefix" in claims:
        _apply_prefix(claims["prefix"], environ)


def _apply_scheme(scheme: str, environ: Environ) -> None:
    if scheme not in _PORTS:
        raise Refusal(400, "a forwarded scheme is neither http nor https")
    if environ["SERVER_PORT"] == _PORTS[environ["wsgi.url_scheme"]]:
        environ["SERVER_PORT"] = _PORTS[scheme]  # one scheme's default becomes the other's
    environ["wsgi.url_scheme"] = scheme
    if scheme == "https":
        environ["HTTPS"] = "on"
    else:
        environ.pop("HTTPS", None)


def _apply_host(host: str, port: str | None, environ: Environ) -> None:
    name, colon, own_port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, own_port = host, ""
    default_port = _PORTS[environ["wsgi.url_scheme"]]
    if port is not None:
        own_port = "" if port == default_port else port
        host = f"{name}:{own_port}" if own_port else name
    if name:
        environ["HTTP_HOST"] = host
        environ["SERVER_NAME"] = name
    environ["SERVER_PORT"] = own_port or default_port


def _apply_prefix(prefix: str, environ: Environ) -> None:
    """Mount the application where the proxy says, whether or not the proxy has removed the prefix from the path."""
    if prefix not in ("", "/") and not _PREFIX.fullmatch(prefix):
        raise Refusal(400, "a forwarded prefix is malformed")
    script_name = unquote_to_bytes(prefix.rstrip("/")).decode("latin-1")
    if _NOT_IN_PREFIX.search(script_name):  # it was percent-encoded, which the application cannot see
        raise Refusal(400, "a forwarded prefix is malformed")
    path = environ["PATH_INFO"]
    environ["SCRIPT_NAME"] = script_name
    environ["PATH_INFO"] = path[len(script_name) :] if f"{path}/".startswith(f"{script_name}/") else path


def _strip_all(environ: Environ) -> None:
    """Remove all fields that a trusted proxy might have set: none has."""
    for key in [key for key in environ if key.startswith("HTTP_X_FORWARDED") or key in _OTHERS]:
        del environ[key]


# Other fields that frameworks and proxies read.
_OTHERS = frozenset({"HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_X_REAL_PORT", "HTTP_X_CLIENT_IP", "HTTP_X_SCHEME"})
