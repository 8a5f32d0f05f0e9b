"""Faults: what goes wrong in a lab on purpose, as ``lab.faults``; all of it is in the event log, and ``heal`` undoes it.

A partition separates nodes, not switches, so it is made at the nodes' ports and not at links: two guests on one switch have
no link between them that could be cut, and a link between switches carries others' frames too. A gate on a port
(``Port.gate``) loses what comes from the other group and what goes to it. From and to are told by the MAC addresses and,
because a router between the groups puts its own in their place, by the IPv4 addresses that the nodes have at that moment.
So nothing passes either way whatever the topology is, and carriers, FDBs, third parties and their frames are left alone. One
way in stays open: a NAT that translates both addresses (hairpinning) leaves nothing to tell the sender by.

A crashed guest is one whose kernel stopped: it says nothing and hears nothing, its cable stays plugged in. For one whose
power fails, set its link down as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias, final

from vnet.addresses import is_group
from vnet.errors import UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.stand_in import StandIn
from vnet.links.link import Link
from vnet.ports import Handler, Port
from vnet.runtime.build import Builder
from vnet.runtime.change import find_link
from vnet.runtime.fields import Fields
from vnet.runtime.usage import called_as, check_name, length_of
from vnet.runtime.waiting import When
from vnet.topology.resolved import ResolvedTopology
from vnet.units import SECOND, Duration, Instant, format_duration

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

Names: TypeAlias = str | Sequence[str]

MAX_FLAPS: Final = 100_000
ADDRESSES_KEPT: Final[Duration] = 1 * SECOND
"""For how long the addresses of a live guest are believed: asking the kernel costs more than a frame."""


@final
class Fault:
    """One fault that lasts until it is healed; also a context manager that heals it at the end of the block.

    ``frames`` counts the frames it has taken, a super-frame as one.
    """

    def __init__(self, faults: Faults, kind: str, what: str, undo: Callable[[], None]) -> None:
        self.kind = kind
        self.what = what
        self.frames = 0
        self._faults = faults
        self._undo = undo

    def __repr__(self) -> str:
        return f"<Fault {self}>"

    def __str__(self) -> str:
        return f"{self.kind} {self.what}"

    @property
    def active(self) -> bool:
        """Whether it lasts."""
        return self in self._faults.active

    def heal(self) -> None:
        """Undo it; twice is as good as once."""
        self._faults._end(self, self._undo)

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Endpoint:
    """Where a node meets its cable."""

    node: str
    switch: str
    port: Port
    mac: bytes
    addresses: Callable[[], Iterable[bytes]]


@final
class _Side:
    """One of the two groups of a partition."""

    def __init__(self, lab: Lab, endpoints: Sequence[_Endpoint]) -> None:
        self._endpoints = endpoints
        self._macs = frozenset(endpoint.mac for endpoint in endpoints)
        self._timeline = lab.timeline
        self._kept = ADDRESSES_KEPT if lab.live else 1
        self._addresses: frozenset[bytes] = frozenset()
        self._asked_at: Instant = -ADDRESSES_KEPT

    def sent(self, frame: bytes) -> bool:
        """Tell whether the frame comes from here."""
        return len(frame) >= 14 and (frame[6:12] in self._macs or Fields(frame).source in self._known())

    def gets(self, frame: bytes) -> bool:
        """Tell whether the frame goes here and nowhere else."""
        if len(frame) < 14 or is_group(frame):
            return False  # others get it too, an ARP request for instance: each port of this side loses it by its sender
        return frame[:6] in self._macs or Fields(frame).destination in self._known()

    def _known(self) -> frozenset[bytes]:
        now = self._timeline.now
        if now - self._asked_at >= self._kept:
            self._asked_at = now
            self._addresses = frozenset(address for endpoint in self._endpoints for address in endpoint.addresses())
        return self._addresses


_Test: TypeAlias = Callable[[bytes], bool]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What one fault takes at one port: frames that the node receives, and that it sends."""

    fault: Fault
    port: Port
    received: _Test
    sent: _Test


