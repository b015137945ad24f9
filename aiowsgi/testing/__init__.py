r"""Testing an application against slow and vanishing clients: no sockets, no sleeping, the same run every time.

The server's whole engine runs here, with a clock that the test moves, connections in memory, and threads that move one
at a time.

::

    from aiowsgi.testing import MemoryServer


    def test_export_client_vanishes_query_is_cancelled():
        with MemoryServer(application) as server:
            client = server.connect()
            client.send(b"GET /export HTTP/1.1\r\nHost: test\r\n\r\n")
            server.settle()
            assert query.running
            client.reset()
            server.settle()
            assert query.cancelled

Thread: the test's; see :class:`StepPool` for the application's.
"""

from aiowsgi.testing.client import MemoryClient
from aiowsgi.testing.loop import VirtualLoop
from aiowsgi.testing.pool import StepPool
from aiowsgi.testing.server import MemoryServer
from aiowsgi.testing.transport import MemoryTransport

__all__ = ["MemoryClient", "MemoryServer", "MemoryTransport", "StepPool", "VirtualLoop"]
