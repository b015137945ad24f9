from __future__ import annotations

import pytest


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    """The event loop that serves."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return request.param
