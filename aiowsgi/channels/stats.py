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
    """How a channel's broker is reached from this process; over all event loops that read there.

    Args:
        state: ``"idle"``: nobody here reads from it; ``"reading"``; ``"away"``: it is being looked for.
        silence: seconds since its last answer to a reader, where it is read; some 3 at most while all is well.
        delay: seconds from the broker's taking the last event that was read here to its being read, by both clocks.
        reason: why it is away; empty where it is not.
        read: events read here since the process began.
        resets: times that a gap had to be told to subscribers here.
        send_failures: of this process.
        connections: that this process has to it, but for those of threads that send.
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
        dropped: events that slow subscribers have not been given, over all of them.
        disconnected: subscriptions that were ended because they were too slow.
        broker: how its broker does; ``None`` without one.
    """

    sent: int
    subscribers: int
    dropped: int
    disconnected: int
    broker: BrokerStats | None = None
