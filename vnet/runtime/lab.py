"""A lab: one topology that runs, in real or in virtual time. Made by ``vnet.runtime.opening.open_lab``.

Scripts, tests and the command line are thin layers over this object; none of them can do what it cannot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Concatenate, ParamSpec, TypeVar, final

import trio

from vnet.errors import LabError, NetworkError, NoAnswer, UnknownName, UsageError
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog
from vnet.guests.base import Address, Guest, PingReply, Target
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.machine_life import MachineState, VirtualMachine
from vnet.guests.qemu import QemuGuest
from vnet.guests.stand_in import StandIn
from vnet.links.link import Link
from vnet.ports import Port
from vnet.runtime.boots import Boots
from vnet.runtime.branch import Snapshot
from vnet.runtime.branch import branch as run_branch
from vnet.runtime.branch import snapshot as take_snapshot
from vnet.runtime.build import Builder, router_address
from vnet.runtime.capture import Captures
from vnet.runtime.faults import Faults
from vnet.runtime.machines import as_machine
from vnet.runtime.matrix import Reachability, snapshot
from vnet.runtime.named import Links, Named
from vnet.runtime.networks import Networks
from vnet.runtime.plugs import Plug, Plugs
from vnet.runtime.usage import called_as, seconds_of
from vnet.runtime.views import address_of, lease_of
from vnet.runtime.waiting import LIMIT, QUIET, Planned, When, advance, plan, sleep_until_idle
from vnet.services.dhcp.node import DhcpServerNode
from vnet.services.router.router import Router
from vnet.switch.switch import Switch
from vnet.topology.describe import without_cable
from vnet.topology.resolved import ResolvedTopology
from vnet.units import SECOND, Instant

T = TypeVar("T")
P = ParamSpec("P")

PING_TIMEOUT = 2.0
"""Seconds for one probe of the reachability matrix: longer than it takes to give up on a neighbor's address."""


