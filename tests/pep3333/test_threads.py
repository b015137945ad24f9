"""PEP 3333 "Thread Support", and the truth of ``wsgi.multithread``."""

from __future__ import annotations

import threading

from tests.pep3333.conftest import PATIENCE, Calls, wait_until

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Occupancy:
    """How many threads are inside the application at once, at most."""

    def __init__(self):
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __enter__(self):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *exception):
        with self._lock:
            self._now -= 1


def test_multithread_with_several_threads_is_true_and_so_it_is(environ_of, serve):
    # "should evaluate true if the application object may be simultaneously invoked by another thread"
    assert environ_of(GET, threads=2)["wsgi.multithread"] is True
    barrier = threading.Barrier(2)

    def application(environ, start_response):
        barrier.wait(PATIENCE)  # neither ends without the other
        start_response("200 OK", [])
        return [b"together"]

    server = serve(application, threads=2)
    with server.connect() as one, server.connect() as other:
        one.send(GET)
        other.send(GET)
        assert one.receive().content == b"together"
        assert other.receive().content == b"together"


def test_multithread_with_one_thread_is_false(environ_of):
    # "and should evaluate false otherwise"
    assert environ_of(GET, threads=1)["wsgi.multithread"] is False


def test_multithread_with_one_thread_and_another_for_slow_clients_is_true(environ_of):
    # An option asks for the second thread, so environ says so.
    assert environ_of(GET, threads=1, max_threads=2)["wsgi.multithread"] is True


def test_application_with_one_thread_is_never_run_twice_at_once(serve):
    # "should also provide the option of running an application in a single-threaded fashion"
    occupancy = Occupancy()
    released = threading.Event()
    calls = Calls()

    def application(environ, start_response):
        with occupancy:
            calls.put(threading.get_ident())
            assert released.wait(PATIENCE)
            start_response("200 OK", [])
            return [b"alone"]

    server = serve(application, threads=1)
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.send(GET)
    wait_until(lambda: server.server.engine.pool.waiting_count == 4)
    released.set()
    for client in clients:
        assert client.receive().content == b"alone"
        client.close()
    assert occupancy.most == 1
    assert len({calls.take() for _ in clients}) == 1


def test_application_with_one_thread_and_a_client_that_does_not_read_is_never_run_twice_at_once(serve):
    """``wsgi.multithread`` is false: an application that is not thread-safe relies on it."""
    occupancy = Occupancy()
    entered, stepped = threading.Event(), threading.Event()
    calls = Calls()
    size, count = 64 * 1024, 400  # 25 MB: more than sockets and pipe hold together

    def stream():
        for _ in range(count):
            with occupancy:
                if entered.is_set():
                    stepped.set()
                block = b"x" * size
            yield block
        stepped.set()

    def application(environ, start_response):
        calls.put(environ["wsgi.multithread"])
        start_response("200 OK", [("Content-Length", str(size * count))] if environ["PATH_INFO"] == "/stream" else [])
        if environ["PATH_INFO"] == "/stream":
            return stream()
        with occupancy:
            entered.set()
            assert stepped.wait(PATIENCE)
        return [b"other"]

    server = serve(application, threads=1)
    with server.connect() as slow, server.connect() as other:
        slow.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        slow.receive_head()
        other.send(GET)
        entered.wait(0.3)  # in vain: the only thread is the stream's
        for _ in range(count):
            slow.read(size)
        assert other.receive().content == b"other"
    assert calls.take() is False
    assert calls.take() is False
    assert occupancy.most == 1
