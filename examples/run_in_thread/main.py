"""A synchronous program that shows over HTTP how far it is."""

import bisect
import contextlib
import itertools
import math
import os

import aiowsgi

PORT = int(os.environ.get("PORT", "8000"))


class Search:
    """Looks for prime numbers, in the main thread."""

    def __init__(self):
        self.primes = [2]

    def run(self):
        for number in itertools.count(3, 2):
            root = math.isqrt(number)
            if all(number % prime for prime in self.primes[: bisect.bisect(self.primes, root)]):
                self.primes.append(number)

    def application(self, environ, start_response):
        """Shows what has been found, in a thread of the server's."""
        count = len(self.primes)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{count} primes, the last {self.primes[count - 1]}\n".encode()]


def main():
    search = Search()
    with aiowsgi.run_in_thread(search.application, host="127.0.0.1", port=PORT, threads=2) as server:
        print(f"progress at {server.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            search.run()
    print(f"found {len(search.primes)} primes")


if __name__ == "__main__":
    main()
