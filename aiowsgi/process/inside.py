"""What a supervisor lets others see of its workers: their summed metrics, and answers at the control socket.

The supervisor listens, and hands the sockets to every worker: whichever accepts a connection asks the supervisor for
all workers' answers, and replies. So there is only one HTTP server in this package, and it is not here.

Counters never go back: when a worker is gone, its counts stay as it last reported them; each reports once more as it
ends.

Thread: the supervisor's.
"""

from __future__ import annotations

import socket
from typing import Any

from aiowsgi.config import Config
from aiowsgi.configuration.addresses import parse_bind
from aiowsgi.errors import StartupError
from aiowsgi.process.privileges import give_files
from aiowsgi.server.listening_sockets import close_sockets, open_sockets
from aiowsgi.server.metrics import Snapshot, summed
from aiowsgi.server.server import CONTROL_MODE

__all__ = ["Inside"]


class Inside:
    """The sockets for those who look inside, and the sum of what workers have reported.

    Args:
        config: ``metrics_bind`` and ``control`` say where to listen.

    Raises:
        StartupError: an address cannot be listened on; nothing is left open.
    """

    def __init__(self, config: Config) -> None:
        #: Listening sockets, by what is served there: ``metrics`` or ``control``.
        self.sockets: dict[str, list[socket.socket]] = {}
        self._ended = Snapshot()
        self._told: dict[int, Snapshot] = {}
        #: The workers that may still tell something: who has left would be counted twice.
        self._telling: set[int] = set()
        self._slots: set[int] = set()
        self._restart_count = 0
        try:
            if config.metrics_bind is not None:
                self.sockets["metrics"] = open_sockets([parse_bind(config.metrics_bind)], config.backlog)
            if config.control is not None:
                self.sockets["control"] = open_sockets(
                    [parse_bind(config.control)], config.backlog, uds_mode=CONTROL_MODE
                )
                give_files(config, [config.control.removeprefix("unix:")])
        except OSError as error:
            self.close()
            raise StartupError(error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more."""
        for sockets in self.sockets.values():
            close_sockets(sockets)
        self.sockets.clear()

    def worker_started(self, number: int, slot: int) -> None:
        """A worker takes a slot, perhaps one that had another worker."""
        self._telling.add(number)
        if slot in self._slots:
            self._restart_count += 1
        self._slots.add(slot)

    def worker_told(self, number: int, fields: dict[str, Any], *, last: bool = False) -> None:
        """A worker has told its metrics; nothing where it has none.

        Args:
            number: of the worker. One that is gone, or has told them for the last time, is not heard.
            fields: what it has told.
            last: it tells no more: what arrives later it has told before.
        """
        if fields and number in self._telling:
            self._told[number] = Snapshot.from_fields(fields)
        if last:
            self._telling.discard(number)

    def worker_ended(self, number: int) -> None:
        """A worker is gone."""
        self._telling.discard(number)
        told = self._told.pop(number, None)
        if told is not None:
            self._ended = summed([self._ended, told.without_gauges()])

    def metrics(self) -> dict[str, Any]:
        """Return the sum of what all workers have reported, including those that are gone."""
        total = summed([self._ended, *self._told.values()])
        total.counters["worker_restarts"] = self._restart_count
        return total.as_fields()
