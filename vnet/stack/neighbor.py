"""The neighbor cache of an interface: IPv4 addresses to MAC addresses by ARP (RFC 826), with the states of RFC 4861, 7.3.2.

::

    (none) --packet--> INCOMPLETE --reply--> REACHABLE --30 s--> STALE --packet--> DELAY --5 s--> PROBE
       ^                   |                     ^                 |                 |              |
       +---3 unanswered----+                     +-----------------+--- reply -------+--------------+
       +---10 min unused, or 3 unanswered--------------------------+--------------------------------+

What is simpler than in RFC 4861: the reachable time is not drawn at random, and upper layers confirm nothing, so a neighbor
in use is asked once in 35 s.

An entry's ``header`` is the Ethernet header for a packet to that neighbor. It is there exactly while a packet may go out
with no further thought; whoever caches the entry (a socket, a router's flow) writes
``header + packet`` when it is there and calls ``send`` when it is None.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, final

from vnet.units import MINUTE, SECOND
from vnet.wire import arp
from vnet.wire.ethernet import ETHERTYPE_IPV4
from vnet.wire.ipv4 import ANY

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.interface import Interface

REACHABLE_TIME: Final = 30 * SECOND
DELAY_FIRST_PROBE_TIME: Final = 5 * SECOND
RETRANSMIT_TIME: Final = 1 * SECOND
MAX_SOLICITS: Final = 3
"""RFC 4861, section 10; RFC 1122, 2.3.2.1 wants at most one request in a second for an address."""
STALE_TIME: Final = 10 * MINUTE
MAX_ENTRIES: Final = 4096
MAX_QUEUE: Final = 16
"""Packets that wait for one address; RFC 1122, 2.3.2.2 wants at least one."""
MAX_QUEUED_OCTETS: Final = 4 * 1024 * 1024
"""Octets that wait for all addresses of an interface: a super-frame has 64 KiB, and a scan asks for thousands."""


class State(Enum):
    """How much is known of a neighbor."""

    INCOMPLETE = auto()
    REACHABLE = auto()
    STALE = auto()
    DELAY = auto()
    PROBE = auto()
    FAILED = auto()
    """Not in the cache; a packet to it starts anew."""
    PERMANENT = auto()


_USABLE: Final = frozenset({State.REACHABLE, State.DELAY, State.PROBE, State.PERMANENT})
_EVICTABLE: Final = frozenset({State.FAILED, State.STALE, State.INCOMPLETE})


@final
class Neighbor:
    """One address on one interface."""

    __slots__ = ("_alarm", "_queue", "_solicits", "address", "header", "interface", "mac", "state")

    def __init__(self, interface: Interface, address: bytes, mac: bytes | None = None) -> None:
        """Make an entry; with *mac* it is permanent, as for broadcast and groups."""
        self.interface = interface
        self.address = address
        self.mac = mac
        self.state = State.FAILED if mac is None else State.PERMANENT
        self.header = None if mac is None else mac + interface.mac + ETHERTYPE_IPV4
        self._solicits = 0
        self._alarm: Alarm | None = None
        self._queue: list[tuple[bytes, bytes]] | None = None

    def send(self, packet: bytes, offload: bytes) -> None:
        """Send an IPv4 packet to this neighbor, or keep it until the neighbor's MAC address is known."""
        if self.header is None:
            if self.state is State.STALE:
                self._enter(State.DELAY, DELAY_FIRST_PROBE_TIME)
            else:
                self._wait(packet, offload)
                return
        if self.header is not None:
            self.interface.port.send(self.header + packet, offload)

    def heard(self, mac: bytes, *, confirmed: bool) -> None:
        """Take note of an ARP packet from the neighbor; a reply to our request confirms that it hears us as well."""
        if self.state is State.PERMANENT:
            return
        if self.mac is not None and mac != self.mac and self.state not in (State.INCOMPLETE, State.FAILED):
            self.interface.neighbor_moved(self.address, self.mac, mac)
        news = mac != self.mac or self.state in (State.INCOMPLETE, State.FAILED)
        self.mac = mac
        if confirmed:
            self._enter(State.REACHABLE, REACHABLE_TIME)
        elif news:
            self._enter(State.STALE, STALE_TIME)
        for packet, offload in self._dequeue():
            self.send(packet, offload)

    def fail(self) -> None:
        """Forget what is known, and give back the packets that wait.

        They come back as events: the error that is sent for one may need an entry, which takes the place of another, whose
        packets come back.
        """
        self._enter(State.FAILED, None)
        host = self.interface.host
        for packet, _ in self._dequeue():
            host.scheduler.soon(host.on_unresolved, self.interface, packet)

    def _wait(self, packet: bytes, offload: bytes) -> None:
        current = self.interface.neighbors.current(self)
        if current is not self:
            current.send(packet, offload)
            return
        cache = self.interface.neighbors
        queue = self._queue
        if queue is None:
            queue = self._queue = []
        if len(queue) >= MAX_QUEUE:
            cache.queued_octets -= len(queue.pop(0)[0])
            self.interface.host.drop("neighbor-queue-full")
        if cache.queued_octets + len(packet) <= MAX_QUEUED_OCTETS:
            cache.queued_octets += len(packet)
            queue.append((packet, offload))
        else:
            self.interface.host.drop("neighbor-queue-full")
        if self.state is State.FAILED:
            self._solicits = 0
            self._enter(State.INCOMPLETE, RETRANSMIT_TIME)
            self._solicit()

    def _dequeue(self) -> list[tuple[bytes, bytes]]:
        queue, self._queue = self._queue or [], None
        self.interface.neighbors.queued_octets -= sum(len(packet) for packet, _ in queue)
        return queue

    def _enter(self, state: State, timeout: int | None) -> None:
        self.state = state
        self.header = self.mac + self.interface.mac + ETHERTYPE_IPV4 if self.mac and state in _USABLE else None
        self._arm(timeout)

    def _arm(self, timeout: int | None) -> None:
        scheduler = self.interface.host.scheduler
        if self._alarm is None:
            if timeout is None:
                return
            self._alarm = scheduler.alarm(self._expire)
        self._alarm.set(None if timeout is None else scheduler.now + timeout)

    def _expire(self) -> None:
        match self.state:
            case State.REACHABLE:
                self._enter(State.STALE, STALE_TIME)
            case State.DELAY:
                self._solicits = 0
                self._enter(State.PROBE, RETRANSMIT_TIME)
                self._solicit()
            case State.INCOMPLETE | State.PROBE if self._solicits < MAX_SOLICITS:
                self._arm(RETRANSMIT_TIME)
                self._solicit()
            case _:
                self.interface.neighbors.forget(self)

    def _solicit(self) -> None:
        self._solicits += 1
        interface = self.interface
        source = interface.source_for(self.address) or ANY
        if self.state is State.PROBE and self.mac is not None:
            frame = arp.request_frame(interface.mac, source, self.address, self.mac)
        else:
            frame = arp.request_frame(interface.mac, source, self.address)
        interface.send(frame)


