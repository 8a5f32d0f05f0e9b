"""A lab: one topology that runs, in real or in virtual time.

``open_lab`` is the way in for scripts, tests and the command line alike; none of them can do what this object cannot.
Inside ``vnet.simulate`` a lab is simulated: every guest is emulated, no privilege is needed, nothing of the host is used.
Elsewhere it is live: namespace guests are real, and the lab holds its lock, its journal and its shell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar, final

import trio

from vnet.errors import LabError, NoAnswer, UsageError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog
from vnet.guests.base import Address, PingReply, Target
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.qemu import QemuGuest
from vnet.ports import Port
from vnet.runtime.branch import Snapshot
from vnet.runtime.branch import branch as run_branch
from vnet.runtime.branch import snapshot as take_snapshot
from vnet.runtime.build import Builder, router_address
from vnet.runtime.capture import Captures
from vnet.runtime.clock import current_simulation
from vnet.runtime.faults import Faults
from vnet.runtime.found import Guests, Links
from vnet.runtime.live import LiveHost
from vnet.runtime.matrix import Reachability, snapshot
from vnet.runtime.networks import Networks
from vnet.runtime.plugs import Plug, Plugs
from vnet.runtime.state import open_store
from vnet.runtime.views import address_of, lease_of
from vnet.runtime.waiting import LIMIT, QUIET, Planned, When, advance, plan, sleep_until_idle
from vnet.services.dhcp.node import DhcpServerNode
from vnet.services.router.router import Router
from vnet.switch.switch import Switch
from vnet.topology import load_topology
from vnet.topology.host import with_host
from vnet.topology.resolved import ResolvedTopology
from vnet.units import SECOND, Instant

Source: TypeAlias = "str | Path | ResolvedTopology"
"""A topology, or the path of its file."""
T = TypeVar("T")
P = ParamSpec("P")
Progress: TypeAlias = Callable[[str], None]

PING_TIMEOUT = 2.0
"""Seconds for one probe of the reachability matrix: longer than it takes to give up on a neighbor's address."""


def silent(text: str) -> None:
    """Show no progress."""


