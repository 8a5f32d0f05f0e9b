"""Mutations of frames, and offload headers that lie: damage that gets past the first check."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from struct import Struct, pack_into
from typing import Final, final

from draws import GROUP_MACS, ODD_ADDRESSES, Dice, Drawn, Place
from packets import TCP, ip_offset, repair

from vnet.ports import NO_OFFLOAD

OFFLOAD: Final = Struct("<BBHHHH")
"""The virtio-net header."""


@final
class Damage(Dice):
    """Damages frames at *place*, also with pieces of others in *corpus*."""

    def __init__(self, generator: random.Random, place: Place, corpus: Sequence[Drawn]) -> None:
        super().__init__(generator)
        self._place = place
        self._corpus = corpus
        self._mutations: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._flip, self._octet, self._octet, self._truncate, self._extend, self._lie_ip,
            self._lie_transport, self._addresses, self._copy,
        )  # fmt: skip

    def mutated(self, frame: bytes, offload: bytes) -> Drawn:
        """Make a few mutations of a frame, half of them with right checksums."""
        uniform, mutations = self._uniform, self._mutations
        octets = bytearray(frame)
        for _ in range(1 + int(uniform() * uniform() * 5)):
            mutations[int(uniform() * len(mutations))](octets)
        chance = uniform()
        if chance < 0.5:
            repair(octets)
        if chance < 0.15 or offload is not NO_OFFLOAD:
            offload = self._lying(frame, offload)
        return bytes(octets), offload

    # -- mutations -----------------------------------------------------------------------------------------------------

    def _flip(self, octets: bytearray) -> None:
        if octets:
            octets[self.below(len(octets))] ^= 1 << self.below(8)

    def _octet(self, octets: bytearray) -> None:
        if octets:  # the headers matter more than what they carry
            octets[self.below(min(len(octets), 80))] = self.one((0, 1, 255, 0x45, 0x80, self._bits(8)))

    def _truncate(self, octets: bytearray) -> None:
        del octets[self.below(len(octets) + 1) :]

    def _extend(self, octets: bytearray) -> None:
        octets += self._octets(self.below(64))

    def _lie_ip(self, octets: bytearray) -> None:
        at = ip_offset(octets)
        if at is not None and len(octets) >= at + 20:
            if self._uniform() < 0.5:
                pack_into("!H", octets, at + 2, self.one((0, 19, 20, 21, len(octets) - at + 1, 0xFFFF, self._bits(16))))
            else:
                octets[at] = self.one((0x40, 0x44, 0x45, 0x46, 0x4F, 0x55, 0x65, self._bits(8)))

    def _lie_transport(self, octets: bytearray) -> None:
        at = ip_offset(octets)
        if at is None:
            return
        start = at + (octets[at] & 15) * 4
        if len(octets) >= start + 14:
            if octets[at + 9] == TCP:
                octets[start + 12] = self.one((0, 0x40, 0x50, 0xF0, self._bits(8)))
            else:
                pack_into("!H", octets, start + 4, self.one((0, 7, 8, 9, len(octets), 0xFFFF)))

    def _addresses(self, octets: bytearray) -> None:
        """Put somebody else's address somewhere: that is how caches are poisoned."""
        mac, address = self.one(self._place.stations)
        if len(octets) >= 12:
            at = self.one((0, 6, 6))
            octets[at : at + 6] = self.one((mac, mac, self.one(GROUP_MACS), self._octets(6), bytes(6)))
        at_ip = ip_offset(octets)
        if at_ip is not None and len(octets) >= at_ip + 20:
            at = at_ip + self.one((12, 16))
            octets[at : at + 4] = self.one((address, self.one(self._place.addresses), self.one(ODD_ADDRESSES)))

    def _copy(self, octets: bytearray) -> None:
        """Let a piece of another frame end this one."""
        other = self._corpus[self.below(len(self._corpus))][0]
        at = self.below(len(octets) + 1)
        octets[at:] = other[at:]

    # -- offload headers -----------------------------------------------------------------------------------------------

    def _lying(self, frame: bytes, offload: bytes) -> bytes:
        """Make an offload header that need not fit the frame."""
        kind = self.below(8)
        if kind == 0:
            return self._octets(10)
        if kind == 1 and offload is not NO_OFFLOAD:
            octets = bytearray(offload)
            octets[self.below(10)] = self._bits(8)
            return bytes(octets)
        if kind == 2:
            return OFFLOAD.pack(
                self.one((0, 1, 2, 3, 255)), self.one((0, 1, 3, 4, 5, 0x80, 0x81, 127)), self.one((0, 14, 42, 54, 65535)),
                self.one((0, 1, 2, 8, 100, 1448, 65535)), self.one((0, 13, 14, 34, len(frame) & 0xFFFF, 65535)),
                self.one((0, 6, 16, 65535)),
            )  # fmt: skip
        return offload if kind < 6 else NO_OFFLOAD
