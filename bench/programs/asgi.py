"""The application of ``BENCH_APPLICATION`` behind a2wsgi, for a server that speaks ASGI only."""

from __future__ import annotations

import importlib
import os

__all__ = ["application"]

_module, _, _attribute = os.environ["BENCH_APPLICATION"].partition(":")
application = importlib.import_module("a2wsgi").WSGIMiddleware(
    getattr(importlib.import_module(_module), _attribute), workers=int(os.environ["BENCH_THREADS"])
)
