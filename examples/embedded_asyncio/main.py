"""A WSGI application beside a background task, in one asyncio program."""

import asyncio
import contextlib
import os
import signal
from collections import deque
from datetime import datetime

import aiowsgi

PORT = int(os.environ.get("PORT", "8000"))


class Station:
    """Measures the machine's load, in the event loop; its readings may be read in any thread."""

    def __init__(self, loop):
        self.readings = deque(maxlen=60)
        self._loop = loop
        self._wanted = asyncio.Event()

    async def measure(self, interval=1.0):
        """The background task."""
        while True:
            self.readings.append((datetime.now(), os.getloadavg()[0]))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), interval)
            self._wanted.clear()

    def measure_now(self):
        """To be called from another thread: only call_soon_threadsafe may reach the loop's objects."""
        self._loop.call_soon_threadsafe(self._wanted.set)


def make_application(station):
    def application(environ, start_response):
        """Runs in a thread: it may block, and the background task goes on."""
        if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/now"):
            station.measure_now()
            start_response("202 Accepted", [("Content-Type", "text/plain")])
            return [b"measuring\n"]
        lines = [f"{taken:%H:%M:%S}  load {load:.2f}\n" for taken, load in list(station.readings)]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ["".join(lines).encode()]

    return application


async def main():
    loop = asyncio.get_running_loop()
    # Signals are the program's: the server is a guest.
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)

    station = Station(loop)
    async with asyncio.TaskGroup() as tasks:
        measuring = tasks.create_task(station.measure())
        async with aiowsgi.Server(make_application(station), host="127.0.0.1", port=PORT) as server:
            print(f"readings at {server.url}", flush=True)
            await stop.wait()
        # The block has ended: requests have been answered, nothing listens any more.
        measuring.cancel()


if __name__ == "__main__":
    asyncio.run(main())
