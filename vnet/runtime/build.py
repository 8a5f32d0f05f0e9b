"""From a resolved topology to objects: switches, links, guests, routers and services, plugged together.

The same function builds live and simulated labs; only the guests of kind ``namespace`` differ, and those are handed in. The
order is that of the topology file, so that ports, random streams and events come out the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from typing import final

from vnet.fabric.machine_clock import MachineClock
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog
from vnet.guests.base import Guest
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.stand_in import StandIn
from vnet.links.impairments import Impairments
from vnet.links.link import Link
from vnet.ports import Nesting, Port, Randomness
from vnet.runtime.clock import settle
from vnet.runtime.configs import firewall_config, nat_config, vlan_config
from vnet.runtime.host_config import (
    DEFAULT_ROUTE,
    add_routes,
    add_routes_again,
    bond_config,
    ipv4_addresses,
    leased_gateway,
    routes_by,
    start_ipv6,
)
from vnet.runtime.machine_starts import start_times
from vnet.services.dhcp.binding import BindingStore
from vnet.services.dhcp.node import DhcpServerNode
from vnet.services.dhcp.policy import DhcpConfig
from vnet.services.router.router import Router
from vnet.stack.host import Host
from vnet.switch.switch import Switch
from vnet.switch.vlan import VlanConfig
from vnet.topology.resolved import (
    LINUX_KINDS,
    Impairment,
    PortRef,
    ResolvedDhcp,
    ResolvedGuest,
    ResolvedInterface,
    ResolvedRouter,
    ResolvedTopology,
)
from vnet.units import Instant
from vnet.wire.ethernet import HEADER_OCTETS

StoreFor = Callable[[str], BindingStore]
"""Gives the store of a network's DHCP bindings."""


@final
@dataclass(slots=True)
class Parts:
    """Everything a lab is made of, by name; ``ports`` are the nodes' ends of all cables, switches' included."""

    switches: dict[str, Switch] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    routers: dict[str, Router] = field(default_factory=dict)
    dhcp: dict[str, DhcpServerNode] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)


