"""Rings in memory that holds anything: only RingError comes out, nothing else is touched, no loop is endless."""

from __future__ import annotations

import random
from struct import pack_into

from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.adapters.virtqueue import LARGEST_CHAIN, Memory, Region, RingError, Virtqueue

GUARD = 4096
OCTETS = 8192
"""Of each region."""
LOW, HIGH = 0x1000, 0x8000
USER = 0x7F00_0000_0000


class Guest:
    """Two regions between guards, with rings that are plausible in parts, as *chance* has it."""

    def __init__(self, seed: int, size: int, sanity: float) -> None:
        chance = random.Random(seed)
        self.whole = bytearray(3 * GUARD + 2 * OCTETS)
        view = memoryview(self.whole)
        first, second = GUARD, 2 * GUARD + OCTETS
        for start in (first, second):
            self.whole[start : start + OCTETS] = chance.randbytes(OCTETS)
        self.memory = Memory(
            (
                Region(LOW, USER + LOW, view[first : first + OCTETS]),
                Region(HIGH, USER + HIGH, view[second : second + OCTETS]),
            )
        )
        self.size = size
        self.chance = chance
        self.sanity = sanity
        self.table, self.available, self.used = first, first + 16 * size, first + 16 * size + 4 * size + 16
        self.used = (self.used + 3) // 4 * 4
        self.scramble()
        at = USER + LOW - first
        self.queue = Virtqueue(self.memory, size, self.table + at, self.available + at, self.used + at, 0)

    def scramble(self) -> None:
        """Write descriptors and a ring, sane ones with the chance of *sanity* each."""
        chance, size = self.chance, self.size
        for at in range(size):
            if chance.random() < self.sanity:
                address = chance.choice((LOW, HIGH)) + chance.randrange(OCTETS - 1600)
                flags = chance.choice((0, 0, 1, 2, 2, 3))
                pack_into(
                    "<QIHH", self.whole, self.table + 16 * at, address, chance.randrange(1600), flags, chance.randrange(size)
                )
        if chance.random() < self.sanity:
            pack_into("<H", self.whole, self.available + 2, chance.randrange(size + 2))
            for at in range(size):
                pack_into("<H", self.whole, self.available + 4 + 2 * at, chance.randrange(size))


@given(
    seed=st.integers(0, 1 << 32), size=st.sampled_from((1, 2, 8, 64)), sanity=st.sampled_from((0.0, 0.5, 0.9, 1.0)),
    steps=st.lists(st.sampled_from(("take", "fill", "merge", "scramble", "look")), max_size=30),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_nothing_but_an_error(seed: int, size: int, sanity: float, steps: list[str]) -> None:
    guest = Guest(seed, size, sanity)
    queue = guest.queue
    for step in steps:
        before = queue.next_available
        try:
            match step:
                case "take":
                    if queue.waiting():
                        head, data, walked = queue.take()
                        assert head < size
                        assert 1 <= walked <= size
                        assert len(data) <= LARGEST_CHAIN + 1
                        queue.give(head, len(data) & 0xFFFF)
                case "fill" | "merge":
                    filled = queue.fill(bytes(12), b"\xaa" * 3000, step == "merge")
                    taken = (queue.next_available - before) & 0xFFFF
                    assert bool(taken) == filled
                    assert taken <= size
                case "scramble":
                    guest.scramble()
                case "look":
                    queue.want_notifications(bool(seed & 1))
                    queue.wants_interrupt()
        except RingError:
            assert queue.next_available == before
    for start in (0, GUARD + OCTETS, 2 * (GUARD + OCTETS)):
        assert guest.whole[start : start + GUARD] == bytes(GUARD)


@given(
    size=st.integers(-1, 5000), table=st.integers(0, 1 << 64), available=st.integers(0, 1 << 64),
    used=st.integers(0, 1 << 64), near=st.booleans(),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_rings_anywhere(size: int, table: int, available: int, used: int, near: bool) -> None:
    octets = bytearray(OCTETS)
    memory = Memory((Region(LOW, USER, memoryview(octets)),))
    if near:
        table, available, used = (USER + each % (OCTETS + 64) // 16 * 16 for each in (table, available, used))
    try:
        queue = Virtqueue(memory, size, table, available, used, table)
    except RingError:
        return
    assert 16 * size <= OCTETS
    try:
        assert queue.waiting() <= size
    except RingError:
        return


@given(
    frames=st.lists(st.binary(min_size=1, max_size=4000), min_size=1, max_size=40), size=st.sampled_from((4, 16, 64)),
    buffers=st.integers(13, 2000), descriptors=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_frames_come_out_as_they_went_in(frames: list[bytes], size: int, buffers: int, descriptors: int) -> None:
    """A driver that keeps the rules puts up chains of several descriptors, and joins what comes back."""
    octets = bytearray(16 * 1024 + size * 2048)
    memory = Memory((Region(0, USER, memoryview(octets)),))
    table, available, used = 0, 16 * size, 16 * size + 2 * size + 8
    queue = Virtqueue(memory, size, USER + table, USER + available, USER + used, 0)
    chains = size // descriptors
    put_up = taken = 0
    lengths = [buffers - buffers // descriptors * (descriptors - 1)] + [buffers // descriptors] * (descriptors - 1)
    for frame in frames:
        while put_up - taken < chains:
            chain = put_up % chains
            address = 16 * 1024 + chain * 2048
            for number, length in enumerate(lengths):
                at = chain * descriptors + number
                last = number == descriptors - 1
                pack_into("<QIHH", octets, table + 16 * at, address, length, 2 if last else 3, at + 1)
                address += length
            pack_into("<H", octets, available + 4 + 2 * (put_up % size), chain * descriptors)
            put_up += 1
            pack_into("<H", octets, available + 2, put_up)
        fits = -(-(12 + len(frame)) // buffers) <= chains
        assert queue.fill(bytes(12), frame, True) == fits
        end = int.from_bytes(octets[used + 2 : used + 4], "little")
        pieces = []
        while taken < end:
            at = used + 4 + 8 * (taken % size)
            head, written = (int.from_bytes(octets[at + i : at + i + 4], "little") for i in (0, 4))
            start = 16 * 1024 + head // descriptors * 2048
            pieces.append(bytes(octets[start : start + written]))
            taken += 1
        if fits:
            joined = b"".join(pieces)
            assert joined[10:12] == len(pieces).to_bytes(2, "little")
            assert joined[12:] == frame
