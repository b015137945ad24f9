"""Sets of peers, as options name them: addresses, networks, ``unix`` for those of a Unix socket, ``*`` for everybody.

Thread: any; a :class:`Peers` is immutable but for a bounded cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["Peers", "parse_address"]


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """Read an address; an IPv4-mapped IPv6 address becomes the IPv4 address.

    Raises:
        ValueError: it is not an address, or has a zone, which means nothing on other machines.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text}: has a zone")
        return address.ipv4_mapped or address
    return address


class Peers:
    """The set of peers that some texts name.

    Args:
        texts: each an address, a network in CIDR form, ``unix``, ``*``, or ``none``, which adds nobody.

    Raises:
        ValueError: a text is none of these; the message names it.
    """

    __slots__ = ("_addresses", "_networks", "_unix", "anybody", "is_named")

    def __init__(self, texts: Iterable[str]) -> None:
        self._addresses: set[IPv4Address | IPv6Address] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        self._unix = False
        #: Whether it is everybody.
        self.anybody = False
        for text in texts:
            if text == "*":
                self.anybody = True
            elif text == "unix":
                self._unix = True
            elif text != "none":
                self._add(text)
        #: Whether an address is one of those named; ``*`` names nobody.
        self.is_named = lru_cache(maxsize=1024)(self._is_named)

    def _add(self, text: str) -> None:
        try:
            if "/" in text:
                self._networks.append(ip_network(text))
            else:
                self._addresses.add(parse_address(text))
        except ValueError as error:
            raise ValueError(f"{text} is no address, network, unix, none or *: {error}") from error

    def __bool__(self) -> bool:
        return bool(self.anybody or self._unix or self._addresses or self._networks)

    def __contains__(self, host: str | None) -> bool:
        """Whether a peer is in the set; a Unix socket's has an empty host. ``None``, an unknown one, is in none."""
        return host is not None and (self.anybody or (self.is_named(host) if host else self._unix))

    def _is_named(self, host: str) -> bool:
        if not (self._addresses or self._networks):
            return False
        try:
            address = parse_address(host)
        except ValueError:
            return False
        return address in self._addresses or any(address in network for network in self._networks)
