"""Scenario files: all that there are, and what is refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from bench.claims import load_claims
from bench.errors import BenchError
from bench.kinds.registry import MEASURES, seconds_of
from bench.runner import Plan
from bench.scenario import FOLDER, KINDS, load_scenarios, parse
from bench.servers import NULL, ROWS, SERVERS

SCENARIOS = load_scenarios()
GOOD = (FOLDER / "hello.toml").read_text()


def test_every_kind_has_a_measurement():
    assert set(MEASURES) == set(KINDS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario_names_an_application_and_an_estimate_of_its_time(scenario):
    module, _, attribute = scenario.application.partition(":")
    # Not imported: Django's settings would be this process's.
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert re.search(rf"^(def )?{attribute}\b", Path(spec.origin).read_text(), re.MULTILINE)
    assert 0 < seconds_of(scenario, False) < 600
    for feature in scenario.needs:
        assert any(feature in server.lacks for server in ROWS), feature


def test_questions_and_places_are_each_one_scenarios():
    assert len({scenario.question for scenario in SCENARIOS}) == len(SCENARIOS)
    assert len({scenario.order for scenario in SCENARIOS}) == len(SCENARIOS)


def test_claims_name_scenarios_servers_and_figures_that_are_measured():
    names = {scenario.name: scenario for scenario in SCENARIOS}
    for claim in load_claims():
        assert claim.figure in names[claim.scenario].figures, claim.text
        assert claim.server in SERVERS
        assert not claim.against or claim.against in SERVERS
        assert not claim.beside or claim.figure in names[claim.beside].figures


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('kind = "closed"', 'kind = "ajar"'), "kind=ajar"),
        (('"switches"', '"swiches"'), "swiches"),
        (("connections = 64", "clients = 64"), "connections missing"),
        (("order = 10", "order = 10\ncolour = 1"), "colour"),
        (("stay open?", "stay open."), "question"),
        (('title = "Hello, keep-alive"\n', ""), "title"),
        (("size = 13", "sise = 13"), "sise"),
        (("order = 10", "order = "), "Invalid value"),
    ],
)
def test_scenario_that_is_not_right_is_refused_by_what_is_wrong(change, problem):
    assert change[0] in GOOD
    with pytest.raises(BenchError, match=problem):
        parse("hello", GOOD.replace(*change))


def test_scenario_that_does_not_exist_is_refused():
    with pytest.raises(BenchError, match="nowhere: no such scenario"):
        load_scenarios(["nowhere"])


def test_plan_measures_every_server_once_a_block_in_an_order_that_the_seed_decides():
    servers = ROWS[:5]

    def steps(seed: int):
        return list(Plan(SCENARIOS[:2], servers, 3, seed, False).steps())

    first = steps(1)
    assert first == steps(1) != steps(2)
    assert len(first) == len(set(map(repr, first))) == 3 * 2 * 6
    orders = {
        tuple(server.name for block, scenario, server in first if (block, scenario) == (number, SCENARIOS[0]))
        for number in range(3)
    }
    assert len(orders) > 1
    assert all(NULL.name in order for order in orders)
