"""The reachability matrix: who reaches whom, measured, beside what the rules of the topology say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import trio

from vnet.errors import UsageError
from vnet.guests.base import Address, Guest, Verdict
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.opaque import OpaqueGuest
from vnet.runtime.resets import watch_resets
from vnet.runtime.usage import called_as
from vnet.runtime.views import Row, address_of
from vnet.topology.reachability import Expectation, Probe, expected
from vnet.topology.reachability6 import expected_ipv6
from vnet.units import SECOND, Duration

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

PROTOCOLS: Final[tuple[Probe, ...]] = ("icmp", "tcp", "udp")
MOST_AT_ONCE: Final = 256
"""Probes under way at a time: a live lab has descriptors for no more."""
MAX_PORT: Final = 65535
NOT_MEASURED: Final = "vnet cannot probe from inside a virtual machine"
NOT_JUDGED: Final = "what IPv6 routers advertise and namespaces forward is not known"

Pair: TypeAlias = tuple[str, str]
"""Source and target."""


@final
@dataclass(frozen=True)
class Reachability:
    """Who reached whom at one instant (seconds on the lab clock); ``details`` say for the others why not.

    ``unexpected`` are the pairs that differ from what the topology's rules say, in its order.
    """

    probe: str
    instant: float
    reached: Mapping[Pair, bool]
    details: Mapping[Pair, str]
    unexpected: tuple[Pair, ...] = ()

    def __getitem__(self, pair: Pair) -> bool:
        """Tell whether the first of a pair reached the second; raise UsageError for a pair that was not probed."""
        if pair not in self.reached:
            named = " to ".join(map(str, pair)) if isinstance(pair, tuple) else repr(pair)
            raise UsageError(
                f"{named} was not probed; the guests are {', '.join(self.guests)}: write it as before['a', 'b']"
            )
        return self.reached[pair]

    @property
    def guests(self) -> tuple[str, ...]:
        """The guests, in the order of the topology."""
        return tuple(dict.fromkeys(name for pair in self.reached for name in pair))

    @property
    def pairs(self) -> frozenset[Pair]:
        """The pairs that reach each other in this direction."""
        return frozenset(pair for pair, reached in self.reached.items() if reached)

    @called_as("before.compare(after)")
    def compare(self, after: Reachability) -> ReachabilityDiff:
        """Tell what is different in *after*; raise UsageError if it was measured with another probe."""
        if not isinstance(after, Reachability):
            raise UsageError(f"{after!r} is no matrix: await lab.reachability() gives one")
        if self.probe != after.probe:
            raise UsageError(f"a matrix of {self.probe} and one of {after.probe} cannot be compared")
        return ReachabilityDiff(
            self.probe,
            (self.instant, after.instant),
            lost={
                pair: after.details[pair] for pair, was in self.reached.items() if was and after.reached.get(pair) is False
            },
            gained=tuple(pair for pair, now in after.reached.items() if now and self.reached.get(pair) is False),
            gone=tuple(pair for pair in self.reached if pair not in after.reached),
            new=tuple(pair for pair in after.reached if pair not in self.reached),
        )

    def __str__(self) -> str:
        names = self.guests
        width = max((len(name) for name in names), default=0)
        marks = {True: "+", False: "-", None: "."}
        lines = [f"{self.probe} at {self.instant:.3f} s, from (row) to (column)"]
        lines += [" " * width + " " + " ".join(names)] if names else []
        for source in names:
            cells = (marks[self.reached.get((source, target))].center(len(target)) for target in names)
            lines.append(f"{source:<{width}} {' '.join(cells)}".rstrip())
        return "\n".join(lines)


@final
@dataclass(frozen=True)
class ReachabilityDiff:
    """What differs between two matrices: false, and "no change" in words, if nothing does.

    ``lost`` has the reason for each pair; ``gone`` and ``new`` are pairs that only one of the two knows.
    """

    probe: str
    instants: tuple[float, float]
    lost: Mapping[Pair, str]
    gained: tuple[Pair, ...]
    gone: tuple[Pair, ...] = ()
    new: tuple[Pair, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lost or self.gained or self.gone or self.new)

    def __str__(self) -> str:
        lines = [f"- {source} no longer reaches {target}: {why}" for (source, target), why in self.lost.items()]
        lines += [f"+ {source} now reaches {target}" for source, target in self.gained]
        for pairs, when in ((self.gone, "after"), (self.new, "before")):
            lines += [f"? {source} to {target} was not probed {when}" for source, target in pairs]
        head = f"{self.probe}, {self.instants[0]:.3f} s to {self.instants[1]:.3f} s: "
        if not lines:
            return head + "no change"
        return "\n".join([head + ("1 change" if len(lines) == 1 else f"{len(lines)} changes"), *lines])


async def snapshot(lab: Lab, protocol: str, port: int | None, timeout: float) -> Reachability:
    """Measure, and keep what a test compares. Errors are those of ``measure``."""
    instant = lab.now
    rows = cast("list[Row]", (await measure(lab, protocol, port, timeout))["matrix"])
    by_pair = {(str(row["from"]), str(row["to"])): row for row in rows}
    return Reachability(
        protocol if port is None else f"{protocol}/{port}",
        instant,
        {pair: bool(row["reached"]) for pair, row in by_pair.items()},
        {pair: str(row["detail"] or "") for pair, row in by_pair.items()},
        tuple(pair for pair, row in by_pair.items() if row["agrees"] is False),
    )


async def measure(lab: Lab, protocol: str, port: int | None, timeout: float) -> dict[str, object]:
    """Probe every guest from every other; return the rows of the matrix in the order of the topology.

    A TCP or UDP port that answers "closed" was reached: the packet came there and back. A reset that a firewall on the way
    sends in the target's name does not count (``vnet.runtime.resets``). Where only a port forward leads to
    the target, its outside address is probed. From a virtual machine nothing can be probed. Pairs with a guest of IPv6
    alone are judged as far as the file says enough (``vnet.topology.reachability6``); else ``expected`` and ``agrees`` are
    None. Raise UsageError for an unknown protocol or a missing port.
    """
    kind = next((each for each in PROTOCOLS if each == protocol), None)
    if kind is None:
        raise UsageError(
            f"{protocol!r} is no protocol to probe with; there are: {', '.join(PROTOCOLS)}; a port comes behind it, as in "
            "reachability('tcp', 80)"
        )
    if (kind == "icmp") != (port is None):
        raise UsageError("icmp has no ports" if kind == "icmp" else f"{kind} needs a port, as in reachability({kind!r}, 80)")
    if port is not None and (not isinstance(port, int) or not 0 <= port <= MAX_PORT):
        raise UsageError(f"{port!r} is no port: it is a whole number up to {MAX_PORT}")
    verdicts = expected(lab.topology, kind, port)
    modern = dict.fromkeys(name for name in lab.guests if _is_ipv6_only(lab, name))  # in order: each run starts alike
    mute = frozenset(name for name, guest in lab.guests.items() if isinstance(guest, OpaqueGuest))
    over_ipv6 = {pair: _judge(lab, *pair, modern) for pair in verdicts if pair[0] in modern or pair[1] in modern}
    async with trio.open_nursery() as nursery:
        for name in modern:
            if isinstance(guest := lab.guests[name], EmulatedGuest):
                nursery.start_soon(guest.settle)
    found = {name: address_of(lab, name) for name in lab.guests}
    addresses = {name: each if isinstance(each, IPv4Address) or name in modern else None for name, each in found.items()}
    rows: dict[tuple[str, str], Row] = {}
    limit = trio.CapacityLimiter(MOST_AT_ONCE)

    async def probe(source: str, target: str) -> None:
        async with limit:
            missing = next((name for name in (target, source) if addresses[name] is None), None)
            address = addresses[target]
            if missing is not None or address is None:
                rows[source, target] = {"reached": False, "detail": f"{missing} has no address", "rtt_s": None}
                return
            if isinstance(address, IPv4Address) and source in modern:
                rows[source, target] = {"reached": False, "detail": f"{source} has no IPv4 address", "rtt_s": None}
                return
            dial = verdicts[source, target].dial or (address, port)
            row, refused = await _probe(lab.guests[source], *dial, kind, timeout)
            if refused and resets is not None and not resets.has_refused(target, source):
                row |= {"reached": False, "detail": f"refused on the way, not by {target}"}
            rows[source, target] = row

    with watch_resets(lab) if kind == "tcp" else nullcontext() as resets:
        async with trio.open_nursery() as nursery:
            for source, target in verdicts:
                nursery.start_soon(probe, source, target)
    judged = {pair: None if pair[0] in mute else over_ipv6.get(pair, verdict) for pair, verdict in verdicts.items()}
    matrix: list[Row] = [
        {
            "from": source,
            "to": target,
            "from_network": _network(lab, source),
            "to_network": _network(lab, target),
            **rows[source, target],
            "expected": None if verdict is None else verdict.allowed,
            "reason": NOT_MEASURED if source in mute else NOT_JUDGED if verdict is None else verdict.reason,
            "through": [] if verdict is None else list(verdict.through),
            "agrees": None if verdict is None else verdict.allowed == rows[source, target]["reached"],
        }
        for (source, target), verdict in judged.items()
    ]
    return {
        "protocol": kind,
        "port": port,
        "guests": list(lab.guests),
        "matrix": matrix,
        "differences": sum(row["agrees"] is False for row in matrix),
    }


def _judge(lab: Lab, source: str, target: str, modern: Collection[str]) -> Expectation | None:
    """Say what the file does of a pair of which one has IPv6 alone."""
    if target in modern:
        return expected_ipv6(lab.topology, source, target)
    has_ipv4 = address_of(lab, target) is not None
    return Expectation(False, f"{source} has no IPv4 address" if has_ipv4 else f"{target} has no address")


def _is_ipv6_only(lab: Lab, name: str) -> bool:
    """Tell whether the topology has no IPv4 address for a guest, neither a static one nor one by DHCP, but IPv6."""
    guest = lab.topology.guests[name]
    networks = [lab.topology.networks[nic.network] for nic in guest.interfaces if nic.network is not None]
    may_lease = guest.kind != "emulated" and any(network.dhcp is not None for network in networks)
    has_ipv4 = may_lease or any(
        nic.dhcp is not None or any(address.version == 4 for address in nic.addresses) for nic in guest.interfaces
    )
    return not has_ipv4 and any(nic.has_ipv6 for nic in guest.interfaces)


def _network(lab: Lab, guest: str) -> str:
    """Name the network of the guest's first NIC, by which people think of its place."""
    return next((nic.network for nic in lab.topology.guests[guest].interfaces if nic.network is not None), "")


async def _probe(guest: Guest, address: Address, port: int | None, protocol: Probe, timeout: float) -> tuple[Row, bool]:
    """Probe once; also tell whether the answer was a refusal, which may come from elsewhere than the target."""
    if port is None:
        reply = await guest.ping(address, timeout=timeout)
        return {"reached": reply.ok, "detail": reply.error, "rtt_s": _seconds(reply.rtt)}, False
    probe = await (guest.tcp_probe if protocol == "tcp" else guest.udp_probe)(address, port, timeout=timeout)
    refused = probe.verdict is Verdict.CLOSED
    row: Row = {
        "reached": refused or probe.verdict is Verdict.OPEN,
        "detail": probe.error or probe.verdict.value,
        "rtt_s": _seconds(probe.rtt),
    }
    return row, refused


def _seconds(duration: Duration | None) -> float | None:
    return None if duration is None else duration / SECOND