@final
class Builder:
    """Builds one lab's parts on one timeline.

    *live* are the live guests, made beforehand; other guests are emulated. *store_for* gives DHCP servers their
    binding stores. What is added or taken away later is in ``topology`` too, which changes with it.
    """

    def __init__(
        self,
        topology: ResolvedTopology,
        scheduler: Timeline,
        streams: RandomStreams,
        events: EventLog,
        store_for: StoreFor,
        live: Mapping[str, Guest],
    ) -> None:
        self.topology = topology
        self._scheduler = scheduler
        self._streams = streams
        self._events = events
        self._store_for = store_for
        self._live = live
        self._nesting = Nesting(scheduler)
        self.starts = start_times(topology)
        """When each machine starts that is stood in for."""
        self.parts = Parts()

    def build(self) -> Parts:
        """Make and plug everything; DHCP clients are started last, when there is somebody to answer."""
        topology = self.topology
        for switch in topology.switches.values():
            made = Switch(
                switch.name,
                self._scheduler,
                ageing=switch.ageing or None,
                fdb_size=switch.fdb_size,
                max_frame=switch.mtu + HEADER_OCTETS,
                report=self._events.reporter(switch.name),
            )
            self.parts.switches[switch.name] = made
            for port in switch.ports:
                switch_port = made.add_port(vlan_config(port), port.name, port.number)
                self.parts.ports[switch_port.port.name] = switch_port.port
        for link in topology.links:
            self._link(link.name, self._switch_port(link.a), self._switch_port(link.b), link.cable)
        for network in topology.networks.values():
            if network.dhcp is not None:
                self._dhcp_server(network.name, network.dhcp)
        for router in topology.routers.values():
            self._router(router)
        for guest in topology.guests.values():
            self._guest(guest)
        return self.parts

    # -- cables

    def _switch_port(self, ref: PortRef) -> Port:
        return self.parts.switches[ref.switch].ports[ref.number].port

    def _link(
        self, name: str, a: Port, b: Port, cable: Impairment, inline_to_a: bool = False, inline_to_b: bool = False
    ) -> None:
        self.parts.links[name] = Link(
            self._scheduler,
            a,
            b,
            self._streams_of(name),
            name=name,
            rate=cable.rate,
            latency=cable.latency,
            loss=cable.loss,
            queue=cable.queue,
            impairments=Impairments(
                delay_variation=cable.delay_variation,
                reordering=cable.reordering,
                duplication=cable.duplication,
                corruption=cable.corruption,
            ),
            inline_to_a=inline_to_a,
            inline_to_b=inline_to_b,
            report=self._events.reporter(name),
        )

    def _plug(self, port: Port, ref: PortRef, cable: Impairment, inline: bool = False) -> None:
        """Plug a node's port into a switch, which hands frames over at once.

        With *inline* so does the node: adapters, which never answer within the call, and nodes whose nesting is bounded.
        """
        self.parts.ports[port.name] = port
        self._link(port.name, port, self._switch_port(ref), cable, inline_to_a=True, inline_to_b=inline)

    def add_switch_port(self, ref: PortRef) -> None:
        """Add a port that the topology has got since the lab was built."""
        port = self.topology.switch_port(ref)
        made = self.parts.switches[ref.switch].add_port(vlan_config(port), port.name, port.number)
        self.parts.ports[made.port.name] = made.port

    def plug_adapter(self, port: Port, ref: PortRef) -> None:
        """Plug an adapter's port into a switch."""
        self._plug(port, ref, Impairment(), inline=True)

    def add_plug(self, port: Port, switch: str, number: int, vlan: VlanConfig) -> None:
        """Add a switch port that is not in the topology, and plug *port* into it."""
        made = self.parts.switches[switch].add_port(vlan, port.name, number)
        self.parts.ports[made.port.name] = made.port
        self._plug(port, PortRef(switch, number), Impairment(), inline=True)

    def remove_plug(self, port: Port, switch: str, number: int) -> None:
        """Take such a port away again."""
        self.unplug(port.name)
        made = self.parts.switches[switch].ports[number]
        self.parts.switches[switch].remove_port(number)
        del self.parts.ports[port.name], self.parts.ports[made.port.name]

    def plug_nic(self, guest: str, nic: str, *, runs: bool = True) -> None:
        """Add an interface to an emulated guest, which may be new too, or plug one in again that was unplugged.

        A guest that has crashed, and so does not run, gets the cable alone: it finds the rest when it starts again.
        """
        resolved = self.topology.guests[guest]
        emulated = self.parts.guests.setdefault(guest, EmulatedGuest(self._host(replace(resolved, interfaces=()), 0)))
        assert isinstance(emulated, EmulatedGuest), "others have no host"
        interface = next(each for each in resolved.interfaces if each.name == nic)
        host = emulated.host
        made = host.interfaces.get(nic) or host.add_interface(nic, interface.mac, interface.mtu)
        port = made.port
        if runs:
            self._configure(host, resolved, interface)
        else:
            port = self.parts.ports.get(port.name, port)
            made.abandon()
        self._plug(port, interface.port, interface.cable)

    def unplug(self, name: str) -> None:
        """Take the cable of this name away, and lose what is on it."""
        self.parts.links.pop(name).unplug()

    def _streams_of(self, node: str) -> Callable[[str], Randomness]:
        streams = self._streams
        return lambda purpose: streams.stream(node, purpose)

    # -- services

    def _dhcp_server(self, network: str, dhcp: ResolvedDhcp) -> None:
        name = f"{network}:dhcp"
        config = DhcpConfig(
            server=dhcp.server,
            subnet=dhcp.subnet,
            range_start=dhcp.range_start,
            range_end=dhcp.range_end,
            gateway=dhcp.gateway,
            dns=dhcp.dns,
            wins=dhcp.wins,
            lease=dhcp.lease,
            renew=dhcp.renew,
            rebind=dhcp.rebind,
            domain=dhcp.domain,
            reservations=dict(dhcp.reservations),
        )
        node = DhcpServerNode(
            name, self._scheduler, dhcp.mac, config, self._store_for(network), self._streams_of(name),
            self._events.reporter(name),
        )  # fmt: skip
        self.parts.dhcp[network] = node
        self._plug(node.port, dhcp.port, Impairment(), inline=True)  # it never answers within the call

    def _router(self, router: ResolvedRouter) -> None:
        node = Router(router.name, self._scheduler, self._streams_of(router.name), self._events.reporter(router.name))
        self.parts.routers[router.name] = node
        for interface in router.interfaces:
            made = node.add_interface(interface.name, interface.mac, ipv4_addresses(interface), interface.mtu)
            made.port.set_handler(self._nesting.guard(made.receive))
            self._plug(made.port, interface.port, interface.cable, inline=True)
        add_routes(node.routes, router.routes)
        if isinstance(router.default_gateway, IPv4Address):
            node.routes.add(DEFAULT_ROUTE, router.default_gateway.packed)
        if router.nat is not None:
            node.configure_nat(nat_config(router.nat))
        if router.firewall is not None:
            node.configure_firewall(firewall_config(router.firewall))

    # -- guests

    def _guest(self, guest: ResolvedGuest) -> None:
        live = self._live.get(guest.name)
        if live is not None:
            self.parts.guests[guest.name] = live
            for port, interface in zip(live.ports, guest.interfaces, strict=True):
                self._plug(port, interface.port, interface.cable, inline=True)
            return
        emulated = self._emulated(guest)
        emulated.names.servers, emulated.names.search = guest.dns, guest.search
        self.parts.guests[guest.name] = emulated
        ports = emulated.host.nics
        is_on = self.starts.get(guest.name, 0) == 0
        for nic in guest.interfaces:
            if is_on:
                self._configure(emulated.host, guest, nic)
            for cable in nic.cables:
                self._plug(ports[cable.name], cable.port, cable.cable)
            if is_on:
                self._start_dhcp(emulated, guest, nic)
        if not is_on:
            emulated.host.abandon_nics()

    def _emulated(self, guest: ResolvedGuest) -> EmulatedGuest:
        host = self._host(guest, 0)
        if guest.machine is None:
            return EmulatedGuest(host)
        return StandIn(host, guest.machine, self._scheduler, settle, self._events.reporter(guest.name))

    @property
    def last_start(self) -> Instant:
        """When the last machine starts that is stood in for; 0 where all are there from the beginning."""
        stood_in = (name for name, guest in self.parts.guests.items() if isinstance(guest, StandIn))
        return max((self.starts[name] or 0 for name in stood_in), default=0)

    def blank_host(self, name: str, boot: int) -> Host:
        """Make the host of an emulated guest anew, with its interfaces, but neither cables nor addresses.

        The random streams are those of its *boot*, counted from 0: a client that starts again draws other transaction
        identifiers, as a machine with a clock would.
        """
        return self._host(self.topology.guests[name], boot)

    def start_host(self, name: str) -> None:
        """Give an emulated guest's blank host, whose ports are in place by now, what the topology says, and start DHCP."""
        emulated, guest = self.parts.guests[name], self.topology.guests[name]
        assert isinstance(emulated, EmulatedGuest), "only emulated guests have a host"
        for nic in guest.interfaces:
            self._configure(emulated.host, guest, nic)
            self._start_dhcp(emulated, guest, nic)

    def _host(self, guest: ResolvedGuest, boot: int) -> Host:
        streams = self._streams_of(f"{guest.name} boot {boot}" if boot else guest.name)
        scheduler = self._scheduler if guest.machine is None else MachineClock(self._scheduler)
        host = Host(guest.name, scheduler, streams, self._events.reporter(guest.name))
        for nic in guest.interfaces:
            if nic.parent is not None and nic.vid is not None:
                host.add_vlan(host.interfaces[nic.parent], nic.vid, nic.name)
            elif nic.bond is not None:
                rates = {member.name: member.cable.rate for member in nic.bond.members}
                host.add_bond(nic.name, nic.mac, rates, bond_config(nic.bond), nic.mtu)
            else:
                host.add_interface(nic.name, nic.mac, nic.mtu)
        return host

    def _configure(self, host: Host, guest: ResolvedGuest, nic: ResolvedInterface) -> None:
        interface = host.interfaces[nic.name]
        for address in ipv4_addresses(nic):
            interface.add_address(address)
        if isinstance(nic.gateway, IPv4Address):
            host.routes.add(DEFAULT_ROUTE, nic.gateway.packed, interface)
        routes = routes_by(self.topology, guest, nic)
        add_routes(host.routes, routes, interface)
        if nic.has_ipv6:
            start_ipv6(interface, nic, routes)

    def _start_dhcp(self, emulated: EmulatedGuest, guest: ResolvedGuest, nic: ResolvedInterface) -> None:
        if not self._wants_dhcp(guest, nic):
            return
        interface = emulated.host.interfaces[nic.name]
        client = emulated.start_dhcp(interface)
        routes, own = routes_by(self.topology, guest, nic), leased_gateway(self.topology, guest, nic)
        if routes or own:  # they go with the address, and must come back with the next one
            client.on_bound.append(partial(add_routes_again, emulated.host.routes, routes, own, interface))

    def _wants_dhcp(self, guest: ResolvedGuest, nic: ResolvedInterface) -> bool:
        """Tell whether the guest's stand-in asks for an address: where vnet would, and where the user's own client would."""
        if nic.dhcp is not None:
            return True
        network = self.topology.networks.get(nic.network or "")
        return guest.kind != "emulated" and not nic.addresses and network is not None and network.dhcp is not None


def namespace_guests(topology: ResolvedTopology) -> Iterator[ResolvedGuest]:
    """Yield the guests that a live lab makes as Linux namespaces."""
    return (guest for guest in topology.guests.values() if guest.kind in LINUX_KINDS)


def router_address(router: Router) -> IPv4Address | None:
    """Name the address by which a router is called: its first."""
    return next((address.ip for interface in router.interfaces.values() for address in interface.addresses), None)
