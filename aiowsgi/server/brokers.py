"""What a server does with the brokers of its application's channels: looks for them, waits for them, counts them.

It knows the brokers of those channels that exist when it starts. For a channel that is made later, the log says what is
wrong with its broker.

Thread: event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from aiowsgi.channels.broker import Broker, brokers
from aiowsgi.channels.stats import DELAY_BUCKETS
from aiowsgi.errors import StartupError

if TYPE_CHECKING:
    from aiowsgi.channels.link import Link

__all__ = ["broker_counters", "broker_gauges", "broker_histograms", "check_brokers", "hold_links"]

_logger = logging.getLogger("aiowsgi.error")

# Seconds that a broker has to say whether it accepts the user and password.
_CHECK_SECONDS = 2.0
_LINK_STATES = ("idle", "reading", "away")
_COUNTED = ("sent", "read", "dropped", "disconnected", "resets", "losses", "send_failures")


async def check_brokers() -> None:
    """Look for every broker, for a short time.

    Raises:
        StartupError: one refuses the user and password. One that is not there may still come: the log says that the
            server waits for it.
    """
    # All are waited for: no check may go on, and log, once the start has failed.
    for error in await asyncio.gather(*map(_check, brokers()), return_exceptions=True):
        if error is not None:
            raise error


async def _check(broker: Broker) -> None:
    from aiowsgi.channels.driver import Away, Refused

    try:
        await broker.check(_CHECK_SECONDS)
    except Away as error:
        if error.credentials:
            raise StartupError(f"broker {broker.label}: {error}") from None
        _warn("broker %s is not there yet: %s; it is waited for", broker.label, error)
    except Refused as error:
        _warn("broker %s: %s", broker.label, error)


def _warn(message: str, *arguments: object) -> None:
    # A log handler that fails must not keep the server from starting.
    with contextlib.suppress(Exception):
        _logger.warning(message, *arguments)


def hold_links() -> list[Link]:
    """Keep this loop connected to every broker, even without subscribers, until each link is unpinned."""
    links = [broker.link() for broker in brokers()]
    for link in links:
        link.pin()
    return links


def broker_counters() -> dict[str, float]:
    """Return what was counted for all brokers; nothing if there are none."""
    found = brokers()
    return {f"broker_events what={name}": sum(broker.tally[name] for broker in found) for name in _COUNTED if found}


def broker_gauges() -> dict[str, float]:
    """Return how many links there are in each state, how many subscribers, and the silences added up."""
    found = brokers()
    if not found:
        return {}
    states = [link.state for broker in found for link in broker.links()]
    return {
        **{f"broker_links state={state}": states.count(state) for state in _LINK_STATES},
        "channel_subscribers": sum(broker.tally["subscribers"] for broker in found),
        "broker_silence_seconds": sum(broker.stats().silence for broker in found),
    }


def broker_histograms() -> dict[str, list[float]]:
    """Return how long events have taken from the brokers to here."""
    found = brokers()
    if not found:
        return {}
    counts: list[float] = [
        sum(broker.tally[f"delay {index}"] for broker in found) for index in range(len(DELAY_BUCKETS) + 1)
    ]
    return {"broker_delay_seconds": [*counts, sum(broker.tally["delay microseconds"] for broker in found) / 1e6]}
