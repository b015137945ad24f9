"""Addresses to listen on, and how they are written.

Thread: any; addresses are immutable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Union

__all__ = ["BindAddress", "FileDescriptorAddress", "TCPAddress", "UnixAddress", "parse_bind"]


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A TCP address; an empty host is every interface, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix-domain socket's path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FileDescriptorAddress:
    """A listening socket that this process has inherited."""

    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


BindAddress = Union[TCPAddress, UnixAddress, FileDescriptorAddress]  # noqa: UP007 - exported as a value


def parse_bind(text: str) -> BindAddress:
    """Read one bind address.

    Args:
        text: ``host:port``, ``:port`` or ``*:port`` (every interface), ``[v6]:port``, ``host`` (port 8000),
            ``unix:path`` or ``fd://N``.

    Raises:
        ValueError: naming what is wrong.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix://") if text.startswith("unix:///") else text.removeprefix("unix:")
        if not path:
            raise ValueError("a Unix socket needs a path")
        return UnixAddress(path)
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not re.fullmatch(r"[0-9]{1,6}", number):
            raise ValueError("a file descriptor is written fd://N with N a number")
        return FileDescriptorAddress(int(number))
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^:\[\]/\s]*))(?::(?P<port>[0-9]{1,5}))?", text
    )
    if match is None or not text:
        raise ValueError("must be host:port, :port, [v6]:port, unix:path or fd://N")
    if match["port"] is None and (match["host"] or "").isdigit():
        raise ValueError(f"must be host:port; a port alone is written :{text}")
    port = 8000 if match["port"] is None else int(match["port"])
    if port > 65535:
        raise ValueError("a port is at most 65535")
    return TCPAddress(match["v6"] or ("" if match["host"] == "*" else match["host"] or ""), port)
