"""A router: an emulated host whose interfaces pass packets on, with NAT and a stateful firewall between them.

The parts, each with its own module::

    frame --> flows        packets like one seen before: one look-up, one copy
                |miss
              forwarder    RFC 1812: checks, route, TTL, MTU, errors
                |new
              sessions     NAT (services.nat) and firewall (services.firewall) over one table of connections

The network's name is the interface's name. One alarm serves all that expires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import final

from vnet.ports import Randomness, Report, Scheduler, no_report
from vnet.services.firewall.conntrack import Connection
from vnet.services.firewall.rules import FirewallConfig
from vnet.services.nat.translator import NatConfig
from vnet.services.router.drops import DropLog, transport_address
from vnet.services.router.forwarder import Forwarder
from vnet.services.router.sessions import Sessions
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.stack.routes import RouteTable
from vnet.units import Duration
from vnet.wire.ethernet import DEFAULT_MTU
from vnet.wire.ipv4 import PROTOCOL_NAMES, text


@final
@dataclass(frozen=True, slots=True)
class NatEntry:
    """A mapping for display: transport addresses as text. ``forward`` marks a port forward in use."""

    protocol: str
    inside: str
    outside: str
    connections: int
    forward: bool


@final
@dataclass(frozen=True, slots=True)
class FlowEntry:
    """A tracked connection for display; ``source`` and ``destination`` as the originator sees them, ``translated`` as they
    leave. ``expires_in`` is in nanoseconds."""

    protocol: str
    state: str
    from_network: str
    to_network: str
    source: str
    destination: str
    translated: str
    expires_in: Duration


@final
class Router:
    """A node that routes between its interfaces; ``host`` answers for the router's own addresses.

    ``drops`` counts by reason what was not forwarded; what was addressed to the router and not taken is in ``host.drops``.
    """

    __slots__ = ("_alarm", "_forwarder", "_log", "_sessions", "host", "name", "nat")

    def __init__(
        self, name: str, scheduler: Scheduler, streams: Callable[[str], Randomness], report: Report = no_report
    ) -> None:
        self.name = name
        self.nat: NatConfig | None = None
        self.host = Host(name, scheduler, streams, report)
        self._log = DropLog(report)
        self._sessions = Sessions(self._ended)
        self._forwarder = Forwarder(self.host, self._sessions, self._log, self._arm)
        self._sessions.connections.on_earlier = self._arm
        self._alarm = scheduler.alarm(self._expire)
        self.host.on_ipv4 = self._forwarder.flows.receive
        self.host.on_unresolved = self._forwarder.unresolved
        self.host.on_change = self._changed

    def __repr__(self) -> str:
        return f"<Router {self.name}>"

    # Configuration

    @property
    def interfaces(self) -> dict[str, Interface]:
        """The interfaces by the name of their network."""
        return self.host.interfaces

    @property
    def routes(self) -> RouteTable:
        """The routing table; connected networks are in it already."""
        return self.host.routes

    def add_interface(
        self, name: str, mac: bytes, addresses: Iterable[IPv4Interface] = (), mtu: int = DEFAULT_MTU
    ) -> Interface:
        """Add an interface to the network *name*; its ``port`` is then to be plugged in."""
        interface = self.host.add_interface(name, mac, mtu)
        for address in addresses:
            interface.add_address(address)
        return interface

    def configure_nat(self, config: NatConfig | None) -> None:
        """Share the outside network's address with the inside networks, or stop that; tracked connections end.

        Who turns it on opens inside guests a way out, and outside ones a way to the forwarded ports, so it is put on record.
        """
        self.nat = config
        self._sessions.configure_nat(config, self.host.stream("nat"))
        self._changed()
        if config is not None:
            inside = ",".join(config.inside)
            self.host.report("nat-enabled", outside=config.outside, inside=inside, forwards=len(config.forwards))

    def configure_firewall(self, config: FirewallConfig | None) -> None:
        """Put a stateful firewall between the networks, or take it away; tracked connections end."""
        self._sessions.configure_firewall(config)
        self._changed()

    # What is going on

    @property
    def drops(self) -> dict[str, int]:
        """How many packets were not forwarded, by reason."""
        return self._log.counts

    @property
    def forwarded(self) -> int:
        """How many packets were forwarded, a super-frame counted once."""
        return self._forwarder.flows.forwarded

    @property
    def evicted(self) -> int:
        """How many connections gave way to new ones because the table was full."""
        return self._sessions.connections.evicted

    def rule_counters(self) -> dict[str, int]:
        """List how many connections each firewall rule let in and how many fell to the policy; empty without firewall."""
        rules = self._sessions.rules
        return dict(rules.counters) if rules is not None else {}

    def nat_counters(self) -> dict[str, int]:
        """Tell how many connections NAT translated, by how: "outbound", "hairpin", "inbound", "forward tcp/80"."""
        return dict(self._sessions.nat_counters)

    def nat_table(self) -> list[NatEntry]:
        """List the mappings in the order they were made."""
        translator, external = self._sessions.translator, self._sessions.external or bytes(4)
        self._sessions.connections.expire(self.host.scheduler.now)
        return [
            NatEntry(
                protocol=PROTOCOL_NAMES[mapping.protocol],
                inside=f"{text(mapping.address)}:{mapping.port}",
                outside=f"{text(external)}:{mapping.external_port}",
                connections=mapping.uses,
                forward=mapping.forward,
            )
            for mapping in (translator or ())
        ]

    def flows(self) -> list[FlowEntry]:
        """List the tracked connections in the order they were opened."""
        now = self.host.scheduler.now
        self._sessions.connections.expire(now)
        return [_flow_entry(connection, now) for connection in self._sessions.connections]

    def flush(self) -> int:
        """Forget every connection and with them every mapping; return how many there were."""
        count = len(self._sessions.connections)
        self._sessions.connections.clear()
        self._forwarder.fragments.clear()
        return count

    # Time and change

    def _changed(self) -> None:
        outside = self.interfaces.get(self.nat.outside) if self.nat is not None else None
        self._sessions.set_external(outside.address if outside is not None else None)
        self._forwarder.changed()

    def _ended(self, connection: Connection) -> None:
        self._forwarder.flows.forget(connection)

    def _expire(self) -> None:
        now = self.host.scheduler.now
        self._sessions.connections.expire(now)
        self._forwarder.fragments.expire(now)
        self._arm()

    def _arm(self) -> None:
        deadlines = (self._sessions.connections.next_deadline(), self._forwarder.fragments.next_deadline())
        self._alarm.set(min((deadline for deadline in deadlines if deadline is not None), default=None))


def _flow_entry(connection: Connection, now: int) -> FlowEntry:
    arrives, leaves = connection.original.arrives, connection.original.leaves
    if connection.tcp is not None:
        state = connection.tcp.name.lower().replace("_", "-")
    else:
        state = "answered" if connection.answered else "unanswered"
    return FlowEntry(
        protocol=PROTOCOL_NAMES.get(connection.protocol, str(connection.protocol)),
        state=state,
        from_network=connection.from_network,
        to_network=connection.to_network,
        source=transport_address(arrives[:4], arrives[8:10]),
        destination=transport_address(arrives[4:8], arrives[10:12]),
        translated=f"{transport_address(leaves[:4], leaves[8:10])} > {transport_address(leaves[4:8], leaves[10:12])}",
        expires_in=connection.deadline - now,
    )
