"""The examples that park responses, run as their READMEs say."""

from __future__ import annotations

import json
import runpy
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.chromium import browser
from tests.conftest import running_server
from tests.deploy.daemons import needs
from tests.frameworks.command_line import EXAMPLES, readme_commands, served_by_command
from tests.process.server_process import wait_until
from tests.raw import RawClient, Truncated

PATIENCE = 15.0
# httpx reads all certificate authorities for each client unless it is given a context; nothing here uses TLS.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Stream(RawClient):
    """A connection that gets server-sent events."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._frames: list[str] = []

    def __enter__(self) -> Stream:
        return self

    def begin(self, target: str, *fields: str, form: str | None = None) -> None:
        """Send a request, and read the head of its response."""
        lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", *fields]
        if form is not None:
            lines[0] = f"POST {target} HTTP/1.1"
            lines += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(form)}"]
        self.send("\r\n".join([*lines, "", form or ""]).encode())
        response = self.receive_head()
        assert response.status_code == 200
        assert (response.value("Content-Type") or "").startswith("text/event-stream")

    def next_event(self) -> dict[str, str]:
        """Return the fields of the next event: what has no data is none."""
        while True:
            while not self._frames:
                chunk = self.read_chunk()
                assert chunk, "the stream has ended"
                self._frames = chunk.decode().split("\n\n")[:-1]
            frame = self._frames.pop(0)
            fields = dict(line.split(": ", 1) for line in frame.splitlines() if ": " in line)
            if "id" in fields and "data" in fields:
                return fields


class Site:
    """An example that is being served."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.client = client
        self._address = (urlsplit(url).hostname, urlsplit(url).port)

    def connect(self) -> Stream:
        return Stream(socket.create_connection(self._address, PATIENCE))

    @contextmanager
    def stream(self, target: str, *fields: str, form: str | None = None) -> Iterator[Stream]:
        """Open a stream of events."""
        with self.connect() as stream:
            stream.begin(target, *fields, form=form)
            yield stream


@contextmanager
def served(example: str, **variables: str) -> Iterator[Site]:
    (command,) = readme_commands(EXAMPLES / example)
    with (
        served_by_command([*command, "--bind", "127.0.0.1:0"], EXAMPLES / example, **variables) as url,
        httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, verify=_TLS) as client,
    ):
        yield Site(url, client)


def test_flask_board_events_reach_every_tab_and_those_that_come_back() -> None:
    with served("sse_flask") as site:
        page = site.client.get("/").text
        assert 'new EventSource("events")' in page
        assert "src=" not in page  # it needs nothing from elsewhere
        with site.stream("/events") as one, site.stream("/events") as two:
            assert one.read_chunk().endswith(b"\nretry: 2000\n\n")
            assert site.client.get("/state").json()["watching"] == 2
            first = site.client.post("/messages", data={"text": "żółć"}).text.strip()
            for tab in (one, two):
                event = tab.next_event()
                assert (event["id"], event["event"]) == (first, "said")
                assert json.loads(event["data"]) == {"text": "żółć"}
        second = site.client.post("/messages", data={"text": "while away"}).text.strip()
        with site.stream("/events", f"Last-Event-ID: {first}") as tab:
            assert tab.next_event()["id"] == second
        with site.stream("/events", "Last-Event-ID: of-another-process") as tab:
            assert tab.next_event()["event"] == "reset"
        assert site.client.post("/messages", data={"text": " "}).status_code == 400


def follow_job(site: Site, *fields: str) -> list[dict[str, str]]:
    """Return all events of the first job's stream, which has to end."""
    with site.stream("/jobs/1/events", *fields) as follower:
        events = [follower.next_event()]
        while events[-1]["event"] == "progress":
            events.append(follower.next_event())
        assert events[-1]["event"] == "done"
        assert follower.read_chunk() == b""
    return events


def test_django_job_is_followed_from_its_beginning_to_its_end_also_afterwards() -> None:
    with served("sse_django", STEP_SECONDS="0.005") as site:
        assert "EventSource" in site.client.get("/").text
        with site.stream("/events") as tab:
            assert site.client.post("/jobs").json() == {"job": 1}
            assert tab.next_event()["data"] == "1"
        events = follow_job(site)
        assert [event["data"] for event in events[:-1]] == [str(percent) for percent in range(5, 101, 5)]
        assert follow_job(site) == events
        # A tab that has lost its connection before the end, and comes back after it.
        assert follow_job(site, f"Last-Event-ID: {events[4]['id']}") == events[5:]
        assert site.client.get("/jobs/1/events", headers={"Last-Event-ID": events[-1]["id"]}).status_code == 204
        assert site.client.get("/jobs/2/events").status_code == 404


