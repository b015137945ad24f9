"""gunicorn's master with this engine's workers, for real."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.gunicorn_worker.gunicorn_process import GunicornProcess, gunicorn, is_alive, wait_until
from tests.raw import RawResponse, Truncated

loops = pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])

GET_HOLD = b"GET /hold HTTP/1.1\r\nHost: test\r\n\r\n"


def use_loop(folder: Path, loop_name: str) -> None:
    (folder / "gunicorn.conf.py").write_text(f"asgi_loop = {loop_name!r}\n")


def pid_of(response: RawResponse) -> int:
    return int(response.content.split()[0])


def wait_for_file(folder: Path, name: str) -> None:
    wait_until((folder / name).exists, name)


@loops
def test_worker_answers_on_kept_connections_and_logs_to_gunicorn(folder: Path, loop_name: str) -> None:
    use_loop(folder, loop_name)
    arguments = ["--threads=2", "--access-logfile=access.log", "--limit-request-line=200"]
    with gunicorn(folder, *arguments) as server:
        (pid,) = server.wait_for_workers()
        with server.connect() as client:
            assert client.get("/").content == b"%d 1" % pid
            content = os.urandom(300_000)
            assert client.post(content, "/upload").content == hashlib.sha256(content).hexdigest().encode()
            assert client.get("/stream").content == b"one, two"
            assert client.get("/environ", "X-Forwarded-Proto: https").content == b"False True https  /environ 127.0.0.1"
            assert client.get("/file").content == (folder / "app.py").read_bytes()
            assert client.get("/fail").status_code == 500
        with server.connect() as client:
            assert client.get("/" + "x" * 200).status_code == 414
        server.wait_for_log(r"\[ERROR\] GET /fail failed: ValueError: the application is broken")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    # Sorted: a file is closed, and logged, at any time after the client has it.
    lines = (folder / "access.log").read_text().splitlines()
    assert sorted(line.partition('"')[2] for line in lines) == sorted(
        f'{request} HTTP/1.1" {rest} "-" "-"'
        for request, rest in [
            ("GET /", f"200 {len(str(pid)) + 2}"),
            ("POST /upload", "200 64"),
            ("GET /stream", "200 8"),
            ("GET /environ", "200 36"),
            ("GET /file", "200 -"),
            ("GET /fail", "500 0"),
        ]
    )


def test_keep_alive_0_closes_after_each_response(folder: Path) -> None:
    with gunicorn(folder, "--keep-alive=0") as server, server.connect() as client:
        assert client.get("/").value("Connection") == "close"
        assert client.at_end()
        server.stop()


def test_wsgi_errors_is_the_error_log_also_after_a_rotation(folder: Path) -> None:
    with gunicorn(folder, "--error-logfile=error.log", bind="unix:sock") as server:
        log, rotated = folder / "error.log", folder / "error.log.1"
        wait_until(lambda: log.exists() and "[INFO] aiowsgi " in log.read_text(), "a worker that serves")
        with server.connect_unix() as client:
            assert client.get("/errors").content == b"written"
            assert "to the error log\nand lines \u20ac\n" in log.read_text()
            log.rename(rotated)
            server.signal(signal.SIGUSR1)
            # The master opens the file again, too, and tells its workers after that.
            wait_until(log.exists, "the new file")
            wait_until(lambda: client.get("/errors").content and "to the error log" in log.read_text(), "a line in it")
        server.stop()
        assert "to the error log" not in server.log


class Load:
    """Clients that ask again and again, each on a connection that it keeps as long as the server lets it."""

    def __init__(self, server: GunicornProcess, count: int) -> None:
        self._server = server
        self._stop = threading.Event()
        self.pids: set[int] = set()
        self.answers = 0
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with self._server.connect() as client:
                    kept = True
                    while kept and not self._stop.is_set():
                        response = client.get("/")
                        assert response.status_code == 200
                        kept = response.value("Connection") != "close"
                        with self._lock:
                            self.pids.add(pid_of(response))
                            self.answers += 1
        except BaseException as error:
            self.failures.append(error)

    def go_on(self, count: int) -> None:
        """Wait for some more answers."""
        enough = self.answers + count
        wait_until(lambda: self.answers >= enough or self.failures, f"{count} more answers")
        assert self.failures == []


@loops
def test_reload_under_load_loses_no_request(folder: Path, loop_name: str) -> None:
    use_loop(folder, loop_name)
    with gunicorn(folder, "--threads=2", "--workers=2") as server:
        old = server.wait_for_workers(2)
        with Load(server, 10) as load:
            load.go_on(200)
            (folder / "app.py").write_text((folder / "app.py").read_text().replace('VERSION = "1"', 'VERSION = "2"'))
            server.signal(signal.SIGHUP)
            new = server.wait_for_workers(4)[2:]
            wait_until(lambda: not any(is_alive(pid) for pid in old), "the end of the old workers")
            load.go_on(200)
        assert load.failures == []
        assert load.pids & set(old)
        assert load.pids & set(new)
        with server.connect() as client:
            assert client.get("/").content.endswith(b" 2")
        server.stop()


def refuses(server: GunicornProcess) -> bool:
    """Whether nobody listens on its port any more, in the master or in a worker."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_term_lets_the_request_that_runs_end_however_long_the_timeout(folder: Path) -> None:
    with gunicorn(folder, "--threads=2", "--timeout=1") as server, server.connect() as client:
        begun = time.monotonic()
        client.send(GET_HOLD)
        wait_for_file(folder, "running")
        # The timeout is the loop's: a request that runs for longer is not its business.
        with server.connect() as other:
            wait_until(lambda: other.get("/") and time.monotonic() > begun + 2.2, "more than the timeout")
        server.signal(signal.SIGTERM)
        wait_until(lambda: refuses(server), "the end of the listening socket")
        (folder / "go").touch()
        response = client.receive()
        assert (response.content, response.value("Connection")) == (b"done", "close")
        assert server.wait() == 0
    assert "abandoned" not in server.log
    assert "TIMEOUT" not in server.log