@final
class NeighborCache:
    """The entries of one interface, oldest first; when there are too many the oldest that is not in use gives way.

    ``queued_octets`` counts the packets that wait in them.
    """

    __slots__ = ("_interface", "entries", "queued_octets")

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self.entries: dict[bytes, Neighbor] = {}
        self.queued_octets = 0

    def lookup(self, address: bytes) -> Neighbor:
        """Find or make the entry of an address."""
        entry = self.entries.get(address)
        return entry if entry is not None else self.current(Neighbor(self._interface, address))

    def current(self, entry: Neighbor) -> Neighbor:
        """Return the entry that stands for this one's address: itself, put back in its place if it was forgotten."""
        found = self.entries.get(entry.address)
        if found is not None:
            return found
        if len(self.entries) >= MAX_ENTRIES:
            self.forget(self._victim())
        self.entries[entry.address] = entry
        self._interface.watched[entry.address] = None
        return entry

    def forget(self, entry: Neighbor) -> None:
        """Take an entry out; it becomes FAILED."""
        if self.entries.get(entry.address) is entry:
            del self.entries[entry.address]
            self._interface.unwatch(entry.address)
        entry.fail()

    def flush(self) -> None:
        """Forget everything, because the link went down."""
        for entry in list(self.entries.values()):
            self.forget(entry)

    def _victim(self) -> Neighbor:
        for entry in self.entries.values():
            if entry.state in _EVICTABLE:
                return entry
        return next(iter(self.entries.values()))
