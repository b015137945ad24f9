"""Every block of Python in the README is executed, and does what the text around it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import aiowsgi
from tests.certificates import Certificates
from tests.conftest import LOOPS, running_server
from tests.hosting import PATIENCE, ask, eventually, hello, poll, program, run_in_loop
from tests.raw import RawClient
from tests.test_pytest_plugin import run_pytest

README = (Path(aiowsgi.__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

Capture = pytest.CaptureFixture[str]
Drive = Callable[[str, Path, Capture], None]


def execute(code: str, **names: object) -> dict[str, Any]:
    """Run a block as a module in which some names are there already."""
    exec(compile(code, "README.md", "exec"), names)
    return names


def replaced(code: str, old: str, new: str) -> str:
    """Replace what a test cannot do, such as listening on a port that others may have."""
    assert code.count(old) == 1
    return code.replace(old, new)


def get(port: int) -> bytes:
    with RawClient(socket.create_connection(("127.0.0.1", port), PATIENCE)) as client:
        return client.get("/").content


def is_an_application(code: str, folder: Path, capsys: Capture) -> None:
    with aiowsgi.run_in_thread(execute(code)["application"]) as server:
        assert httpx.get(f"{server.url}/there", trust_env=False).text == "Hello from /there\n"


def serves_until_sigterm(old: str, new: str) -> Drive:
    def drive(code: str, folder: Path, capsys: Capture) -> None:
        (folder / "project").mkdir()
        (folder / "project" / "wsgi.py").write_text("from tests.hosting import hello as application\n")
        with program(folder, "from app import hello as application\n" + replaced(code, old, new)) as process:
            with process.connect() as client:
                assert client.get("/").content == b"hello"
            process.signal(signal.SIGTERM)
            assert process.wait() == 0

    return drive


def serves_until_interrupted(code: str, folder: Path, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    def listening() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    def be_a_client() -> None:
        poll(listening)
        try:
            assert get(port) == b"hello"
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as executor:
        client = executor.submit(be_a_client)
        with pytest.raises(KeyboardInterrupt):
            execute(replaced(code, "8000", str(port)), application=hello)
        client.result(PATIENCE)
    assert not listening()


def serves_until_cancelled(code: str, folder: Path, capsys: Capture) -> None:
    for loop_name in LOOPS:
        block = execute(code, application=hello)
        printed: list[str] = []

        async def main(block: dict[str, Any] = block, printed: list[str] = printed) -> None:
            task = asyncio.create_task(block["main"]())
            await eventually(lambda: printed.append(capsys.readouterr().out) or "\n" in "".join(printed))
            match = re.fullmatch(r"(\d+) \('http://127.0.0.1:\1',\)\n", "".join(printed))
            assert match
            assert (await ask(int(match[1]))).endswith(b"hello")
            task.cancel()
            await asyncio.wait([task])
            with pytest.raises(ConnectionRefusedError):
                await ask(int(match[1]))

        run_in_loop(loop_name, main)


def serves_a_program(count: int, output: str = "") -> Drive:
    """``main()`` calls the host's ``program`` with so many servers, or ports, and prints something."""

    def drive(code: str, folder: Path, capsys: Capture) -> None:
        for loop_name in LOOPS:
            ports: list[int] = []

            async def be_a_program(*servers: aiowsgi.Server | int, ports: list[int] = ports) -> None:
                ports.extend(server if isinstance(server, int) else server.port for server in servers)
                for port in ports:
                    assert (await ask(port)).endswith(b"hello")

            block = execute(code, program=be_a_program, application=hello, shop=hello, admin=hello)

            async def main(block: dict[str, Any] = block, ports: list[int] = ports) -> None:
                await block["main"]()
                assert not asyncio.all_tasks() - {asyncio.current_task()}
                assert len(set(ports)) == count
                for port in ports:
                    with pytest.raises(ConnectionRefusedError):
                        await ask(port)

            run_in_loop(loop_name, main)
            assert capsys.readouterr().out == output

    return drive


def prints_the_answer(code: str, folder: Path, capsys: Capture) -> None:
    execute(code, application=hello)
    assert capsys.readouterr().out == "hello\n"


def passes_as_a_test(code: str, folder: Path, capsys: Capture) -> None:
    exit_code, output = run_pytest(folder, "from tests.hosting import hello as application\n" + code)
    assert (exit_code, "1 passed" in output) == (0, True), output


def serves_the_mounted_application(code: str, folder: Path, capsys: Capture) -> None:
    async def main() -> None:
        block = execute(code, shop=hello)
        transport = httpx.ASGITransport(app=block["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/shop/tea")).text == "hello"
            assert (await client.get("/tea")).status_code == 404
        (adapter,) = (route.app for route in block["app"].routes if getattr(route, "path", "") == "/shop")
        await adapter.aclose()

    asyncio.run(main())


