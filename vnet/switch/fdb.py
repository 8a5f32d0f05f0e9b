"""The filtering database: which port leads to which address, per VLAN (IEEE 802.1Q-2018, 8.8).

Learning is per VLAN (independent VLAN learning: FID = VID). Dynamic entries age; the database is bounded, and when it is
full the oldest dynamic entry of the port that holds most gives way, so that one port's flood of addresses costs that port
its own entries first.

A frame that is forwarded refreshes its source entry by writing ``entry.seen`` and nothing else. So each port keeps a heap
of (instant noted, entry): an entry that comes up is put back if it was seen since. Its head gives both the next instant at
which something can age out and the oldest entry of the port, at O(log n) per entry and ageing time.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from typing import Final, final

from vnet.units import SECOND, Duration, Instant

DEFAULT_AGEING: Final[Duration] = 300 * SECOND
"""Recommended ageing time (IEEE 802.1Q-2018, table 8-6)."""
DEFAULT_SIZE: Final = 8192
"""Entries over all VLANs."""


@final
class Entry:
    """One address in one VLAN; ``seen`` is the instant of the last frame from it, ``port`` the number of its port."""

    __slots__ = ("mac", "port", "seen", "static", "vid")

    def __init__(self, vid: int, mac: bytes, port: int, seen: Instant, static: bool = False) -> None:
        self.vid = vid
        self.mac = mac
        self.port = port
        self.seen = seen
        self.static = static


class Learned(Enum):
    """What ``Fdb.learn`` did."""

    KNOWN = auto()
    NEW = auto()
    MOVED = auto()
    REFUSED = auto()
    """A static entry names another port, or static entries fill the database."""


@final
class Fdb:
    """Entries by VID and address. ``evicted`` counts those that gave way to newer ones."""

    __slots__ = ("_heaps", "_held", "_sequence", "ageing", "count", "evicted", "size", "vlans")

    def __init__(self, size: int = DEFAULT_SIZE, ageing: Duration | None = DEFAULT_AGEING) -> None:
        self.size = size
        self.ageing = ageing
        self.vlans: dict[int, dict[bytes, Entry]] = {}
        self.count = 0
        self.evicted = 0
        self._heaps: dict[int, list[tuple[Instant, int, Entry]]] = {}
        self._held: dict[int, int] = {}
        self._sequence = 0

    def __iter__(self) -> Iterator[Entry]:
        for vid in sorted(self.vlans):
            yield from self.vlans[vid].values()

    def lookup(self, vid: int, mac: bytes) -> Entry | None:
        """Find the entry of *mac* in VLAN *vid*."""
        entries = self.vlans.get(vid)
        return entries.get(mac) if entries is not None else None

    def learn(self, vid: int, mac: bytes, port: int, now: Instant) -> tuple[Learned, Entry | None, Entry | None]:
        """Note that *mac* sent a frame in *vid* through *port*.

        Give the entry to refresh with each further frame, None where it was refused; and the entry that is no more for it:
        the one of the port that the station moved from, or one that gave way.
        """
        entry = self.lookup(vid, mac)
        if entry is not None:
            if entry.port == port:
                entry.seen = now
                return Learned.KNOWN, entry, None
            if entry.static:
                return Learned.REFUSED, None, None
            self._remove(entry)
            return Learned.MOVED, self._insert(Entry(vid, mac, port, now)), entry
        evicted = None
        if self.count >= self.size:
            evicted = self._evict()
            if evicted is None:
                return Learned.REFUSED, None, None
        return Learned.NEW, self._insert(Entry(vid, mac, port, now)), evicted

    def add_static(self, vid: int, mac: bytes, port: int, now: Instant) -> Entry:
        """Enter an address by hand: it neither ages nor moves, replaces what was learned, and is never refused."""
        old = self.lookup(vid, mac)
        if old is not None:
            self._remove(old)
        elif self.count >= self.size:
            self._evict()
        return self._insert(Entry(vid, mac, port, now, static=True))

    def remove(self, vid: int, mac: bytes) -> bool:
        """Take one entry out, static or dynamic; tell whether there was one."""
        entry = self.lookup(vid, mac)
        if entry is None:
            return False
        self._remove(entry)
        return True

    def flush(self, port: int | None = None, vid: int | None = None) -> int:
        """Take out the dynamic entries, of one port or VLAN if given; return how many."""
        doomed = [
            entry
            for entry in self
            if not entry.static and (port is None or entry.port == port) and (vid is None or entry.vid == vid)
        ]
        for entry in doomed:
            self._remove(entry)
        return len(doomed)

    def next_deadline(self) -> Instant | None:
        """Name the first instant at which an entry may have to go."""
        if self.ageing is None:
            return None
        heads = [heap[0][0] for heap in self._heaps.values() if heap]
        return min(heads) + self.ageing if heads else None

    def expire(self, now: Instant) -> list[Entry]:
        """Take out what nobody was heard from for the ageing time; return it, oldest first on each port."""
        gone: list[Entry] = []
        if self.ageing is None:
            return gone
        for port in self._heaps:
            while (entry := self._oldest(port)) is not None and entry.seen + self.ageing <= now:
                self._remove(entry)
                gone.append(entry)
        return gone

    def _insert(self, entry: Entry) -> Entry:
        self.vlans.setdefault(entry.vid, {})[entry.mac] = entry
        self.count += 1
        if not entry.static:
            self._held[entry.port] = self._held.get(entry.port, 0) + 1
            heap = self._heaps.setdefault(entry.port, [])
            if len(heap) > 2 * self._held[entry.port] + 64:  # entries that moved away left their notes behind
                heap[:] = [item for item in heap if self._is_live(item[2])]
                heapify(heap)
            self._note(heap, entry)
        return entry

    def _remove(self, entry: Entry) -> None:
        entries = self.vlans[entry.vid]
        del entries[entry.mac]
        if not entries:
            del self.vlans[entry.vid]
        self.count -= 1
        if not entry.static:
            self._held[entry.port] -= 1

    def _note(self, heap: list[tuple[Instant, int, Entry]], entry: Entry) -> None:
        self._sequence += 1
        heappush(heap, (entry.seen, self._sequence, entry))

    def _is_live(self, entry: Entry) -> bool:
        return self.lookup(entry.vid, entry.mac) is entry

    def _oldest(self, port: int) -> Entry | None:
        """Bring the port's oldest dynamic entry to the head of its heap."""
        heap = self._heaps[port]
        while heap:
            noted, _, entry = heap[0]
            if self._is_live(entry):
                if entry.seen == noted:
                    return entry
                heappop(heap)
                self._note(heap, entry)
            else:
                heappop(heap)
        return None

    def _evict(self) -> Entry | None:
        port = max(self._held, key=lambda number: (self._held[number], -number), default=None)
        entry = self._oldest(port) if port is not None and self._held[port] else None
        if entry is not None:
            self._remove(entry)
            self.evicted += 1
        return entry
