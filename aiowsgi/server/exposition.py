"""Metrics in the text formats of Prometheus and OpenMetrics, written by prometheus-client.

Thread: any.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aiowsgi.channels.stats import DELAY_BUCKETS
from aiowsgi.errors import StartupError
from aiowsgi.server.metrics import DURATION_BUCKETS, LAG_BUCKETS, Snapshot, summed
from aiowsgi.server.reports import Answers, Ask
from aiowsgi.server.responder import TEXT, OwnRequest

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["MetricsResponder", "check_installed", "exposition"]


_PREFIX = "aiowsgi_"

#: The help text by name; in a snapshot, a name may be followed by a space and its label.
_COUNTERS = {
    "requests": "Requests that have ended, by the class of their status; none where there was no answer.",
    "request_outcomes": "Requests that have ended, by how their answers ended.",
    "refusals": "Requests that the server answered by itself, by the reason.",
    "connections_accepted": "Connections that were accepted.",
    "request_content_bytes": "Content received, in bytes.",
    "response_content_bytes": "Content sent, in bytes.",
    "thread_seconds": "Seconds that threads have spent on requests, until these ended for their clients.",
    "broker_events": "What became of channels' events at their brokers: sent from here, read here, dropped for slow"
    " subscribers; resets, and lost connections; and attempts to send that failed.",
    "worker_restarts": "Workers that were started to replace another.",
}
_GAUGES = {
    "connections": "Open connections, by what they wait for.",
    "requests_active": "Requests that have not ended, by how far they are.",
    "threads": "Threads for applications, by what they do; the stuck are also running or stalled.",
    "queue_length": "Requests that wait for a thread.",
    "workers": "Processes that serve.",
    "workers_taking_turns": "Of these, the ones whose threads work one after another, since they only compute.",
    "broker_links": "Event loops' links to channels' brokers, by state.",
    "broker_silence_seconds": "Seconds since brokers last answered, summed over those read; some 3 at most each.",
    "channel_subscribers": "Subscriptions to channels with a broker.",
}
_HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "request_duration_seconds": (
        "Seconds from the end of a request's head to the end of its answer.",
        DURATION_BUCKETS,
    ),
    "request_queue_seconds": ("Seconds that requests waited for a thread, or in vain.", DURATION_BUCKETS),
    "event_loop_lag_seconds": ("Seconds by which the event loop was late, measured four times a second.", LAG_BUCKETS),
    "broker_delay_seconds": (
        "Seconds from when a broker took an event until it was read here, by both clocks.",
        DELAY_BUCKETS,
    ),
}


def check_installed() -> None:
    """Make sure that prometheus-client is installed.

    Raises:
        StartupError: it is not.
    """
    try:
        import prometheus_client  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise StartupError(
            "metrics_bind: prometheus-client is not installed; the extra aiowsgi[metrics] has it"
        ) from error


def exposition(snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
    """Write a snapshot.

    Args:
        snapshot: of one process, or the sum of several.
        accept: the client's Accept field.

    Returns:
        The media type, and the text.
    """
    from prometheus_client.exposition import choose_encoder

    # Not what the client wrote, which would be echoed in the media type.
    wanted = "application/openmetrics-text; version=1.0.0" if "application/openmetrics-text" in accept else ""
    encode, media_type = choose_encoder(wanted)
    return media_type, encode(_Collected(snapshot))


class MetricsResponder:
    """Answers every request of a listener of its own.

    Args:
        ask: asks all processes.
    """

    __slots__ = ("_ask",)

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def respond(self, request: OwnRequest) -> bool:
        """See :class:`~aiowsgi.server.responder.Responder`."""
        head = request.head
        if head.path not in ("/", "/metrics"):
            request.answer("404 Not Found", b"the metrics are at /metrics\n", TEXT)
        elif head.method not in ("GET", "HEAD"):
            # RFC 9110 §15.5.6: with the methods that are allowed.
            request.answer(
                "405 Method Not Allowed", b"the metrics can only be read\n", TEXT, field_lines="Allow: GET, HEAD\r\n"
            )
        else:
            accept = head.variables.get("HTTP_ACCEPT", "")

            def answer(answers: Answers) -> None:
                snapshots = [Snapshot.from_fields(fields) for fields in answers["workers"].values() if fields]
                media_type, content = exposition(summed(snapshots), accept)
                request.answer("200 OK", content, media_type)

            self._ask("metrics", answer)
        return True


class _Collected:
    """What an encoder reads: as much of a registry's interface as it needs."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for kinds, values, family_of in (
            (_COUNTERS, self._snapshot.counters, CounterMetricFamily),
            (_GAUGES, self._snapshot.gauges, GaugeMetricFamily),
        ):
            for name, words in kinds.items():
                labelled = [(key, value) for key, value in values.items() if key.partition(" ")[0] == name]
                if labelled:
                    label = labelled[0][0].partition(" ")[2].partition("=")[0]
                    family = family_of(_PREFIX + name, words, labels=[label] if label else [])
                    for key, value in labelled:
                        family.add_metric([key.partition("=")[2]] if label else [], value)
                    yield family
        for name, (words, bounds) in _HISTOGRAMS.items():
            if name in self._snapshot.histograms:
                *counts, total = self._snapshot.histograms[name]
                if len(counts) != len(bounds) + 1:
                    continue  # those of another release, during a reload
                buckets, reached = [], 0.0
                for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
                    reached += count
                    buckets.append((bound, reached))
                histogram = HistogramMetricFamily(_PREFIX + name, words)
                histogram.add_metric([], buckets, total)
                yield histogram
