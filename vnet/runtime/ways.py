"""The ways out of a lab's networks: opened with the lab, changed while it runs (VS-14).

Live, a way out is an adapter behind a port ``office:adapter``, which is plugged into a switch. In a simulated lab there is
no machine: an emulated guest ``host`` has the far end of loopback adapters, all others are open ends.

Guests do not notice a change: their ports, addresses and connections stay. What was learned behind the old adapter is
forgotten with its carrier, and for each address behind the switch a RARP request goes out by the new one, so that
the switches out there learn where it is now, as hypervisors do when a guest moves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Interface
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, final

import trio

from vnet.adapters.base import AdapterContext, HostAdapter, StatefulAdapter
from vnet.adapters.registry import open_adapter
from vnet.adapters.resources import NoLedger
from vnet.errors import HostError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.trace import EventLog
from vnet.guests.emulated import EmulatedGuest
from vnet.ports import NO_OFFLOAD, Port, Scheduler
from vnet.runtime.build import Builder
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.host import HOST, with_adapter_port, with_host
from vnet.topology.resolve_adapter import ADAPTER
from vnet.topology.resolved import PortRef, ResolvedNetwork, ResolvedTopology
from vnet.units import MILLISECOND, Duration
from vnet.wire.arp import rarp_frame

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MakeContext = Callable[[Port, str], AdapterContext]
"""Gives what an adapter is opened with, for its port and the name of its network."""
ANNOUNCED_AFTER: Final[tuple[Duration, ...]] = tuple(delay * MILLISECOND for delay in (50, 200, 500, 1000, 2000))
"""When addresses are announced again: hypervisors do so five times within a second or two."""
MOST_ANNOUNCED: Final = 1024
"""Addresses announced after a change; those left out are learned as they speak."""


@final
@dataclass(slots=True)
class _Open:
    """An adapter that is plugged in."""

    adapter: HostAdapter
    port: Port
    scheduler: Scheduler


@final
class EmulatedMachine:
    """The far ends of loopback adapters where an emulated guest stands for the machine.

    An interface of the machine that loses its network stays, without cable and without addresses.
    """

    def __init__(self, lab: Lab, builder: Builder) -> None:
        self._lab = lab
        self._builder = builder

    def plug(self, network: ResolvedNetwork, spec: LoopbackSpec) -> None:
        """Give the machine an interface on a network, or that which it had there."""
        topology = _with_adapter(self._lab.topology, network, spec, None)
        nics = topology.guests[HOST].interfaces if HOST in topology.guests else ()
        if all(nic.name != spec.name for nic in nics):
            topology, ref = with_adapter_port(topology, network)
            topology = self._builder.topology = with_host(_with_adapter(topology, network, spec, ref))
            self._builder.add_switch_port(ref)
        self._lab.topology = self._builder.topology = topology
        self._builder.plug_nic(HOST, spec.name)
        self._lab.introduce(self._lab.guests[HOST])

    def unplug(self, spec: LoopbackSpec) -> None:
        """Take the machine off a network."""
        self._builder.unplug(f"{HOST}:{spec.name}")
        host = self._lab.guests[HOST]
        assert isinstance(host, EmulatedGuest), "no other guest is called so"
        interface = host.host.interfaces[spec.name]
        for address in list(interface.addresses):
            interface.remove_address(address)
        if interface.ipv6 is not None:
            for each in spec.addresses:
                if isinstance(each, IPv6Interface):
                    interface.ipv6.remove_address(each.ip.packed)


@final
class Ways:
    """The ways out as they come and go: adapters, the emulated machine, and in a simulation open ends for the rest."""

    def __init__(self, lab: Lab, builder: Builder, machine: EmulatedMachine | None) -> None:
        self._lab = lab
        self._builder = builder
        self._machine = machine
        self._make_context: MakeContext | None = None
        self._open: dict[str, _Open] = {}
        self._ports: dict[str, PortRef] = {}

    async def open(self, make_context: MakeContext) -> None:
        """Open what the topology has."""
        self._make_context = make_context
        for network in self._lab.topology.networks.values():
            if network.adapter_port is not None:
                self._ports[network.name] = network.adapter_port
                await self._plug(network, network.adapter)

    async def close(self) -> None:
        """Close everything."""
        for name in list(self._open):
            await self._stop(self._unplug(name))

    def problem(self, network: str) -> str:
        """Ask the adapter."""
        if self._machine is not None and isinstance(self._lab.topology.networks[network].adapter, LoopbackSpec):
            return ""
        found = self._open.get(network)
        return found.adapter.problem if found is not None else "not open"

    def has_carrier(self, network: str) -> bool:
        """Look at the cable, which is down when the adapter's own outside is, or somebody took it down."""
        cable = self._builder.parts.links.get(f"{network}:{ADAPTER}")
        return cable is None or cable.up

    def details(self, network: str) -> dict[str, object]:
        """Ask the adapter."""
        found = self._open.get(network)
        return {} if found is None else {**found.adapter.details(), "drops": dict(found.adapter.drops)}

    async def change(self, network: ResolvedNetwork, spec: AdapterSpec) -> None:
        """Open the new, then close the old; or the other way round if both want the same. What fails leaves the old one."""
        old = network.adapter
        found = self._open.get(network.name)
        if found is not None and isinstance(found.adapter, StatefulAdapter) and found.adapter.adapt(spec):
            _write_down(self._lab, self._builder, network, spec, self._ports[network.name])
            return
        if not spec.excludes(old) and network.name in self._open:
            joining = await self._open_adapter(network, spec)
            leaving = self._unplug(network.name)
            self._join(network, spec, joining)
            await self._stop(leaving)
            return
        if self._machine is not None and isinstance(old, LoopbackSpec):
            self._machine.unplug(old)
        await self._stop(self._unplug(network.name))
        try:
            await self._plug(network, spec)
        except HostError:
            with suppress(HostError):  # it was gone already, and the network is "not open"
                await self._plug(network, old)
            raise

    async def _plug(self, network: ResolvedNetwork, spec: AdapterSpec) -> None:
        if self._machine is not None and isinstance(spec, LoopbackSpec):
            self._machine.plug(network, spec)
            return
        if isinstance(spec, NoAdapter) or not (self._lab.live or spec.works_simulated):
            _write_down(self._lab, self._builder, network, spec, self._ports.get(network.name))
            return
        self._join(network, spec, await self._open_adapter(network, spec))

    async def _open_adapter(self, network: ResolvedNetwork, spec: AdapterSpec) -> _Open:
        assert self._make_context is not None, "the lab is open"
        port = Port(f"{network.name}:{ADAPTER}", _nowhere)
        context = replace(self._make_context(port, network.name), set_carrier=partial(self._set_carrier, network.name, port))
        with trio.CancelScope(shield=True):  # or else nobody would close it
            adapter = await self._aside(open_adapter, spec, context)
        return _Open(adapter, port, context.scheduler)

    def _join(self, network: ResolvedNetwork, spec: AdapterSpec, found: _Open) -> None:
        """Plug an open adapter in; from now on frames pass."""
        self._open[network.name] = found
        ref = self._ports.get(network.name) or self._add_port(network)
        _write_down(self._lab, self._builder, network, spec, ref)
        self._builder.plug_adapter(found.port, ref)
        found.adapter.start()
        if self._lab.live:
            self._announce(network)

    def _set_carrier(self, network: str, port: Port, up: bool) -> None:
        """Take the cable of an adapter up or down with what is behind it; who is there now learns where everybody is."""
        found = self._open.get(network)
        cable = self._builder.parts.links.get(f"{network}:{ADAPTER}")
        if found is not None and found.port is port and cable is not None and cable.up != up:
            cable.up = up
            if up:
                self._announce(self._lab.topology.networks[network])

    def _announce(self, network: ResolvedNetwork) -> None:
        """Tell those behind a new way out several times: they may not forward yet when their port has just come up."""
        found = self._open[network.name]

        def again() -> None:
            if self._open.get(network.name) is found:
                _announce(self._lab, network, self._ports[network.name])

        again()
        for delay in ANNOUNCED_AFTER:
            found.scheduler.at(found.scheduler.now + delay, again)

    def _add_port(self, network: ResolvedNetwork) -> PortRef:
        topology, ref = with_adapter_port(self._lab.topology, network)
        self._lab.topology = self._builder.topology = topology
        self._builder.add_switch_port(ref)
        self._ports[network.name] = ref
        return ref

    def _unplug(self, network: str) -> _Open | None:
        """Take a network's adapter off; it is still to be stopped."""
        found = self._open.pop(network, None)
        if found is not None:
            if isinstance(found.adapter, StatefulAdapter):
                found.adapter.retire()
            self._builder.unplug(found.port.name)
        return found

    async def _stop(self, found: _Open | None) -> None:
        if found is not None:
            found.adapter.stop()
            with trio.CancelScope(shield=True):
                await self._aside(found.adapter.close)

    async def _aside(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call what may block: in a thread, so that live labs go on; in a simulation nobody waits."""
        if self._lab.live:
            return await trio.to_thread.run_sync(function, *args)
        await trio.lowlevel.checkpoint()
        return function(*args)


@final
class _NoPoller:
    """For adapters that work in a simulated lab: they have no descriptors."""

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Refuse."""
        raise AssertionError("a simulated lab reads nothing from the machine")

    def unregister(self, fd: int) -> None:
        """Do nothing: none is registered."""

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Refuse."""
        raise AssertionError("a simulated lab reads nothing from the machine")

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Refuse."""
        raise AssertionError("a simulated lab writes nothing to the machine")


def simulated_context(
    scheduler: Scheduler, streams: RandomStreams, events: EventLog, port: Port, network: str
) -> AdapterContext:
    """Give what an adapter is opened with in a simulated lab."""
    return AdapterContext(
        port=port, poller=_NoPoller(), scheduler=scheduler, streams=partial(streams.stream, port.name),
        report=events.reporter(network), ledger=NoLedger(), directory="",
    )  # fmt: skip


def _write_down(lab: Lab, builder: Builder, network: ResolvedNetwork, spec: AdapterSpec, ref: PortRef | None) -> None:
    """Say in the topology what the network has now."""
    lab.topology = builder.topology = _with_adapter(lab.topology, network, spec, ref)


def _with_adapter(
    topology: ResolvedTopology, network: ResolvedNetwork, spec: AdapterSpec, ref: PortRef | None
) -> ResolvedTopology:
    changed = replace(network, adapter=spec, adapter_port=ref)
    return replace(topology, networks={**topology.networks, network.name: changed})


def _announce(lab: Lab, network: ResolvedNetwork, ref: PortRef) -> None:
    """Have those behind a new way out learn where the network's addresses are."""
    macs = [nic.mac for _, nic in lab.topology.endpoints() if nic.network == network.name]
    for switch in lab.switches.values():
        own = ref.number if switch.name == ref.switch else None
        macs += [entry.mac for entry in switch.fdb if entry.vid == network.vid and entry.port != own]
    port = lab.switches[ref.switch].ports[ref.number].port
    for mac in list(dict.fromkeys(macs))[:MOST_ANNOUNCED]:
        port.send(rarp_frame(mac), NO_OFFLOAD)


def _nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for an adapter that is not open yet."""