def test_request_that_outlives_the_graceful_timeout_is_abandoned_in_time(folder: Path) -> None:
    with gunicorn(folder, "--graceful-timeout=1") as server, server.connect() as client:
        client.send(GET_HOLD)
        wait_for_file(folder, "running")
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begun < 5
    assert "1 running requests were abandoned" in server.log
    assert "Worker exiting" in server.log  # by itself: it was not killed


@loops
@pytest.mark.parametrize("drain_first", [False, True])
def test_int_ends_at_once_also_during_a_drain(folder: Path, loop_name: str, drain_first: bool) -> None:
    use_loop(folder, loop_name)
    with gunicorn(folder) as server, server.connect() as client:
        client.send(GET_HOLD)
        wait_for_file(folder, "running")
        begun = time.monotonic()
        if drain_first:
            server.signal(signal.SIGTERM)
            wait_until(lambda: refuses(server), "the end of the listening socket")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - begun < 10
        with pytest.raises((Truncated, ConnectionResetError)):
            client.receive()
    assert "Traceback" not in server.log
    assert "Worker exiting" in server.log  # by itself: it was not killed


def test_max_requests_recycles_workers_and_loses_no_request(folder: Path) -> None:
    with gunicorn(folder, "--max-requests=20", "--max-requests-jitter=5", "--threads=2") as server:
        server.wait_for_workers()
        with Load(server, 3) as load:
            wait_until(lambda: len(load.pids) >= 3 or load.failures, "three workers")
        assert load.failures == []
        server.stop()
    assert server.log.count("Autorestarting worker after current request.") >= 2


