"""What a firewall between networks lets begin: ordered allow rules, and a policy for everything else.

A rule speaks of the first packet of a connection only; what belongs to a connection that was let in passes without another
look (``conntrack``). The first rule that matches accepts. Where none does, the policy accepts, drops in silence, or rejects:
a TCP reset for TCP, "communication administratively prohibited" (RFC 1812 section 5.2.7.1) for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, Literal, TypeAlias, final

from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP

Policy: TypeAlias = Literal["drop", "accept", "reject"]
Protocol: TypeAlias = Literal["any", "tcp", "udp", "icmp"]

_NUMBERS: Final = {"any": None, "tcp": PROTOCOL_TCP, "udp": PROTOCOL_UDP, "icmp": PROTOCOL_ICMP}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AllowRule:
    """Let new connections begin: every condition must hold, and what is left empty is no condition.

    *from_networks* and *to_networks* name the interfaces that the packet comes in and leaves by. *ports* are inclusive
    ranges of the destination port, and match TCP and UDP only. *destinations* are compared with the address after a port
    forward, so a rule names the guest that is meant.
    """

    from_networks: tuple[str, ...] = ()
    to_networks: tuple[str, ...] = ()
    protocol: Protocol = "any"
    ports: tuple[tuple[int, int], ...] = ()
    sources: tuple[IPv4Network, ...] = ()
    destinations: tuple[IPv4Network, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallConfig:
    """A router's firewall: rules in order, and the policy behind the last of them."""

    policy: Policy = "drop"
    allow: tuple[AllowRule, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say about a new connection; *by* is "rule N", counted from 1, or "policy"."""

    action: Policy
    by: str


@final
class RuleSet:
    """The rules of one firewall, made ready for comparing packed addresses, and what each has decided."""

    __slots__ = ("_otherwise", "_rules", "counters")

    def __init__(self, config: FirewallConfig) -> None:
        self._rules = [_Rule(rule, f"rule {number}") for number, rule in enumerate(config.allow, 1)]
        self._otherwise = Verdict(config.policy, "policy")
        self.counters: dict[str, int] = {rule.verdict.by: 0 for rule in self._rules} | {"policy": 0}
        """How many new connections each rule let in, and how many the policy decided."""

    def decide(self, from_network: str, to_network: str, protocol: int, addresses: bytes, port: int) -> Verdict:
        """Judge the first packet of a connection and count the verdict.

        *addresses* are the source's and the destination's eight octets, *port* the destination's (0 where there is none).
        """
        for rule in self._rules:
            if rule.matches(from_network, to_network, protocol, addresses, port):
                break
        else:
            self.counters["policy"] += 1
            return self._otherwise
        self.counters[rule.verdict.by] += 1
        return rule.verdict


@final
class _Rule:
    __slots__ = ("_destinations", "_from", "_ports", "_protocol", "_sources", "_to", "verdict")

    def __init__(self, rule: AllowRule, name: str) -> None:
        self.verdict = Verdict("accept", name)
        self._from = rule.from_networks
        self._to = rule.to_networks
        self._protocol = _NUMBERS[rule.protocol]
        self._ports = rule.ports
        self._sources = _ranges(rule.sources)
        self._destinations = _ranges(rule.destinations)

    def matches(self, from_network: str, to_network: str, protocol: int, addresses: bytes, port: int) -> bool:
        return (
            (not self._from or from_network in self._from)
            and (not self._to or to_network in self._to)
            and (self._protocol is None or self._protocol == protocol)
            and (not self._ports or (protocol in _WITH_PORTS and any(low <= port <= high for low, high in self._ports)))
            and _within(self._sources, addresses[:4])
            and _within(self._destinations, addresses[4:])
        )


_WITH_PORTS: Final = (PROTOCOL_TCP, PROTOCOL_UDP)


def _ranges(prefixes: tuple[IPv4Network, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((int(prefix.network_address), int(prefix.broadcast_address)) for prefix in prefixes)


def _within(ranges: tuple[tuple[int, int], ...], address: bytes) -> bool:
    if not ranges:
        return True
    value = int.from_bytes(address, "big")
    return any(low <= value <= high for low, high in ranges)