@final
class Lab:
    """A running lab. Made by ``open_lab``.

    ``timeline`` is its clock, ``events`` its log, ``ports`` all ports by name (``web:eth0``, ``core:web:eth0``).
    """

    def __init__(
        self,
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
        self._builder = builder
        self.name = self.topology.name
        self.timeline = timeline
        self.events = events
        self.seed = seed
        self.live = live
        self.guests: Named[Guest] = Named("guest", parts.guests)
        self.links = Links(parts.links)
        self.switches: Named[Switch] = Named("switch", parts.switches)
        self.routers: Named[Router] = Named("router", parts.routers)
        self.dhcp: Named[DhcpServerNode] = Named("network with DHCP", parts.dhcp)
        self.ports: Named[Port] = Named("port", parts.ports)
        self.networks = Networks(self, builder, emulate)
        self.plugs = Plugs(self, builder)
        self.captures = Captures(
            timeline, parts.ports, lambda: {name: link.a.name for name, link in parts.links.items()}, epoch
        )
        self.captures.hints = dict(without_cable(self.topology))
        self.boots = Boots(self, builder)
        self.faults = Faults(self, builder)
        self.has_state_file = has_state_file
        self.snapshots: list[Snapshot] = []
        self.stopping = trio.Event()
        for guest in parts.guests.values():
            self.introduce(guest)
            if isinstance(guest, StandIn):
                guest.housing = self.boots
                when = builder.starts[guest.name]
                if when == 0:
                    guest.boot(has_host=True)
                elif when is not None:
                    timeline.at(timeline.now + when, guest.boot_if_off)
            if (machine := as_machine(guest)) is not None:
                power = partial(self._power, [builder.parts.links[port.name] for port in machine.ports])
                power(machine.state)
                machine.life.on_change = power

    def __repr__(self) -> str:
        return f"<Lab {self.name} {'live' if self.live else 'simulated'} at {self.now:.6f} s>"

    def _power(self, links: Sequence[Link], state: MachineState) -> None:
        """Let the far ends of a machine's cables see whether it is on."""
        for link in links:
            link.power(state.has_power)

    def introduce(self, guest: Guest) -> None:
        """Let a guest know of the lab what it cannot find out: names, for programs on emulated hosts, or its own leases."""
        if isinstance(guest, EmulatedGuest):
            guest.use_names(self._addresses_of, self._name_of)
        elif isinstance(guest, QemuGuest):
            guest.find_lease = partial(lease_of, self)

    @property
    def topology(self) -> ResolvedTopology:
        """What the lab is made of, as it is now: networks change, and so does what is plugged in."""
        return self._builder.topology

    @property
    def now(self) -> float:
        """The lab clock in seconds."""
        return self.timeline.now / SECOND

    @called_as("lab.at('90s', lab.faults.crash, 'web')")
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

    @called_as("await lab.reachability('tcp', 80)")
    async def reachability(
        self, protocol: str = "icmp", port: int | None = None, timeout: When = PING_TIMEOUT
    ) -> Reachability:
        """Probe every guest from every other; the answer's ``compare`` tells what is different in a later one.

        *protocol* is icmp, or tcp or udp with a *port*. A port that refuses was reached; one for which a firewall on the
        way refuses was not.
        """
        return await snapshot(self, protocol, port, seconds_of(timeout))

    @called_as("await lab.advance('90s')")
    async def advance(self, length: When) -> None:
        """Let exactly *length* of lab time pass: seconds, or text such as "90 s"."""
        await advance(self, length)

    @called_as("await lab.sleep_until_idle(quiet=5, limit='1h')")
    async def sleep_until_idle(self, quiet: When = QUIET, limit: When = LIMIT) -> None:
        """Wait until nothing is due within *quiet* (live: nothing has passed for as long); see ``vnet.runtime.waiting``.

        Timers further away than that, such as renewals and ageing, do not count. Raise LabError after *limit* of lab time.
        """
        await sleep_until_idle(self, quiet, limit)

    @called_as("await lab.branch(function, ...)")
    async def branch(self, function: Callable[Concatenate[Lab, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry out ``await function(lab, ...)`` in a copy of this simulated lab, and return what it does there.

        Here nothing has happened meanwhile: the next branch, and the lab itself, go on from the same instant. What the
        function returns or raises must be fit for pickle. See ``vnet.runtime.branch`` for what is copied.
        """
        return await run_branch(self, function, *args, **kwargs)

    @called_as("await lab.snapshot()")
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
        if not isinstance(target, str):
            raise UsageError(f"a target is the name of a guest or router, or an address, not {target!r}")
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

    def _addresses_of(self, name: str) -> tuple[Address, ...] | None:
        """Resolve a name for programs on guests: as ``resolve`` does, but None for what is no node; IPv6 comes behind."""
        if name not in self.guests:
            router = self.routers.get(name)
            found = None if router is None else router_address(router)
            return None if found is None else (found,)
        first = self.resolve(name)
        others = (each.ip for state in self.guests[name].interfaces() for each in state.addresses)
        return (first, *[each for each in others if each.version == 6 and not each.is_link_local and each != first][:1])

    def _name_of(self, address: Address) -> str | None:
        """Name the node that has an address now, a guest before a router."""
        for name, guest in self.guests.items():
            if address == address_of(self, name) or any(
                address == each.ip for state in guest.interfaces() for each in state.addresses
            ):
                return name
        return next((name for name, each in self.routers.items() if address.packed in each.host.local), None)

    @called_as("await lab.wait_up(60)")
    async def wait_up(self, timeout: When = 60.0) -> None:
        """Wait until every guest that uses DHCP has its address, and every IPv6 address is known to be free.

        Raise NoAnswer after *timeout* (seconds, or text), which begins when all machines that are stood in for have started.
        """
        timeout = seconds_of(timeout) + max(0, self._builder.last_start - self.timeline.now) / SECOND
        with trio.move_on_after(timeout) as scope:
            for guest in self.guests.values():
                if (machine := _starting(guest)) is not None:
                    await machine.wait_started()
            async with trio.open_nursery() as nursery:
                for guest in self.guests.values():
                    if any(each.dhcp for each in guest.interfaces()):
                        nursery.start_soon(guest.dhcp, timeout + 1)
            await self._settle()
        if scope.cancelled_caught:
            missing = [
                guest.name for guest in self.guests.values()
                if any(each.dhcp and not each.addresses for each in guest.interfaces())
                or ((machine := _starting(guest)) is not None and not machine.state.is_alive)
            ]  # fmt: skip
            raise NoAnswer(f"no address after {timeout:g} s: {', '.join(missing)}")

    async def wait_programs(self, *, check: bool = True) -> None:
        """Wait until the guests' programs that end by themselves have ended: generators, iperf3 clients, functions.

        With *check* raise LabError if any of these failed; it names the servers that failed, too.
        """
        for guest in self.guests.values():
            for program in guest.programs:
                while not program.is_server and not program.ended.is_set():
                    await program.ended.wait()  # by another event than that, if its machine starts anew
        failed = [
            (guest.name, program)
            for guest in self.guests.values() for program in guest.programs if program.state == "failed"
        ]  # fmt: skip
        if check and not all(program.is_server for _, program in failed):
            told = (f"{program.name} on {name}: {program.error}" for name, program in failed)
            raise LabError(f"programs failed: {'; '.join(told)}")

    @called_as("await lab.ping('pc', 'web')")
    async def ping(self, source: str, target: Target, count: int = 1, timeout: When = PING_TIMEOUT) -> PingReply:
        """Send echo requests from one guest to another, a router or an address; or to a name that its DNS servers know.

        IPv6 addresses that guests are still asking for are waited for. Raise UsageError for a name that is nobody's, and
        UnknownName where DNS servers were asked for it and say so; that they do not answer is a reply which is not ok.
        """
        guest = self.guests[source]
        if not isinstance(count, int):
            raise UsageError(f"a ping sends a whole number of requests, not {count!r}")
        timeout = seconds_of(timeout)
        await self._settle()
        try:
            address = self.resolve(target)
        except NoAnswer as error:
            return PingReply(False, error=str(error))
        except UsageError:
            if not isinstance(guest, EmulatedGuest) or not guest.names.settings.servers:
                raise
            try:
                return await guest.ping(target, count, timeout)
            except UnknownName:
                raise  # who misspells a name must not be told that nobody answers there
            except NetworkError as error:
                return PingReply(False, error=str(error))
        return await guest.ping(address, count, timeout)

    async def _settle(self) -> None:
        for guest in self.guests.values():
            if isinstance(guest, EmulatedGuest) and guest.host.ipv6 is not None:
                await guest.settle()

    @called_as("await lab.ping_all()")
    async def ping_all(self, timeout: When = PING_TIMEOUT) -> dict[tuple[str, str], PingReply]:
        """Ping every guest from every other, all at once; the matrix in the order of the topology."""
        timeout = seconds_of(timeout)
        replies: dict[tuple[str, str], PingReply] = {
            (source, target): PingReply(False) for source in self.guests for target in self.guests if source != target
        }

        async def probe(source: str, target: str) -> None:
            replies[source, target] = await self.ping(source, target, timeout=timeout)

        async with trio.open_nursery() as nursery:
            for source, target in replies:
                nursery.start_soon(probe, source, target)
        return replies


def _starting(guest: Guest) -> VirtualMachine | None:
    """Return a machine that starts with its lab; None for any other guest."""
    machine = as_machine(guest)
    return machine if machine is not None and machine.machine.start_action == "always" else None