@loops
def test_worker_whose_loop_is_blocked_is_replaced_and_its_stack_logged(folder: Path, loop_name: str) -> None:
    use_loop(folder, loop_name)
    with gunicorn(folder, "--timeout=1") as server:
        (pid,) = server.wait_for_workers()
        os.kill(pid, signal.SIGUSR2)
        wait_for_file(folder, "blocked")
        assert server.wait_for_workers(2)[0] == pid
        assert not is_alive(pid)
        with server.connect() as client:
            assert pid_of(client.get("/")) != pid
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert f"WORKER TIMEOUT (pid:{pid})" in server.log
    assert "the event loop does not turn" in server.log
    assert "threading.Event().wait(60)" in server.log


@pytest.mark.parametrize("preload", [False, True])
def test_two_workers_both_serve(folder: Path, preload: bool) -> None:
    with gunicorn(folder, "--workers=2", *["--preload"] * preload) as server:
        workers = set(server.wait_for_workers(2))
        seen: set[int] = set()

        def all_seen() -> bool:
            with server.connect() as client:
                seen.add(pid_of(client.get("/")))
                assert client.get("/environ").content.startswith(b"True ")
            return seen == workers

        wait_until(all_seen, "an answer of each worker")
        server.stop()
    importers = {int(line) for line in (folder / "imports.log").read_text().split()}
    assert importers == ({server.process.pid} if preload else workers)


def test_unix_socket_outlives_a_reload_and_goes_with_the_master(folder: Path) -> None:
    with gunicorn(folder, bind="unix:sock") as server:
        old = server.wait_for_workers()
        with server.connect_unix() as client:
            assert pid_of(client.get("/")) == old[0]
        server.signal(signal.SIGHUP)
        server.wait_for_workers(2)
        wait_until(lambda: not is_alive(old[0]), "the end of the old worker")
        with server.connect_unix() as client:
            assert pid_of(client.get("/")) != old[0]
            # Whoever reaches a Unix socket is trusted, as by gunicorn's own workers.
            assert b" https " in client.get("/environ", "X-Forwarded-Proto: https").content
        server.stop()
    assert not (folder / "sock").exists()


def test_usr2_starts_a_new_master_beside_the_old_one(folder: Path) -> None:
    with gunicorn(folder, "--pid=pid") as server:
        old = server.wait_for_workers()
        server.signal(signal.SIGUSR2)
        new = server.wait_for_workers(2)[1:]
        new_master = int((folder / "pid.2").read_text())
        try:
            assert is_alive(old[0])
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            with server.connect() as client:
                assert pid_of(client.get("/")) == new[0]
        finally:
            os.kill(new_master, signal.SIGTERM)
            wait_until(lambda: not is_alive(new_master), "the end of the new master")
        assert not is_alive(new[0])
    assert "Traceback" not in server.log


def test_worker_whose_master_was_killed_leaves(folder: Path) -> None:
    with gunicorn(folder, "--timeout=2") as server:
        (pid,) = server.wait_for_workers()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not is_alive(pid), "the end of the worker")
    assert "Parent changed, shutting down" in server.log


def test_changed_application_is_reloaded(folder: Path) -> None:
    with gunicorn(folder, "--reload", "--reload-engine=poll") as server:
        (pid,) = server.wait_for_workers()
        source = folder / "app.py"
        source.write_text(source.read_text().replace('VERSION = "1"', 'VERSION = "2"'))

        def noticed() -> bool:
            # gunicorn compares with what its first look has found, and nothing tells when that was.
            os.utime(source)
            return "Worker reloading" in server.log

        wait_until(noticed, "gunicorn's notice of the change")
        assert server.wait_for_workers(2)[0] == pid
        with server.connect() as client:
            assert client.get("/").content.endswith(b" 2")
        server.stop()


def test_setting_that_cannot_be_honoured_is_refused_at_boot(folder: Path) -> None:
    with gunicorn(folder, "--protocol=uwsgi") as server:
        assert server.wait() == 1
    assert "Error: protocol: this worker speaks HTTP only" in server.log
    assert "Booting worker" not in server.log
