"""Adapters that are closed when their test ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.asgi import ASGIAdapter
from tests.asgi.conversation import PATIENCE

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


@pytest.fixture
async def adapt() -> AsyncIterator[Callable[..., ASGIAdapter]]:
    """Adapt a WSGI application: ``adapt(application, threads=8, **options)``; at the end no memory may be accounted."""
    async with contextlib.AsyncExitStack() as stack:

        def make(application: WSGIApplication, *arguments: Any, **options: Any) -> ASGIAdapter:
            adapter = ASGIAdapter(application, *arguments, **options)
            stack.push_async_callback(close, adapter)
            return adapter

        yield make


async def close(adapter: ASGIAdapter) -> None:
    async with asyncio.timeout(PATIENCE):
        await adapter.aclose()
    assert adapter.held_size == 0


def returning(
    body: Iterable[bytes], status: str = "200 OK", fields: list[tuple[str, str]] | None = None
) -> WSGIApplication:
    """Return an application that answers with a body, made once."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, fields or [])
        return body

    return application
