"""A vhost-user front-end and its guest's driver, which keep the rules or break them as a test wants: a QEMU made of Python.

The guest has 8 MiB in two regions. Its rings lie in the first, its buffers in the second.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
from struct import Struct, pack, pack_into, unpack_from

from tests.unit.adapters.bench import is_cut_off
from vnet.adapters.vhost_session import ADDRESS, HEADER, NEED_REPLY, STATE, U64

LOW, HIGH = 0x0, 0x100000
"""Guest addresses of the regions."""
LOW_OCTETS, HIGH_OCTETS = 0x40000, 0x800000
USER = 0x7F00_0000_0000
"""What the front-end adds to them."""
TABLES = {0: 0x0, 1: 0x10000}
"""Where the two rings are: descriptors, then the available ring, then the used one."""
GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = Struct("<QIHH")


class FrontEnd:
    """The front-end on its end of a connection; ``setup`` says all that QEMU says."""

    def __init__(self, connection: socket.socket, size: int = 256) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self.size = size
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, LOW_OCTETS + HIGH_OCTETS)
        self.memory = mmap.mmap(self.fd, LOW_OCTETS + HIGH_OCTETS)
        self.kick = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
        self.call = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
        self.error = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
        self.available = [0, 0]
        self.used = [0, 0]
        self.need_reply = False

    def close(self) -> None:
        """Die, as a process does: all at once."""
        self.socket.close()
        self.memory.close()
        for fd in (self.fd, *self.kick, *self.call, *self.error):
            with contextlib.suppress(OSError):
                os.close(fd)

    # -- messages

    def say(self, request: int, payload: bytes = b"", *fds: int, flags: int = 1) -> None:
        self.write(HEADER.pack(request, flags | (NEED_REPLY if self.need_reply else 0), len(payload)) + payload, *fds)

    def write(self, octets: bytes, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([octets], rights)

    def reply(self) -> tuple[int, int, bytes]:
        """Read one reply: its request, flags, and payload."""
        request, flags, size = HEADER.unpack(self.socket.recv(HEADER.size))
        return request, flags, self.socket.recv(size) if size else b""

    def number(self) -> int:
        """Read a reply that is a number."""
        return int(U64.unpack(self.reply()[2])[0])

    def is_cut_off(self) -> bool:
        return is_cut_off(self.socket)

    def setup(self, features: int) -> None:
        self.say(SET_OWNER)
        self.say(SET_FEATURES, U64.pack(features))
        self.share()
        for index in (0, 1):
            self.set_ring(index)
            self.start_ring(index)
            self.say(SET_VRING_ENABLE, STATE.pack(index, 1))

    def share(self) -> None:
        regions = (LOW, LOW_OCTETS, USER + LOW, 0), (HIGH, HIGH_OCTETS, USER + HIGH, LOW_OCTETS)
        self.say(SET_MEM_TABLE, pack("<II", 2, 0) + b"".join(pack("<QQQQ", *each) for each in regions), self.fd, self.fd)

    def set_ring(self, index: int) -> None:
        table = USER + TABLES[index]
        available, used = table + 16 * self.size, self.used_at(index) + USER
        self.say(SET_VRING_NUM, STATE.pack(index, self.size))
        self.say(SET_VRING_BASE, STATE.pack(index, self.available[index]))
        self.say(SET_VRING_ADDR, ADDRESS.pack(index, 0, table, used, available, 0))

    def start_ring(self, index: int) -> None:
        self.say(SET_VRING_ERR, U64.pack(index), self.error[index])
        self.say(SET_VRING_CALL, U64.pack(index), self.call[index])
        self.say(SET_VRING_KICK, U64.pack(index), self.kick[index])

    # -- memory

    def at(self, guest: int) -> int:
        """Find where a guest address is in our mapping."""
        return guest if guest < LOW_OCTETS else guest - HIGH + LOW_OCTETS

    def available_at(self, index: int) -> int:
        return TABLES[index] + 16 * self.size

    def used_at(self, index: int) -> int:
        return (TABLES[index] + 16 * self.size + 6 + 2 * self.size + 3) // 4 * 4

    def describe(self, index: int, at: int, address: int, octets: int, flags: int = 0, following: int = 0) -> None:
        DESCRIPTOR.pack_into(self.memory, TABLES[index] + 16 * at, address, octets, flags, following)

    def put_up(self, index: int, head: int) -> None:
        """Make a chain available."""
        at = self.available[index]
        pack_into("<H", self.memory, self.available_at(index) + 4 + 2 * (at % self.size), head)
        self.available[index] = at = (at + 1) & 0xFFFF
        pack_into("<H", self.memory, self.available_at(index) + 2, at)

    def claim(self, index: int, available: int) -> None:
        """Say that there are buffers up to this index, whatever there is."""
        pack_into("<H", self.memory, self.available_at(index) + 2, available)

    def forbid_interrupts(self, index: int, forbidden: bool) -> None:
        pack_into("<H", self.memory, self.available_at(index), forbidden)

    def notifications_wanted(self, index: int) -> bool:
        return not unpack_from("<H", self.memory, self.used_at(index))[0]

    def kick_ring(self, index: int = 1) -> None:
        os.eventfd_write(self.kick[index], 1)

    def interrupts(self, index: int) -> int:
        return count(self.call[index])

    def errors(self, index: int) -> int:
        return count(self.error[index])

    def given_back(self, index: int) -> list[tuple[int, int]]:
        """List (head, octets written) of the chains that came back since the last time."""
        at = self.used_at(index)
        end = unpack_from("<H", self.memory, at + 2)[0]
        found = []
        while self.used[index] != end:
            found.append(unpack_from("<II", self.memory, at + 4 + 8 * (self.used[index] % self.size)))
            self.used[index] = (self.used[index] + 1) & 0xFFFF
        return found

    # -- frames, as a driver that keeps the rules has them

    def offer(self, count: int, octets: int = 1536) -> None:
        """Put up empty buffers, of one descriptor each, for frames to arrive."""
        for _ in range(count):
            head = self.available[0] % self.size
            self.describe(0, head, HIGH + head * octets, octets, WRITE)
            self.put_up(0, head)

    def received(self) -> list[bytes]:
        """Take the frames that arrived, with their headers of 12 octets."""
        frames = []
        pieces: list[bytes] = []
        for head, written in self.given_back(0):
            address = DESCRIPTOR.unpack_from(self.memory, TABLES[0] + 16 * head)[0]
            pieces.append(self.memory[self.at(address) : self.at(address) + written])
            if len(pieces) == int.from_bytes(pieces[0][10:12], "little"):
                frames.append(b"".join(pieces))
                pieces = []
        assert not pieces, "a frame of which a part is missing"
        return frames

    def transmit(self, data: bytes, parts: int = 1, kick: bool = True) -> None:
        """Send a header and a frame, in so many descriptors."""
        start = self.available[1] % self.size
        step = -(-len(data) // parts)
        for number in range(parts):
            part = data[number * step : (number + 1) * step]
            at = (start + number) % self.size
            address = HIGH + 0x200000 + number * 0x4000 if parts > 1 else HIGH + 0x400000 + at * 1600
            self.memory[self.at(address) : self.at(address) + len(part)] = part
            last = number == parts - 1
            self.describe(1, at, address, len(part), 0 if last else NEXT, (at + 1) % self.size)
        self.put_up(1, start)
        if kick:
            self.kick_ring()


def count(event: int) -> int:
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0
