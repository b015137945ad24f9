"""What a channel was asked to be.

Thread: any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ChannelSettings", "Policy"]

Policy = Literal["drop-oldest", "disconnect"]


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """The arguments of :class:`aiowsgi.Channel`, in their bounds."""

    name: str
    history: int
    limit: int
    policy: Policy
    send_timeout: float
