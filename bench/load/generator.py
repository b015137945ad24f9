"""The harness's end of the generator: a child process that is told what to do, and answers within a bound.

Thread: any.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.errors import BenchError
from bench.process import ROOT

__all__ = ["Generator", "generator"]

_END_TIMEOUT = 10.0


class Generator:
    """A running generator."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def do(self, verb: str, *, bound: float, **arguments: Any) -> dict[str, Any]:
        """Have it do something, and return the result.

        Args:
            bound: seconds after which it is considered broken.

        Raises:
            BenchError: it ended, or did not answer: a fault of the harness, not of a server.
        """
        self._stdin.write(json.dumps({"do": verb, **arguments}).encode() + b"\n")
        self._stdin.flush()
        deadline = time.monotonic() + bound
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise BenchError(f"the load generator did not finish {verb!r} within {bound:g} s")
                block = os.read(self._stdout.fileno(), 1024 * 1024)
                if not block:
                    raise BenchError(f"the load generator ended during {verb!r}")
                received += block
        result: dict[str, Any] = json.loads(received)
        return result


@contextmanager
def generator(port: int) -> Iterator[Generator]:
    """Run a generator for the server at that port until the block ends."""
    # If the generator is left behind all the same, it ends when its standard input does.
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load", str(port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Generator(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
            process.wait(_END_TIMEOUT)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait(_END_TIMEOUT)
        finally:
            process.stdout.close()
