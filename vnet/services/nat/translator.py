"""Which external transport address stands for which internal one: mappings, port forwards, filtering.

Mappings are endpoint-independent (RFC 4787 REQ-1, RFC 5382 REQ-1): whatever a guest's port talks to, it appears outside as
one address and port. A mapping lives as long as one connection uses it, so connection tracking does all the timing.

A port forward is a mapping that stands in the configuration. It works in both directions: what its guest sends from the
forwarded port leaves with the external port, and nobody else gets that port.

Bounds: as many mappings as there are ports, and ``max_per_host`` for each internal address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Literal, TypeAlias, final

from vnet.ports import Randomness
from vnet.services.firewall.conntrack import Timeouts
from vnet.services.nat.ports import ExternalPorts
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP

Filtering: TypeAlias = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"]

MAX_MAPPINGS_PER_HOST: Final = 16_384
TRANSLATED: Final = (PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP)
_NUMBERS: Final = {"tcp": PROTOCOL_TCP, "udp": PROTOCOL_UDP}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """What arrives at the external address and *port* goes to *address* and *to_port*; *count* ports in a row."""

    protocol: Literal["tcp", "udp"]
    port: int
    address: IPv4Address
    to_port: int
    count: int = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NatConfig:
    """NAPT between *inside* networks and the *outside* network of a router, named as its interfaces are.

    *sources* are the prefixes that are translated; none means everything that the inside networks send. *filtering* says
    which packets from outside reach a mapping (RFC 4787 section 5): the default lets in only what answers, as a user of
    Internet connection sharing expects.
    """

    outside: str
    inside: tuple[str, ...]
    sources: tuple[IPv4Network, ...] = ()
    forwards: tuple[PortForward, ...] = ()
    hairpin: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    filtering: Filtering = "address-and-port-dependent"
    max_mappings_per_host: int = MAX_MAPPINGS_PER_HOST


@final
class Mapping:
    """One internal transport address and the external port that stands for it; ``uses`` counts connections."""

    __slots__ = ("address", "external_port", "forward", "port", "protocol", "remotes", "uses")

    def __init__(self, protocol: int, address: bytes, port: int, external_port: int, forward: bool) -> None:
        self.protocol = protocol
        self.address = address
        self.port = port
        self.external_port = external_port
        self.forward = forward
        self.uses = 0
        self.remotes: dict[bytes, int] = {}
        """Remote addresses and how many connections go there: what address-dependent filtering asks for."""


@final
class Translator:
    """The mappings of one router with one external address."""

    __slots__ = ("_by_external", "_by_internal", "_forwards", "_hosts", "_ports", "_sources", "config")

    def __init__(self, config: NatConfig, randomness: Randomness) -> None:
        self.config = config
        self._sources = tuple((int(prefix.network_address), int(prefix.netmask)) for prefix in config.sources)
        self._forwards = [(_NUMBERS[forward.protocol], forward.address.packed, forward) for forward in config.forwards]
        self._ports = {protocol: ExternalPorts(protocol, randomness) for protocol in TRANSLATED}
        self._by_internal: dict[tuple[int, bytes, int], Mapping] = {}
        self._by_external: dict[tuple[int, int], Mapping] = {}
        self._hosts: dict[bytes, int] = {}
        for protocol, _, forward in self._forwards:
            for port in range(forward.port, forward.port + forward.count):
                self._ports[protocol].reserve(port)

    def __len__(self) -> int:
        return len(self._by_external)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._by_external.values())

    def translates(self, source: bytes) -> bool:
        """Tell whether packets from this internal address are to be translated."""
        if not self._sources:
            return True
        value = int.from_bytes(source, "big")
        return any(value & mask == network for network, mask in self._sources)

    def outbound(self, protocol: int, address: bytes, port: int) -> Mapping | str:
        """Find or make the mapping of an internal transport address, or return why there can be none.

        A new mapping must be followed by ``use``, or by ``discard`` if its connection does not come about.
        """
        mapping = self._by_internal.get((protocol, address, port))
        if mapping is not None:
            return mapping
        external = self._forwarded_from(protocol, address, port)
        if external is not None:
            return self._by_external.get((protocol, external)) or Mapping(protocol, address, port, external, True)
        if protocol not in self._ports:
            return "nat-protocol"
        if self._hosts.get(address, 0) >= self.config.max_mappings_per_host:
            return "nat-host-limit"
        chosen = self._ports[protocol].choose(port)
        if chosen is None:
            return "nat-ports-exhausted"
        mapping = Mapping(protocol, address, port, chosen, False)
        self._by_internal[protocol, address, port] = mapping
        self._by_external[protocol, chosen] = mapping
        self._hosts[address] = self._hosts.get(address, 0) + 1
        return mapping

    def inbound(self, protocol: int, external_port: int) -> Mapping | None:
        """Find the mapping or port forward that an external port belongs to."""
        mapping = self._by_external.get((protocol, external_port))
        if mapping is not None:
            return mapping
        for number, address, forward in self._forwards:
            if number == protocol and forward.port <= external_port < forward.port + forward.count:
                return Mapping(protocol, address, forward.to_port + external_port - forward.port, external_port, True)
        return None

    def admits(self, mapping: Mapping, remote: bytes) -> bool:
        """Tell whether a packet from a remote address that belongs to no connection may begin one (RFC 4787 REQ-8)."""
        if mapping.forward or self.config.filtering == "endpoint-independent":
            return True
        return self.config.filtering == "address-dependent" and remote in mapping.remotes

    def use(self, mapping: Mapping, remote: bytes) -> None:
        """Note that a connection to *remote* uses the mapping."""
        mapping.uses += 1
        mapping.remotes[remote] = mapping.remotes.get(remote, 0) + 1
        self._by_external.setdefault((mapping.protocol, mapping.external_port), mapping)

    def release(self, mapping: Mapping, remote: bytes) -> None:
        """Note that a connection to *remote* has ended; the last one takes the mapping with it."""
        mapping.uses -= 1
        left = mapping.remotes[remote] - 1
        if left:
            mapping.remotes[remote] = left
        else:
            del mapping.remotes[remote]
        self.discard(mapping)

    def discard(self, mapping: Mapping) -> None:
        """Drop a mapping unless a connection uses it."""
        if mapping.uses or self._by_external.get((mapping.protocol, mapping.external_port)) is not mapping:
            return
        del self._by_external[mapping.protocol, mapping.external_port]
        if mapping.forward:
            return
        del self._by_internal[mapping.protocol, mapping.address, mapping.port]
        self._ports[mapping.protocol].give_back(mapping.external_port)
        left = self._hosts[mapping.address] - 1
        if left:
            self._hosts[mapping.address] = left
        else:
            del self._hosts[mapping.address]

    def _forwarded_from(self, protocol: int, address: bytes, port: int) -> int | None:
        for number, target, forward in self._forwards:
            if number == protocol and target == address and 0 <= port - forward.to_port < forward.count:
                return forward.port + port - forward.to_port
        return None
