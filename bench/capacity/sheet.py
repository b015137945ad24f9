"""The arithmetic of a capacity sheet: what is asked for, divided by what was measured.

Everything is sized so that all clients still find room while ``spare`` machines are away.

Thread: any. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.capacity.figures import Figures
from bench.errors import BenchError

__all__ = ["Demand", "Machine", "Sheet", "compute"]

# The server's own defaults and limits: see ``aiowsgi --help``.
MOST_CONNECTIONS = 50_000
DEFAULT_BACKLOG = 2048
KEEP_ALIVE_SECONDS = 15.0
DRAIN_RATE = 500
DRAIN_SHARE = 0.8
DEFAULT_GRACEFUL_SECONDS = 25
# Room for connections that are not spread evenly, and for those that are being replaced.
UNEVEN = 1.25
# Descriptors of a worker besides its connections: the loop, logs, temporary files, the application's own.
OTHER_DESCRIPTORS = 1000
# Linux's default of net.ipv4.ip_local_port_range, and the widest one.
DEFAULT_PORTS = 60_999 - 32_768 + 1
MOST_PORTS = 65_535 - 1024 + 1
#: The widest range of ports, as the kernel is told.
WIDE_PORTS = "1024 65535"
# Linux's defaults of fs.nr_open and net.core.netdev_max_backlog.
DEFAULT_NR_OPEN = 1_048_576
DEFAULT_PACKETS = 1000
# Head of Ethernet, IP and TCP with timestamps, and chunk framing.
PACKET_OVERHEAD = 80
# What the kernel counts for a socket with something in it, in pages: one for each direction.
PAGES_EACH = 2


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for.

    Args:
        connections: held open by clients.
        parked: share of them that are streams of events; the others are idle.
        rps: requests per second, besides the streams.
        events: sent per second.
        audience: share of the streams that each event goes to.
        event_size: bytes, as sent.
        event_seconds: within which a worker has sent an event to the last of its clients.
        application: µs of processor time for a request in the application; ``None`` takes the measured example's.
    """

    connections: int
    rps: float = 0.0
    events: float = 0.0
    parked: float = 1.0
    audience: float = 1.0
    event_size: int = 200
    event_seconds: float = 1.0
    application: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, and how many such machines may be away.

    Args:
        cores: of a machine.
        reserved: cores left to the kernel's interrupts and to other programs; none of a single one.
        memory: bytes of a machine.
        utilisation: of a core, by a worker, in the busiest minute.
        memory_share: of the memory, by all workers and their sockets.
        spare: machines that may be away while the others carry everything.
        proxies: in front; each has one address towards the machines.
    """

    cores: int = 8
    reserved: int = 1
    memory: int = 32 * 2**30
    utilisation: float = 0.6
    memory_share: float = 0.75
    spare: int = 1
    proxies: int = 2


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is needed. Names with "each" are for one machine while ``spare`` others are away.

    Args:
        deliveries: events times their recipients, per second.
        comments: keep-alive comments per second.
        busy_cores: processor time per second.
        workers_for: how many each bound alone would need: ``cpu``, ``connections``, ``delay``.
        machines_for: the same: ``workers``, ``memory``.
        machines: in all, including the spare ones.
        workers_each: processes on a machine.
        connections_each: on a machine.
        connections_per_worker: of each of its processes, on average.
        memory: of all workers and sockets.
        memory_each: the same, on a machine.
        kernel_share: of ``memory``: sockets.
        event_seconds: from an event's arrival in a worker to the last of its clients.
        max_connections: of a worker: the option.
        descriptors: of a worker: its limit.
        descriptors_each: of a machine.
        backlog: the option, and the kernel's bound on it.
        listen_addresses: of a machine, so that ports suffice.
        port_range: whether the widest range of ports is needed for that.
        tracked: connections that a machine's firewall has to know.
        tcp_memory: the kernel's three thresholds for the pages of sockets: low, pressure, high.
        packets: that may wait for the kernel on a machine.
        megabits_each: to the clients, per second.
        graceful_seconds: the option, so that a worker's streams end at the usual rate.
        returns_each: clients that come to a machine within a second or so when another one breaks down.
        returns_seconds: until it has taken them all, if it does nothing else.
        broker_messages: sent out by a broker per second.
    """

    deliveries: float
    comments: float
    busy_cores: float
    workers_for: dict[str, int]
    machines_for: dict[str, int]
    machines: int
    workers_each: int
    connections_each: int
    connections_per_worker: int
    memory: int
    memory_each: int
    kernel_share: int
    event_seconds: float
    max_connections: int
    descriptors: int
    descriptors_each: int
    backlog: int
    listen_addresses: int
    port_range: bool
    tracked: int
    tcp_memory: tuple[int, int, int]
    packets: int
    megabits_each: float
    graceful_seconds: int
    returns_each: int
    returns_seconds: float
    broker_messages: float


