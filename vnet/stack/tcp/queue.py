"""Queues of octets: appending, reading and dropping in front each cost what they move.

One large bytearray does not do: when data goes in behind and out in front, each growth moves all that is there. What is
sent is read anywhere, and kept in blocks of one size; what was received is only taken from the front, and kept as it came.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

BLOCK: Final = 64 * 1024
SMALL: Final = 2048
"""Pieces below are joined, or a peer could make us keep an object for each octet."""
MOST_PIECES: Final = 64
"""Pieces given out at a time; Linux takes up to 1024 in one call."""


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
        if last == 0 and size == BLOCK and isinstance(data, bytes):
            self._blocks.append(data)  # a whole block need not be copied
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


@final
class PieceQueue:
    """Octets in order, in the pieces that they came in; ``len`` counts them. ``_start`` octets of the first are gone."""

    __slots__ = ("_length", "_pieces", "_start")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._start = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | bytearray) -> None:
        """Add octets at the end."""
        size = len(data)
        self._length += size
        if size >= SMALL:
            self._pieces.append(data if isinstance(data, bytes) else bytes(data))
        elif size:
            last = self._pieces[-1] if self._pieces else b""
            if isinstance(last, bytearray) and len(last) < BLOCK:
                last += data
            else:
                self._pieces.append(bytearray(data))

    def pieces(self, limit: int) -> list[bytes | memoryview]:
        """Give out the first octets without copying, at least one piece and else up to *limit*; to be used at once."""
        found: list[bytes | memoryview] = []
        for piece in self._pieces:
            if found and (limit < len(piece) or len(found) == MOST_PIECES):
                break
            limit -= len(piece)
            found.append(piece if isinstance(piece, bytes) else memoryview(piece))
        if self._start:
            found[0] = memoryview(found[0])[self._start :]
        return found

    def peek(self, count: int) -> bytes:
        """Copy up to *count* of the first octets."""
        if not self._length or count <= 0:
            return b""
        first, start = self._pieces[0], self._start
        if count <= len(first) - start or len(self._pieces) == 1:
            if not start and count >= len(first) and isinstance(first, bytes):
                return first
            return bytes(memoryview(first)[start : start + count])
        parts: list[memoryview] = []
        for piece in self._pieces:
            part = memoryview(piece)[start : start + count]
            parts.append(part)
            count -= len(part)
            start = 0
            if not count:
                break
        return b"".join(parts)

    def drop(self, count: int) -> None:
        """Forget the first *count* octets."""
        count = min(count, self._length)
        self._length -= count
        start = self._start + count
        pieces = self._pieces
        while pieces and start >= len(pieces[0]):
            start -= len(pieces.popleft())
        self._start = start if pieces else 0

    def clear(self) -> None:
        """Forget all."""
        self._pieces.clear()
        self._start = self._length = 0
