"""Responses that the server cannot hand to the transport."""

from __future__ import annotations

import pytest

from aiowsgi.testing import MemoryServer
from aiowsgi.testing.transport import MemoryTransport
from tests.simulation.memory import SteppedClient, blocks, hello, remains


@pytest.mark.parametrize("parts", [False, True])
def test_response_that_there_is_no_memory_to_write_ends_its_connection_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, parts: bool
) -> None:
    def write(transport: MemoryTransport, data: bytes) -> None:
        raise MemoryError

    with MemoryServer(blocks(10, 100_000) if parts else hello) as server:
        client = SteppedClient(server)
        monkeypatch.setattr(MemoryTransport, "write", write)
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        server.settle()
        assert client.memory.was_reset
        assert remains(server) == {}
    assert "internal error" in caplog.text
