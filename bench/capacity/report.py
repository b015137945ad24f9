"""A capacity sheet as text: what is needed, what to set where, and everything that was assumed.

Thread: any. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.capacity.figures import NAMES, Figures
from bench.capacity.quantities import show_count, show_size
from bench.capacity.sheet import (
    DEFAULT_GRACEFUL_SECONDS,
    DEFAULT_NR_OPEN,
    DEFAULT_PACKETS,
    DRAIN_RATE,
    KEEP_ALIVE_SECONDS,
    MOST_CONNECTIONS,
    OTHER_DESCRIPTORS,
    UNEVEN,
    WIDE_PORTS,
    Demand,
    Machine,
    Sheet,
    compute,
)

__all__ = ["COMPARED", "Row", "assumption_rows", "comparison", "need_rows", "setting_rows"]

Row = tuple[str, str, str]

#: What the README compares: connections, and requests per second beside them; an event each second to all of them.
COMPARED = (
    Demand(10_000, rps=500, events=1),
    Demand(100_000, rps=5_000, events=1),
    Demand(1_000_000, rps=50_000, events=1),
)


def need_rows(sheet: Sheet, machine: Machine) -> Iterator[Row]:
    """Yield what, how much, and why."""
    bounds = {"cpu": "processor time", "connections": "--max-connections", "delay": "events in time"}
    decisive = max(sheet.workers_for, key=lambda name: sheet.workers_for[name])
    carrying = sheet.machines - machine.spare
    limit = max(sheet.machines_for, key=lambda name: sheet.machines_for[name])
    yield (
        "machines",
        show_count(sheet.machines),
        f"{carrying} carry everything, limited by their {limit}; {machine.spare} may be away",
    )
    yield (
        "workers",
        f"{sheet.workers_each} × {sheet.machines}",
        f"{bounds[decisive]} asks for {sheet.workers_for[decisive]:,} in all",
    )
    yield "connections of a worker", show_count(sheet.connections_per_worker), "on average, with the spare ones away"
    yield "processor", f"{sheet.busy_cores:.3g} cores", "busy all the time, all machines together"
    yield (
        "memory",
        show_size(sheet.memory),
        f"{show_size(sheet.memory_each)} on a machine; {show_size(sheet.kernel_share)} of it the kernel's, for sockets",
    )
    yield "events", f"{show_count(sheet.deliveries)}/s", "given to clients"
    if sheet.comments:
        yield "keep-alive comments", f"{show_count(sheet.comments)}/s", "in streams that are silent otherwise"
    yield "an event's way", f"{1000 * sheet.event_seconds:.0f} ms", "from a worker to the last of its clients"
    yield "network", f"{sheet.megabits_each:.3g} Mbit/s", "from a machine to its clients, events alone"
    yield "broker", f"{show_count(sheet.broker_messages)}/s", "messages to workers, if each event goes to all of them"
    taken = f"clients come to each of the others at once, and are served again after {sheet.returns_seconds:.2g} s"
    yield "a machine lost", show_count(sheet.returns_each), taken


def setting_rows(sheet: Sheet) -> Iterator[Row]:
    """Yield where, what, and why: on each machine, unless the row says otherwise."""
    default = "as it is"
    yield "aiowsgi", f"--workers {sheet.workers_each} --reuse-port", "the kernel spreads connections evenly"
    yield "aiowsgi", f"--max-connections {sheet.max_connections}", "of each worker"
    yield "aiowsgi", f"--backlog {sheet.backlog}", "for clients that arrive together when another machine is lost"
    if sheet.graceful_seconds > DEFAULT_GRACEFUL_SECONDS:
        yield (
            "aiowsgi",
            f"--graceful-timeout {sheet.graceful_seconds}s",
            f"a worker's streams end at {DRAIN_RATE} a second; whatever stops it must allow longer",
        )
    if sheet.listen_addresses > 1:
        yield "aiowsgi", f"{sheet.listen_addresses} × --bind", "a proxy's address has too few ports for one of these"
    yield "LimitNOFILE", str(sheet.descriptors), "of each worker; nofile in limits.conf, ulimits of a container"
    nr_open = str(sheet.descriptors) if sheet.descriptors > DEFAULT_NR_OPEN else default
    yield "fs.nr_open", nr_open, f"{DEFAULT_NR_OPEN:,} is the default"
    yield "fs.file-max", str(sheet.descriptors_each), "at least; of the whole machine"
    yield "net.core.somaxconn", str(sheet.backlog), "or --backlog is cut to it"
    yield "net.ipv4.tcp_max_syn_backlog", str(sheet.backlog), "the same, before the handshake is over"
    packets = str(sheet.packets) if sheet.packets > DEFAULT_PACKETS else default
    yield "net.core.netdev_max_backlog", packets, "what arrives in 10 ms"
    pages = " ".join(map(str, sheet.tcp_memory))
    yield "net.ipv4.tcp_mem", pages, "pages, unless the machine has more: two per connection, and half as much again"
    yield "net.ipv4.tcp_wmem", "4096 16384 262144", "a slow client fills its socket's buffer: at most this much"
    yield "net.ipv4.tcp_rmem", "4096 16384 262144", "the same, of what clients send"
    yield "net.netfilter.nf_conntrack_max", str(sheet.tracked), "at least; or no tracking on these ports"
    ports = WIDE_PORTS if sheet.port_range else default
    yield "net.ipv4.ip_local_port_range", ports, "on each proxy: one port for each connection to an address"


def assumption_rows(demand: Demand, machine: Machine, figures: Figures) -> Iterator[Row]:
    """Yield everything that was assumed: what, how much, and where it comes from."""
    yield (
        "connections",
        show_count(demand.connections),
        f"{100 * demand.parked:.3g} % are streams of events, the others idle",
    )
    yield "requests", f"{show_count(demand.rps)}/s", "beside the streams, over connections that are open"
    yield (
        "events",
        f"{demand.events:,g}/s",
        f"each to {100 * demand.audience:.3g} % of the streams, {demand.event_size} bytes",
    )
    yield "an event's way", f"{demand.event_seconds:g} s", "at most, from a worker to the last of its clients"
    yield "a machine", f"{machine.cores} cores", f"{machine.reserved} of them for the kernel and others"
    yield "its memory", show_size(machine.memory), f"{machine.memory_share:.0%} for workers and sockets"
    yield "a worker", "one core", f"busy for {machine.utilisation:.0%}; at most {MOST_CONNECTIONS:,} connections"
    yield "proxies", str(machine.proxies), "with one address each; TLS ends there; their own limits are not considered"
    yield "keep-alive", f"{KEEP_ALIVE_SECONDS:g} s", "a comment in a stream without an event for so long"
    yield "unevenness", f"× {UNEVEN:g}", f"on limits; {OTHER_DESCRIPTORS:,} descriptors of a worker for other things"
    for name, unit in NAMES.items():
        figure = figures[name]
        if name == "application" and demand.application is not None:
            yield name, f"{demand.application:g} µs", "as given"
        else:
            shown = show_size(figure.value) if unit == "bytes" else f"{figure.value:g} {unit}"
            yield name, shown, f"{figure.what} ({figure.how}; {figure.date})"
    for where in sorted({figure.machine for figure in figures.values()}):
        yield "measured on", "", where


def comparison(figures: Figures, demands: Sequence[Demand] = COMPARED) -> list[list[str]]:
    """Return the README's table: a column for each demand."""
    sheets = [compute(demand, Machine(), figures) for demand in demands]

    def row(name: str, show: Callable[[Sheet], str]) -> list[str]:
        return [name, *(show(sheet) for sheet in sheets)]

    return [
        ["connections, all of them streams", *(show_count(demand.connections) for demand in demands)],
        ["requests per second", *(show_count(demand.rps) for demand in demands)],
        row("events to clients per second", lambda sheet: show_count(sheet.deliveries)),
        row("machines, one of them spare", lambda sheet: show_count(sheet.machines)),
        row("cores busy in all", lambda sheet: f"{sheet.busy_cores:.3g}"),
        row("memory of a machine", lambda sheet: show_size(sheet.memory_each)),
        row("connections of a machine", lambda sheet: show_count(sheet.connections_each)),
        row("an event's way to a worker's last client", lambda sheet: f"{1000 * sheet.event_seconds:.0f} ms"),
        row("network of a machine", lambda sheet: f"{sheet.megabits_each:.3g} Mbit/s"),
        row("`--workers`", lambda sheet: str(sheet.workers_each)),
        row("`--max-connections`", lambda sheet: str(sheet.max_connections)),
        row("`--graceful-timeout`", lambda sheet: f"{sheet.graceful_seconds}s"),
        row("`--backlog`, `somaxconn`, `tcp_max_syn_backlog`", lambda sheet: str(sheet.backlog)),
        row("`LimitNOFILE` of a worker", lambda sheet: str(sheet.descriptors)),
        row("`fs.file-max`, at least", lambda sheet: str(sheet.descriptors_each)),
        row("`tcp_mem`, where it is less, in pages", lambda sheet: " ".join(map(str, sheet.tcp_memory))),
        row("`nf_conntrack_max`, at least", lambda sheet: str(sheet.tracked)),
        row("`netdev_max_backlog`", lambda sheet: str(sheet.packets)),
        row("`ip_local_port_range` of the proxies", lambda sheet: WIDE_PORTS if sheet.port_range else "as it is"),
        row("addresses or ports to `--bind`", lambda sheet: str(sheet.listen_addresses)),
    ]
