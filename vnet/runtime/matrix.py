"""The reachability matrix: who reaches whom, measured, beside what the rules of the topology say."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import trio

from vnet.errors import UsageError
from vnet.guests.base import Guest, Verdict
from vnet.runtime.views import Row, address_of
from vnet.topology.reachability import Probe, expected
from vnet.units import SECOND, Duration

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

PROTOCOLS: Final[tuple[Probe, ...]] = ("icmp", "tcp", "udp")
MOST_AT_ONCE: Final = 256
"""Probes under way at a time: a live lab has descriptors for no more."""


async def measure(lab: Lab, protocol: str, port: int | None, timeout: float) -> dict[str, object]:
    """Probe every guest from every other; return the rows of the matrix in the order of the topology.

    A TCP or UDP port that answers "closed" was reached: the packet came there and back. Where only a port forward leads to
    the target, its outside address is probed. Raise UsageError for an unknown
    protocol or a missing port.
    """
    kind = next((each for each in PROTOCOLS if each == protocol), None)
    if kind is None:
        raise UsageError(f"{protocol!r} is no protocol to probe with; there are: {', '.join(PROTOCOLS)}")
    if (kind == "icmp") != (port is None):
        raise UsageError("icmp has no ports" if kind == "icmp" else f"{kind} needs a port: --port N")
    verdicts = expected(lab.topology, kind, port)
    found = {name: address_of(lab, name) for name in lab.guests}
    addresses = {name: each if isinstance(each, IPv4Address) else None for name, each in found.items()}
    rows: dict[tuple[str, str], Row] = {}
    limit = trio.CapacityLimiter(MOST_AT_ONCE)

    async def probe(source: str, target: str) -> None:
        async with limit:
            missing = next((name for name in (target, source) if addresses[name] is None), None)
            address = addresses[target]
            if missing is not None or address is None:
                rows[source, target] = {"reached": False, "detail": f"{missing} has no address", "rtt_s": None}
                return
            dial = verdicts[source, target].dial or (address, port)
            rows[source, target] = await _probe(lab.guests[source], *dial, kind, timeout)

    async with trio.open_nursery() as nursery:
        for source, target in verdicts:
            nursery.start_soon(probe, source, target)
    matrix: list[Row] = [
        {
            "from": source,
            "to": target,
            "from_network": _network(lab, source),
            "to_network": _network(lab, target),
            **rows[source, target],
            "expected": verdict.allowed,
            "reason": verdict.reason,
            "through": list(verdict.through),
            "agrees": verdict.allowed == rows[source, target]["reached"],
        }
        for (source, target), verdict in verdicts.items()
    ]
    return {
        "protocol": kind,
        "port": port,
        "guests": list(lab.guests),
        "matrix": matrix,
        "differences": sum(row["agrees"] is False for row in matrix),
    }


def _network(lab: Lab, guest: str) -> str:
    """Name the network of the guest's first NIC, by which people think of its place."""
    return next((nic.network for nic in lab.topology.guests[guest].interfaces if nic.network is not None), "")


async def _probe(guest: Guest, address: IPv4Address, port: int | None, protocol: Probe, timeout: float) -> Row:
    if port is None:
        reply = await guest.ping(address, timeout=timeout)
        return {"reached": reply.ok, "detail": reply.error, "rtt_s": _seconds(reply.rtt)}
    probe = await (guest.tcp_probe if protocol == "tcp" else guest.udp_probe)(address, port, timeout=timeout)
    reached = probe.verdict in (Verdict.OPEN, Verdict.CLOSED)
    return {"reached": reached, "detail": probe.error or probe.verdict.value, "rtt_s": _seconds(probe.rtt)}


def _seconds(duration: Duration | None) -> float | None:
    return None if duration is None else duration / SECOND
