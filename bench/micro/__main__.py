"""``python -m bench.micro``: time every part, in about a minute; with pyperf's own options.

Two checkouts are compared by running this in each of them, with the same interpreter::

    python -m bench.micro -o before.json
    python -m bench.micro -o after.json        # in the other checkout
    python -m pyperf compare_to before.json after.json --table
"""

from __future__ import annotations

import pyperf

from bench.micro.benchmarks import BENCHMARKS


def main() -> None:
    """Run all benchmarks."""
    # Run as a module, so that each of pyperf's processes imports the checkout that it is started in.
    runner = pyperf.Runner(processes=3, values=3, warmups=1, min_time=0.05, program_args=("-m", "bench.micro"))
    for name, prepare in BENCHMARKS.items():
        runner.bench_func(name, prepare())


if __name__ == "__main__":
    main()
