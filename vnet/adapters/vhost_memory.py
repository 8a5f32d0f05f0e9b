"""Descriptors that a vhost-user front-end passes to us: the memory of its guest, and eventfds.

Each is looked at before it is used. Memory has to be sealed against shrinking (memfd_create(2)), by the front-end or by us:
if it got shorter than it was mapped, the next access would end the lab by SIGBUS. And only a real eventfd is read and
written, because others might block.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from struct import Struct
from typing import Final, final

from vnet.adapters.virtqueue import MOST_REGIONS, Memory, Region
from vnet.errors import WireError

TABLE: Final = Struct("<II")
REGION: Final = Struct("<QQQQ")
"""Guest address, size, user address, offset in the file (vhost-user, "Memory regions description")."""


@final
class SharedMemory:
    """The regions of a SET_MEM_TABLE message, mapped; raise WireError for what cannot be. The *fds* stay the caller's."""

    def __init__(self, payload: bytes, fds: list[int]) -> None:
        count = TABLE.unpack_from(payload)[0] if len(payload) >= TABLE.size else 0
        if not 0 < count <= MOST_REGIONS or count != len(fds) or len(payload) != TABLE.size + count * REGION.size:
            raise WireError(f"a table of {count} regions in {len(payload)} octets with {len(fds)} descriptors")
        self._maps: list[mmap.mmap] = []
        regions = []
        try:
            for number, fd in enumerate(fds):
                guest, size, user, offset = REGION.unpack_from(payload, TABLE.size + number * REGION.size)
                mapped = _map(fd, size, offset)
                self._maps.append(mapped)
                regions.append(Region(guest, user, memoryview(mapped)[offset : offset + size]))
        except (OSError, ValueError, OverflowError) as error:
            regions.clear()
            self.close()
            raise WireError(f"memory that cannot be mapped: {error}") from error
        self.memory = Memory(regions)

    def close(self) -> None:
        """Unmap everything; nobody may have a part of it any more."""
        self.memory = Memory()
        for mapped in self._maps:
            with contextlib.suppress(BufferError):  # someone has: it goes with the last of them
                mapped.close()
        self._maps.clear()


def _map(fd: int, size: int, offset: int) -> mmap.mmap:
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    if not 0 < size <= os.fstat(fd).st_size - offset:
        raise ValueError(f"{size} octets at {offset} are not in the file")
    return mmap.mmap(fd, offset + size)


def check_event(fd: int) -> None:
    """See that *fd* is an eventfd, and have it not block; raise WireError if it is none."""
    if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:[eventfd]":
        raise WireError("a descriptor that is no eventfd")
    os.set_blocking(fd, False)


def signal_event(fd: int) -> None:
    """Add one to an eventfd; one that is full was signalled often enough."""
    with contextlib.suppress(OSError):
        os.eventfd_write(fd, 1)


def clear_event(fd: int) -> None:
    """Set an eventfd back."""
    with contextlib.suppress(OSError):
        os.eventfd_read(fd)
