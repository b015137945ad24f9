"""The examples of embedding, each run as its README says, in a process of its own."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest

import aiowsgi
from tests.hosting import PATIENCE, poll
from tests.process.server_process import ServerProcess, environment

EXAMPLES = Path(aiowsgi.__file__).parents[1] / "examples"
PROGRAMS = {"python": [sys.executable], "uvicorn": [sys.executable, "-m", "uvicorn"]}
URL = r"http://127\.0\.0\.1:\d+"


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@contextmanager
def running(name: str, log_path: Path, **variables: str) -> Iterator[ServerProcess]:
    """Run the one command of an example's README; it must end well, and have warned of nothing."""
    folder = EXAMPLES / name
    block = re.search(r"```sh\n(.*)\n```", (folder / "README.md").read_text())
    assert block, "the README has no command"
    program, *arguments = shlex.split(block[1])
    variables = {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [*PROGRAMS[program], *arguments],
            cwd=folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as popen,
    ):
        process = ServerProcess(popen, log_path)
        try:
            yield process
            process.signal(signal.SIGINT)
            assert process.wait() == 0, process.log
        finally:
            if popen.poll() is None:
                popen.kill()
    assert "Warning" not in process.log
    assert "Traceback" not in process.log


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=PATIENCE, verify=False) as client:
        yield client


def test_embedded_asyncio_shows_what_its_background_task_measures(tmp_path: Path, client: httpx.Client) -> None:
    with running("embedded_asyncio", tmp_path / "log", PORT="0") as process:
        url = process.wait_for_log(rf"readings at ({URL})\n")[1]
        assert re.fullmatch(r"(\d\d:\d\d:\d\d  load \d+\.\d\d\n)+", client.get(url).text)
        for count in range(2, 5):
            assert client.post(f"{url}/now").status_code == 202
            poll(lambda count=count: client.get(url).text.count("\n") >= count)


def test_embedded_aiohttp_serves_its_routes_and_the_admin_of_the_same_messages(
    tmp_path: Path, client: httpx.Client
) -> None:
    port = free_port()
    with running("embedded_aiohttp", tmp_path / "log", PORT=port, ADMIN_PORT="0") as process:
        admin = process.wait_for_log(rf"admin at ({URL})\n")[1]
        process.wait_for_log("Running on")
        url = f"http://127.0.0.1:{port}"
        assert client.post(f"{url}/messages", content="hello").json() == {"number": 1}

        async def chat() -> list[str]:
            async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/chat") as chatting:
                await chatting.send_str("from a <WebSocket>")
                messages: list[str] = await chatting.receive_json(timeout=PATIENCE)
                return messages

        assert asyncio.run(chat()) == ["hello", "from a <WebSocket>"]
        page = client.get(admin).text
        assert "hello" in page
        assert "from a &lt;WebSocket&gt;" in page
        assert client.post(f"{admin}/delete/1").status_code == 302
        assert client.post(f"{admin}/delete/1").status_code == 404
        assert client.get(f"{url}/messages").json() == ["from a <WebSocket>"]


def test_shared_pool_counts_the_requests_and_threads_of_both_servers(tmp_path: Path, client: httpx.Client) -> None:
    with running("shared_pool", tmp_path / "log", PORT="0", METRICS_PORT="0") as process:
        shop, metrics = process.wait_for_log(rf"shop at ({URL}), metrics at ({URL})\n").groups()
        for _ in range(3):
            assert client.get(shop).text == "welcome\n"
        text = client.get(metrics).text
        assert text.startswith("shop: 3 requests answered, 0 waiting\nmetrics: 0 requests answered, 0 waiting\n")
        assert "threads of both: 1 running" in text


def test_run_in_thread_shows_how_far_the_main_thread_is(tmp_path: Path, client: httpx.Client) -> None:
    with running("run_in_thread", tmp_path / "log", PORT="0") as process:
        url = process.wait_for_log(rf"progress at ({URL})\n")[1]

        def count() -> int:
            match = re.fullmatch(r"(\d+) primes, the last \d+\n", client.get(url).text)
            assert match
            return int(match[1])

        first = count()
        poll(lambda: count() > first)
    assert re.search(r"found \d+ primes\n$", process.log)


def test_mounted_fastapi_serves_routes_a_websocket_and_flask(tmp_path: Path, client: httpx.Client) -> None:
    # uvicorn's older releases use what is deprecated in websockets.
    variables = {"UVICORN_PORT": "0", "WEB_CONCURRENCY": "1", "PYTHONWARNINGS": "default::ResourceWarning"}
    with running("mounted_fastapi", tmp_path / "log", **variables) as process:
        url = process.wait_for_log(rf"running on ({URL}) ")[1]
        assert client.get(url).json() == {"shop": "/shop/", "echo": "/echo"}
        assert client.post(f"{url}/shop/", data={"thing": "tea"}).status_code == 201
        assert client.get(f"{url}/shop/").json() == {"orders": ["tea"], "root": "/shop"}
        assert client.get(f"{url}/shop/nothing").status_code == 404

        async def echo() -> str:
            async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/echo") as socket:
                await socket.send_str("hello")
                return await socket.receive_str(timeout=PATIENCE)

        assert asyncio.run(echo()) == "hello"


def test_every_example_of_embedding_is_in_the_list() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for name in ("embedded_asyncio", "embedded_aiohttp", "shared_pool", "run_in_thread", "mounted_fastapi"):
        assert f"]({name}/README.md)" in text
