"""Everything that observes requests as they end, as the configuration says: logs, metrics, ids.

Thread: event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiowsgi.configuration.peers import Peers
from aiowsgi.server.access_log import AccessLog
from aiowsgi.server.exposition import check_installed
from aiowsgi.server.metrics import Metrics
from aiowsgi.server.observed import Observer, Taker
from aiowsgi.server.request_id import RequestIds
from aiowsgi.server.statsd import StatsdSender

if TYPE_CHECKING:
    from aiowsgi.server.engine import Engine

__all__ = ["Observation"]


class Observation:
    """What observes one engine; nothing if the configuration wants nothing.

    Args:
        engine: whose ``observer`` is set.

    Raises:
        ConfigError: the format of the access log cannot be understood.
        OSError: its file cannot be opened.
        StartupError: prometheus-client is missing, or statsd's host has no address.
    """

    def __init__(self, engine: Engine) -> None:
        config = engine.config
        self.access_log: AccessLog | None = None
        self.metrics: Metrics | None = None
        self.statsd: StatsdSender | None = None
        takers: list[Taker] = []
        if config.metrics_bind is not None:
            check_installed()
            self.metrics = Metrics(engine)
            takers.append(self.metrics.take)
        if config.statsd_host is not None:
            self.statsd = StatsdSender(config, engine.loop)
            takers.append(self.statsd.take)
        if config.access_log or config.access_logfile is not None:
            self.access_log = AccessLog(config, engine.loop)
            takers.append(self.access_log.take)
        trusted = Peers(config.forwarded_allow_ips)
        ids = None
        if self.access_log is not None or config.request_id_header is not None:
            ids = RequestIds(config.request_id_header, trusted)
        if takers or ids is not None or config.queue_start or config.server_timing:
            engine.observer = Observer(
                takers,
                ids,
                trusted=trusted,
                keeps_environ=self.access_log is not None and self.access_log.reads_environ,
                queue_start=config.queue_start,
                server_timing=config.server_timing,
            )
        if self.metrics is not None:
            self.metrics.start()

    def close(self) -> None:
        """Write and send what is left."""
        for part in (self.metrics, self.statsd, self.access_log):
            if part is not None:
                part.close()
