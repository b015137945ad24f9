"""The ways into a program: ``run``, ``serve``, ``make_server``, ``run_in_thread``, a shared pool; a guest's manners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import aiowsgi
from aiowsgi.embedding import options_from_waitress
from tests.hosting import (
    PATIENCE,
    Gated,
    ask,
    client_of,
    descriptor_count,
    eventually,
    hello,
    poll,
    program,
    request,
    run_in_loop,
    workers,
)
from tests.raw import RawClient

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

FREE_PORT = ("127.0.0.1:0",)
AT_ONCE = 5.0

# All that waitress 3.0 takes: waitress.adjustments.Adjustments._params.
WAITRESS_NAMES = (
    "asyncore_loop_timeout asyncore_use_poll backlog channel_request_lookahead channel_timeout cleanup_interval "
    "clear_untrusted_proxy_headers connection_limit expose_tracebacks host ident inbuf_overflow ipv4 ipv6 listen "
    "log_socket_errors log_untrusted_proxy_headers max_request_body_size max_request_header_size "
    "outbuf_high_watermark outbuf_overflow port recv_bytes send_bytes server_name sockets threads trusted_proxy "
    "trusted_proxy_count trusted_proxy_headers unix_socket unix_socket_perms url_prefix url_scheme"
)


def connect(port: int) -> RawClient:
    return RawClient(socket.create_connection(("127.0.0.1", port), PATIENCE))


# Blocking calls


@pytest.mark.parametrize(
    "call",
    [
        'aiowsgi.run("app:hello", bind=["127.0.0.1:0"], threads=2)',
        'aiowsgi.run(hello, host="127.0.0.1", port=0, loop="asyncio")',
        'aiowsgi.run(hello, config=aiowsgi.Config(bind=("127.0.0.1:0",), loop="uvloop"))',
        'aiowsgi.serve(hello, host="127.0.0.1", port=0, threads=2)',
        'aiowsgi.serve(hello, listen="127.0.0.1:0 127.0.0.1:0", threads="2", loop="asyncio")',
    ],
)
def test_call_that_blocks_serves_until_sigterm_and_returns(tmp_path: Path, call: str) -> None:
    source = f"import aiowsgi\nfrom app import hello\n{call}\nprint('returned')\n"
    with program(tmp_path, source) as process:
        with process.connect() as client:
            assert client.get("/").content == b"hello"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.log.endswith("returned\n")


def test_serve_on_a_unix_socket_as_waitress_spells_it_serves(tmp_path: Path) -> None:
    source = "import aiowsgi\nfrom app import hello\naiowsgi.serve(hello, unix_socket='sock', connection_limit=10)\n"
    with program(tmp_path, source) as process:
        process.wait_for_log("unix:.*/sock")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "sock"))
            assert RawClient(sock).get("/").content == b"hello"
        process.signal(signal.SIGINT)
        assert process.wait() == 0


# waitress


def test_options_of_waitress_with_a_counterpart_are_translated() -> None:
    assert options_from_waitress(
        {
            "listen": "*:8080 [::1]:9090",
            "threads": "6",
            "connection_limit": 100,
            "max_request_body_size": "10M",
            "max_request_header_size": 9000,
            "inbuf_overflow": 1,
            "outbuf_high_watermark": 2,
            "url_prefix": "/here",
            "keep_alive": 3,
        }
    ) == {
        "bind": (":8080", "[::1]:9090"),
        "threads": 6,
        "max_connections": 100,
        "limit_request_body": 10 * 1024 * 1024,
        "limit_request_head": 9000,
        "request_buffer": 1,
        "response_buffer": 2,
        "root_path": "/here",
        "keep_alive": 3,
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"host": "", "port": 8080}),
        ({"host": "localhost"}, {"host": "localhost", "port": 8080}),
        ({"port": "5000"}, {"host": "", "port": 5000}),
        ({"listen": ["127.0.0.1:1", "*:2"]}, {"bind": ("127.0.0.1:1", ":2")}),
        ({"listen": "* localhost [::1]"}, {"bind": (":8080", "localhost:8080", "[::1]:8080")}),
        ({"unix_socket": "/run/sock"}, {"uds": "/run/sock"}),
        ({"bind": "127.0.0.1:1 127.0.0.1:2"}, {"bind": ("127.0.0.1:1", "127.0.0.1:2")}),
    ],
)
def test_options_of_waitress_say_where_to_listen(options: dict[str, object], expected: dict[str, object]) -> None:
    assert options_from_waitress(options) == expected


@pytest.mark.parametrize("name", WAITRESS_NAMES.split())
def test_option_of_waitress_is_either_taken_or_answered_with_advice(name: str) -> None:
    value = {"url_prefix": "/1", "max_request_header_size": "64K"}.get(name, "1")
    try:
        translated = options_from_waitress({name: value})
    except TypeError as error:
        answer = str(error)
    else:
        assert aiowsgi.Config(**translated) != aiowsgi.Config()
        return
    assert re.match(rf"serve\(\) does not take all that waitress does: {name}: \w.{{10,}}", answer)


def test_serve_with_options_that_waitress_alone_has_names_all_of_them_and_what_to_use() -> None:
    with pytest.raises(TypeError) as caught:
        aiowsgi.serve(hello, port=0, channel_timeout=5, ident="x")
    assert "channel_timeout: use keep_alive" in str(caught.value)
    assert "ident: use server_header" in str(caught.value)


def test_serve_with_an_option_that_nobody_has_is_refused_with_its_name() -> None:
    with pytest.raises(TypeError, match="thread_count"):
        aiowsgi.serve(hello, port=0, thread_count=5)


def test_serve_with_text_that_is_no_number_says_so() -> None:
    with pytest.raises(aiowsgi.ConfigError, match="threads=many: must be a whole number"):
        aiowsgi.serve(hello, port=0, threads="many")


# wsgiref


@contextmanager
def serving_forever(server: aiowsgi.SimpleServer) -> Iterator[None]:
    with ThreadPoolExecutor(1) as executor:
        served = executor.submit(server.serve_forever)
        try:
            yield
        finally:
            server.shutdown()
            served.result(PATIENCE)


def test_make_server_serves_forever_until_another_thread_shuts_it_down(loop_name: str) -> None:
    with aiowsgi.make_server("127.0.0.1", 0, hello, loop=loop_name) as server:
        assert server.server_address == (server.server_name, server.server_port)
        assert server.server_name == "127.0.0.1"
        for _ in range(2):  # as often as one likes
            with serving_forever(server), connect(server.server_port) as client:
                assert client.get("/").content == b"hello"
    with pytest.raises(ConnectionRefusedError):
        connect(server.server_port)


def test_make_server_accepts_connections_before_it_serves(loop_name: str) -> None:
    with (
        aiowsgi.make_server("127.0.0.1", 0, hello, loop=loop_name) as server,
        connect(server.server_port) as client,
        serving_forever(server),
    ):
        assert client.get("/").content == b"hello"


def test_make_server_shut_down_lets_requests_end(loop_name: str) -> None:
    application = Gated()
    with (
        aiowsgi.make_server("127.0.0.1", 0, application, loop=loop_name) as server,
        ThreadPoolExecutor(1) as executor,
        connect(server.server_port) as client,
        serving_forever(server),
    ):
        client.send(request())
        poll(lambda: application.running)
        ended = executor.submit(server.shutdown)
        application.open()
        assert client.receive().content == b"let go"
        ended.result(PATIENCE)


def test_make_server_shut_down_before_it_serves_ends_at_once(loop_name: str) -> None:
    with aiowsgi.make_server("127.0.0.1", 0, hello, loop=loop_name) as server:
        server.shutdown()
        server.serve_forever()
        with serving_forever(server), connect(server.server_port) as client:  # and the next one does serve
            assert client.get("/").content == b"hello"


def test_make_server_interrupted_from_the_keyboard_raises_at_once_and_may_serve_again(loop_name: str) -> None:
    release = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            release.wait(PATIENCE)
        return hello(environ, start_response)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with aiowsgi.make_server("127.0.0.1", 0, application, loop=loop_name) as server:
        with connect(server.server_port) as client:
            client.send(request("/interrupt"))
            began = time.monotonic()
            try:
                with pytest.raises(KeyboardInterrupt):
                    server.serve_forever()
            finally:
                release.set()
            assert time.monotonic() - began < AT_ONCE
            with contextlib.suppress(ConnectionError):
                assert client.socket.recv(1) == b""
        with serving_forever(server), connect(server.server_port) as client:
            assert client.get("/").content == b"hello"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_make_server_on_a_port_in_use_raises_and_releases_everything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        descriptors = descriptor_count()
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            aiowsgi.make_server("127.0.0.1", port, hello)
        assert descriptor_count() == descriptors


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
def test_make_server_with_reuse_port_shares_its_port() -> None:
    with (
        aiowsgi.make_server("127.0.0.1", 0, hello, reuse_port=True) as first,
        aiowsgi.make_server("127.0.0.1", first.server_port, hello, reuse_port=True) as second,
    ):
        assert second.server_port == first.server_port


def test_make_server_closed_without_serving_listens_no_more() -> None:
    descriptors = descriptor_count()
    server = aiowsgi.make_server("127.0.0.1", 0, hello)
    connect(server.server_port).close()
    server.server_close()
    server.server_close()
    server.shutdown()
    assert descriptor_count() == descriptors
    with pytest.raises(ConnectionRefusedError):
        connect(server.server_port)
    with pytest.raises(aiowsgi.StartupError, match="has been closed"):
        server.serve_forever()


def test_make_server_whose_block_fails_listens_no_more() -> None:
    with pytest.raises(ZeroDivisionError), aiowsgi.make_server("127.0.0.1", 0, hello) as server:
        _ = 1 / 0
    with pytest.raises(ConnectionRefusedError):
        connect(server.server_port)


def test_make_server_for_every_address_is_reached_by_the_local_one() -> None:
    with aiowsgi.make_server("", 0, hello) as server, serving_forever(server), connect(server.server_port) as client:
        assert client.get("/").content == b"hello"


def test_make_server_without_the_parser_raises_startup_error_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    monkeypatch.delitem(sys.modules, "aiowsgi.http.llhttp", raising=False)
    with (
        aiowsgi.make_server("127.0.0.1", 0, hello, http="httptools") as server,
        pytest.raises(aiowsgi.StartupError, match="httptools"),
    ):
        server.serve_forever()


def test_make_server_with_options_that_do_not_fit_is_refused() -> None:
    with pytest.raises(aiowsgi.ConfigError, match="threads=0"):
        aiowsgi.make_server("127.0.0.1", 0, hello, threads=0)
    with pytest.raises(TypeError, match="handler_class"):
        aiowsgi.make_server("127.0.0.1", 0, hello, handler_class=object)


def test_make_server_shut_down_by_a_signal_handler_lets_requests_end(loop_name: str) -> None:
    """The handler runs in the thread that serves, where wsgiref's would wait for itself for ever."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        os.kill(os.getpid(), signal.SIGUSR1)
        poll(lambda: ended)
        return hello(environ, start_response)

    ended: list[int] = []

    def end(signum: int, frame: object) -> None:
        server.shutdown()
        ended.append(signum)

    with aiowsgi.make_server("127.0.0.1", 0, application, loop=loop_name) as server:
        before = signal.signal(signal.SIGUSR1, end)
        try:
            with connect(server.server_port) as client:
                client.send(request())
                server.serve_forever()
                assert client.receive().content == b"hello"
        finally:
            signal.signal(signal.SIGUSR1, before)