@final
class Lab:
    """A running lab. Made by ``open_lab``.

    ``timeline`` is its clock, ``events`` its log, ``ports`` all ports by name (``web:eth0``, ``core:web:eth0``).
    """

    def __init__(
        self,
        topology: ResolvedTopology,
        timeline: Timeline,
        events: EventLog,
        builder: Builder,
        *,
        seed: int,
        live: bool,
        epoch: Instant = 0,
        has_state_file: bool = False,
        emulate: bool = False,
    ) -> None:
        parts = builder.build()
        self.topology = topology
        self.name = topology.name
        self.timeline = timeline
        self.events = events
        self.seed = seed
        self.live = live
        self.guests = Guests(parts.guests)
        self.links = Links(parts.links)
        self.switches: Mapping[str, Switch] = parts.switches
        self.routers: Mapping[str, Router] = parts.routers
        self.dhcp: Mapping[str, DhcpServerNode] = parts.dhcp
        self.ports: Mapping[str, Port] = parts.ports
        self.networks = Networks(self, builder, emulate)
        self.plugs = Plugs(self, builder)
        self.captures = Captures(timeline, parts.ports, lambda: [link.a.name for link in parts.links.values()], epoch)
        self.faults = Faults(self, builder)
        self.has_state_file = has_state_file
        self.snapshots: list[Snapshot] = []
        self.stopping = trio.Event()
        for guest in parts.guests.values():
            if isinstance(guest, EmulatedGuest):
                guest.use_names(self._address_of)
            elif isinstance(guest, QemuGuest):
                guest.find_lease = partial(lease_of, self)

    def __repr__(self) -> str:
        return f"<Lab {self.name} {'live' if self.live else 'simulated'} at {self.now:.6f} s>"

    @property
    def now(self) -> float:
        """The lab clock in seconds."""
        return self.timeline.now / SECOND

    def at(self, delay: When, action: Callable[..., object], *args: object) -> Planned:
        """Run ``action(*args)`` after *delay* on the lab clock, counted from now: seconds, or text such as "90 s".

        The action is a plain function, for example ``lab.faults.heal``. Its answer can cancel it.
        """
        return plan(self, delay, action, args)

    async def plug(
        self,
        network: str | None = None,
        *,
        vlan: str | None = None,
        trunk: Sequence[str] | None = None,
        native: str | None = None,
        kind: str = "qemu-stream",
        model: str = "virtio",
        mac: str | None = None,
        switch: str | None = None,
        name: str | None = None,
    ) -> Plug:
        """Make a switch port with a socket for a virtual machine that somebody else starts; live labs only.

        The port is on *network*, or on a *vlan*, or carries the VLANs of *trunk* (numbers, ranges such as 10-20, names of
        networks, or ["all"]) tagged, and *native*, or the network's, untagged. *kind* says how the VM speaks
        (``vnet.adapters.plug_kinds``), *model* which NIC it is to have. The answer's ``command`` is the VM's command line.
        Raise UsageError for what cannot be, HostError for what the machine refuses.
        """
        return await self.plugs.plug(
            network, vlan=vlan, trunk=trunk, native=native, kind=kind, model=model, mac=mac, switch=switch, name=name
        )

    async def unplug(self, name: str) -> None:
        """Take a port that ``plug`` made away again, with its socket."""
        await self.plugs.unplug(name)

    async def reachability(
        self, protocol: str = "icmp", port: int | None = None, timeout: float = PING_TIMEOUT
    ) -> Reachability:
        """Probe every guest from every other; the answer's ``compare`` tells what is different in a later one.

        *protocol* is icmp, or tcp or udp with a *port*. A port that refuses was reached.
        """
        return await snapshot(self, protocol, port, timeout)

    async def advance(self, length: When) -> None:
        """Let exactly *length* of lab time pass: seconds, or text such as "90 s"."""
        await advance(self, length)

    async def sleep_until_idle(self, quiet: When = QUIET, limit: When = LIMIT) -> None:
        """Wait until nothing is due within *quiet* (live: nothing has passed for as long); see ``vnet.runtime.waiting``.

        Timers further away than that, such as renewals and ageing, do not count. Raise LabError after *limit* of lab time.
        """
        await sleep_until_idle(self, quiet, limit)

    async def branch(self, function: Callable[Concatenate[Lab, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry out ``await function(lab, ...)`` in a copy of this simulated lab, and return what it does there.

        Here nothing has happened meanwhile: the next branch, and the lab itself, go on from the same instant. What the
        function returns or raises must be fit for pickle. See ``vnet.runtime.branch`` for what is copied.
        """
        return await run_branch(self, function, *args, **kwargs)

    async def snapshot(self) -> Snapshot:
        """Keep this simulated lab as it is now: ``await snapshot.run(function, ...)`` goes on from there, any time.

        The function must be one of a module, because the snapshot was made before it is named.
        """
        return await take_snapshot(self)

    def stop(self) -> None:
        """Ask whoever runs the lab to end it."""
        self.stopping.set()

    def resolve(self, target: Target) -> Address:
        """Turn the name of a guest or router, or an address as text, into an address.

        A guest whose own DHCP client asked is known by its lease. A guest without an address raises NoAnswer, an unknown
        name UsageError.
        """
        if isinstance(target, IPv4Address | IPv6Address):
            return target
        if target in self.guests:
            address = address_of(self, target)
            if address is None:
                raise NoAnswer(f"{target} has no address")
            return address
        if target in self.routers and (address := router_address(self.routers[target])) is not None:
            return address
        try:
            return ip_address(target)
        except ValueError:
            names = ", ".join([*self.guests, *self.routers])
            raise UsageError(f"{target!r} is neither an IP address nor one of {names}") from None

    def _address_of(self, name: str) -> Address | None:
        """Resolve a name for programs on guests: as ``resolve`` does, but None for what is no node."""
        if name in self.routers:
            return router_address(self.routers[name])
        return self.resolve(name) if name in self.guests else None

    async def wait_up(self, timeout: float = 60.0) -> None:
        """Wait until every guest that uses DHCP has its address, and every IPv6 address is known to be free.

        Virtual machines are waited for until they run, not until they have booted; but those with ``dhcp: true`` until they
        have a lease. Raise NoAnswer after *timeout* seconds, LabError for a machine that does not start.
        """
        with trio.move_on_after(timeout) as scope:
            for guest in self.guests.values():
                if isinstance(guest, QemuGuest):
                    await guest.wait_started()
            async with trio.open_nursery() as nursery:
                for guest in self.guests.values():
                    if any(each.dhcp for each in guest.interfaces()):
                        nursery.start_soon(guest.dhcp, timeout + 1)
            await self._settle()
        if scope.cancelled_caught:
            missing = [
                guest.name for guest in self.guests.values()
                if any(each.dhcp and not each.addresses for each in guest.interfaces())
                or (isinstance(guest, QemuGuest) and not guest.state.is_alive)
            ]  # fmt: skip
            raise NoAnswer(f"no address after {timeout:g} s: {', '.join(missing)}")

    async def wait_programs(self, *, check: bool = True) -> None:
        """Wait until the guests' programs that end by themselves have ended: generators, iperf3 clients, functions.

        With *check* raise LabError if any of these failed; it names the servers that failed, too.
        """
        for guest in self.guests.values():
            for program in guest.programs:
                if not program.is_server:
                    await program.ended.wait()
        failed = [
            (guest.name, program)
            for guest in self.guests.values() for program in guest.programs if program.state == "failed"
        ]  # fmt: skip
        if check and not all(program.is_server for _, program in failed):
            told = (f"{program.name} on {name}: {program.error}" for name, program in failed)
            raise LabError(f"programs failed: {'; '.join(told)}")

    async def ping(self, source: str, target: Target, count: int = 1, timeout: float = PING_TIMEOUT) -> PingReply:
        """Send echo requests from one guest to another, a router or an address.

        IPv6 addresses that guests are still asking for are waited for.
        """
        guest = self.guests[source]
        await self._settle()
        try:
            address = self.resolve(target)
        except NoAnswer as error:
            return PingReply(False, error=str(error))
        return await guest.ping(address, count, timeout)

    async def _settle(self) -> None:
        for guest in self.guests.values():
            if isinstance(guest, EmulatedGuest) and guest.host.ipv6 is not None:
                await guest.settle()

    async def ping_all(self, timeout: float = PING_TIMEOUT) -> dict[tuple[str, str], PingReply]:
        """Ping every guest from every other, all at once; the matrix in the order of the topology."""
        replies: dict[tuple[str, str], PingReply] = {
            (source, target): PingReply(False) for source in self.guests for target in self.guests if source != target
        }

        async def probe(source: str, target: str) -> None:
            replies[source, target] = await self.ping(source, target, timeout=timeout)

        async with trio.open_nursery() as nursery:
            for source, target in replies:
                nursery.start_soon(probe, source, target)
        return replies


@asynccontextmanager
async def open_lab(
    source: Source,
    *,
    seed: int | None = None,
    state: str | Path | None = None,
    emulate: bool = False,
    progress: Progress = silent,
) -> AsyncIterator[Lab]:
    """Build and run a lab for the length of the block; nothing of it is left afterwards.

    *seed* defaults to that of the simulation, or 0. *state* is a directory where DHCP bindings outlive the lab. With
    *emulate* a live lab needs no root: every guest is emulated, as in a simulation. Raise TopologyError, or HostError when
    the machine lacks what a live lab needs.
    """
    topology = source if isinstance(source, ResolvedTopology) else load_topology(source)
    simulation = current_simulation()
    if simulation is None:
        async with _open_live(topology, 0 if seed is None else seed, state, emulate, progress) as lab:
            yield lab
        return
    timeline = simulation.timeline
    events = EventLog(timeline)
    used_seed = simulation.seed if seed is None else seed
    topology = with_host(topology)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(open_store(state, topology.name, timeline, live=False))
        builder = Builder(topology, timeline, RandomStreams(used_seed), events, store.for_network, {})
        lab = Lab(topology, timeline, events, builder, seed=used_seed, live=False, has_state_file=state is not None)
        try:
            async with _programs(lab):
                yield lab
        finally:
            for each in tuple(lab.snapshots):
                each.close()
            lab.captures.close()
            for link in lab.links.values():
                link.unplug()


@asynccontextmanager
async def _open_live(
    topology: ResolvedTopology, seed: int, state: str | Path | None, emulate: bool, progress: Progress
) -> AsyncIterator[Lab]:
    timeline = Timeline()
    events = EventLog(timeline)
    if emulate:
        topology = with_host(topology)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(LiveHost.open(topology, timeline, events, emulate, progress))
        store = stack.enter_context(open_store(state, topology.name, timeline, live=True))  # who has the lock has the file
        progress("plugging everything together")
        builder = Builder(topology, timeline, RandomStreams(seed), events, store.for_network, host.guests)
        lab = Lab(
            topology, timeline, events, builder, seed=seed, live=True, epoch=time.time_ns() - timeline.now, emulate=emulate
        )
        stack.callback(lab.captures.close)
        host.shell.on_error = lambda error: _report_error(events, error)
        make_context = partial(host.adapter_context, timeline, events)
        stack.push_async_callback(lab.networks.close)
        await lab.networks.open(make_context)
        stack.push_async_callback(lab.plugs.close)
        lab.plugs.open(make_context)
        await stack.enter_async_context(host.running(lab))
        await stack.enter_async_context(_programs(lab))
        yield lab


def _programs(lab: Lab) -> AbstractAsyncContextManager[None]:
    """Run the programs of the topology; a lab without any loads nothing of them."""
    if not any(guest.run for guest in lab.topology.guests.values()):
        return nullcontext()
    from vnet.runtime.programs import running_programs

    return running_programs(lab)


def _report_error(events: EventLog, error: Exception) -> None:
    """Show that a part of the lab failed, and go on with the rest."""
    events.add("lab", "internal-error", error=f"{type(error).__name__}: {error}")
    print(f"vnet: internal error: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
