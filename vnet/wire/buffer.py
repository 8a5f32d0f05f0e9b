"""A cursor over received octets: running off the end is a ``WireError``, never an ``IndexError``."""

from __future__ import annotations

from typing import final

from vnet.errors import WireError


@final
class Reader:
    """Reads big-endian fields one after the other."""

    __slots__ = ("_data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self.position = position

    @property
    def remaining(self) -> int:
        """Count the octets that are left."""
        return len(self._data) - self.position

    def take(self, count: int) -> bytes:
        """Read *count* octets."""
        start = self.position
        if count < 0 or count > len(self._data) - start:
            raise WireError(f"{count} octets wanted at offset {start}, {len(self._data) - start} are there")
        self.position = start + count
        return self._data[start : start + count]

    def rest(self) -> bytes:
        """Read everything that is left."""
        return self.take(self.remaining)

    def u8(self) -> int:
        """Read one octet as a number."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Read two octets as a number."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Read four octets as a number."""
        return int.from_bytes(self.take(4), "big")
