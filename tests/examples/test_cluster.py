"""``examples/cluster``: its two commands as its README has them, and its page in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.chromium import Page, browser
from tests.deploy.daemons import needs
from tests.frameworks.command_line import EXAMPLES, readme_commands
from tests.process.server_process import ServerProcess, environment, wait_until

CLUSTER = EXAMPLES / "cluster"
INSTANCES = ("web1", "web2", "web3")
PROGRAMS = ("redis", *INSTANCES, "haproxy")

note_states = """
    var states = [];
    new MutationObserver(() => states.push(document.getElementById('state').className))
        .observe(document.getElementById('state'), {attributes: true})
"""
is_open = "document.getElementById('state').className === 'state open'"


def command(number: int) -> list[str]:
    run, check = readme_commands(CLUSTER)
    return (run, check)[number]


class RunningCluster(ServerProcess):
    """``run.py``, and the processes that it has said it started."""

    @property
    def url(self) -> str:
        return self.wait_for_log(r"board at (http://\S+)\n")[1]

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in re.findall(rf"^{name}: process (\d+)$", self.log, re.MULTILINE)]

    def kill(self, name: str) -> None:
        """Kill a program with all its processes, and wait until it is started again."""
        count = len(self.pids(name))
        os.killpg(self.pids(name)[-1], signal.SIGKILL)
        wait_until(lambda: len(self.pids(name)) > count, f"another {name}")

    def stop(self) -> None:
        self.signal(signal.SIGINT)
        assert self.wait() == 0, self.log


def runs(group: int) -> bool:
    """Tell whether a process of a group runs; one that was killed may linger until process 1 reaps it."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, own_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(own_group) == group and state not in "ZX":
                return True
    return False


@contextmanager
def cluster(folder: Path) -> Iterator[RunningCluster]:
    """Run the README's first command; what it has started has ended when it has."""
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command(0), cwd=CLUSTER, env=environment(PORT="0"), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    running = RunningCluster(process, log_path)
    try:
        assert running.url
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            running.wait()
        for name in PROGRAMS:
            for pid in running.pids(name):
                wait_until(lambda pid=pid: not runs(pid), f"the end of {name}")


