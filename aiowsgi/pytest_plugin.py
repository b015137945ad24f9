"""The pytest plugin: ``live_wsgi_server``, a fixture that serves WSGI applications on free ports.

::

    def test_index(live_wsgi_server):
        server = live_wsgi_server(application, threads=2)
        assert httpx.get(server.url).status_code == 200

Installing the package registers it; no other module of the package imports pytest.

Thread: the test's; each server's event loop runs in a thread of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from aiowsgi.embedding import run_in_thread
from aiowsgi.server import Server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["LiveServerFactory", "live_wsgi_server"]

# For requests still running at the end of a test, which should fail, not hang. Arbitrary; one that ends takes less.
_GRACEFUL_TIMEOUT = 1.0


class LiveServerFactory(Protocol):
    """What the fixture gives to a test."""

    def __call__(self, application: WSGIApplication, **options: Any) -> Server:
        """Serve an application until the test ends.

        Args:
            application: any WSGI application.
            options: fields of :class:`~aiowsgi.config.Config`; ``bind`` is a free port of 127.0.0.1, and
                ``graceful_timeout`` one second, unless they are given.

        Returns:
            The server, listening; its ``url`` and ``port`` say where.
        """
        ...


@pytest.fixture
def live_wsgi_server() -> Iterator[LiveServerFactory]:
    """Serve WSGI applications on free ports until the test ends: live_wsgi_server(app, **options) -> server.url."""
    with contextlib.ExitStack() as servers:

        def serve(application: WSGIApplication, **options: Any) -> Server:
            options.setdefault("graceful_timeout", _GRACEFUL_TIMEOUT)
            return servers.enter_context(run_in_thread(application, **options))

        yield serve
