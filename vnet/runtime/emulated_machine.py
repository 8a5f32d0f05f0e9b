"""The machine of a lab that has none: an emulated guest ``host`` at the far ends of loopback adapters.

It has one interface and one switch port for each network that it was ever on, so that changing back and forth makes no more.
"""

from __future__ import annotations

from ipaddress import IPv6Interface
from typing import TYPE_CHECKING, final

from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.build import Builder
from vnet.stack.host import Host
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.host import HOST, nic_on, with_adapter_port, with_nic, without_addresses, without_nic
from vnet.topology.resolved import PortRef, ResolvedNetwork

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab


@final
class EmulatedMachine:
    """The far ends of loopback adapters where an emulated guest stands for the machine.

    An interface of the machine that loses its network stays, without cable and without addresses, until another one comes.
    """

    def __init__(self, lab: Lab, builder: Builder) -> None:
        self._lab = lab
        self._builder = builder
        self._released: dict[str, PortRef] = {}

    def plug(self, network: ResolvedNetwork, spec: LoopbackSpec) -> None:
        """Give the machine an interface on a network: that which it had there, or another one in its place."""
        self._release(network, spec.name)
        topology, had = self._builder.topology, nic_on(self._builder.topology, network)
        ref = had.port if had is not None else self._released.pop(network.name, None)
        is_new = ref is None
        if ref is None:
            topology, ref = with_adapter_port(topology, network)
        self._builder.topology = with_nic(topology, network, spec, ref)
        if is_new:
            self._builder.add_switch_port(ref)
        elif had is None:
            self._rename_switch_port(ref)
        elif (had.name, had.mac) != (spec.name, spec.mac):
            self._take_away(had.name)
            self._rename_switch_port(ref)
        self._builder.plug_nic(HOST, spec.name, runs=not self._has_crashed)
        self._lab.introduce(self._lab.guests[HOST])
        self._lab.faults.cover()

    def unplug(self, network: ResolvedNetwork, spec: LoopbackSpec) -> None:
        """Take the machine off a network."""
        self._builder.unplug(f"{HOST}:{spec.name}")
        interface = self._host.interfaces[spec.name]
        for address in list(interface.addresses):
            interface.remove_address(address)
        if interface.ipv6 is not None:
            for each in spec.addresses:
                if isinstance(each, IPv6Interface):
                    interface.ipv6.remove_address(each.ip.packed)
        self._builder.topology = without_addresses(self._builder.topology, network)

    def _release(self, network: ResolvedNetwork, name: str) -> None:
        """Take an interface of this name away from another network, which does not use it now, and keep its switch port."""
        guest = self._builder.topology.guests.get(HOST)
        nics = guest.interfaces if guest is not None else ()
        found = next((nic for nic in nics if nic.name == name and nic.network != network.name), None)
        if found is not None and found.network is not None:
            self._builder.topology = without_nic(self._builder.topology, found)
            self._take_away(name)
            self._released[found.network] = found.port
            self._rename_switch_port(found.port)

    def _take_away(self, nic: str) -> None:
        del self._builder.parts.ports[f"{HOST}:{nic}"]
        self._host.remove_interface(nic)

    def _rename_switch_port(self, ref: PortRef) -> None:
        """Make a switch port anew, without cable, because it has another name in the topology now."""
        switch = self._builder.parts.switches[ref.switch]
        del self._builder.parts.ports[switch.ports[ref.number].port.name]
        switch.remove_port(ref.number)
        self._builder.add_switch_port(ref)

    @property
    def _host(self) -> Host:
        guest = self._lab.guests[HOST]
        assert isinstance(guest, EmulatedGuest), "no other guest is called so"
        return guest.host

    @property
    def _has_crashed(self) -> bool:
        return any((fault.kind, fault.what) == ("crash", HOST) for fault in self._lab.faults.active)
