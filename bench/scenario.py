"""Scenarios: data, from ``bench/scenarios/*.toml``.

Thread: any.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.figures import FIGURES
from bench.load.http import Request

__all__ = ["FOLDER", "KINDS", "Expectation", "Scenario", "load_scenarios", "parse"]

FOLDER = Path(__file__).parent / "scenarios"

# Kind to the names that its table ``load`` must have, and whether the null server can be measured on it.
KINDS: dict[str, tuple[str, ...]] = {
    "closed": ("connections",),
    "latency": ("connections",),
    "open": ("rate",),
    "idle": ("steps", "rate"),
    "slow": ("heads", "bodies", "readers", "rate"),
    "fan_out": ("clients", "events", "interval"),
    "overload": ("capacity", "percent", "calm_percent"),
    "reload": ("rate",),
    "startup": (),
    "embedding": ("rate",),
}
_WITH_NULL = ("closed", "latency")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a right answer looks like.

    Args:
        size: bytes of content.
        contains: text that the content has.
        content_type: how the field's value begins.
        content_length: whether the answer must have a Content-Length: the application's, or the one that PEP 3333 lets
            a server add to a body that is known whole.
    """

    size: int | None = None
    contains: str = ""
    content_type: str = "text/plain"
    content_length: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question, and how it is asked.

    Args:
        name: the file's.
        order: where it stands in the report.
        title: in a few words.
        question: what it answers, in one sentence.
        kind: which measurement; see :data:`KINDS`.
        figures: which ones the report shows; the first is what servers are ranked by.
        load: the measurement's numbers.
        request: what is asked.
        expect: what a right answer is.
        application: ``module:attribute``.
        threads: of each server.
        needs: features without which a server has no figure: see :class:`bench.servers.Server`.
        seconds: of one measurement.
        least_seconds: the lower limit of ``--seconds``, for one that is slow to get going or needs many samples.
        most_blocks: the upper limit of ``--blocks``, for one that takes long.
        quick: keys of this table replace the scenario's in a quick run; ``None``: it is not part of one.
        null: whether the null server is measured on it too.
    """

    name: str
    order: int
    title: str
    question: str
    kind: str
    figures: tuple[str, ...]
    load: Mapping[str, Any]
    request: Request = field(default_factory=lambda: Request("/hello"))
    expect: Expectation = field(default_factory=Expectation)
    application: str = "bench.applications.plain:application"
    threads: int = 8
    needs: tuple[str, ...] = ()
    seconds: float = 3.0
    least_seconds: float = 1.0
    most_blocks: int = 1000
    quick: Mapping[str, Any] | None = None
    null: bool = False

    @property
    def connections(self) -> int:
        """About how many connections it opens at most."""
        load = self.load
        most: int = max(
            load.get("connections", 64),
            max(load.get("steps", (0,))) + 200,
            load.get("heads", 0) + load.get("bodies", 0) + load.get("readers", 0) + 200,
            load.get("clients", 0) + 50,
        )
        return most

    def for_quick_run(self) -> Scenario:
        """Return the scenario as it is in a quick run."""
        changes = dict(self.quick or {})
        load = {**self.load, **changes.pop("load", {})}
        return dataclasses.replace(self, load=load, **changes)


def load_scenarios(names: Sequence[str] = (), folder: Path = FOLDER) -> list[Scenario]:
    """Return the scenarios, in the order of the report.

    Args:
        names: only these; default all.

    Raises:
        BenchError: a file is invalid, or there is no such scenario.
    """
    scenarios = {path.stem: parse(path.stem, path.read_text()) for path in folder.glob("*.toml")}
    for name in names:
        if name not in scenarios:
            raise BenchError(f"{name}: no such scenario; there are {', '.join(sorted(scenarios))}")
    chosen = [scenarios[name] for name in names or scenarios]
    return sorted(chosen, key=lambda scenario: (scenario.order, scenario.name))


def parse(name: str, text: str) -> Scenario:
    """Read a scenario.

    Raises:
        BenchError: it has an unknown key, lacks one, or names a kind or a figure that does not exist.
    """
    try:
        values = tomllib.loads(text)
        values["figures"] = tuple(values["figures"])
        values["needs"] = tuple(values.get("needs", ()))
        request = Request(**values.pop("request", {"path": "/hello"}))
        expect = Expectation(**values.pop("expect", {}))
        values.setdefault("load", {})
        values["null"] = values.get("null", values["kind"] in _WITH_NULL and not request.body_size)
        scenario = Scenario(name=name, request=request, expect=expect, **values)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise BenchError(f"scenarios/{name}.toml: {error!r}") from error
    if scenario.kind not in KINDS:
        raise BenchError(f"scenarios/{name}.toml: kind={scenario.kind}: one of {', '.join(KINDS)}")
    for figure in scenario.figures:
        if figure not in FIGURES:
            raise BenchError(f"scenarios/{name}.toml: figures: {figure}: not known")
    missing = [key for key in KINDS[scenario.kind] if key not in scenario.load]
    if missing:
        raise BenchError(f"scenarios/{name}.toml: load: {', '.join(missing)} missing")
    if not scenario.question.endswith("?"):
        raise BenchError(f"scenarios/{name}.toml: question: must end with a question mark: {scenario.question!r}")
    return scenario
