"""Two WSGI servers in one event loop, on one budget of threads."""

import asyncio
import contextlib
import os
import signal

import aiowsgi

PORT = int(os.environ.get("PORT", "8000"))
METRICS_PORT = int(os.environ.get("METRICS_PORT", "8001"))


def shop(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"welcome\n"]


def make_metrics(servers):
    """Show what both servers are doing; ``stats()`` belongs to the loop, so it is called there."""
    loop = asyncio.get_running_loop()

    async def stats():
        return {name: server.stats() for name, server in servers.items()}

    def metrics(environ, start_response):
        lines = []
        for name, stat in asyncio.run_coroutine_threadsafe(stats(), loop).result(timeout=5).items():
            lines.append(f"{name}: {stat.requests.done} requests answered, {stat.requests.waiting} waiting\n")
            threads = stat.threads
        lines.append(f"threads of both: {threads.running} running, {threads.idle} idle\n")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ["".join(lines).encode()]

    return metrics


async def main():
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    servers = {}
    # At most eight requests run at once, whichever server they came to. The pool is the program's to close.
    with contextlib.closing(aiowsgi.ThreadPool(8)) as pool:
        servers["shop"] = aiowsgi.Server(shop, pool=pool, host="127.0.0.1", port=PORT)
        servers["metrics"] = aiowsgi.Server(make_metrics(servers), pool=pool, host="127.0.0.1", port=METRICS_PORT)
        async with servers["shop"], servers["metrics"]:
            print(f"shop at {servers['shop'].url}, metrics at {servers['metrics'].url}", flush=True)
            await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
