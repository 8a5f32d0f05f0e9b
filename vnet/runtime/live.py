"""What a live lab has of the host: its lock and journal, its namespaces and machines, and the shell that drives it.

Order matters for what is left after a crash: the lock is taken first, the journal of an earlier run is swept, and everything
is written down before it is made.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, final

import trio

from vnet.adapters.base import AdapterContext
from vnet.adapters.plug_kinds import QEMU
from vnet.errors import HostError, LabError, UsageError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog
from vnet.guests.base import Guest
from vnet.guests.namespace import NamespaceGuest, create_all, remove_all
from vnet.guests.namespace_nic import Nic
from vnet.guests.process import LabProcesses
from vnet.guests.qemu import QemuGuest
from vnet.guests.qemu_command import check_files
from vnet.ports import Port
from vnet.runtime.build import namespace_guests
from vnet.runtime.host_config import DEFAULT_ROUTE6, leased_gateway, routes_by
from vnet.runtime.journal import Journal, begin, finish
from vnet.runtime.machine_starts import in_order
from vnet.runtime.machines import end_machine
from vnet.runtime.places import LabPlace, place_of
from vnet.runtime.shell import Shell
from vnet.topology.resolved import ResolvedGuest, ResolvedInterface, ResolvedTopology
from vnet.units import SECOND

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab


@final
class LiveHost:
    """The host side of one live lab; ``guests`` are those that are more than emulated, by name."""

    def __init__(
        self, place: LabPlace, shell: Shell, namespaces: dict[str, NamespaceGuest], processes: LabProcesses, journal: Journal
    ) -> None:
        self.place = place
        self._journal = journal
        self.shell = shell
        self._namespaces = namespaces
        self._processes = processes
        self.machines: dict[str, QemuGuest] = {}

    @property
    def guests(self) -> dict[str, Guest]:
        """The guests that are Linux namespaces or virtual machines."""
        return {**self._namespaces, **self.machines}

    def adapter_context(self, timeline: Timeline, events: EventLog, port: Port, network: str) -> AdapterContext:
        """Give what the way out of a network is opened with."""
        return AdapterContext(
            port=port,
            poller=self.shell,
            scheduler=timeline,
            streams=partial(
                RandomStreams(secrets.randbits(64)).stream, port.name
            ),  # peers outside must not see the same twice
            report=events.reporter(network),
            ledger=self._journal,
            directory=str(self.place.directory),
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls, topology: ResolvedTopology, timeline: Timeline, events: EventLog, emulate: bool, progress: Callable[[str], None]
    ) -> AsyncIterator[LiveHost]:
        """Take the lab's lock, sweep what an earlier run left, and make the namespaces; undo all of it at the end."""
        refuse_what_is_not_built(topology, emulate)
        place = place_of(topology.name)
        lock = place.acquire()
        try:
            lock.write_pid()
            token = secrets.token_hex(16)
            journal, swept = begin(lock, token)
        except BaseException:
            lock.release(keep=place.journal.exists())  # what an earlier run left is still to be swept
            raise
        try:
            for text in swept:
                progress(f"removed what an earlier run left: {text}")
            processes = LabProcesses(journal, token)
            streams = RandomStreams(secrets.randbits(64))  # not the lab's seed: transaction ids must differ from run to run
            guests = [
                NamespaceGuest(
                    guest.name,
                    guest.namespace or guest.name,
                    [_nic(topology, guest, nic, first=number == 0) for number, nic in enumerate(guest.interfaces)],
                    directory=str(place.directory),
                    ledger=journal,
                    processes=processes,
                    report=events.reporter(guest.name),
                    scheduler=timeline,
                    streams=partial(streams.stream, guest.name),
                    pid=guest.pid,
                )
                for guest in ([] if emulate else namespace_guests(topology))
            ]
            if guests:
                progress(f"making {len(guests)} network namespaces")
            shell = Shell(timeline)
            try:
                await trio.to_thread.run_sync(create_all, guests)
                host = cls(place, shell, {guest.name: guest for guest in guests}, processes, journal)
                if not emulate:
                    host.machines = host._make_machines(topology, timeline, events)
                yield host
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(processes.stop)
                    await trio.to_thread.run_sync(remove_all, guests)
                shell.close()
        finally:
            for text in finish(lock, journal):
                progress(f"could not be removed, the next run tries again: {text}")

    def _make_machines(self, topology: ResolvedTopology, timeline: Timeline, events: EventLog) -> dict[str, QemuGuest]:
        """Make the virtual machines, which are started later."""
        machines = [(guest, guest.machine) for guest in topology.guests.values() if guest.machine is not None]
        return {
            guest.name: QemuGuest(
                guest.name,
                topology.name,
                machine,
                guest.interfaces,
                index=index,
                directory=str(self.place.directory),
                processes=self._processes,
                report=events.reporter(guest.name),
                make_context=partial(self.adapter_context, timeline, events, network=guest.name),
            )
            for index, (guest, machine) in enumerate(machines)
        }

    async def _start_machines(self, topology: ResolvedTopology) -> None:
        """Start the machines one after the other, each when the one before it runs and its delay is over (VS-84)."""
        for name, machine in in_order(topology):
            await trio.sleep(machine.start_delay / SECOND)
            with contextlib.suppress(LabError, UsageError):  # whoever waits for it is told; or somebody was faster
                await self.machines[name].start()

    async def _stop_machines(self) -> None:
        async with trio.open_nursery() as nursery:
            for machine in self.machines.values():
                nursery.start_soon(end_machine, machine)

    @asynccontextmanager
    async def running(self, lab: Lab) -> AsyncIterator[None]:
        """Drive the lab for the length of the block, and until the programs in its guests have ended.

        A DHCP client that is told to end can so still give its lease back. What the block raises comes out as it is.
        """
        failure: Exception | None = None
        driving = trio.CancelScope(shield=True)

        async def drive() -> None:
            with driving:
                await self.shell.run()

        async with trio.open_nursery() as nursery:
            for guest in self._namespaces.values():
                guest.start(self.shell)
            for machine in self.machines.values():
                machine.serve(nursery)
            nursery.start_soon(drive)
            starting = trio.CancelScope()
            if self.machines:
                nursery.start_soon(_within, starting, self._start_machines, lab.topology)
            try:
                yield
            except Exception as error:
                failure = error  # the nursery would put it into a group
            finally:
                starting.cancel()
                with trio.CancelScope(shield=True):
                    await self._stop_machines()
                    if self.guests:
                        await trio.to_thread.run_sync(self._processes.stop)
                for guest in self._namespaces.values():
                    guest.stop()
                driving.cancel()
        if failure is not None:
            raise failure