@needs("chromium")
@pytest.mark.timeout(120)
def test_django_page_shows_jobs_to_their_ends_and_when_it_comes_too_late() -> None:
    with served("sse_django", STEP_SECONDS="0.02") as site, browser() as chromium:
        page = chromium.open(str(site.client.base_url))
        page.evaluate("document.getElementById('start').click()")
        page.wait_until("document.body.innerText.includes('done')")
        assert "Job 1" in page.text
        page.evaluate("follow(1)")  # as a tab that hears of it after its end
        page.wait_until("document.body.innerText.split('done').length === 3")
        assert not chromium.complaints
        page.evaluate("follow(2)")  # as a tab that outlives the server's process
        page.wait_until("document.body.innerText.includes('ended')")


def test_long_polling_client_misses_nothing_between_two_questions() -> None:
    with served("long_polling", WAIT_SECONDS="0.2") as site:
        answer = site.client.get("/messages").json()
        assert (answer["messages"], answer["missed"]) == ([], False)
        ids = [site.client.post("/messages", content=text).json()["id"] for text in ("one", "two")]
        answer = site.client.get("/messages", params={"after": answer["last"]}).json()
        assert answer == {"last": ids[1], "messages": ["one", "two"], "missed": False}
        three = site.client.post("/messages", content="three").json()["id"]
        answer = site.client.get("/messages", params={"after": answer["last"]}).json()
        assert answer == {"last": three, "messages": ["three"], "missed": False}
        assert site.client.get("/messages", params={"after": "unknown-1"}).json()["missed"] is True
        assert site.client.get("/other").status_code == 404
        assert site.client.delete("/messages").status_code == 405


def test_long_polling_question_is_answered_when_there_is_something_to_say() -> None:
    with served("long_polling") as site, site.connect() as client:
        client.send(b"GET /messages HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive_head().status_code == 200
        site.client.post("/messages", content="at last")
        assert json.loads(client.read_chunk())["messages"] == ["at last"]
        assert client.read_chunk() == b""


@pytest.fixture(scope="module")
def completions() -> Iterator[Site]:
    with served("token_stream", TOKEN_SECONDS="0.005") as site:
        yield site


def read_tokens(client: RawClient, count: int) -> list[bytes]:
    return [client.read_chunk() for _ in range(count)]


def test_tokens_arrive_one_by_one_until_done(completions: Site) -> None:
    with completions.stream("/complete", form="prompt=hello") as client:
        tokens = read_tokens(client, 200)
        assert all(json.loads(token.removeprefix(b"data: "))["token"] for token in tokens)
        assert client.read_chunk() == b"data: [DONE]\n\n"
        assert client.read_chunk() == b""


def test_generation_is_cancelled_when_its_reader_goes(completions: Site) -> None:
    before = completions.client.get("/state").json()["cancelled"]
    with completions.stream("/complete", form="prompt=long") as client:
        read_tokens(client, 3)
    wait_until(lambda: completions.client.get("/state").json()["cancelled"] == before + 1, "it is cancelled")


def test_fifty_generations_at_a_time_need_four_threads(completions: Site) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(completions.stream("/complete", form=f"prompt={n}")) for n in range(50)]
        for client in clients:
            read_tokens(client, 10)


def test_generation_that_fails_midway_is_cut_off_visibly(
    monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOKEN_SECONDS", "0.001")
    names = runpy.run_path(str(EXAMPLES / "token_stream" / "app.py"))
    with running_server(names["app"]) as server, Stream(server.connect().socket) as client:
        client.begin("/complete", form="prompt=fail")
        read_tokens(client, 5)
        with pytest.raises(Truncated):
            client.read_chunk()
    records = [record.getMessage() for record in error_log.records if record.levelname == "ERROR"]
    assert len(records) == 1
    assert "the model is overloaded" in records[0]


def test_each_example_says_how_to_run_it() -> None:
    for example in ("sse_flask", "sse_django", "long_polling", "token_stream"):
        text = (Path(EXAMPLES) / example / "README.md").read_text()
        assert text.startswith("# ")
        assert len(readme_commands(EXAMPLES / example)) == 1
