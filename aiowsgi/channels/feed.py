"""What an event loop has read of one stream: its last events, for all subscribers of that loop.

Thread: event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiowsgi.bridge.broadcast import Broadcast
from aiowsgi.channels.event import RESET, Event

if TYPE_CHECKING:
    from aiowsgi.channels.driver import Page, StreamInfo

__all__ = ["BEGINNING", "Feed", "order"]

#: The id before the first of any stream.
BEGINNING = "0-0"


def order(id: str) -> tuple[int, int]:
    """Return the key by which a stream's ids are ordered."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)


class Feed:
    """A window on a stream: as many of its last events as a subscriber may be behind, without a gap.

    A gap in what was read, because Redis came back without its data, is replaced by an event named ``reset``.

    Args:
        key: of the stream.
        capacity: events that are kept.
        history: events that the stream has at least, once it has got that many.
    """

    def __init__(self, key: str, capacity: int, history: int) -> None:
        self.key = key
        self.capacity = capacity
        self.history = history
        self.log: Broadcast[Event] = Broadcast(capacity)
        #: The last event that was read; the next that is appended comes after it.
        self.tail = BEGINNING
        #: Events that the stream had ever got, including that one, if Redis says.
        self.added: int | None = None
        #: Whether it has been read from Redis at all.
        self.primed = False
        #: Whether the present connection reads it.
        self.ready = False
        #: When Redis was last asked for all that was not read yet: what was sent before is here, or lost.
        self.asked_at = 0.0
        #: When to look again, if Redis has refused it.
        self.retry_at = 0.0
        self.fault = ""
        #: Times that Redis could not be asked for it.
        self.failure_count = 0
        self.subscriber_count = 0
        #: The number of the last reset after which the stream had begun anew: it has all that it ever got, but not what
        #: was read here.
        self.lost_at = -1
        # The number of the first event since the last gap.
        self._base_number = 1
        # The stream's beginning is known: nothing is missing between that and the first event.
        self._from_the_beginning = False

    def prime(self, page: Page) -> None:
        """Begin with the newest events of the stream."""
        self.primed = True
        self._from_the_beginning = page.continuous
        self._base_number = self.log.end
        self.extend(page.events)
        self.added = page.stream.added
        # The newest entry may have been deleted by hand; what comes next is after its id all the same.
        self.tail = page.stream.last_id

    def extend(self, events: list[Event]) -> None:
        """Append what follows."""
        for event in events:
            self.log.append(lambda _, event=event: event)  # type: ignore[misc] # bound at once
            self.tail = event.id
        if self.added is not None:
            self.added += len(events)

    def reset(self, stream: StreamInfo) -> None:
        """Tell all subscribers that there is a gap, and go on at the stream's end."""
        if stream.whole:
            self.lost_at = self.log.end
        self.log.append(lambda _: Event(b"", stream.last_id, RESET))
        self.tail = stream.last_id
        self.added = stream.added
        self._from_the_beginning = False
        self._base_number = self.log.end

    def number_after(self, id: str, *, known: bool) -> int | None:
        """Find the place after an id.

        Args:
            id: of an event.
            known: the id is of this stream, and nothing after it has been trimmed at the time.

        Returns:
            The number of the next event; ``None`` if the window cannot say.
        """
        log = self.log
        low = max(self._base_number, log.end - self.capacity)
        if id == self.tail:
            return log.end
        if id == BEGINNING and self._from_the_beginning and low == self._base_number:
            return low
        high = log.end
        if low == high:
            # Later than all that was read here: those in between are on their way, and will be skipped. An empty stream
            # has no ids: one that it seems to have is from before Redis lost its data.
            return high if known and self.tail != BEGINNING and order(id) >= order(self.tail) else None
        wanted = order(id)
        first = low
        while low < high:
            middle = (low + high) // 2
            event = log.get(middle)
            assert event is not None  # nobody else appends
            if order(event.id) <= wanted:
                low = middle + 1
            else:
                high = middle
        if low == first:
            return None
        before = log.get(low - 1)
        assert before is not None
        return low if known or before.id == id else None
