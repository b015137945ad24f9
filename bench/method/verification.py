"""A server must give the right answers before it is measured.

Thread: any.
"""

from __future__ import annotations

import http.client

from bench.errors import CellVoid
from bench.load.generator import Generator
from bench.scenario import Scenario

__all__ = ["greet", "verify"]

_TIMEOUT = 10.0
_GREET_SECONDS = 5.0
_GREET_SECONDS_EACH = 0.002
_READ_SIZE = 256 * 1024


def verify(port: int, scenario: Scenario) -> None:
    """Send the scenario's request once, and check the whole answer.

    Raises:
        CellVoid: the status, a field, the length or the content is not what the scenario expects.
    """
    request, expect = scenario.request, scenario.expect
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        connection.request(request.method, request.path, b"x" * request.body_size or None, dict(request.fields))
        response = connection.getresponse()
        content = bytearray()
        while block := response.read(_READ_SIZE):
            content += block
    except (OSError, http.client.HTTPException) as error:
        raise CellVoid(f"wrong answer: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    lengths = response.headers.get_all("Content-Length", [])
    content_type = response.getheader("Content-Type", "")
    if response.status != 200:
        raise CellVoid(f"wrong answer: status {response.status}")
    if not content_type.startswith(expect.content_type):
        raise CellVoid(f"wrong answer: Content-Type {content_type!r}")
    if expect.size is not None and len(content) != expect.size:
        raise CellVoid(f"wrong answer: {len(content):,} bytes instead of {expect.size:,}")
    if expect.contains.encode() not in content:
        raise CellVoid(f"wrong answer: lacks {expect.contains!r}")
    if len(lengths) > 1 or (lengths and lengths[0] != str(len(content))):
        raise CellVoid(f"wrong answer: Content-Length {', '.join(lengths)} for {len(content):,} bytes")
    if expect.content_length and not lengths:
        raise CellVoid("wrong answer: no Content-Length")


def greet(generator: Generator, scenario: Scenario) -> None:
    """Check that each of the scenario's connections is answered while all are open.

    Raises:
        CellVoid: some are not.
    """
    count = scenario.load["connections"]
    seconds = _GREET_SECONDS + count * _GREET_SECONDS_EACH
    result = generator.do(
        "greet", bound=seconds + 15, request=request_json(scenario), connections=count, seconds=seconds
    )
    if result["answered"] < count:
        errors = ", ".join(f"{number} {word}" for word, number in sorted(result["errors"].items()))
        raise CellVoid(
            f"answers {result['answered']:,} of {count:,} open connections within {seconds:.0f} s"
            + (f" ({errors})" if errors else "")
        )


def request_json(scenario: Scenario) -> dict[str, object]:
    """Return the scenario's request as the generator takes it."""
    request = scenario.request
    return {
        "path": request.path,
        "method": request.method,
        "fields": dict(request.fields),
        "body_size": request.body_size,
    }
