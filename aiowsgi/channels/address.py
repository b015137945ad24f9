"""Where a broker is, as given by a URL; and how to refer to it without its secrets.

==========================================================  ======================================================
``redis://[[user]:password@]host[:port][/db]``              TCP
``rediss://…``                                              TCP with TLS; ``?ssl_ca_certs=path``, redis-py's others
``unix://[[user]:password@]/path[?db=number]``              a Unix socket
``redis+sentinel://…host[:port][,host[:port]…]/name[/db]``  the master that Sentinels name; ``rediss+sentinel`` too
==========================================================  ======================================================

User and password of a Sentinel URL are those of the master; ``?sentinel_username=`` and ``?sentinel_password=`` those
of the Sentinels.

Thread: any.

Source: https://www.iana.org/assignments/uri-schemes/prov/redis; redis-py's ``from_url``. There is no common form for
Sentinel; this one is read by several libraries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

__all__ = ["BrokerAddress"]

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_HOST = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?")
_DB = re.compile(r"\d{1,5}")
_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class BrokerAddress:
    """A parsed address.

    Args:
        url: as it was given, with its secrets.
        label: without them, for people.
        secrets: what must not be shown, wherever it comes from.
        sentinels: hosts and ports, for a Sentinel URL.
        service: the name that Sentinels know the master by.
        options: of the query.
    """

    url: str = field(repr=False)
    label: str
    secrets: tuple[str, ...] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: dict[str, str] = field(default_factory=dict, repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    db: int = 0

    @property
    def tls(self) -> bool:
        """Whether to connect with TLS."""
        return self.url.startswith("rediss")

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Read a URL.

        Raises:
            ValueError: it is not one; the message contains nothing that might be a secret.
        """
        if not isinstance(url, str):
            raise ValueError(f"must be a URL, not {type(url).__name__}")
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            raise ValueError("is no URL") from None
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
        if parts.fragment:
            raise ValueError("has a '#': a password with such a character is to be percent-encoded")
        userinfo, _, where = parts.netloc.rpartition("@")
        username, _, password = (unquote(part) for part in userinfo.partition(":"))
        secrets = {value for name, value in options.items() if "password" in name} | {password, unquote(userinfo)}
        secrets |= {userinfo, userinfo.partition(":")[2]}
        hosts, service, db = _read_path(parts, where, options)
        return cls(
            url=url,
            label=_label(parts.scheme, hosts, service, db, parts.path),
            secrets=tuple(sorted((secret for secret in secrets if secret), key=len, reverse=True)),
            sentinels=tuple((host, port or _SENTINEL_PORT) for host, port in hosts) if service else (),
            service=service,
            options=options,
            username=username,
            password=password,
            db=db,
        )

    def without_secrets(self, text: str) -> str:
        """Return the text with the secrets of this address masked."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


_Hosts = list[tuple[str, int]]


def _read_path(parts: SplitResult, where: str, options: dict[str, str]) -> tuple[_Hosts, str, int]:
    """Return the hosts, the service and the database."""
    if parts.scheme == "unix":
        if where or not parts.path.startswith("/"):
            raise ValueError("must have the form unix:///path, or unix://:password@/path")
        return [], "", _number(options.get("db", "0"))
    hosts = []
    for text in where.split(","):
        match = _HOST.fullmatch(text)
        if match is None:
            # The text is not shown: the start of a password with a slash in it looks like a host.
            raise ValueError("names no host and port; other characters in a password are to be percent-encoded")
        hosts.append((match["host"].strip("[]"), int(match["port"] or 0)))
    words = [unquote(word) for word in parts.path.split("/")[1:]]
    service = ""
    if parts.scheme.endswith("+sentinel"):
        service = words.pop(0) if words else ""
        if not service:
            raise ValueError("must name the service after the Sentinels: redis+sentinel://host:26379/service")
    elif len(hosts) > 1:
        raise ValueError("names several hosts, which only redis+sentinel:// does")
    return hosts, service, _number("/".join(words) or options.get("db", "0"))


def _number(text: str) -> int:
    if not _DB.fullmatch(text):
        raise ValueError("must name the database by a number")
    return int(text)


def _label(scheme: str, hosts: _Hosts, service: str, db: int, path: str) -> str:
    if scheme == "unix":
        return f"unix://{path}" + (f"?db={db}" if db else "")
    shown = (f"[{host}]" if ":" in host else host for host, _ in hosts)
    where = ",".join(f"{host}:{port}" if port else host for host, (_, port) in zip(shown, hosts, strict=True))
    return f"{scheme}://{where}/{service + '/' if service else ''}{db}"
