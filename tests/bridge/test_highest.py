"""The highest of what threads report, whichever is quicker."""

from __future__ import annotations

import threading

from aiowsgi.bridge.highest import Highest

PATIENCE = 10.0


def test_lower_values_change_nothing() -> None:
    highest = Highest((1, 2))
    for value, expected in [((1, 3), (1, 3)), ((1, 1), (1, 3)), ((1, 3), (1, 3)), ((2, 0), (2, 0))]:
        highest.report(value)
        assert highest.value == expected


def test_thread_that_is_overtaken_sets_nothing_back() -> None:
    highest = Highest(4)
    overtaking = threading.Thread(target=highest.report, args=(6,), daemon=True)

    class Overtaken(int):
        """Has another thread report, once this one has looked and before it writes."""

        def __gt__(self, other: object) -> bool:
            overtaking.start()
            overtaking.join(0.1)  # all of it, if nothing holds it up
            return True

    highest.report(Overtaken(5))
    overtaking.join(PATIENCE)
    assert highest.value == 6
