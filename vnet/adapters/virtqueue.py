"""Split virtqueues of a device in another process's memory (VIRTIO 1.2, 2.7), seen from the device's side.

The driver owns the memory and may change it at any time, to anything. So everything is read once, into values of our own,
and checked then: every address against the table of regions, indices against the size of the ring, and the number of
descriptors walked for one frame against the size of the ring, which no honest driver exceeds and which ends every loop.
What does not hold raises ``RingError``; the ring is of no use then until it is set up anew (DEVICE_NEEDS_RESET, 2.1.2).

Indices and flags are read and written as whole 16-bit words, which a ``struct`` format with a byte order does not do.
The order of stores is that of the program, as on x86; where a load must come after a store, ``_fence`` is between them.
Nothing here waits or calls the system: memory is whatever has the buffer interface, which tests make of a bytearray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from threading import Lock
from typing import Final, final

from vnet.errors import WireError

MOST_REGIONS: Final = 8
"""Regions in a table (vhost-user, "Memory regions description")."""
LARGEST_RING: Final = 1024
"""QEMU's own limit. VIRTIO allows 32768, which would let a guest have us walk that many descriptors for one frame."""
LARGEST_CHAIN: Final = 12 + 18 + 65_536
"""Octets of a super-frame with its header and tags."""

_DESCRIPTOR: Final = Struct("<QIHH")
_USED: Final = Struct("<II")
_NEXT: Final = 1
_WRITE: Final = 2
_INDIRECT: Final = 4
_NO_NOTIFY: Final = 1
_NO_INTERRUPT: Final = 1
_FLAGS, _INDEX, _RING = 0, 1, 2
"""Places in an available or used ring, counted in 16-bit words."""

_LOCK: Final = Lock()


def _fence() -> None:
    """Keep loads that follow from being done before stores that came before: the atomic operation of a lock does."""
    _LOCK.acquire()
    _LOCK.release()


class RingError(WireError):
    """A driver broke the rules of its ring."""


@final
@dataclass(frozen=True, slots=True)
class Region:
    """Memory of ``len(octets)`` at an address of the guest, and of the process that runs the guest."""

    guest: int
    user: int
    octets: memoryview


@final
class Memory:
    """The memory that is shared with us; nothing outside the regions can be reached."""

    __slots__ = ("_guest", "_user")

    def __init__(self, regions: Sequence[Region] = ()) -> None:
        self._guest = tuple((each.guest, each.guest + len(each.octets), each.octets) for each in regions)
        self._user = tuple((each.user, each.user + len(each.octets), each.octets) for each in regions)

    def guest(self, address: int, octets: int) -> memoryview:
        """Find memory by the guest's address of it; raise RingError unless one region has all of it."""
        end = address + octets
        for first, behind, memory in self._guest:
            if first <= address and end <= behind:
                return memory[address - first : end - first]
        raise RingError(f"no memory of {octets} octets at {address:#x}")

    def user(self, address: int, octets: int) -> memoryview:
        """Find memory by the address that the front-end has it at."""
        end = address + octets
        for first, behind, memory in self._user:
            if first <= address and end <= behind:
                return memory[address - first : end - first]
        raise RingError(f"no memory of {octets} octets at the front-end's {address:#x}")


