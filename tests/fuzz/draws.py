"""What frames are drawn from: chance, and the place that they mention, with addresses that are odd anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")
Drawn = tuple[bytes, bytes]
"""A frame and its virtio-net header."""
Ends = tuple[bytes, bytes, bytes, bytes]
"""Destination MAC, source MAC, source address, destination address."""


GROUP_MACS: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "ffffffffffff", "01005e000001", "01005e7fffff", "333300000001", "3333ff000001",
        *(f"0180c20000{last:02x}" for last in range(16)), "0180c2000010", "0180c2000021", "01000ccccccc", "010000000000",
    )
)  # fmt: skip
ODD_ADDRESSES: Final = tuple(
    bytes(map(int, text.split(".")))
    for text in (
        "0.0.0.0", "255.255.255.255", "127.0.0.1", "224.0.0.1", "239.255.255.250", "169.254.1.1", "240.0.0.1", "8.8.8.8",
        "10.0.0.1", "192.168.0.255", "1.0.0.0",
    )
)  # fmt: skip


class Place(NamedTuple):
    """What the frames mention, so that somebody feels addressed: who is there, which VLANs, which addresses besides."""

    stations: Sequence[tuple[bytes, bytes]]
    """MAC and IPv4 address of each interface."""
    addresses: Sequence[bytes]
    """More addresses that mean something: broadcasts, unused ones, those of forwarded ports."""
    vids: Sequence[int]
    talks: Sequence[Ends] = ()
    """Who talks to whom by way of which MAC: what goes far through routers."""


class Dice:
    """Draws from a generator, which several may share: what they draw together depends on its seed alone."""

    def __init__(self, generator: random.Random) -> None:
        self.random = generator
        self._uniform = generator.random
        self._bits = generator.getrandbits
        self._octets = generator.randbytes

    def one(self, choices: Sequence[T]) -> T:
        """Draw one of several."""
        return choices[int(self._uniform() * len(choices))]

    def below(self, bound: int) -> int:
        """Draw a whole number from 0 to *bound* - 1."""
        return int(self._uniform() * bound)