@needs("redis-server", "redis-cli", "haproxy")
@pytest.mark.timeout(240)
def test_clients_miss_nothing_while_the_cluster_is_killed_and_rolled() -> None:
    done = subprocess.run(command(1), cwd=CLUSTER, env=environment(), capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Each client was given what the stream has" in done.stdout


@needs("redis-server", "redis-cli", "haproxy")
def test_run_starts_again_what_ends_and_ends_what_it_started(tmp_path: Path) -> None:
    with cluster(tmp_path) as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        assert "<title>Board</title>" in client.get("/").text
        assert client.get("/ready").status_code == 403
        assert "board,web2," in client.get("/instances;csv").text
        assert client.post("/messages", data={"text": " "}).status_code == 400
        running.kill("web2")
        assert client.get("/").status_code == 200
        # One that does not end with its supervisor would keep its socket.
        running.stop()


def test_run_says_which_package_is_missing(tmp_path: Path) -> None:
    if shutil.which("redis-server", path="/usr/sbin:/usr/local/sbin"):
        pytest.skip("redis-server is in a folder that is always searched")
    done = subprocess.run(
        command(0),
        cwd=CLUSTER,
        env=environment(PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"^run\.py: not installed: .*apt-get install redis-server", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def say(page: Page, text: str) -> None:
    page.evaluate(f"document.getElementById('text').value = {text!r}; document.getElementById('form').requestSubmit()")


def shows(text: str) -> str:
    return f"[...document.querySelectorAll('li.said p')].filter(item => item.innerText === {text!r}).length === 1"


@needs("redis-server", "redis-cli", "haproxy", "chromium")
@pytest.mark.timeout(180)
def test_page_shows_what_another_tab_says_and_what_becomes_of_the_cluster(tmp_path: Path) -> None:
    with cluster(tmp_path) as running, browser() as chromium:
        one, two = chromium.open(running.url), chromium.open(running.url)
        one.wait_until(is_open)
        two.wait_until(is_open)
        # A page that is turned away before there was any message knows where to go on.
        assert re.fullmatch(r"\d+-\d+", one.evaluate("last"))
        say(one, "hello <b>there</b>, żółć")
        for page in (one, two):
            page.wait_until(shows("hello <b>there</b>, żółć"))
        assert re.search(r"taken by web\d · event \d+-\d+", two.text)
        two.wait_until("document.querySelectorAll('.instance.up').length === 3")

        # Redis hangs, then is gone, then is back: senders are told, and streams stay open.
        os.kill(running.pids("redis")[-1], signal.SIGSTOP)
        say(one, "while away")
        one.wait_until("document.getElementById('problem').innerText.includes('Redis')")
        assert one.evaluate("document.getElementById('text').value") == "while away"
        running.kill("redis")
        assert one.evaluate(is_open)
        one.wait_until(f"(document.getElementById('form').requestSubmit(), {shows('while away')})")
        two.wait_until(shows("while away"))

        # The page whose instance is killed says so, and comes back to another one.
        match = re.search(r"connected to (web\d)", two.text)
        assert match
        running.kill(match[1])
        two.wait_until(is_open)
        say(one, "still there?")
        two.wait_until(shows("still there?"))

        # Nobody is there: the browser is turned away, and the page comes back all the same.
        for page in (one, two):
            page.evaluate(note_states)
        for name in INSTANCES:
            os.killpg(running.pids(name)[-1], signal.SIGKILL)
        for page in (one, two):
            page.wait_until(f"states.includes('state lost') && {is_open}")
        say(two, "we are back")
        one.wait_until(shows("we are back"))
        one.screenshot(tmp_path / "light.png")
        one.screenshot(tmp_path / "dark.png", "dark")
        assert not chromium.complaints
        assert "missing" not in one.text + two.text
        running.stop()


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return the module of the second command."""
    names = ("check", "event_source", "run")
    monkeypatch.syspath_prepend(str(CLUSTER))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("check")
    for name in names:
        sys.modules.pop(name, None)


def events(check: ModuleType, *numbers: int) -> list[Any]:
    return [check.Event(f"{number}-0", "said", json.dumps({"token": f"t{number}"})) for number in numbers]


@pytest.mark.parametrize(
    ("got", "says"),
    [((1, 2), "2 events"), ((1, 3), "event 1 is"), ((1, 2, 2, 3), "event 2 is"), ((2, 1, 3), "event 0 is"), ((), "0 ")],
)
def test_check_finds_what_a_client_was_not_given_as_it_is(check: ModuleType, got: tuple[int, ...], says: str) -> None:
    assert check.difference(events(check, *got), events(check, 1, 2, 3)).startswith(says)


def test_check_finds_what_was_published_and_is_not_there_or_is_there_too_often(check: ModuleType) -> None:
    published = check.Published()
    published.told = {"1-0": "t1", "2-0": "t2"}
    published.tries.update({"t1": 1, "t2": 1})
    assert check.compare_published(published, events(check, 1, 2)) == []
    assert check.compare_published(published, events(check, 2)) == ["t1 was published as 1-0, and is not in the stream"]
    (problem,) = check.compare_published(published, events(check, 1, 2, 3))
    assert problem.startswith("t3 is in the stream 1 times, and was sent 0 times")
    again = [*events(check, 1, 2), check.Event("4-0", "said", '{"token": "t2"}')]
    assert len(check.compare_published(published, again)) == 1
    published.tries["t2"] += 1  # it had no answer
    assert check.compare_published(published, again) == []


def test_client_reads_events_however_their_bytes_arrive(check: ModuleType) -> None:
    blocks = [
        b"retry: 700\n\n",
        b"event: worker\ndata: {}\n\n:\n\n",
        b"id: 1-0\nevent: said\n",
        b"data: a\ndata: b\n\n",
    ]
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    response += b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks)

    async def read(size: int) -> None:
        counts = check.Counts()
        source = check.EventSource(0, counts)
        stream = sys.modules["event_source"].Stream(source, b"")
        for start in range(0, len(response), size):
            stream.data_received(response[start : start + size])
        assert not stream.ended.done()
        assert source.events == [check.Event("1-0", "said", "a\nb")]
        assert source.is_open
        assert (source.retry, source.last_event_id) == (0.7, "1-0")
        assert (counts.comments, counts.workers) == (1, {"{}"})

    for size in (1, 7, 1000):
        asyncio.run(read(size))