# From synchronous code


def test_run_in_thread_serves_for_the_time_of_its_block(loop_name: str) -> None:
    before = set(threading.enumerate())
    descriptors = descriptor_count()
    with aiowsgi.run_in_thread(hello, loop=loop_name, threads=2) as server:
        assert server.urls == (server.url,) == (f"http://127.0.0.1:{server.port}",)
        assert httpx.get(server.url, trust_env=False).text == "hello"
    with pytest.raises(ConnectionRefusedError):
        connect(server.port)
    poll(lambda: set(threading.enumerate()) <= before)
    assert descriptor_count() == descriptors


def test_run_in_thread_lets_requests_end_when_its_block_does(loop_name: str) -> None:
    application = Gated()
    with ThreadPoolExecutor(1) as executor:
        with aiowsgi.run_in_thread(application, loop=loop_name) as server:
            answer = executor.submit(httpx.get, server.url, trust_env=False)
            poll(lambda: application.running)
            executor.submit(poll, lambda: server.engine.draining)
            threading.Timer(0.05, application.open).start()
        assert answer.result(PATIENCE).text == "let go"


def test_run_in_thread_whose_block_fails_ends_and_raises_it(loop_name: str) -> None:
    with pytest.raises(ZeroDivisionError), aiowsgi.run_in_thread(hello, loop=loop_name) as server:
        _ = 1 / 0
    with pytest.raises(ConnectionRefusedError):
        connect(server.port)