async def _within(
    scope: trio.CancelScope, function: Callable[[ResolvedTopology], Awaitable[None]], topology: ResolvedTopology
) -> None:
    with scope:
        await function(topology)


def refuse_what_is_not_built(topology: ResolvedTopology, emulate: bool) -> None:
    """Raise HostError for what the topology names and a live lab cannot do yet."""
    for guest in topology.guests.values():
        for each in guest.interfaces if guest.kind != "emulated" and not emulate else ():
            if each.parent is not None or each.bond is not None:
                what, key = ("VLAN sub-interface", "vlans") if each.parent is not None else ("bond", "bond")
                raise HostError(
                    f"guest {guest.name}: {each.name} is a {what}, and vnet makes those for emulated guests only "
                    f"(take `{key}` out, or run the lab with --emulate or --simulate)"
                )
        if guest.run and guest.kind != "emulated" and not emulate:
            raise HostError(
                f"guest {guest.name}: run is for emulated guests, and guests of kind {guest.kind} run real programs "
                "(take `run` out, or run the lab with --emulate or --simulate)"
            )
        if guest.machine is not None and not emulate:
            if shutil.which(QEMU) is None:
                raise HostError(f"guest {guest.name} needs {QEMU}: install qemu-system-x86, or give --emulate")
            check_files(guest.name, guest.machine)


def _nic(topology: ResolvedTopology, guest: ResolvedGuest, nic: ResolvedInterface, *, first: bool) -> Nic:
    gateway = nic.gateway if isinstance(nic.gateway, IPv4Address) else leased_gateway(topology, guest, nic)
    addresses = tuple(address for address in nic.addresses if isinstance(address, IPv4Interface))
    beside = [(route.destination, route.via) for route in routes_by(topology, guest, nic)]
    routes = tuple((to, via) for to, via in beside if isinstance(to, IPv4Network) and isinstance(via, IPv4Address))
    routes6 = [(to, via) for to, via in beside if isinstance(to, IPv6Network) and isinstance(via, IPv6Address)]
    if isinstance(nic.gateway, IPv6Address):
        routes6.append((DEFAULT_ROUTE6, nic.gateway))
    return Nic(
        mac=nic.mac,
        name=nic.name,
        mtu=nic.mtu,
        addresses=addresses,
        gateway=gateway,
        routes=routes,
        dns=guest.dns if first else (),
        domain=" ".join(guest.search) if first else "",
        dhcp=nic.dhcp == "vnet",
        ipv6=nic.has_ipv6,
        autoconf=nic.ipv6 == "auto",
        addresses6=tuple(address for address in nic.addresses if isinstance(address, IPv6Interface)),
        routes6=tuple(routes6),
    )
