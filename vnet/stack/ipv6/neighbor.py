"""The neighbor cache of an interface (RFC 4861, sections 7.2 and 7.3): the same states and bounds as for ARP.

An entry is asked for at most once in ``RetransTimer`` (1 s unless a router says otherwise), at most three times, and packets
wait for it within bounds. ``header`` is the Ethernet header for a packet to that neighbor exactly while a packet may go out
with no further thought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.ports import NO_OFFLOAD
from vnet.stack.neighbor import (
    DELAY_FIRST_PROBE_TIME,
    MAX_ENTRIES,
    MAX_QUEUE,
    MAX_QUEUED_OCTETS,
    MAX_SOLICITS,
    STALE_TIME,
    State,
)
from vnet.wire.ethernet import ETHERTYPE_IPV6

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.ipv6.interface import Ipv6Interface

_USABLE: Final = frozenset({State.REACHABLE, State.DELAY, State.PROBE, State.PERMANENT})
_EVICTABLE: Final = frozenset({State.FAILED, State.STALE, State.INCOMPLETE})


@final
class Ipv6Neighbor:
    """One address on one interface."""

    __slots__ = ("_alarm", "_queue", "_solicits", "address", "header", "interface", "is_router", "mac", "state")

    def __init__(self, interface: Ipv6Interface, address: bytes, mac: bytes | None = None) -> None:
        """Make an entry; with *mac* it is permanent, as for groups."""
        self.interface = interface
        self.address = address
        self.mac = mac
        self.is_router = False
        self.state = State.FAILED if mac is None else State.PERMANENT
        self.header = None if mac is None else mac + interface.mac + ETHERTYPE_IPV6
        self._solicits = 0
        self._alarm: Alarm | None = None
        self._queue: list[bytes] | None = None

    def send(self, packet: bytes) -> None:
        """Send a packet to this neighbor, or keep it until the neighbor's MAC address is known."""
        if self.header is None:
            if self.state is State.STALE:
                self._enter(State.DELAY, DELAY_FIRST_PROBE_TIME)
            else:
                self._wait(packet)
                return
        if self.header is not None:
            self.interface.port.send(self.header + packet, NO_OFFLOAD)

    def spoke(self, mac: bytes) -> None:
        """Take note of the MAC address in a solicitation or router advertisement: no proof that it hears us (7.2.3)."""
        if self.state is State.PERMANENT or (mac == self.mac and self.state not in (State.INCOMPLETE, State.FAILED)):
            return
        self._moved(mac)
        self.mac = mac
        self._enter(State.STALE, STALE_TIME)
        self._flush()

    def advertised(self, mac: bytes | None, *, solicited: bool, override: bool, is_router: bool) -> None:
        """Take an advertisement (section 7.2.5)."""
        if self.state in (State.PERMANENT, State.FAILED):
            return
        if self.state is State.INCOMPLETE:
            if mac is None:
                return
            self.mac = mac
        elif mac is not None and mac != self.mac:
            if not override:
                if self.state is State.REACHABLE:
                    self._enter(State.STALE, STALE_TIME)
                return
            self._moved(mac)
            self.mac = mac
            if not solicited:
                self._enter(State.STALE, STALE_TIME)
        if solicited:
            self._enter(State.REACHABLE, self.interface.reachable_time())
        elif self.state is State.INCOMPLETE:
            self._enter(State.STALE, STALE_TIME)
        if self.is_router and not is_router:
            self.interface.no_router(self.address)
        self.is_router = is_router
        self._flush()

    def fail(self) -> None:
        """Forget what is known, and give back the packets that wait, as events: an error about one may need an entry."""
        self._enter(State.FAILED, None)
        node = self.interface.node
        for packet in self._dequeue():
            node.host.scheduler.soon(node.undeliverable, self.interface.interface, packet)

    def _moved(self, mac: bytes) -> None:
        if self.mac is not None and mac != self.mac and self.state not in (State.INCOMPLETE, State.FAILED):
            self.interface.neighbor_moved(self.address, self.mac, mac)

    def _wait(self, packet: bytes) -> None:
        cache = self.interface.neighbors
        current = cache.current(self)
        if current is not self:
            current.send(packet)
            return
        if self._queue is None:
            self._queue = []
        if len(self._queue) >= MAX_QUEUE:
            cache.queued_octets -= len(self._queue.pop(0))
            self.interface.node.host.drop("neighbor-queue-full")
        if cache.queued_octets + len(packet) <= MAX_QUEUED_OCTETS:
            cache.queued_octets += len(packet)
            self._queue.append(packet)
        else:
            self.interface.node.host.drop("neighbor-queue-full")
        if self.state is State.FAILED:
            self._solicits = 0
            self._enter(State.INCOMPLETE, self.interface.retransmit_time)
            self._solicit()

    def _flush(self) -> None:
        for packet in self._dequeue():
            self.send(packet)

    def _dequeue(self) -> list[bytes]:
        queue, self._queue = self._queue or [], None
        self.interface.neighbors.queued_octets -= sum(map(len, queue))
        return queue

    def _enter(self, state: State, timeout: int | None) -> None:
        self.state = state
        self.header = self.mac + self.interface.mac + ETHERTYPE_IPV6 if self.mac and state in _USABLE else None
        scheduler = self.interface.node.host.scheduler
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
                self._enter(State.PROBE, self.interface.retransmit_time)
                self._solicit()
            case State.INCOMPLETE | State.PROBE if self._solicits < MAX_SOLICITS:
                self._enter(self.state, self.interface.retransmit_time)
                self._solicit()
            case _:
                lost = self.state in (State.INCOMPLETE, State.PROBE)
                self.interface.neighbors.forget(self)
                if lost:
                    self.interface.router_lost(self.address)

    def _solicit(self) -> None:
        self._solicits += 1
        asking = self._queue[-1][8:24] if self._queue else None  # the source of what waits, if it is ours (7.2.2)
        self.interface.solicit(self.address, asking, None if self.state is State.INCOMPLETE else self.mac)


@final
class Ipv6NeighborCache:
    """The entries of one interface, oldest first; when there are too many the oldest that is not in use gives way."""

    __slots__ = ("_interface", "entries", "queued_octets")

    def __init__(self, interface: Ipv6Interface) -> None:
        self._interface = interface
        self.entries: dict[bytes, Ipv6Neighbor] = {}
        self.queued_octets = 0

    def lookup(self, address: bytes) -> Ipv6Neighbor:
        """Find or make the entry of an address."""
        entry = self.entries.get(address)
        return entry if entry is not None else self.current(Ipv6Neighbor(self._interface, address))

    def current(self, entry: Ipv6Neighbor) -> Ipv6Neighbor:
        """Return the entry that stands for this one's address: itself, put back in its place if it was forgotten."""
        found = self.entries.get(entry.address)
        if found is not None:
            return found
        if len(self.entries) >= MAX_ENTRIES:
            self.forget(self._victim())
        self.entries[entry.address] = entry
        return entry

    def forget(self, entry: Ipv6Neighbor) -> None:
        """Take an entry out; it becomes FAILED."""
        if self.entries.get(entry.address) is entry:
            del self.entries[entry.address]
        entry.fail()

    def flush(self) -> None:
        """Forget everything, because the link went down."""
        for entry in list(self.entries.values()):
            self.forget(entry)

    def _victim(self) -> Ipv6Neighbor:
        for entry in self.entries.values():
            if entry.state in _EVICTABLE:
                return entry
        return next(iter(self.entries.values()))