def test_run_in_thread_on_a_port_in_use_raises_and_leaves_nothing(loop_name: str) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        descriptors = descriptor_count()
        port = taken.getsockname()[1]
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"),
            aiowsgi.run_in_thread(hello, host="127.0.0.1", port=port, loop=loop_name),
        ):
            raise AssertionError("it listens")
        poll(lambda: set(threading.enumerate()) <= before)
        assert descriptor_count() == descriptors


@pytest.mark.parametrize("where", ["bind", "host and port", "uds"])
def test_run_in_thread_listens_where_it_is_told(tmp_path: Path, where: str) -> None:
    options: dict[str, Any] = {
        "bind": {"bind": ["127.0.0.1:0"]},
        "host and port": {"host": "127.0.0.1", "port": 0},
        "uds": {"uds": f"{tmp_path}/sock"},
    }[where]
    with aiowsgi.run_in_thread(hello, **options) as server:
        expected = f"unix:{tmp_path}/sock" if where == "uds" else f"http://127.0.0.1:{server.port}"
        assert server.urls == (expected,)


def test_run_in_thread_several_times_at_once_serves_each(loop_name: str) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(aiowsgi.run_in_thread(hello, loop=loop_name)) for _ in range(3)]
        assert len({server.port for server in servers}) == 3
        for server in servers:
            with connect(server.port) as client:
                assert client.get("/").content == b"hello"