def chooses_a_certificate_by_name(code: str, folder: Path, capsys: Capture) -> None:
    certificates = Certificates(folder)
    certificates.write("shop", "shop.example.org")
    options = certificates.write("main", "www.example.org")
    with contextlib.chdir(folder), running_server(hello, ssl_context=execute(code)["by_name"], **options) as server:
        for name in ("shop.example.org", "www.example.org"):
            with certificates.connect(server.port, server_name=name) as client:  # which checks the name
                assert client.get("/").content == b"hello"


def parks_a_count(code: str, folder: Path, capsys: Capture) -> None:
    with aiowsgi.run_in_thread(execute(code, __name__="__main__")["app"], threads=1) as server:
        response = httpx.get(f"{server.url}/count", trust_env=False)
        assert (response.text, response.headers["Content-Type"]) == ("0\n1\n2\n", "text/plain")


def sends_orders_to_subscribers(code: str, folder: Path, capsys: Capture) -> None:
    names = execute(code)
    with aiowsgi.run_in_thread(names["application"], threads=1, max_threads=1) as server:
        with httpx.stream("GET", server.url, trust_env=False) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            lines = response.iter_lines()
            assert [next(lines) for _ in range(3)][1:] == ["retry: 3000", ""]
            assert httpx.post(server.url, content=b"42", trust_env=False).status_code == 204
            assert [next(lines) for _ in range(3)][1:] == ["event: paid", "data: 42"]
        names["orders"].close()


def names_a_broker(code: str, folder: Path, capsys: Capture) -> None:
    assert repr(execute(code)["orders"]) == "<Channel 'orders' at redis://127.0.0.1:6379/0>"


def reads_a_channel(code: str, folder: Path, capsys: Capture) -> None:
    async def main() -> None:
        orders = aiowsgi.Channel()
        task = asyncio.create_task(execute(code)["first_paid"](orders))
        await eventually(lambda: orders.stats().subscribers)
        orders.send("41", event="shipped")
        sent = orders.send("42", event="paid")
        assert ((await task).id, await task) == (sent, b"42")
        assert orders.stats().subscribers == 0

    asyncio.run(main())


def is_a_hook(code: str, folder: Path, capsys: Capture) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "hooks.py").write_text(code)
    (folder / "shop" / "wsgi.py").write_text("from tests.hosting import hello as application\n")
    source = (
        "import logging\nlogging.basicConfig(level='INFO')\n"
        "import aiowsgi\naiowsgi.run('shop.wsgi', worker_ready='shop.hooks:ready', port=0)\n"
    )
    with program(folder, source) as process:
        process.wait_for_log(r"worker None \(process \d+\) serves http://127\.0\.0\.1:\d+\n")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


# What is in a block and in no other, and how it is driven.
DRIVES: dict[str, Drive] = {
    "Hello from {": is_an_application,
    'aiowsgi.run("project.wsgi:application"': serves_until_sigterm("127.0.0.1:8000", "127.0.0.1:0"),
    "serve(application, host=": serves_until_sigterm("port=8080", "port=0"),
    "with make_server(": serves_until_interrupted,
    "async with aiowsgi.Server(application": serves_until_cancelled,
    "await tasks.start(": serves_a_program(1, "0 requests completed, 0 abandoned\n"),
    "aiowsgi.ThreadPool(32)": serves_a_program(2),
    "server.protocol_factory": serves_a_program(1),
    "aiowsgi.run_in_thread(": prints_the_answer,
    "live_wsgi_server": passes_as_a_test,
    "context.sni_callback = ": chooses_a_certificate_by_name,
    "def ready(info):": is_a_hook,
    "aiowsgi.ASGIAdapter(": serves_the_mounted_application,
    "async def count():": parks_a_count,
    'aiowsgi.Channel("orders", history': sends_orders_to_subscribers,
    'aiowsgi.Channel("orders", broker': names_a_broker,
    "aclosing(orders.subscribe())": reads_a_channel,
}


def first_line(block: str) -> str:
    """Name a block by its first line that is no import."""
    return next(line for line in block.splitlines() if line and not line.startswith(("import ", "from ")))


@pytest.mark.parametrize("block", BLOCKS, ids=first_line)
def test_block_of_python_in_readme_does_what_it_says(block: str, tmp_path: Path, capsys: Capture) -> None:
    marks = [mark for mark in DRIVES if mark in block]
    assert len(marks) == 1, f"this block is in the table {len(marks)} times:\n{block}"
    DRIVES[marks[0]](block, tmp_path, capsys)


@pytest.mark.parametrize("mark", DRIVES)
def test_row_of_the_table_has_its_block_in_readme(mark: str) -> None:
    assert len([block for block in BLOCKS if mark in block]) == 1
