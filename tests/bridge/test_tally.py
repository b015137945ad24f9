"""Counts that several threads add to, and a garbage collection in between."""

from __future__ import annotations

import sys
import threading

from aiowsgi.bridge.tally import Tally


class Interrupting(str):
    """A name that adds to a tally and reads it while the tally adds to it, as a ``__del__`` in a collection may."""

    __slots__ = ("read", "tally")
    tally: Tally | None
    read: int

    def __hash__(self) -> int:
        tally, self.tally = self.tally, None
        if tally is not None:
            tally.add({"collected": 1})
            self.read = tally["before"]
        return super().__hash__()


def interrupting(tally: Tally) -> tuple[Interrupting, dict[str, int]]:
    """Return a name, and one count of it, ``interrupted``."""
    name = Interrupting("interrupted")
    name.tally = None
    counts: dict[str, int] = {name: 1}
    name.tally = tally
    return name, counts


def test_tally_of_a_name_that_was_never_added_is_zero() -> None:
    assert Tally()["nothing"] == 0


def test_tally_sums_what_is_added_by_name() -> None:
    tally = Tally()
    tally.add({"a": 1, "b": 2})
    tally.add({"a": 3, "b": -2})
    assert (tally["a"], tally["b"]) == (4, 0)


def test_tally_that_is_added_to_and_read_while_it_adds_has_both() -> None:
    tally = Tally()
    tally.add({"before": 5})
    name, counts = interrupting(tally)
    tally.add(counts)
    assert name.read == 5
    assert (tally["interrupted"], tally["collected"]) == (1, 1)


def test_tally_that_is_added_to_and_read_while_it_is_read_has_both() -> None:
    tally = Tally()
    tally.add({"before": 5})
    name, counts = interrupting(tally)
    tally._added.append(counts)
    assert tally["before"] == 5
    assert name.read == 5
    assert (tally["interrupted"], tally["collected"]) == (1, 1)


def test_tally_is_added_to_and_read_without_a_wait_for_who_adds() -> None:
    tally = Tally()
    tally.add({"a": 1})
    with tally._lock:
        tally.add({"a": 2})
        assert tally["a"] == 1
    assert tally["a"] == 3


def test_tally_of_several_threads_misses_nothing() -> None:
    tally = Tally()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=add, args=(tally,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert tally["a"] == 4 * 2000


def add(tally: Tally) -> None:
    for _ in range(2000):
        tally.add({"a": 1})