def compute(demand: Demand, machine: Machine, figures: Figures) -> Sheet:
    """Do the arithmetic.

    Raises:
        BenchError: a machine has no room for a worker.
    """
    value = {name: figure.value for name, figure in figures.items()}
    streams = demand.connections * demand.parked
    reached = streams * demand.audience
    deliveries = demand.events * reached
    # A stream that carries events this often needs no comments.
    silent = demand.events * demand.audience * KEEP_ALIVE_SECONDS < 1
    comments = streams / KEEP_ALIVE_SECONDS if silent else 0.0

    application = value["application"] if demand.application is None else demand.application
    busy = demand.rps * (value["request"] + application) + (deliveries + comments) * value["event"]
    busy_cores = busy / 1e6
    workers_for = {
        "cpu": _count(busy_cores / machine.utilisation),
        "connections": _count(demand.connections / MOST_CONNECTIONS),
        "delay": _count(reached * value["event"] / 1e6 / demand.event_seconds) if demand.events else 1,
    }
    workers = max(workers_for.values())
    usable_cores = max(1, machine.cores - machine.reserved)
    kernel_size = demand.connections * value["socket"]
    clients_size = (
        streams * value["parked_client"] + (demand.connections - streams) * value["idle_connection"] + kernel_size
    )
    room = machine.memory * machine.memory_share
    carrying = _machines(workers, usable_cores, clients_size, value["worker"], room)
    machines_for = {
        "workers": _count(workers / usable_cores),
        "memory": _count(clients_size / (room - value["worker"])),
    }
    workers_each = _count(workers / carrying)
    memory = clients_size + workers_each * carrying * value["worker"]
    connections_each = _count(demand.connections / carrying)
    connections_per_worker = _count(connections_each / workers_each)
    max_connections = _round_up(connections_per_worker * UNEVEN, 1000)
    machines = carrying + machine.spare
    # When a machine breaks down, all its clients come back at once, to those left; to itself if it is the only one.
    returns_each = _count(connections_each / max(1, machines - 1))
    pages = connections_each * PAGES_EACH
    ports_each = machine.proxies * DEFAULT_PORTS
    port_range = connections_each > ports_each
    drain_seconds = connections_per_worker * demand.parked / DRAIN_RATE / DRAIN_SHARE
    sent_each = (deliveries + comments) / carrying
    return Sheet(
        deliveries=deliveries,
        comments=comments,
        busy_cores=busy_cores,
        workers_for=workers_for,
        machines_for=machines_for,
        machines=machines,
        workers_each=workers_each,
        connections_each=connections_each,
        connections_per_worker=connections_per_worker,
        memory=round(memory),
        memory_each=round(memory / carrying),
        kernel_share=round(kernel_size),
        event_seconds=connections_per_worker * demand.parked * demand.audience * value["event"] / 1e6,
        max_connections=max_connections,
        descriptors=max_connections + OTHER_DESCRIPTORS,
        descriptors_each=workers_each * (max_connections + OTHER_DESCRIPTORS),
        backlog=min(65_535, max(DEFAULT_BACKLOG, _power_of_two(returns_each))),
        listen_addresses=_count(connections_each / (machine.proxies * MOST_PORTS)),
        port_range=port_range,
        tracked=_round_up(connections_each * UNEVEN, 1000),
        tcp_memory=(3 * pages // 4, pages, 3 * pages // 2),
        # What arrives in 10 ms: requests, and an acknowledgement for everything sent.
        packets=max(DEFAULT_PACKETS, _power_of_two((demand.rps / carrying + sent_each) * 0.01)),
        megabits_each=sent_each * (demand.event_size + PACKET_OVERHEAD) * 8 / 1e6,
        graceful_seconds=max(DEFAULT_GRACEFUL_SECONDS, _count(drain_seconds)),
        returns_each=returns_each,
        returns_seconds=returns_each * value["arrival"] / 1e6 / workers_each,
        broker_messages=demand.events * workers_each * carrying,
    )


def _machines(workers: int, usable_cores: int, clients_size: float, worker_size: float, room: float) -> int:
    """Return the fewest machines that have a core for each worker, and memory for the workers and their clients."""
    if room <= worker_size:
        raise BenchError(f"--memory: {room:,.0f} bytes of a machine leave no room for a worker of {worker_size:,.0f}")
    # With more workers on each machine fewer machines are needed for them, but each has less room for clients.
    return min(
        max(_count(workers / count), _count(clients_size / (room - count * worker_size)))
        for count in range(1, usable_cores + 1)
        if room > count * worker_size
    )


def _count(number: float) -> int:
    """Return the least whole number that is enough, at least one."""
    return max(1, math.ceil(number - 1e-9))


def _round_up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def _power_of_two(number: float) -> int:
    return 1 << max(0, math.ceil(number) - 1).bit_length()