@final
class Virtqueue:
    """One ring of *size* descriptors, at the front-end's addresses; raise RingError where they cannot be.

    *next_available* is the index, counted without end modulo 65536, of the first buffer that was not taken yet.
    """

    __slots__ = ("_available", "_memory", "_size", "_table", "_used", "_used_index", "_used_octets", "next_available")

    def __init__(self, memory: Memory, size: int, table: int, available: int, used: int, next_available: int) -> None:
        if not 0 < size <= LARGEST_RING or size & (size - 1):
            raise RingError(f"a ring of {size} descriptors")
        if table % 16 or available % 2 or used % 4:
            raise RingError("a ring that is not aligned (VIRTIO 1.2, 2.7)")
        self._memory = memory
        self._size = size
        self._table = memory.user(table, 16 * size)
        self._available = memory.user(available, 4 + 2 * size).cast("H")
        self._used_octets = memory.user(used, 4 + 8 * size)
        self._used = self._used_octets.cast("H")
        self._used_index: int = self._used[_INDEX]
        self.next_available = next_available & 0xFFFF

    @property
    def size(self) -> int:
        """How many descriptors it has."""
        return self._size

    def waiting(self) -> int:
        """Count the buffers that the driver has put up; raise RingError if it claims more than there can be."""
        count = (self._available[_INDEX] - self.next_available) & 0xFFFF
        if count > self._size:
            raise RingError(f"{count} buffers in a ring of {self._size}")
        return count

    def want_notifications(self, wanted: bool) -> None:
        """Tell the driver whether to tell us of new buffers. Whoever wants that looks once more afterwards."""
        self._used[_FLAGS] = 0 if wanted else _NO_NOTIFY
        _fence()

    def wants_interrupt(self) -> bool:
        """Tell whether the driver wants to hear of buffers that were given back."""
        _fence()
        return not self._available[_FLAGS] & _NO_INTERRUPT

    def take(self) -> tuple[int, bytes, int]:
        """Take the next buffer, which must wait, and read it: its head, what it holds, how many descriptors it has.

        Only the first ``LARGEST_CHAIN`` octets and one more are read.
        """
        head = self._head(self.next_available)
        views, walked = self._chain(head, 0, self._size)
        self.next_available = (self.next_available + 1) & 0xFFFF
        if len(views) == 1:
            return head, bytes(views[0][: LARGEST_CHAIN + 1]), walked
        if sum(map(len, views)) <= LARGEST_CHAIN:
            return head, b"".join(views), walked
        return head, bytes(LARGEST_CHAIN + 1), walked  # too long; which octets are left out does not matter

    def give(self, head: int, octets: int = 0) -> None:
        """Give a buffer back, of which so many octets were written."""
        index = self._used_index
        _USED.pack_into(self._used_octets, 4 + 8 * (index & (self._size - 1)), head, octets)
        self._used_index = index = (index + 1) & 0xFFFF
        self._used[_INDEX] = index

    def fill(self, header: bytes, frame: bytes, mergeable: bool) -> bool:
        """Write a header and a frame into the next buffer, or with *mergeable* into as many as it takes.

        The last two octets of the header become the number of buffers (VIRTIO 1.2, 5.1.6.4) if it has room for that. Return
        False, and take none, if there is not room enough.
        """
        size, at, most = self._size, self.next_available, self.waiting()
        wanted = len(header) + len(frame)
        room, left, count = 0, size, 0
        chains: list[tuple[int, list[memoryview], int]] = []
        while room < wanted:
            if count == most or (count and not mergeable):
                return False
            head = self._head(at)
            views, walked = self._chain(head, _WRITE, left)
            left -= walked
            holds = sum(map(len, views)) if len(views) > 1 else len(views[0])
            chains.append((head, views, holds))
            room += holds
            count += 1
            at = (at + 1) & 0xFFFF
        if len(header) == 12:
            header = header[:10] + count.to_bytes(2, "little")
        data = memoryview(header + frame)
        done, index = 0, self._used_index
        for head, views, holds in chains:
            for view in views:
                part = data[done : done + len(view)]
                view[: len(part)] = part
                done += len(part)
            # ``wanted`` ends in the last one: all others are full
            written = holds if done < wanted else holds - (room - wanted)
            _USED.pack_into(self._used_octets, 4 + 8 * (index & (size - 1)), head, written)
            index = (index + 1) & 0xFFFF
        self.next_available = at
        self._used_index = index
        self._used[_INDEX] = index
        return True

    def _head(self, index: int) -> int:
        head: int = self._available[_RING + (index & (self._size - 1))]
        if head >= self._size:
            raise RingError(f"descriptor {head} in a ring of {self._size}")
        return head

    def _chain(self, at: int, writable: int, most: int) -> tuple[list[memoryview], int]:
        """Follow a chain of at most *most* descriptors, all of which the device may write, or read."""
        find, table, size = self._memory.guest, self._table, self._size
        views = []
        for walked in range(1, most + 1):
            address, octets, flags, following = _DESCRIPTOR.unpack_from(table, 16 * at)
            if flags & (_WRITE | _INDIRECT) != writable:
                raise RingError(f"descriptor {at} has flags {flags:#x}")
            views.append(find(address, octets))
            if not flags & _NEXT:
                return views, walked
            if following >= size:
                raise RingError(f"descriptor {at} leads to {following} in a ring of {size}")
            at = following
        raise RingError("a chain that is longer than its ring, or several that share descriptors")