# One budget of threads


def test_pool_that_servers_share_is_one_budget_and_outlives_them(loop_name: str) -> None:
    before = workers()
    pool = aiowsgi.ThreadPool(2)
    first, second = Gated(), Gated()

    async def main() -> None:
        async with (
            aiowsgi.Server(first, bind=FREE_PORT, pool=pool) as a,
            aiowsgi.Server(second, bind=FREE_PORT, pool=pool) as b,
        ):
            answers = [asyncio.create_task(ask(server.port)) for server in (a, b) for _ in range(3)]
            await eventually(lambda: pool.stats().waiting == 4)
            assert first.running + second.running == 2
            assert a.stats().requests.waiting + b.stats().requests.waiting == 4
            first.open()
            second.open()
            for answer in answers:
                assert (await answer).endswith(b"let go")
            assert (first.ended, second.ended) == (3, 3)
        async with aiowsgi.Server(hello, bind=FREE_PORT, pool=pool) as server:
            assert (await ask(server.port)).endswith(b"hello")

    run_in_loop(loop_name, main)
    assert len(workers() - before) <= 2
    pool.close()
    poll(lambda: not workers() - before)


def test_pool_of_a_server_that_ends_with_no_time_serves_the_others(loop_name: str) -> None:
    pool = aiowsgi.ThreadPool(2)
    stuck = Gated()

    async def main() -> None:
        async with aiowsgi.Server(hello, bind=FREE_PORT, pool=pool) as other:
            server = aiowsgi.Server(stuck, bind=FREE_PORT, pool=pool)
            await server.start()
            async with client_of(server.port) as (_, writer):
                writer.write(request())
                await eventually(lambda: stuck.running)
                assert (await server.shutdown(0)).abandoned == 1
            assert (await ask(other.port)).endswith(b"hello")

    try:
        run_in_loop(loop_name, main)
    finally:
        stuck.open()
        pool.close()


def test_pool_that_is_shared_by_loops_runs_the_requests_of_all() -> None:
    pool = aiowsgi.ThreadPool(1)

    async def main() -> None:
        async with aiowsgi.Server(hello, bind=FREE_PORT, pool=pool) as server:
            for _ in range(20):
                assert (await ask(server.port)).endswith(b"hello")

    with ThreadPoolExecutor(2) as executor:
        for served in [executor.submit(run_in_loop, name, main) for name in ("asyncio", "uvloop")]:
            served.result(PATIENCE)
    assert pool.stats().running + pool.stats().idle == 1
    pool.close()


# A guest

