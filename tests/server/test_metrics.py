"""What is counted, and how Prometheus and statsd are told."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from aiowsgi import Server, StartupError, park
from aiowsgi.bridge.saturation import Saturation
from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.server.exposition import exposition
from aiowsgi.server.metrics import Histogram, Metrics, Snapshot, summed
from aiowsgi.server.statsd import StatsdSender
from tests.conftest import running_server
from tests.hosting import PATIENCE, ask, client_of, eventually, hello, request, run_in_loop
from tests.server.observing import ObservedServer, ended_exchange, refused_exchange

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str, *, openmetrics: bool = False) -> Samples:
    """Parse an exposition as prometheus-client does; each sample once."""
    families = (openmetrics_families if openmetrics else text_string_to_metric_families)(text)
    samples: Samples = {}
    for family in families:
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"aiowsgi_{name}", frozenset(labels.items())]


def told(snapshot: Snapshot) -> Samples:
    media_type, content = exposition(snapshot, "")
    assert media_type.startswith("text/plain; version=0.0.4")
    return samples_of(content.decode())


def metrics_of(*exchanges: Any) -> Metrics:
    with ObservedServer(hello) as server:
        metrics = Metrics(server.engine)
    for exchange in exchanges:
        metrics.take(exchange)
    return metrics


def test_histogram_counts_a_bound_with_what_is_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 7.5)


def test_requests_are_counted_by_status_outcome_and_reason() -> None:
    samples = told(metrics_of(ended_exchange(), ended_exchange(), refused_exchange(status_code=431)).snapshot())
    assert sample(samples, "requests_total", status="2xx") == 2
    assert sample(samples, "requests_total", status="4xx") == 1
    assert sample(samples, "requests_total", status="5xx") == 0
    assert sample(samples, "request_outcomes_total", outcome="complete") == 2
    assert sample(samples, "request_outcomes_total", outcome="refused") == 1
    assert sample(samples, "refusals_total", reason="malformed request line") == 1
    assert sample(samples, "response_content_bytes_total") == 2 * 13 + 40


def test_status_that_no_specification_has_is_counted_once_it_was_answered() -> None:
    answered = told(metrics_of(ended_exchange(status_code=600), ended_exchange(status_code=999)).snapshot())
    assert sample(answered, "requests_total", status="6xx") == 1
    assert sample(answered, "requests_total", status="9xx") == 1
    statuses = {labels for name, labels in told(metrics_of().snapshot()) if name == "aiowsgi_requests_total"}
    assert statuses == {frozenset({("status", text)}) for text in ("2xx", "3xx", "4xx", "5xx", "none")}


def test_times_of_requests_are_histograms() -> None:
    samples = told(metrics_of(ended_exchange(), ended_exchange()).snapshot())
    assert sample(samples, "request_duration_seconds_count") == 2
    assert sample(samples, "request_duration_seconds_sum") == 7.5
    assert sample(samples, "request_duration_seconds_bucket", le="2.5") == 0
    assert sample(samples, "request_duration_seconds_bucket", le="5.0") == 2
    assert sample(samples, "request_duration_seconds_bucket", le="+Inf") == 2
    assert sample(samples, "request_queue_seconds_sum") == 4.0
    assert sample(samples, "thread_seconds_total") == 1.0


def test_request_that_waited_in_vain_has_its_time_in_the_queue_and_one_that_found_no_room_has_none() -> None:
    with ObservedServer(hello, queue_size=1, queue_timeout=5) as server:
        for _ in range(2):
            server.connect().send(request())
        server.loop.run_ready()
        server.loop.advance(6)  # no thread takes it meanwhile
        samples = told(metrics_of(*server.ended).snapshot())
    assert sample(samples, "request_duration_seconds_count") == 2
    assert sample(samples, "request_queue_seconds_count") == 1
    assert sample(samples, "request_queue_seconds_sum") >= 5
    assert sample(samples, "thread_seconds_total") == 0


def test_snapshots_add_up_and_pass_through_json() -> None:
    one = metrics_of(ended_exchange()).snapshot()
    two = metrics_of(ended_exchange(), refused_exchange()).snapshot()
    samples = told(summed([Snapshot.from_fields(one.as_fields()), two, Snapshot()]))
    assert sample(samples, "requests_total", status="2xx") == 2
    assert sample(samples, "refusals_total", reason="malformed request line") == 1
    assert sample(samples, "request_duration_seconds_count") == 3
    assert sample(samples, "workers") == 2
    samples = told(summed([one.without_gauges(), two]))
    assert sample(samples, "requests_total", status="2xx") == 2
    assert sample(samples, "workers") == 1


def test_histogram_of_a_release_with_other_buckets_is_left_out() -> None:
    snapshot = metrics_of(ended_exchange()).snapshot()
    snapshot.histograms["request_duration_seconds"] = [1, 2, 3.0]
    samples = told(snapshot)
    assert not any("request_duration_seconds" in str(name) for name in samples)
    assert sample(samples, "request_queue_seconds_count") == 1


def test_label_that_would_break_the_format_is_escaped() -> None:
    samples = told(Snapshot(counters={'refusals reason=a"b\\c\nd=e': 1}))
    assert sample(samples, "refusals_total", reason='a"b\\c\nd=e') == 1


def test_lag_of_the_loop_is_looked_at_while_metrics_are_on() -> None:
    with ObservedServer(hello) as server:
        metrics = Metrics(server.engine)
        metrics.start()
        server.advance(1.0)
        assert sample(told(metrics.snapshot()), "event_loop_lag_seconds_count") == 4
        metrics.close()
        server.advance(1.0)
        assert sample(told(metrics.snapshot()), "event_loop_lag_seconds_count") == 4


def test_metrics_tell_that_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Saturation, "taking_turns", True)
    with ObservedServer(hello) as server:
        snapshot = Metrics(server.engine).snapshot()
    assert sample(told(summed([snapshot, snapshot])), "workers_taking_turns") == 2


async def scrape(server: Server) -> tuple[Server, bytes]:
    (side,) = server._side_servers
    return side, await ask(side.port, "/metrics")


def test_metrics_are_told_on_a_listener_of_their_own(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"], metrics_bind="127.0.0.1:0") as server:
            await ask(server.port)
            side, answer = await scrape(server)
            head, _, content = answer.partition(b"\r\n\r\n")
            assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8" in head
            samples = samples_of(content.decode())
            assert sample(samples, "requests_total", status="2xx") == 1
            assert sample(samples, "connections_accepted_total") == 1
            assert sample(samples, "workers") == 1
            assert sample(samples, "threads", state="stuck") == 0
            assert sample(samples, "workers_taking_turns") == 0
            assert b" 404 " in await ask(side.port, "/other")
            async with client_of(side.port) as (reader, writer):
                writer.write(request("/metrics", "Connection: close", method="POST"))
                answer = await reader.read()
            assert b" 405 " in answer
            assert b"\r\nAllow: GET, HEAD\r\n" in answer
            assert b"hello" in await ask(server.port, "/metrics")
            port = side.port
        with pytest.raises(ConnectionRefusedError):
            await ask(port, "/metrics")

    run_in_loop(loop_name, main)


def test_metrics_are_told_as_openmetrics_where_that_is_asked_for() -> None:
    snapshot = metrics_of(ended_exchange()).snapshot()
    media_type, content = exposition(snapshot, "application/openmetrics-text; version=99; x=\xff, text/plain;q=0.1")
    assert media_type == "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    samples = samples_of(content.decode(), openmetrics=True)
    assert sample(samples, "requests_total", status="2xx") == 1


def test_metrics_go_on_during_a_drain(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=["127.0.0.1:0"], metrics_bind="127.0.0.1:0", drain_delay=1000)
        await server.start()
        ending = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.engine.leaving)
        assert b" 200 OK" in (await scrape(server))[1]
        await server.shutdown(0)
        await ending

    run_in_loop(loop_name, main)


def test_address_that_is_taken_leaves_nothing_listening(loop_name: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            server = Server(hello, bind=["127.0.0.1:0"], metrics_bind=address)
            with pytest.raises(OSError, match=address):
                await server.start()
            assert server.urls == ()

    run_in_loop(loop_name, main)


@pytest.mark.parametrize("name", ["metrics_bind", "statsd_host"])
@pytest.mark.parametrize("value", ["fd://3", "unix:", "a b", ""])
def test_address_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.*must be host:port or unix:path"):
        Config(**{name: value})


# statsd.


def datagrams(listener: socket.socket) -> list[str]:
    """Return the lines of what has arrived, once something has."""
    listener.settimeout(PATIENCE)
    lines = listener.recv(65536).decode().split("\n")
    listener.settimeout(0)
    try:
        while True:
            lines += listener.recv(65536).decode().split("\n")
    except BlockingIOError:
        return lines


def test_statsd_gets_what_gunicorn_sends() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        options = {"statsd_host": f"127.0.0.1:{listener.getsockname()[1]}", "statsd_prefix": "shop."}
        with running_server(hello, **options) as server, server.connect() as client:
            client.get()
            client.get()
            client.send(b"nonsense\r\n\r\n")
            client.receive()
        lines = datagrams(listener)
    text = "\n".join(lines)
    assert sum(int(count) for count in re.findall(r"^shop\.gunicorn\.requests:(\d+)\|c$", text, re.M)) == 3
    assert sum(int(n) for n in re.findall(r"^shop\.gunicorn\.request\.status\.200:(\d+)\|c$", text, re.M)) == 2
    assert re.search(r"^shop\.gunicorn\.request\.status\.400:1\|c$", text, re.M)
    assert len(re.findall(r"^shop\.gunicorn\.request\.duration:\d+\.\d{3}\|ms$", text, re.M)) == 3


def test_statsd_on_a_unix_socket_may_come_and_go(tmp_path: Path) -> None:
    with ObservedServer(hello) as server:
        path = tmp_path / "statsd"
        config = Config(statsd_host=f"unix:{path}", dogstatsd_tags="env:test,az:1")
        sender = StatsdSender(config, server.engine.loop)
        sender.take(ended_exchange())
        server.advance(1)  # nobody is there
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(path))
            sender.take(ended_exchange())
            server.advance(1)
            assert "gunicorn.request.duration:3750.000|ms|#env:test,az:1" in datagrams(listener)
        sender.take(ended_exchange())
        sender.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs abstract sockets")
def test_statsd_on_an_abstract_socket_is_sent_to() -> None:
    with ObservedServer(hello) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses a name
        name = listener.getsockname()[1:].decode()
        sender = StatsdSender(Config(statsd_host=f"unix:@{name}"), server.engine.loop)
        sender.take(ended_exchange())
        sender.close()
        assert "gunicorn.requests:1|c" in datagrams(listener)


def test_statsd_gets_a_sample_where_there_is_too_much_and_no_datagram_is_too_large() -> None:
    with ObservedServer(hello) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        sender = StatsdSender(Config(statsd_host=f"127.0.0.1:{listener.getsockname()[1]}"), server.engine.loop)
        exchange = ended_exchange()
        for _ in range(4000):
            sender.take(exchange)
        server.advance(1)
        lines = datagrams(listener)
        sender.close()
    assert "gunicorn.requests:4000|c" in lines
    assert 100 <= lines.count("gunicorn.request.duration:3750.000|ms|@0.2500") <= 1000


@pytest.mark.parametrize("host", ["no.such.name.invalid:1", "stats..local:8125"])
def test_statsd_whose_name_is_unknown_keeps_the_server_from_starting(host: str) -> None:
    async def main() -> None:
        with pytest.raises(StartupError, match=re.escape(f"statsd_host={host}: ")):
            await Server(hello, bind=["127.0.0.1:0"], statsd_host=host).start()

    run_in_loop("asyncio", main)


# What an application and its client are told.


def answers_queue_start(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [environ.get("HTTP_X_QUEUE_START", "none").encode()]


def test_queue_start_is_when_the_request_arrived_unless_a_trusted_proxy_knows_better(tmp_path: Path) -> None:
    with running_server(answers_queue_start, queue_start=True) as server, server.connect() as client:
        assert re.fullmatch(rb"t=\d{10}\.\d{6}", client.get().content)
        assert client.get("/", "X-Queue-Start: t=1.5").content != b"t=1.5"
    options: dict[str, Any] = {"queue_start": True, "forwarded_allow_ips": ("127.0.0.1",)}
    with running_server(answers_queue_start, **options) as server, server.connect() as client:
        assert client.get("/", "X-Queue-Start: t=1.5").content == b"t=1.5"
    with running_server(answers_queue_start) as server, server.connect() as client:
        assert client.get().content == b"none"


async def rest() -> AsyncIterator[bytes]:
    yield b"tent"


@pytest.mark.parametrize("kind", ["whole", "stream", "file", "parked"])
def test_server_timing_is_sent_once_where_asked_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fields = [("X-Own", "1")]
        if kind == "parked":
            fields.append(("Content-Length", "3"))  # as middleware adds for the part that it sees
            park(environ, rest())
        start_response("200 OK", fields)
        if kind == "parked":
            return [b"con"]
        if kind == "file":
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
            return wrapped
        return [b"content"] if kind == "whole" else iter([b"con", b"tent"])

    with running_server(application, server_timing=True) as server, server.connect() as client:
        response = client.get()
        assert response.content == b"content"
        assert response.value("X-Own") == "1"
        value = response.value("Server-Timing")
        assert value is not None
        assert re.fullmatch(r"queue;dur=\d+\.\d, app;dur=\d+\.\d", value)