@final
class Faults:
    """The faults of one lab.

    Names are those of guests, routers, DHCP servers (``office:dhcp``) and switches; a switch stands for everything that is
    plugged into it. An unknown one raises UsageError with the nearest there is.
    """

    def __init__(self, lab: Lab, builder: Builder) -> None:
        self._lab = lab
        self._builder = builder
        self._cuts: list[_Cut] = []
        self._makes: dict[Fault, Callable[[], list[_Cut]]] = {}
        self._active: list[Fault] = []
        self._known: tuple[ResolvedTopology, list[_Endpoint]] | None = None

    @property
    def _endpoints(self) -> list[_Endpoint]:
        """What there is to cut, which changes with the topology."""
        if self._known is None or self._known[0] is not self._lab.topology:
            self._known = self._lab.topology, _endpoints(self._lab)
        return self._known[1]

    @property
    def active(self) -> tuple[Fault, ...]:
        """Those that last, oldest first."""
        return tuple(self._active)

    @called_as("lab.faults.partition(['a', 'b'], 'c')")
    def partition(self, one: Names, other: Names) -> Fault:
        """Let no frame pass between the nodes of two groups, in either direction; everything else goes on.

        What is on its way is lost as well. Raise UsageError if a group is empty or the groups overlap.
        """
        left, right = self._choose(one), self._choose(other)
        both = [endpoint.port.name for endpoint in left if endpoint in right]
        if both:
            raise UsageError(f"{both[0]} is on both sides of the partition")
        fault = self._begin("partition", f"{_listed(one)} from {_listed(other)}")

        def make() -> list[_Cut]:
            left, right = self._members(one), self._members(other)
            return [
                _Cut(fault, endpoint.port, far.sent, far.gets)
                for mine, far in ((left, _Side(self._lab, right)), (right, _Side(self._lab, left)))
                for endpoint in mine
            ]

        self._cut(fault, make)
        return fault

    @called_as("lab.faults.isolate('a', 'b')")
    def isolate(self, *names: str) -> Fault:
        """Cut nodes off from everybody, each other included; their carriers stay up."""
        self._choose(names)
        fault = self._begin("isolate", _listed(names))
        self._cut(fault, lambda: [_Cut(fault, endpoint.port, _everything, _everything) for endpoint in self._members(names)])
        return fault

    @called_as("lab.faults.flap('core-edge', times=5, period='3s')")
    def flap(self, link: str, times: int = 1, period: When = 1.0) -> Fault:
        """Take a link down and up again *times* times, the first time now; it is down for the first half of each *period*.

        *link* is named as in ``vnet set``: ``core-edge``, ``core,edge``, ``web:eth0`` or ``web``. The fault ends by itself,
        early if the link is taken away.
        """
        cable, length = self._link(link), length_of(period)
        if not isinstance(times, int) or not 1 <= times <= MAX_FLAPS or length < 2:
            raise UsageError(f"a link flaps 1 to {MAX_FLAPS} whole times, with a period of 2 ns at least")
        fault = self._begin("flap", f"{cable.name} {times} times, every {format_duration(length)}")
        timeline = self._lab.timeline

        def undo() -> None:
            if not cable.is_unplugged:
                cable.up = True

        def turn(number: int) -> None:
            if not fault.active:
                return
            if number == times or cable.is_unplugged:
                fault.heal()
                return
            cable.up = False
            timeline.at(timeline.now + length // 2, mend)
            timeline.at(timeline.now + length, turn, number + 1)

        def mend() -> None:
            if fault.active:
                undo()

        fault._undo = undo
        turn(0)
        return fault

    @called_as("lab.faults.crash('web')")
    def crash(self, guest: str) -> Fault:
        """Stop an emulated guest: sockets are closed, and addresses, routes, leases and neighbors forgotten.

        Whoever waits on a socket gets what closing it gives: trio.ClosedResourceError, or UsageError from a UDP socket of
        the guest's own. Programs are not ended; sockets that they open later work once it has started again. Those of a
        machine that is stood in for are, and start anew with it. A guest that has crashed already stays so.
        """
        emulated = self._emulated(guest)
        found = next((fault for fault in self._active if (fault.kind, fault.what) == ("crash", guest)), None)
        if found is not None and not (isinstance(emulated, StandIn) and emulated.state.is_alive):
            return found
        if isinstance(emulated, StandIn):
            emulated.fail("crashed")
        if found is not None:
            return found  # of a machine that was started in another way since
        fault = self._begin("crash", guest)
        fault._undo = lambda: self._boot(emulated)
        if not isinstance(emulated, StandIn):
            self._lab.boots.stop(emulated)
        return fault

    @called_as("lab.faults.restart('web')")
    def restart(self, guest: str) -> None:
        """Start a crashed guest, or crash and start one that runs: static addresses are back, DHCP starts anew."""
        self.crash(guest).heal()

    @called_as("lab.faults.heal()")
    def heal(self) -> None:
        """Undo every fault, the newest first."""
        for fault in reversed(self.active):
            fault.heal()

    def cover(self) -> None:
        """Have partitions and isolations hold at the interfaces that their nodes have now: some have come, or changed."""
        known = [cut.port for cut in self._cuts]
        self._cuts = [cut for make in self._makes.values() for cut in make()]
        touched = [*known, *(cut.port for cut in self._cuts)]
        self._regate([endpoint for endpoint in self._endpoints if endpoint.port in touched])

    def _cut(self, fault: Fault, make: Callable[[], list[_Cut]]) -> None:
        self._makes[fault] = make
        self.cover()

    def _begin(self, kind: str, what: str) -> Fault:
        fault = Fault(self, kind, what, lambda: None)
        self._active.append(fault)
        self._lab.events.add("lab", "fault", fault=kind, what=what)
        return fault

    def _end(self, fault: Fault, undo: Callable[[], None]) -> None:
        if fault not in self._active:
            return
        self._active.remove(fault)
        if self._makes.pop(fault, None) is not None:
            self.cover()
        self._lab.events.add("lab", "healed", fault=fault.kind, what=fault.what)
        undo()

    def _regate(self, endpoints: Iterable[_Endpoint]) -> None:
        for endpoint in endpoints:
            cuts = [cut for cut in self._cuts if cut.port is endpoint.port]
            if cuts:
                endpoint.port.gate(
                    _gate([(cut.fault, cut.received) for cut in cuts]), _gate([(cut.fault, cut.sent) for cut in cuts])
                )
            else:
                endpoint.port.gate()

    def _choose(self, names: Names) -> list[_Endpoint]:
        """List the interfaces of the nodes of these names; raise UsageError where there is no such node."""
        if not isinstance(names, Iterable):
            raise UsageError(f"a node is named by text, and a group by a list of names, not by {names!r}")
        names = [names] if isinstance(names, str) else list(names)
        known = dict.fromkeys(name for endpoint in self._endpoints for name in (endpoint.node, endpoint.switch))
        for name in names:
            check_name("node", name, known)
        if not names:
            raise UsageError("no nodes are named; there are: " + ", ".join(known))
        return self._members(names)

    def _members(self, names: Names) -> list[_Endpoint]:
        chosen = [names] if isinstance(names, str) else names
        return [each for each in self._endpoints if each.node in chosen or each.switch in chosen]

    def _link(self, name: str) -> Link:
        link = find_link(self._lab, name) if isinstance(name, str) else None
        return self._lab.links[name] if link is None else link

    def _emulated(self, name: str) -> EmulatedGuest:
        guest = self._lab.guests[name]
        if not isinstance(guest, EmulatedGuest):
            raise UsageError(f"{name} is of kind {guest.kind}: only emulated guests can crash; isolate it instead")
        return guest

    def _boot(self, guest: EmulatedGuest) -> None:
        if isinstance(guest, StandIn):
            guest.boot_if_off()
            return
        self._lab.events.add(guest.name, "restart")
        self._lab.boots.boot(guest)


def _endpoints(lab: Lab) -> list[_Endpoint]:
    found = []
    for node, nic, cable in lab.topology.cables():
        port = lab.ports[f"{node}:{cable.name}"]
        found.append(_Endpoint(node, cable.port.switch, port, nic.mac, _addresses(lab, node, nic.name)))
    for network in lab.topology.networks.values():
        if network.dhcp is not None:
            server = [network.dhcp.server.packed]
            name = f"{network.name}:dhcp"
            found.append(_Endpoint(name, network.dhcp.port.switch, lab.ports[name], network.dhcp.mac, server.__iter__))
    return found


def _addresses(lab: Lab, node: str, interface: str) -> Callable[[], Iterable[bytes]]:
    """Make the question for the packed addresses that an interface and its sub-interfaces have now: a crash or a lease
    changes them."""
    if node in lab.routers:
        return lambda: [address.ip.packed for address in lab.routers[node].interfaces[interface].addresses]
    guest = lab.guests[node]
    if isinstance(guest, EmulatedGuest):
        return lambda: [
            address.ip.packed
            for each in guest.host.interfaces.values()
            if interface in (each.name, each.parent and each.parent.name)
            for address in each.addresses
        ]
    return lambda: [
        address.ip.packed for state in guest.interfaces() if state.name == interface for address in state.addresses
    ]


def _gate(tests: list[tuple[Fault, _Test]]) -> Callable[[Handler], Handler]:
    def hook(handler: Handler) -> Handler:
        def judge(frame: bytes, offload: bytes) -> None:
            for fault, takes in tests:
                if takes(frame):
                    fault.frames += 1
                    return
            handler(frame, offload)

        return judge

    return hook


def _everything(frame: bytes) -> bool:
    return True


def _listed(names: Names) -> str:
    return names if isinstance(names, str) else ",".join(names)
