"""The NICs of a bonded interface: ports with cables, of which ``bond.Bond`` chooses the one that the interface uses.

The interface is one as any other, with one MAC address whatever member is active (Linux: fail_over_mac none); only its port
has no cable. It has a carrier while a member is active. What the others hear is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, assert_never, final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD, Handler, Port
from vnet.stack.bond import Activate, Announce, Bond, BondConfig, Effect, Probe
from vnet.units import Rate
from vnet.wire import arp, vlan
from vnet.wire.ethernet import ETHERTYPE_ARP
from vnet.wire.ipv4 import ANY

if TYPE_CHECKING:
    from vnet.stack.interface import Interface


@final
class BondedNics:
    """Puts a bond's decisions into effect; ``ports`` are the members' by name, in their order."""

    __slots__ = ("_alarm", "_interface", "_names", "bond", "ports")

    def __init__(self, interface: Interface, config: BondConfig, members: Mapping[str, Rate | None]) -> None:
        """Make the members' ports; *members* are their names with their rates in bit/s."""
        self._interface = interface
        self._names: Sequence[str] = tuple(members)
        self._alarm = interface.host.scheduler.alarm(self._expire)
        self.bond = Bond(config, tuple(members.values()))
        self.ports = {name: Port(f"{interface.host.name}:{name}", _nowhere) for name in members}
        for index, port in enumerate(self.ports.values()):
            self._attach(index, port)

    @property
    def active(self) -> str | None:
        """Name the active member."""
        return None if self.bond.active is None else self._names[self.bond.active]

    def adopt(self, ports: Mapping[str, Port]) -> None:
        """Go on with ports that are plugged in already, by name."""
        for index, name in enumerate(self._names):
            port = self.ports[name] = ports[name]
            self._attach(index, port)
            if port.carrier:
                self._apply(self.bond.carrier(index, True, self._interface.host.scheduler.now))

    def abandon(self) -> None:
        """Leave the ports to whoever adopts them."""
        self._alarm.set(None)
        for name, port in self.ports.items():
            port.set_handler(_nowhere)
            port.on_carrier = port.on_change = None
            self.ports[name] = Port(port.name, _nowhere)

    def _attach(self, index: int, port: Port) -> None:
        port.set_handler(self._receiver(index))
        port.on_carrier = lambda up: self._carrier(index, up)
        port.on_change = self._rewire

    def _receiver(self, index: int) -> Handler:
        bond, interface = self.bond, self._interface
        monitors = bool(bond.config.arp_interval)

        def receive(frame: bytes, offload: bytes) -> None:
            if monitors and self._counts(index, frame):
                bond.heard(index, interface.host.scheduler.now)
            if index == bond.active:
                interface.port.receive(frame, offload)
            else:
                interface.ignored += 1

        return receive

    def _counts(self, index: int, frame: bytes) -> bool:
        """Tell whether a frame shows that a member's link works (arp_validate)."""
        config, in_use = self.bond.config, self.bond.is_in_use(index)
        if config.arp_validate not in ("all", "active" if in_use else "backup"):
            return True
        plain = vlan.pop(frame) if vlan.is_tagged(frame) else frame
        if plain[12:14] != ETHERTYPE_ARP:
            return False
        try:
            packet = arp.decode(plain)
        except WireError:
            return False
        local = self._interface.host.local
        if in_use:
            return packet.sender in config.arp_targets and packet.target in local
        return packet.target in config.arp_targets and packet.sender in local  # our own request, sent by the active one

    def _carrier(self, index: int, up: bool) -> None:
        host = self._interface.host
        self._apply(self.bond.carrier(index, up, host.scheduler.now))
        if host.scheduler.now:  # what is plugged in as a lab starts is no news
            host.report("link", interface=self._names[index], up=up)

    def _expire(self) -> None:
        self._apply(self.bond.expire(self._interface.host.scheduler.now))

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Activate():
                    self._activate()
                case Announce():
                    self._interface.announce_addresses()
                case Probe():
                    self._probe(self.ports[self._names[effect.member]])
                case _:
                    assert_never(effect)
        self._alarm.set(self.bond.next_deadline())

    def _activate(self) -> None:
        interface = self._interface
        host, active = interface.host, self.active
        if host.scheduler.now:
            host.report("bond", interface=interface.name, active=active)
        if active is None:
            interface.port.unplug()
            return
        failed_over = interface.up
        interface.port.plug(self.ports[active].send)
        if failed_over:  # else the interface says so by itself, as its carrier comes
            interface.announce_groups()

    def _rewire(self) -> None:
        """Follow the active member's port, whose way out was replaced: by a capture, a fault or a cable."""
        if self.active is not None and self._interface.up:
            self._interface.port.reroute(self.ports[self.active].send)

    def _probe(self, port: Port) -> None:
        """Ask for each target by one member, with the tag of the network that it is on."""
        interface = self._interface
        for target in self.bond.config.arp_targets:
            route = interface.host.routes.lookup(target)
            way = route.interface if route is not None and route.interface.parent is interface else interface
            frame = arp.request_frame(interface.mac, way.source_for(target) or ANY, target)
            vids = interface.vlans.members.items() if interface.vlans is not None else ()
            tag = next((vid for vid, member in vids if member is way), None)
            port.send(frame if tag is None else vlan.push(frame, tag), NO_OFFLOAD)


def _nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for a node that does not listen."""
