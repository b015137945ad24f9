"""``aiowsgi ping``: asks a server whether it is well, as a container's health check does.

So an image needs no curl, and a Unix socket can be asked as well as a port.

Thread: the main thread.

Source: Dockerfile reference, "HEALTHCHECK": exit code 0 is healthy, 1 is not, 2 is reserved.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import sys
from urllib.parse import urlsplit

import click

from aiowsgi.configuration.addresses import parse_bind

__all__ = ["UnixConnection", "command", "ping", "reason"]

UNHEALTHY = 1

HELP = """Ask the server at ADDRESS whether it is well; exit with 0 if it is, else with 1.

\b
ADDRESS is http://host:port/path, https://host:port/path (no certificate is checked), host:port or unix:PATH.

\b
  aiowsgi ping http://127.0.0.1:8000/ready
  aiowsgi ping unix:/run/app.sock --path /ready
"""

# More than any answer of ours has.
_SHOWN_SIZE = 1024


def ping(address: str, path: str, timeout: float) -> tuple[bool, str]:
    """Ask a server.

    Args:
        address: a URL, or ``unix:PATH`` of a socket; a host and port alone are taken as ``http``.
        path: what to ask for, where the address has no path of its own.
        timeout: seconds for each step.

    Returns:
        Whether it answered with a status of 200 to 299, and one line that says what it answered, or why it did not.
    """
    try:
        connection, target = _connection(address, path, timeout)
    except ValueError as error:
        return False, f"{address}: {error}"
    with contextlib.closing(connection):
        try:
            connection.request("GET", target, headers={"Host": "localhost"} if address.startswith("unix:") else {})
            response = connection.getresponse()
            content = response.read(_SHOWN_SIZE).decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return False, f"{address}: {reason(error)}"
    line = f"{address}: {response.status} {response.reason} {content}".rstrip()
    return 200 <= response.status < 300, "".join(character if character.isprintable() else "?" for character in line)


def reason(error: Exception) -> str:
    """Say in words why there is no answer; an error number means nothing to people."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _connection(address: str, path: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    if address.startswith("unix:"):
        socket_path = str(parse_bind(address)).removeprefix("unix:")
        return UnixConnection(socket_path, timeout), path
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://host:port/path, https://… or unix:PATH")
    target = parts.path or path
    if parts.query:
        target += "?" + parts.query
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout), target
    # This asks one's own server, mostly at an address that no certificate names; and nothing secret is exchanged.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context), target


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket.

    Args:
        path: of the socket; beginning with ``@``, a name in the abstract namespace.
        timeout: seconds for each step.
    """

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = "\0" + path[1:] if path.startswith("@") else path

    def connect(self) -> None:
        """See :class:`http.client.HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@click.command("ping", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address")
@click.option("--path", default="/", metavar="PATH", help="Asked for where ADDRESS has no path. [default: /]")
@click.option("--timeout", default=5.0, metavar="SECONDS", help="For each step. [default: 5]")
def command(address: str, path: str, timeout: float) -> None:
    """Do what the help says."""
    well, line = ping(address, path, timeout)
    click.echo(line, err=not well)
    if not well:
        sys.exit(UNHEALTHY)
