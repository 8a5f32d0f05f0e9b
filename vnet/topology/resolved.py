"""A topology spelled out in full: what ``resolve`` makes and ``runtime.build`` builds, with nothing left to derive.

Everything is plain frozen data. Mappings and tuples keep the order of the topology file, so whoever walks them does the same
things in the same order in every run. Units: durations are nanoseconds, rates bit/s, sizes octets, loss a ratio 0..1. MAC
addresses are 6 octets; IP addresses are ``ipaddress`` objects (this is configuration, not the frame path).

::

    ResolvedTopology
    |-- networks    name -> ResolvedNetwork [-- ResolvedDhcp]
    |-- switches    name -> ResolvedSwitch -- ResolvedSwitchPort, numbered from 1
    |-- links       ResolvedLink, switch port to switch port
    |-- guests      name -> ResolvedGuest -- ResolvedInterface
    `-- routers     name -> ResolvedRouter -- ResolvedInterface [, ResolvedNat, ResolvedFirewall]

Each switch port says what is plugged in (``peer``, ``node``, ``interface``); each cable, link and DHCP server says in
which port (``PortRef``). The two always agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Final, Literal, TypeAlias, final

from vnet.addresses import Mac
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.machines import ResolvedMachine
from vnet.topology.resolved_programs import ResolvedProgram
from vnet.units import Duration, Rate, Size

Address: TypeAlias = IPv4Address | IPv6Address
Interface: TypeAlias = IPv4Interface | IPv6Interface
Network: TypeAlias = IPv4Network | IPv6Network
GuestKind: TypeAlias = Literal["emulated", "namespace", "attach", "qemu"]
LINUX_KINDS: Final = ("namespace", "attach")
"""Kinds of guests that are network namespaces in a live lab."""
Admit: TypeAlias = Literal["all", "untagged", "tagged"]
"""Acceptable frame types (IEEE 802.1Q-2018, 6.9); "untagged" takes priority-tagged frames too."""
Peer: TypeAlias = Literal["guest", "router", "dhcp", "adapter", "link"]
Protocol: TypeAlias = Literal["any", "tcp", "udp", "icmp"]
Vlans: TypeAlias = tuple[int, ...] | range
"""VIDs in ascending order; ``ALL_VLANS`` for a trunk that carries them all."""

ALL_VLANS: Final = range(1, 4095)
"""Every VID that a VLAN may have: 0 means "priority-tagged" and 4095 is reserved (IEEE 802.1Q-2018, table 9-2)."""


@final
@dataclass(frozen=True, slots=True)
class PortRef:
    """A switch port by the switch's name and the port's number, from 1."""

    switch: str
    number: int

    def __str__(self) -> str:
        return f"{self.switch}:{self.number}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What a cable does to frames, the same in both directions; the default is an ideal cable.

    ``queue`` bounds, in octets, what waits for a limited ``rate``; None leaves it to the link model.
    """

    rate: Rate | None = None
    latency: Duration = 0
    delay_variation: Duration = 0
    loss: float = 0.0
    reordering: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    queue: Size | None = None

    @property
    def ideal(self) -> bool:
        """Tell whether the cable passes every frame at once."""
        return self == Impairment(queue=self.queue)


@final
@dataclass(frozen=True, slots=True)
class ResolvedRoute:
    """A static route."""

    destination: Network
    via: Address


