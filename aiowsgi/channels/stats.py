"""Snapshots of channels.

Thread: any.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DELAY_BUCKETS", "BrokerStats", "ChannelStats"]

#: Upper bounds in seconds, for how long events take from a broker to a process that reads them.
DELAY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class BrokerStats:
    """How this process reaches a channel's broker, over all event loops that read from it.

    Args:
        state: ``"idle"``: nobody here reads from it; ``"reading"``; ``"away"``: it is tried again and again.
        silence: seconds since its last answer to a reader, if there is one; about 3 at most while all is well.
        delay: seconds from when the broker got the last event read here, by its clock, to the reading, by this one's.
        reason: why it is away; empty if it is not.
        read: events read here since the process began.
        resets: times that subscribers here had to be told of a gap.
        send_failures: of this process.
        connections: that this process has to it, except those of threads that send.
    """

    state: str
    silence: float
    delay: float
    reason: str
    read: int
    resets: int
    send_failures: int
    connections: int


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """A snapshot of a channel.

    Args:
        sent: events since the channel was made; with a broker, those that this process has sent.
        subscribers: subscriptions that are being read.
        dropped: events that slow subscribers have missed, over all subscribers.
        disconnected: subscriptions that were ended because they were too slow.
        broker: how its broker is doing; ``None`` without one.
    """

    sent: int
    subscribers: int
    dropped: int
    disconnected: int
    broker: BrokerStats | None = None
