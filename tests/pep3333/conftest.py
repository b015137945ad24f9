"""What the tests of PEP 3333 share: small applications, and an application that is driven from the test."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 10.0

Headers = list[tuple[str, str]]


def returning(body: Iterable[bytes], status: str = "200 OK", headers: Headers | None = None) -> WSGIApplication:
    """Return an application that answers with a body, made once."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/plain")] if headers is None else headers)
        return body

    return application


class Calls(queue.SimpleQueue[Any]):
    """What an application tells its test, in order."""

    def take(self) -> Any:
        """Return the next message, waiting for it."""
        return self.get(timeout=PATIENCE)


def wait_until(condition: Callable[[], object]) -> None:
    """Poll until a condition holds that nothing announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} seconds: {condition}"
        time.sleep(0.001)


@pytest.fixture
def environ_of(serve: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Send a raw request; return the environ that the application gets: ``environ_of(request, **options)``."""

    def send(request: bytes, **options: Any) -> dict[str, Any]:
        calls = Calls()

        def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            calls.put(environ)
            start_response("204 No Content", [])
            return []

        with serve(application, **options).connect() as client:
            client.send(request)
            assert client.receive().status_code == 204
        environ = calls.take()
        assert calls.empty()
        return environ

    return send