@final
@dataclass(frozen=True, slots=True)
class ResolvedCable:
    """The cable from a NIC, or from an interface of a router, to its switch port; ``name`` is the NIC's."""

    name: str
    cable: Impairment
    port: PortRef


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBond:
    """A bond: its members, and the options of the Linux bonding driver. Either ``miimon`` or ``arp_interval`` is 0.

    ``primary`` is the index of a member.
    """

    mode: Literal["active-backup"]
    members: tuple[ResolvedCable, ...]
    miimon: Duration
    updelay: Duration
    downdelay: Duration
    primary: int | None
    primary_reselect: Literal["always", "better", "failure"]
    num_grat_arp: int
    arp_interval: Duration
    arp_ip_target: tuple[IPv4Address, ...]
    arp_validate: Literal["none", "active", "backup", "all"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedInterface:
    """An interface of a guest or router, and the cable from it to its switch port.

    ``name`` is eth0, eth1, ... on a guest and the network's name on a router. ``network`` is None for a NIC that carries
    tagged frames (``trunk``); its VLANs stand in the switch port. ``dhcp`` is "client" for an emulated guest that asks for
    its address, "vnet" for a namespace whose address vnet asks for, None for static or no addresses. ``ipv6`` is "auto" for
    an emulated guest that configures itself, "link-local" for one that has only that address and the static ones.

    A VLAN sub-interface names the NIC that it lies on (``parent``) and its VLAN (``vid``); ``port`` and ``bond``
    are the parent's. A bond has the cables of its members; ``port`` is the first one's.
    """

    name: str
    network: str | None
    mac: Mac
    addresses: tuple[Interface, ...]
    gateway: Address | None
    dhcp: Literal["client", "vnet"] | None
    mtu: Size
    cable: Impairment
    port: PortRef
    model: str | None = None
    ipv6: Literal["auto", "link-local"] | None = None
    parent: str | None = None
    vid: int | None = None
    bond: ResolvedBond | None = None

    @property
    def cables(self) -> tuple[ResolvedCable, ...]:
        """List the cables of the interface: one, those of a bond's members, or none if it is a sub-interface."""
        if self.parent is not None:
            return ()
        return (ResolvedCable(self.name, self.cable, self.port),) if self.bond is None else self.bond.members

    @property
    def ports(self) -> tuple[PortRef, ...]:
        """List the switch ports by which frames come to the interface: several for a bond, and what lies on it."""
        return (self.port,) if self.bond is None else tuple(member.port for member in self.bond.members)

    @property
    def has_ipv6(self) -> bool:
        """Tell whether an emulated node speaks IPv6 here: when it is asked to, or has a static address."""
        return self.ipv6 is not None or any(address.version == 6 for address in self.addresses)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDhcp:
    """The virtual DHCP server of a network (VS-50 to VS-61): its own address, its pool, and what it tells clients.

    T1 < T2 < lease. ``server`` is outside ``range_start``..``range_end`` (both inclusive). Reserved addresses may lie inside
    or outside that range; they are kept for their client.
    """

    server: IPv4Address
    mac: Mac
    subnet: IPv4Network
    range_start: IPv4Address
    range_end: IPv4Address
    gateway: IPv4Address | None
    dns: tuple[IPv4Address, ...]
    wins: tuple[IPv4Address, ...]
    lease: Duration
    renew: Duration
    rebind: Duration
    domain: str | None
    reservations: Mapping[Mac, IPv4Address]
    port: PortRef

    @property
    def netmask(self) -> IPv4Address:
        """Return the mask of option 1."""
        return self.subnet.netmask


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedNetwork:
    """A virtual network: one VLAN, perhaps a subnet, perhaps a DHCP server.

    ``adapter`` is the way out to the machine, ``adapter_port`` where it is plugged in: None without a way out, and where a
    guest stands for the machine (``with_host``). Other ways out of a simulated lab are open ends.
    """

    name: str
    vid: int
    subnet: Network | None
    adapter: AdapterSpec
    adapter_port: PortRef | None
    notes: str
    dhcp: ResolvedDhcp | None

    @property
    def open_end(self) -> bool:
        """Tell whether the network should lead out of the lab."""
        return not isinstance(self.adapter, NoAdapter)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSwitchPort:
    """One switch port: its VLAN membership and what is plugged in.

    ``name`` is the far endpoint: "web:eth0", "firewall:dmz", "dmz:dhcp", or the other switch's name on a link, and unique on
    its switch. ``pvid`` is None when untagged frames are not admitted. For peers "dhcp" and "adapter" ``node`` is the
    network's name, for "link" the other switch's, with ``interface`` the link's name.
    """

    number: int
    name: str
    pvid: int | None
    members: Vlans
    untagged: tuple[int, ...]
    admit: Admit
    peer: Peer
    node: str
    interface: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSwitch:
    """A switch; ``ports[i].number == i + 1``. ``mtu`` is the largest payload of a frame it forwards, tags not counted."""

    name: str
    ports: tuple[ResolvedSwitchPort, ...]
    ageing: Duration
    fdb_size: int
    mtu: Size
    priority: int
    stp: Literal["stp", "rstp"] | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedLink:
    """A cable between two switches; ``name`` is "core-edge", with "#2" and so on for further links of the same two."""

    name: str
    a: PortRef
    b: PortRef
    cable: Impairment


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedGuest:
    """A guest: an emulated host, or what the field that is not None says: a network namespace called ``namespace``, that of
    process ``pid``, a virtual ``machine``."""

    name: str
    kind: GuestKind
    interfaces: tuple[ResolvedInterface, ...]
    gateway: Address | None
    routes: tuple[ResolvedRoute, ...]
    dns: tuple[Address, ...]
    search: tuple[str, ...]
    namespace: str | None
    pid: int | None = None
    run: tuple[ResolvedProgram, ...] = ()
    machine: ResolvedMachine | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedForward:
    """A port forward: what arrives at the outside address and ``port`` goes to ``address`` and ``to_port``."""

    protocol: Literal["tcp", "udp"]
    port: int
    address: IPv4Address
    to_port: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NatTimeouts:
    """How long an unused mapping lives (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-1)."""

    udp: Duration
    tcp_established: Duration
    tcp_transitory: Duration
    icmp: Duration


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedNat:
    """NAPT: packets from ``inside`` networks that leave by ``outside`` get the router's address there.

    ``sources`` are the prefixes that are translated: the subnets of the inside networks.
    """

    outside: str
    inside: tuple[str, ...]
    sources: tuple[IPv4Network, ...]
    forwards: tuple[ResolvedForward, ...]
    hairpin: bool
    timeouts: NatTimeouts


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRule:
    """An allow rule: every condition must hold; an empty tuple is no condition.

    ``from_networks`` and ``to_networks`` name the router's interfaces (by network) that the packet comes in and goes out by.
    ``ports`` are inclusive ranges of destination ports, for tcp and udp only.
    """

    from_networks: tuple[str, ...]
    to_networks: tuple[str, ...]
    protocol: Protocol
    ports: tuple[tuple[int, int], ...]
    sources: tuple[Network, ...]
    destinations: tuple[Network, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFirewall:
    """A stateful firewall between a router's networks: ``policy`` for what no rule allows; replies always pass."""

    policy: Literal["drop", "accept", "reject"]
    allow: tuple[ResolvedRule, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRouter:
    """A router between networks; ``routes`` does not repeat the default gateway."""

    name: str
    interfaces: tuple[ResolvedInterface, ...]
    default_gateway: Address | None
    routes: tuple[ResolvedRoute, ...]
    nat: ResolvedNat | None
    firewall: ResolvedFirewall | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTopology:
    """A whole lab, ready to be built. ``warnings`` are texts with their place, for people."""

    name: str
    profile: str
    source: str | None
    networks: Mapping[str, ResolvedNetwork]
    switches: Mapping[str, ResolvedSwitch]
    links: tuple[ResolvedLink, ...]
    guests: Mapping[str, ResolvedGuest]
    routers: Mapping[str, ResolvedRouter]
    warnings: tuple[str, ...] = field(default=())

    def switch_port(self, ref: PortRef) -> ResolvedSwitchPort:
        """Look a port up."""
        return self.switches[ref.switch].ports[ref.number - 1]

    def endpoints(self) -> Iterator[tuple[str, ResolvedInterface]]:
        """Yield every interface with its node's name: guests first, then routers."""
        for guest in self.guests.values():
            yield from ((guest.name, interface) for interface in guest.interfaces)
        for router in self.routers.values():
            yield from ((router.name, interface) for interface in router.interfaces)

    def cables(self) -> Iterator[tuple[str, ResolvedInterface, ResolvedCable]]:
        """Yield every cable of a guest or router, with its node's name and the interface it belongs to."""
        return ((node, interface, cable) for node, interface in self.endpoints() for cable in interface.cables)
