"""The environ of a request.

Thread: worker for :func:`build_environ`, any for the others.

Source: PEP 3333 "environ Variables"; RFC 3875 section 4.1; RFC 9110 section 8.6.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote_to_bytes

from aiowsgi.semantics import ConnectionInfo, RequestHead
from aiowsgi.wsgi.file_wrapper import FileWrapper

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["base_environ", "build_environ", "endpoint_environ"]


class _Discard(io.TextIOBase):
    """``wsgi.errors`` of a process without standard error: it accepts everything and keeps nothing."""

    def write(self, text: str, /) -> int:
        return len(text)


_DISCARD = _Discard()

# What each request sets. The keys are already in the dict that is copied for it, so that the copy need not grow.
_PLACES = dict.fromkeys(
    (
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REQUEST_METHOD",
        "PATH_INFO",
        "QUERY_STRING",
        "REQUEST_URI",
        "RAW_URI",
        "SERVER_PROTOCOL",
        "wsgi.input",
        "wsgi.errors",
    )
)


def base_environ(
    *, software: str, root_path: str, multithread: bool, multiprocess: bool, extra: Mapping[str, str] | None = None
) -> WSGIEnvironment:
    """Return what is the same in every environ of a server.

    Args:
        software: ``SERVER_SOFTWARE``: ``"aiowsgi/1.0"``.
        root_path: ``SCRIPT_NAME``, not percent-encoded.
        multithread: another thread of this process may be running the application at the same time.
        multiprocess: an equivalent application object may be running in another process.
        extra: the deployer's own variables; they give way to the server's.
    """
    return {
        **(extra or {}),
        "wsgi.version": (1, 0),
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": software,
        # PEP 3333 "Unicode Issues": the bytes that a client sends for it, as latin-1.
        "SCRIPT_NAME": root_path.encode("utf-8", "surrogateescape").decode("latin-1"),
    }


def endpoint_environ(base: WSGIEnvironment, connection: ConnectionInfo) -> WSGIEnvironment:
    """Return what is the same in every environ of a connection, and of all connections that differ only in their peer.

    Args:
        base: from :func:`base_environ`; it is copied.
        connection: local address, scheme and TLS.
    """
    environ: WSGIEnvironment = {**base, **_PLACES}
    environ["wsgi.url_scheme"] = connection.scheme
    if connection.scheme == "https":
        environ["HTTPS"] = "on"
        environ.update(connection.tls_variables)
    if connection.server_port:
        environ["SERVER_NAME"] = connection.server_host
        environ["SERVER_PORT"] = connection.server_port
    return environ


def build_environ(
    base: WSGIEnvironment,
    connection: ConnectionInfo,
    head: RequestHead,
    content: BinaryIO,
    content_size: int | None,
) -> WSGIEnvironment:
    """Map a request head to a WSGI environ.

    Reads no clock, socket or process environment.

    Args:
        base: from :func:`endpoint_environ`; it is copied.
        connection: the peer's address.
        head: request line and fields; values are latin-1 text.
        content: file-like; the request's content, then ``b""``.
        content_size: bytes in ``content`` where the request did not say (it was chunked) and all of it has been
            received; else ``None``.

    Returns:
        A new plain dict; values are native strings as PEP 3333 defines them.
    """
    environ = base.copy()
    path = head.path
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    script_name: str = environ["SCRIPT_NAME"]
    if script_name and (path == script_name or path.startswith(script_name + "/")):
        path = path[len(script_name) :]
    environ["REMOTE_ADDR"] = connection.remote_host
    environ["REMOTE_PORT"] = connection.remote_port
    environ["REQUEST_METHOD"] = head.method
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = head.query
    environ["REQUEST_URI"] = environ["RAW_URI"] = head.target
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if head.http_version == "1.1" else "HTTP/1.0"
    environ["wsgi.input"] = content
    # Looked up each time: a host program may have replaced it. A daemon may have none.
    environ["wsgi.errors"] = sys.stderr or _DISCARD
    environ |= head.variables
    if "SERVER_PORT" not in environ:
        _name_by_host(environ)
    if content_size is not None:
        environ["CONTENT_LENGTH"] = str(content_size)
    return environ


def _name_by_host(environ: WSGIEnvironment) -> None:
    """Set SERVER_NAME and SERVER_PORT, which must never be empty, for a Unix socket, which has neither."""
    host, _, port = environ.get("HTTP_HOST", "").partition(":")
    if host.startswith("["):
        host, _, port = environ["HTTP_HOST"].rpartition("]")
        host, port = host + "]", port.removeprefix(":")
    environ["SERVER_NAME"] = host or "localhost"
    environ["SERVER_PORT"] = port or ("443" if environ["wsgi.url_scheme"] == "https" else "80")
