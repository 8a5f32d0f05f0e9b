"""The neighbor cache of an interface, with the states of RFC 4861, 7.3.2: for both IP versions, and IPv4 by ARP (RFC 826).

::

    (none) --packet--> INCOMPLETE --reply--> REACHABLE --30 s--> STALE --packet--> DELAY --5 s--> PROBE
       ^                   |                     ^                 |                 |              |
       +---3 unanswered----+                     +-----------------+--- reply -------+--------------+
       +---10 min unused, or 3 unanswered--------------------------+--------------------------------+

What is simpler than in RFC 4861: upper layers confirm nothing, so a neighbor in use is asked once in some 35 s, and for ARP
the reachable time is not drawn at random.

An entry's ``header`` is the Ethernet header for a packet to that neighbor. It is there exactly while a packet may go out
with no further thought; whoever caches the entry (a socket, a router's flow) writes
``header + packet`` when it is there and calls ``send`` when it is None.
"""

from __future__ import annotations

from enum import Enum, auto
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Final, Generic, Self, TypeVar, final

from vnet.addresses import format_mac
from vnet.ports import NO_OFFLOAD
from vnet.units import MINUTE, SECOND, Duration
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


class NeighborEntry:
    """One address on one interface: what ARP and neighbor discovery have in common.

    What differs is in the methods of the last part, which ``Neighbor`` and ``Ipv6Neighbor`` have.
    """

    __slots__ = ("_alarm", "_cache", "_queue", "_solicits", "address", "header", "interface", "mac", "state")

    _cache: Cache[Self]
    ethertype: ClassVar[bytes]

    def __init__(self, interface: Interface, cache: Cache[Self], address: bytes, mac: bytes | None) -> None:
        """Make an entry; with *mac* it is permanent, as for broadcast and groups."""
        self.interface = interface
        self.address = address
        self.mac = mac
        self.state = State.FAILED if mac is None else State.PERMANENT
        self.header = None if mac is None else mac + interface.mac + self.ethertype
        self._cache = cache
        self._solicits = 0
        self._alarm: Alarm | None = None
        self._queue: list[tuple[bytes, bytes]] | None = None

    def send(self, packet: bytes, offload: bytes = NO_OFFLOAD) -> None:
        """Send a packet to this neighbor, or keep it until the neighbor's MAC address is known."""
        if self.header is None:
            if self.state is State.STALE:
                self._enter(State.DELAY, DELAY_FIRST_PROBE_TIME)
            else:
                self._wait(packet, offload)
                return
        if self.header is not None:
            self.interface.port.send(self.header + packet, offload)

    def fail(self) -> None:
        """Forget what is known, and give back the packets that wait.

        They come back as events: the error that is sent for one may need an entry, which takes the place of another, whose
        packets come back.
        """
        self._enter(State.FAILED, None)
        for packet, _ in self._dequeue():
            self.interface.host.scheduler.soon(self._give_back, packet)

    def _wait(self: Self, packet: bytes, offload: bytes) -> None:
        cache = self._cache
        current = cache.current(self)
        if current is not self:
            current.send(packet, offload)
            return
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
            self._enter(State.INCOMPLETE, self._retransmit_time())
            self._solicit()

    def _flush(self) -> None:
        """Send what waits."""
        for packet, offload in self._dequeue():
            self.send(packet, offload)

    def _dequeue(self) -> list[tuple[bytes, bytes]]:
        queue, self._queue = self._queue or [], None
        self._cache.queued_octets -= sum(len(packet) for packet, _ in queue)
        return queue

    def _take(self, mac: bytes) -> None:
        """Have this MAC address count; report it if another one did before."""
        if self.mac is not None and mac != self.mac and self.state not in (State.INCOMPLETE, State.FAILED):
            self.interface.host.report_seldom(
                "neighbor-moved", interface=self.interface.name, address=str(ip_address(self.address)),
                old=format_mac(self.mac), new=format_mac(mac),
            )  # fmt: skip
        self.mac = mac

    def _enter(self, state: State, timeout: int | None) -> None:
        self.state = state
        self.header = self.mac + self.interface.mac + self.ethertype if self.mac and state in _USABLE else None
        scheduler = self.interface.host.scheduler
        if self._alarm is None:
            if timeout is None:
                return
            self._alarm = scheduler.alarm(self._expire)
        self._alarm.set(None if timeout is None else scheduler.now + timeout)

    def _expire(self: Self) -> None:
        match self.state:
            case State.REACHABLE:
                self._enter(State.STALE, STALE_TIME)
            case State.DELAY:
                self._solicits = 0
                self._enter(State.PROBE, self._retransmit_time())
                self._solicit()
            case State.INCOMPLETE | State.PROBE if self._solicits < MAX_SOLICITS:
                self._enter(self.state, self._retransmit_time())
                self._solicit()
            case _:
                lost = self.state in (State.INCOMPLETE, State.PROBE)
                self._cache.forget(self)
                if lost:
                    self._lost()

    def _solicit(self) -> None:
        self._solicits += 1
        self._ask()

    # What differs

    def _retransmit_time(self) -> Duration:
        return RETRANSMIT_TIME

    def _ask(self) -> None:
        """Ask for the MAC address: everybody, or in state PROBE only who had it."""
        raise NotImplementedError

    def _give_back(self, packet: bytes) -> None:
        """Tell whoever sent a packet that the neighbor is not there."""
        raise NotImplementedError

    def _lost(self) -> None:
        """Note that the neighbor did not answer."""