_PYTHONS_INTERVAL = sys.getswitchinterval()


def process_state(*, serving: bool = False) -> dict[str, object]:
    """Return what belongs to the program alone; a server that serves has the switch interval for that time."""
    names = list(logging.root.manager.loggerDict)
    loggers = [logging.root, *(logging.getLogger(name) for name in names if "aiowsgi" in name)]
    umask = os.umask(0o22)
    os.umask(umask)
    state: dict[str, object] = {
        "signals": {signum: signal.getsignal(signum) for signum in signal.valid_signals()},
        "loggers": [(each.name, tuple(each.handlers), each.level, each.propagate, each.disabled) for each in loggers],
        "logging": (logging.raiseExceptions, logging.lastResort, logging.root.manager.disable),
        "environment": dict(os.environ),
        "policy": asyncio.events._event_loop_policy,  # type: ignore[attr-defined] # asking for it would make one
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.breakpointhook),
        "switch interval": _PYTHONS_INTERVAL if serving else sys.getswitchinterval(),
        "interpreter": (sys.getrecursionlimit(), list(sys.path), list(warnings.filters)),
        "process": (os.getcwd(), umask),
    }
    with contextlib.suppress(ImportError):
        import resource

        state["limits"] = resource.getrlimit(resource.RLIMIT_NOFILE)
    return state


def loop_state() -> tuple[object, ...]:
    loop = asyncio.get_running_loop()
    return loop.get_exception_handler(), loop.get_task_factory(), loop.get_debug()


def busy_application(folder: Path) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """Return an application that has the server read, write and send files, and that fails in several ways."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/exit":
            sys.exit("the application's own")
        if environ["PATH_INFO"] == "/error":
            raise ValueError("on purpose")
        (folder / "content").write_bytes(environ["wsgi.input"].read())
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"]((folder / "content").open("rb"))
        return wrapped

    return application


async def be_a_host(server: aiowsgi.Server) -> None:
    size = 1024 * 1024
    async with client_of(server.port) as (reader, writer):
        writer.write(request("/", f"Content-Length: {size}", "Connection: close", method="POST"))
        writer.write(bytes(size))
        answer = await reader.read()
        assert answer.partition(b"\r\n\r\n")[2] == bytes(size)
    for target in ("/exit", "/error"):
        assert (await ask(server.port, target)).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("cancelled", [False, True])
def test_server_changes_nothing_of_the_program_s(loop_name: str, tmp_path: Path, cancelled: bool) -> None:
    executor = ThreadPoolExecutor(2)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(executor)
        before = process_state(), loop_state()
        server = aiowsgi.Server(busy_application(tmp_path), bind=FREE_PORT)
        assert (process_state(), loop_state()) == before
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.urls)
        await be_a_host(server)
        assert (process_state(serving=True), loop_state()) == before
        if cancelled:
            serving.cancel()
        else:
            await server.shutdown()
        await asyncio.wait([serving])
        assert (process_state(), loop_state()) == before
        assert asyncio.all_tasks() - {asyncio.current_task()} == {*()}
        assert not executor._threads  # which has run nothing

    run_in_loop(loop_name, main)


@pytest.mark.parametrize("way", ["run_in_thread", "make_server"])
def test_server_from_synchronous_code_changes_nothing_of_the_program_s(
    loop_name: str, tmp_path: Path, way: str
) -> None:
    application = busy_application(tmp_path)
    before = process_state()
    with contextlib.ExitStack() as stack:
        if way == "run_in_thread":
            port = stack.enter_context(aiowsgi.run_in_thread(application, loop=loop_name)).port
        else:
            server = stack.enter_context(aiowsgi.make_server("127.0.0.1", 0, application, loop=loop_name))
            stack.enter_context(serving_forever(server))
            port = server.server_port
        with connect(port) as client:
            assert client.post(b"content").content == b"content"
        assert process_state(serving=True) == before
    assert process_state() == before


def test_application_that_exits_ends_neither_its_server_nor_the_program(loop_name: str, tmp_path: Path) -> None:
    with aiowsgi.run_in_thread(busy_application(tmp_path), loop=loop_name, threads=1) as server:
        for _ in range(3):
            with connect(server.port) as client:
                assert client.get("/exit").status_code == 500
        with connect(server.port) as client:
            assert client.get("/").status_code == 200
