"""The ways out of a lab's networks: opened with the lab, changed while it runs (VS-14).

Live, a way out is an adapter behind a port ``office:adapter``, which is plugged into a switch. In a simulated lab there is
no machine: an emulated guest ``host`` has the far end of loopback adapters (``vnet.runtime.emulated_machine``), all others
are open ends.

Guests do not notice a change: their ports, addresses and connections stay. What was learned behind the old adapter is
forgotten with its carrier, and for each address behind the switch a RARP request goes out by the new one, so that
the switches out there learn where it is now, as hypervisors do when a guest moves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, final

import trio

from vnet.adapters.base import AdapterContext, HostAdapter, RecordingAdapter, StatefulAdapter
from vnet.adapters.registry import open_adapter
from vnet.adapters.resources import NoLedger
from vnet.errors import HostError, UsageError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.trace import EventLog
from vnet.ports import NO_OFFLOAD, Port, Scheduler
from vnet.runtime.build import Builder
from vnet.runtime.emulated_machine import EmulatedMachine
from vnet.topology.adapter_kinds.claims import compete, taken
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.adapter_kinds.pcap import PcapSpec
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.host import with_adapter_port
from vnet.topology.resolve_adapter import ADAPTER
from vnet.topology.resolved import PortRef, ResolvedNetwork
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
@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """A network that is being changed, with the way out that it is to have."""

    network: ResolvedNetwork
    ended: trio.Event


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
        self._recorded: set[str] = set()
        self._is_copy = False
        self._is_closed = False
        self._changing: list[_Change] = []

    async def open(self, make_context: MakeContext) -> None:
        """Open what the topology has: first those that others of the same file may dial, whatever the order there."""
        self._make_context = make_context
        for network in sorted(self._lab.topology.networks.values(), key=lambda each: each.adapter.dials):
            if network.adapter_port is not None:
                self._ports[network.name] = network.adapter_port
                await self._plug(network, network.adapter)

    async def settle(self) -> None:
        """Let nothing be changed any more, and wait for the end of what is under way, while the lab can still run it."""
        self._is_closed = True
        with trio.CancelScope(shield=True):
            for change in list(self._changing):
                await change.ended.wait()

    async def close(self) -> None:
        """Close everything, for good; then raise what went wrong with the first that could not be."""
        await self.settle()
        failures: list[Exception] = []
        while self._open:
            try:
                await self._unplug(next(iter(self._open)))
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def leave_files(self) -> None:
        """Write into no file of before any more: this lab is a copy, and the files are the original's."""
        self._is_copy = True
        for found in self._open.values():
            if isinstance(found.adapter, RecordingAdapter):
                found.adapter.leave_file()

    def check_open(self) -> None:
        """Raise UsageError if the lab has ended, so that nobody would close what is opened now."""
        if self._is_closed:
            raise UsageError(f"lab {self._lab.name} has ended: its networks cannot be given another way out")

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
        """Open the new way out, and only then close the old one, which a refusal so leaves alone.

        Where both want the same thing of the machine, the old one has to go first; it comes back if the new one fails.
        Raise UsageError if another network has what the new one wants, or the lab has ended.
        """
        self.check_open()
        others = [other for other in self._lab.topology.networks.values() if other.name != network.name]
        others += [each.network for each in self._changing]  # what they want; what they have yet is among the others
        if problem := taken(spec, others):
            raise UsageError(f"network {network.name}: {problem}")
        under_way = _Change(replace(network, adapter=spec), trio.Event())
        self._changing.append(under_way)
        try:
            await self._change(network, spec)
        finally:
            self._changing.remove(under_way)
            under_way.ended.set()

    async def _change(self, network: ResolvedNetwork, spec: AdapterSpec) -> None:
        old = network.adapter
        found = self._open.get(network.name)
        if found is not None and isinstance(found.adapter, StatefulAdapter) and found.adapter.adapt(spec):
            self._write_down(network, spec, self._ports[network.name])
            return
        if not (self._opens(spec) and self._opens(old) and compete(old, spec)):
            opened = await self._open_adapter(network, spec)
            await self._replace(network, old, spec, opened)
            return
        self._leave_machine(network, old)
        await self._unplug(network.name)
        try:
            opened = await self._open_adapter(network, spec)
        except BaseException:
            with trio.CancelScope(shield=True), suppress(HostError):  # it was gone already, and the network is "not open"
                await self._plug(network, old)
            raise
        self._put_up(network, spec, opened)

    async def _replace(self, network: ResolvedNetwork, old: AdapterSpec, spec: AdapterSpec, opened: _Open | None) -> None:
        """Put the new one up as soon as the old one is silent: closing it may take long, or fail."""
        self._leave_machine(network, old)
        await self._unplug(network.name, then=lambda: self._put_up(network, spec, opened))

    def _opens(self, spec: AdapterSpec) -> bool:
        """Tell whether something is opened on the machine for it."""
        if isinstance(spec, NoAdapter) or (self._machine is not None and isinstance(spec, LoopbackSpec)):
            return False
        return self._lab.live or spec.works_simulated

    async def _plug(self, network: ResolvedNetwork, spec: AdapterSpec) -> None:
        self._put_up(network, spec, await self._open_adapter(network, spec))

    async def _open_adapter(self, network: ResolvedNetwork, spec: AdapterSpec) -> _Open | None:
        """Open what is to be opened on the machine; it is not plugged in yet."""
        if not self._opens(spec):
            return None
        assert self._make_context is not None, "the lab is open"
        port = Port(f"{network.name}:{ADAPTER}", nowhere)
        context = replace(self._make_context(port, network.name), set_carrier=partial(self._set_carrier, network.name, port))
        with trio.CancelScope(shield=True):  # or else nobody would close it
            adapter = await self._aside(open_adapter, self._with_file(spec), context)
        return _Open(adapter, port, context.scheduler)

    def _with_file(self, spec: AdapterSpec) -> AdapterSpec:
        """Note which file is recorded; in a copy of the lab leave those alone that the original has recorded."""
        if not isinstance(spec, PcapSpec) or spec.record is None:
            return spec
        path = os.path.realpath(spec.record)
        if not self._is_copy:
            self._recorded.add(path)
        return replace(spec, record=os.devnull) if self._is_copy and path in self._recorded else spec

    def _put_up(self, network: ResolvedNetwork, spec: AdapterSpec, opened: _Open | None) -> None:
        """Plug in what was opened, or the emulated machine, and say so in the topology."""
        if self._machine is not None and isinstance(spec, LoopbackSpec):
            self._machine.plug(network, spec)
            return
        if opened is None:
            self._write_down(network, spec, self._ports.get(network.name))
            return
        self._open[network.name] = opened
        ref = self._ports.get(network.name) or self._add_port(network)
        self._write_down(network, spec, ref)
        self._builder.plug_adapter(opened.port, ref)
        opened.adapter.start()
        if self._lab.live:
            self._announce(network)

    def _write_down(self, network: ResolvedNetwork, spec: AdapterSpec, ref: PortRef | None) -> None:
        """Say in the topology what the network has now."""
        topology, changed = self._builder.topology, replace(network, adapter=spec, adapter_port=ref)
        self._builder.topology = replace(topology, networks={**topology.networks, network.name: changed})

    def _leave_machine(self, network: ResolvedNetwork, old: AdapterSpec) -> None:
        if self._machine is not None and isinstance(old, LoopbackSpec):
            self._machine.unplug(network, old)

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
        self._builder.topology, ref = with_adapter_port(self._builder.topology, network)
        self._builder.add_switch_port(ref)
        self._ports[network.name] = ref
        return ref

    async def _unplug(self, network: str, then: Callable[[], None] = lambda: None) -> None:
        """Stop an adapter, do what comes *then*, and close it; each step is tried, whatever becomes of those before."""
        found = self._open.pop(network, None)
        if found is None:
            then()
            return
        async with AsyncExitStack() as steps:  # the last comes first
            steps.push_async_callback(self._close, found.adapter)
            steps.callback(then)
            steps.callback(found.adapter.stop)
            steps.callback(self._builder.unplug, found.port.name)
            if isinstance(found.adapter, StatefulAdapter):
                found.adapter.retire()

    async def _close(self, adapter: HostAdapter) -> None:
        with trio.CancelScope(shield=True):
            await self._aside(adapter.close)

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


def _announce(lab: Lab, network: ResolvedNetwork, ref: PortRef) -> None:
    """Have those behind a new way out learn where the network's addresses are."""
    macs = [nic.mac for _, nic in lab.topology.endpoints() if nic.network == network.name]
    for switch in lab.switches.values():
        own = ref.number if switch.name == ref.switch else None
        macs += [entry.mac for entry in switch.fdb if entry.vid == network.vid and entry.port != own]
    port = lab.switches[ref.switch].ports[ref.number].port
    for mac in list(dict.fromkeys(macs))[:MOST_ANNOUNCED]:
        port.send(rarp_frame(mac), NO_OFFLOAD)


def nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for an adapter that is not open yet."""
