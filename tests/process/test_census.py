from __future__ import annotations

from aiowsgi.process.census import Census, Censuses, Told


def test_census_ends_once_all_have_told() -> None:
    told: list[Told] = []
    census = Census([1, 2], 10.0, told.append)
    census.add(1, {"requests": {"done": 1}})
    census.add(3, {})
    census.tick(9.0)
    assert told == []
    census.add(2, {})
    census.add(2, {})
    census.tick(11.0)
    assert told == [{1: {"requests": {"done": 1}}, 2: {}}]


def test_census_does_without_a_worker_that_is_gone_or_does_not_tell() -> None:
    told: list[Told] = []
    census = Census([1, 2, 3], 10.0, told.append)
    census.leave_out(1)
    census.add(2, {})
    census.tick(10.0)
    assert told == [{2: {}}]


def test_census_of_nobody_ends_at_once() -> None:
    told: list[Told] = []
    Census([], 10.0, told.append).tick(0.0)
    assert told == [{}]


def test_answers_go_to_the_census_that_they_name_and_late_ones_nowhere() -> None:
    censuses = Censuses()
    first_told: list[Told] = []
    second_told: list[Told] = []
    assert censuses.deadline == float("inf")
    first = censuses.begin([1, 2], 10.0, first_told.append)
    second = censuses.begin([1], 11.0, second_told.append)
    assert censuses.deadline == 12.0
    censuses.add(1, {"census": second}, "of the second")
    assert (first_told, second_told) == ([], [{1: "of the second"}])
    censuses.add(1, {"census": second}, "late")
    censuses.add(1, {}, "of none")
    censuses.add(1, {"census": first}, "of the first")
    censuses.leave_out(2)
    assert first_told == [{1: "of the first"}]
    assert censuses.deadline == float("inf")


def test_census_whose_time_is_up_ends_with_what_there_is() -> None:
    censuses = Censuses()
    told: list[Told] = []
    first = censuses.begin([1, 2], 10.0, told.append)
    censuses.begin([], 11.0, told.append)
    censuses.add(1, {"census": first}, "in time")
    censuses.tick(11.5)
    assert told == [{}]
    censuses.tick(12.0)
    assert told == [{}, {1: "in time"}]
