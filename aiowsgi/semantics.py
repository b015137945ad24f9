"""The words of RFC 9110 that the layers share: messages, grammar and status codes.

``http``, ``wsgi`` and ``bridge`` do not import one another, yet both ``http`` and ``wsgi`` speak of a request's head
and of tokens. Those words live here, beside ``config`` and ``errors``, and import nothing but the standard library.

Thread: any. A message is not changed once it has been handed on, except that a parked response lets go of its
request's fields. They are plain classes: one is made for each request, and a frozen dataclass costs three times as much
to make.

Source: RFC 9110 sections 5, 6, 7.6.1 and 15; RFC 9112 sections 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

__all__ = [
    "HOP_BY_HOP",
    "NO_CONTENT",
    "TOKEN",
    "TOKEN_CHARACTERS",
    "ConnectionInfo",
    "RequestHead",
    "ResponseHead",
    "has_content",
    "variable_name",
]

#: RFC 9110 §5.6.2, as the inside of a character class.
TOKEN_CHARACTERS = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
TOKEN = re.compile(f"[{TOKEN_CHARACTERS}]+")

#: RFC 9110 §7.6.1 and RFC 2616 §13.5.1, which PEP 3333 means by "hop-by-hop": the gateway's own business.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)

#: Final status codes of responses that have no content: RFC 9110 §15.3.5, §15.3.6, §15.4.5.
NO_CONTENT = frozenset({204, 205, 304})

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def variable_name(field_name: str) -> str:
    """Return what a request's field is called in environ: RFC 3875 section 4.1.18; PEP 3333 "environ Variables"."""
    name = field_name.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name


def has_content(method: str, status_code: int) -> bool:
    """Return whether a final response to ``method`` with this status may carry content.

    Source: RFC 9110 sections 6.4.1, 9.3.2 and 15.3.6.
    """
    return method != "HEAD" and status_code not in NO_CONTENT


class RequestHead:
    """A request's head, accepted by the policy: request line, field lines and what follows from them.

    Args:
        method: a token, in the case it was sent in.
        target: the request-target as sent.
        path: its path, still percent-encoded; ``*`` for the asterisk-form.
        query: what follows the first ``?``, without it.
        http_version: ``"1.0"`` or ``"1.1"``.
        variables: the fields, named as environ names them (``HTTP_HOST``, ``CONTENT_TYPE``), in the order received, a
            repeated one joined to one value; latin-1 text. ``Transfer-Encoding`` is not among them, nor are fields
            whose name has an underscore. ``HTTP_HOST`` is the authority of an absolute-form. They get these
            names as soon as they are read, because mapping them twice would take twice as long.
        content_length: bytes of content; 0 where there is none, ``None`` where it is chunked.
        persistent: the client expects the connection to stay open.
        expect_continue: the client waits for ``100 Continue`` before it sends its content.
    """

    __slots__ = (
        "content_length",
        "expect_continue",
        "http_version",
        "method",
        "path",
        "persistent",
        "query",
        "target",
        "variables",
    )

    def __init__(
        self,
        method: str,
        target: str,
        path: str,
        query: str,
        http_version: str,
        variables: dict[str, str],
        content_length: int | None,
        persistent: bool,
        expect_continue: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.http_version = http_version
        self.variables = variables
        self.content_length = content_length
        self.persistent = persistent
        self.expect_continue = expect_continue

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.target!r} HTTP/{self.http_version}>"


class ResponseHead:
    r"""An application's response head, validated: what ``start_response`` was given.

    Args:
        status: ``"200 OK"``.
        status_code: its first three digits.
        field_lines: the fields as the application wrote them, without ``Content-Length``, each ``"name: value\r\n"``.
            One string, because it is built as the fields are checked, and written as it is.
        content_length: the application's own ``Content-Length``, or ``None``.

    Attributes:
        has_date: there is a ``Date`` among the fields.
        has_server: there is a ``Server`` among the fields.
    """

    __slots__ = ("content_length", "field_lines", "has_date", "has_server", "status", "status_code")

    def __init__(self, status: str, status_code: int, field_lines: str, content_length: int | None) -> None:
        self.status = status
        self.status_code = status_code
        self.field_lines = field_lines
        self.content_length = content_length
        # Attributes, not arguments: both are rare.
        self.has_date = False
        self.has_server = False

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status!r}>"

    @property
    def fields(self) -> list[tuple[str, str]]:
        """(name, value) of each of :attr:`field_lines`."""
        pairs = []
        for line in self.field_lines.split("\r\n")[:-1]:
            name, _, value = line.partition(": ")
            pairs.append((name, value))
        return pairs


class ConnectionInfo:
    """What a connection's socket says about itself, as environ spells it.

    Args:
        scheme: ``"http"`` or ``"https"``.
        remote_host: the peer's address; empty for a Unix socket.
        remote_port: the peer's port in decimal; empty for a Unix socket.
        server_host: the local address; empty for a Unix socket.
        server_port: the local port in decimal; empty for a Unix socket.
        tls_variables: what environ has for a connection whose scheme is ``"https"``: ``SSL_PROTOCOL`` and the like.
    """

    __slots__ = (
        "field_host",
        "forwarding",
        "remote_host",
        "remote_port",
        "scheme",
        "server_host",
        "server_port",
        "tls_variables",
    )

    def __init__(
        self,
        scheme: str,
        remote_host: str,
        remote_port: str,
        server_host: str,
        server_port: str,
        tls_variables: Mapping[str, str] = NO_VARIABLES,
    ) -> None:
        self.scheme = scheme
        self.remote_host = remote_host
        self.remote_port = remote_port
        self.server_host = server_host
        self.server_port = server_port
        self.tls_variables = tls_variables
        #: Who has written its requests' fields: ``remote_host``, or ``None`` where that is a proxy that passes on what
        #: a client sends and does not name it.
        self.field_host: str | None = remote_host
        #: Applies to each environ what a trusted peer says about its client, or removes what another says; ``None``
        #: where there is nothing to do.
        self.forwarding: Callable[[MutableMapping[str, Any]], None] | None = None

    def __repr__(self) -> str:
        return f"<ConnectionInfo {self.scheme} {self.remote_host}:{self.remote_port}>"
