"""Results: what was measured, block by block, in one JSON file that is rewritten whole after each block.

Thread: any.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.figures import FIGURES
from bench.kinds.job import Measurement
from bench.method.histogram import Histogram
from bench.method.statistics import Estimate, estimate, paired_ratio

__all__ = ["SCHEMA", "Cell", "Results"]

SCHEMA = "aiowsgi-bench/1"


@dataclass(slots=True)
class Cell:
    """A server on a scenario.

    Args:
        reason: why it has no figure; empty if it has one, or is yet to be measured.
        blocks: number of the block to its measurement.
    """

    reason: str = ""
    blocks: dict[int, Measurement] = field(default_factory=dict)

    def values(self, figure: str) -> dict[int, float]:
        """Return block to value, of the blocks that have it."""
        return {block: each.figures[figure] for block, each in self.blocks.items() if figure in each.figures}

    def estimate(self, figure: str) -> Estimate | None:
        """Sum up a figure; ``None`` where there is none.

        A percentile that no single block supports is taken from the samples of all, without an interval.
        """
        if self.reason:
            return None
        values = self.values(figure)
        if len(values) == len(self.blocks) and values:
            return estimate(list(values.values()))
        percent = FIGURES[figure].percentile
        if percent is not None:
            value = self.histogram("latency").percentile(percent)
            if value is not None:
                return Estimate(1000 * value, None, None, len(self.blocks))
        return None

    def ratio(self, figure: str, baseline: Cell) -> Estimate | None:
        """Sum up the ratios to another server's, block by block."""
        if self.reason or baseline.reason:
            return None
        return paired_ratio(self.values(figure), baseline.values(figure))

    def histogram(self, name: str) -> Histogram:
        """Return a distribution over all blocks."""
        total = Histogram()
        for each in self.blocks.values():
            if name in each.histograms:
                total.add(each.histograms[name])
        return total

    def notes(self) -> list[str]:
        """Return the notes on its blocks, each once."""
        return list(dict.fromkeys(note for each in self.blocks.values() for note in each.notes))


@dataclass(slots=True)
class Results:
    """All of a run.

    Args:
        run: when, with which seed, how many blocks, for how long.
        environment: see :mod:`bench.environment`.
        servers: name to version, mapping and an example of its command.
        scenarios: name to what its file said.
        cells: by (scenario, server).
    """

    run: dict[str, Any]
    environment: dict[str, Any]
    servers: dict[str, dict[str, Any]]
    scenarios: dict[str, dict[str, Any]]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def cell(self, scenario: str, server: str) -> Cell:
        """Return a cell; one that was not measured says so."""
        return self.cells.get((scenario, server)) or Cell(reason="not measured")

    def of_scenario(self, scenario: str) -> Iterator[tuple[str, Cell]]:
        """Yield (server, cell), in the order of the run's servers."""
        for server in self.servers:
            if (scenario, server) in self.cells:
                yield server, self.cells[scenario, server]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        cells = [
            {
                "scenario": scenario,
                "server": server,
                "reason": cell.reason,
                "blocks": {str(number): _block_to_json(block) for number, block in cell.blocks.items()},
            }
            for (scenario, server), cell in self.cells.items()
        ]
        document = {
            "schema": SCHEMA,
            "run": self.run,
            "environment": self.environment,
            "servers": self.servers,
            "scenarios": self.scenarios,
            "cells": cells,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(temporary, path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file.

        Raises:
            BenchError: it is not there, or not of this schema.
        """
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BenchError(f"{path}: {error}") from error
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise BenchError(f"{path}: schema={schema}: must be {SCHEMA}")
        try:
            results = cls(*(document[key] for key in ("run", "environment", "servers", "scenarios")))
            for cell in document["cells"]:
                results.cells[cell["scenario"], cell["server"]] = Cell(
                    cell["reason"], {int(number): _block_from_json(block) for number, block in cell["blocks"].items()}
                )
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"{path}: {error!r}: does not conform to {SCHEMA}") from error
        return results


def _block_to_json(block: Measurement) -> dict[str, Any]:
    return {
        "figures": {name: round(value, 6) for name, value in block.figures.items()},
        "histograms": {name: histogram.to_json() for name, histogram in block.histograms.items()},
        "series": block.series,
        "notes": block.notes,
    }


def _block_from_json(block: dict[str, Any]) -> Measurement:
    return Measurement(
        figures=block["figures"],
        histograms={name: Histogram.from_json(counts) for name, counts in block["histograms"].items()},
        series={name: [(x, y) for x, y in pairs] for name, pairs in block["series"].items()},
        notes=block["notes"],
    )