E = TypeVar("E", bound=NeighborEntry)


class Cache(Generic[E]):
    """The entries of one interface, oldest first; when there are too many the oldest that is not in use gives way.

    ``queued_octets`` counts the packets that wait in them.
    """

    __slots__ = ("entries", "queued_octets")

    def __init__(self) -> None:
        self.entries: dict[bytes, E] = {}
        self.queued_octets = 0

    def lookup(self, address: bytes) -> E:
        """Find or make the entry of an address."""
        entry = self.entries.get(address)
        return entry if entry is not None else self.current(self._make(address))

    def current(self, entry: E) -> E:
        """Return the entry that stands for this one's address: itself, put back in its place if it was forgotten."""
        found = self.entries.get(entry.address)
        if found is not None:
            return found
        if len(self.entries) >= MAX_ENTRIES:
            self.forget(self._victim())
        self.entries[entry.address] = entry
        self._added(entry.address)
        return entry

    def forget(self, entry: E) -> None:
        """Take an entry out; it becomes FAILED."""
        if self.entries.get(entry.address) is entry:
            del self.entries[entry.address]
            self._removed(entry.address)
        entry.fail()

    def flush(self) -> None:
        """Forget everything, because the link went down."""
        for entry in list(self.entries.values()):
            self.forget(entry)

    def _victim(self) -> E:
        for entry in self.entries.values():
            if entry.state in _EVICTABLE:
                return entry
        return next(iter(self.entries.values()))

    # What differs

    def _make(self, address: bytes) -> E:
        raise NotImplementedError

    def _added(self, address: bytes) -> None:
        """Note that there is an entry now."""

    def _removed(self, address: bytes) -> None:
        """Note that there is none any more."""


@final
class Neighbor(NeighborEntry):
    """An IPv4 neighbor, found by ARP."""

    __slots__ = ()

    ethertype = ETHERTYPE_IPV4

    def __init__(self, interface: Interface, address: bytes, mac: bytes | None = None) -> None:
        """Make an entry; with *mac* it is permanent, as for broadcast and groups."""
        super().__init__(interface, interface.neighbors, address, mac)

    def heard(self, mac: bytes, *, confirmed: bool) -> None:
        """Take note of an ARP packet from the neighbor; a reply to our request confirms that it hears us as well."""
        if self.state is State.PERMANENT:
            return
        news = mac != self.mac or self.state in (State.INCOMPLETE, State.FAILED)
        self._take(mac)
        if confirmed:
            self._enter(State.REACHABLE, REACHABLE_TIME)
        elif news:
            self._enter(State.STALE, STALE_TIME)
        self._flush()

    def _ask(self) -> None:
        interface = self.interface
        source = interface.source_for(self.address) or ANY
        if self.state is State.PROBE and self.mac is not None:
            frame = arp.request_frame(interface.mac, source, self.address, self.mac)
        else:
            frame = arp.request_frame(interface.mac, source, self.address)
        interface.send(frame)

    def _give_back(self, packet: bytes) -> None:
        self.interface.host.on_unresolved(self.interface, packet)


@final
class NeighborCache(Cache[Neighbor]):
    """The IPv4 neighbors of an interface, which looks only at ARP packets that mention one of them."""

    __slots__ = ("_interface",)

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self._interface = interface

    def _make(self, address: bytes) -> Neighbor:
        return Neighbor(self._interface, address)

    def _added(self, address: bytes) -> None:
        self._interface.watched[address] = None

    def _removed(self, address: bytes) -> None:
        self._interface.unwatch(address)
