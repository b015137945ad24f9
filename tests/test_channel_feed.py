"""The window on a stream, by itself: what it can say about an id, and what it must not claim."""

from __future__ import annotations

import pytest

from aiowsgi import Event
from aiowsgi.channels.driver import Page, StreamInfo
from aiowsgi.channels.feed import BEGINNING, Feed


def feed_of_two() -> Feed:
    feed = Feed("key", 3, 50)
    feed.prime(Page(True, [Event(b"a", "1-0"), Event(b"b", "2-0")], StreamInfo("2-0", 2, 2)))
    return feed


@pytest.mark.parametrize("id", ["1-0", "2-0", "3-0"])
def test_id_of_a_stream_whose_data_was_lost_has_no_place_behind_the_gap(id: str) -> None:
    feed = feed_of_two()
    feed.reset(StreamInfo(BEGINNING, 0, 0))
    assert feed.number_after(id, known=True) is None
    assert feed.number_after(BEGINNING, known=True) == feed.log.end


def test_stream_that_has_lost_what_was_read_is_told_from_one_that_was_trimmed() -> None:
    feed = feed_of_two()
    feed.reset(StreamInfo("9-0", 3, 9))
    assert feed.lost_at == -1
    feed.reset(StreamInfo("11-0", 1, 1))
    assert feed.lost_at == feed.log.end - 1


def test_known_id_later_than_all_that_was_read_waits_for_what_is_on_its_way() -> None:
    feed = feed_of_two()
    feed.reset(StreamInfo("5-0", 0, 5))
    assert feed.number_after("6-0", known=True) == feed.log.end
    assert feed.number_after("6-0", known=False) is None
    assert feed.number_after("4-0", known=True) is None
