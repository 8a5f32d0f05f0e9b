"""A queue of octets in blocks of one size: appending, reading anywhere and dropping in front each cost what they move.

One large bytearray does not do: when data goes in behind and out in front, each growth moves all that is there.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

BLOCK: Final = 64 * 1024


@final
class OctetQueue:
    """Octets in order; ``len`` counts them. All blocks but the last are full, the first ``_start`` octets are gone."""

    __slots__ = ("_blocks", "_length", "_start")

    def __init__(self) -> None:
        self._blocks: deque[bytes | bytearray] = deque()
        self._start = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add octets at the end."""
        size = len(data)
        last = (self._start + self._length) % BLOCK
        self._length += size
        if last == 0 and 0 < size <= BLOCK and isinstance(data, bytes):
            self._blocks.append(data)  # copied when more is to go behind it, and often it is taken before
            return
        at = 0
        if last:
            block = self._blocks[-1]
            if isinstance(block, bytes):
                block = self._blocks[-1] = bytearray(block)
            at = min(size, BLOCK - last)
            block += data if at == size else data[:at]
        if at < size:
            with memoryview(data) as view:
                for start in range(at, size, BLOCK):
                    self._blocks.append(bytearray(view[start : start + BLOCK]))

    def peek(self, at: int, count: int) -> bytes:
        """Copy up to *count* octets from the one with index *at* on."""
        count = min(count, self._length - at)
        if count <= 0:
            return b""
        index, offset = divmod(self._start + at, BLOCK)
        end = offset + count
        if end <= BLOCK:
            block = self._blocks[index]
            if count == len(block) and isinstance(block, bytes):
                return block
            return bytes(memoryview(block)[offset:end])
        parts = [memoryview(self._blocks[index])[offset:]]
        while end > BLOCK:
            index += 1
            end -= BLOCK
            parts.append(memoryview(self._blocks[index])[:end])
        return b"".join(parts)

    def drop(self, count: int) -> None:
        """Forget the first *count* octets."""
        count = min(count, self._length)
        self._length -= count
        self._start += count
        while self._start >= BLOCK:
            self._start -= BLOCK
            self._blocks.popleft()
        if not self._length:
            self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._blocks.clear()
        self._start = self._length = 0
