"""Where the octets of a capture go: a file, a slow reader behind a bounded queue, or memory."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import BinaryIO, Final, Protocol, final

import trio

from vnet.errors import UsageError

FILE_BUFFER: Final = 1 << 18
QUEUE_LIMIT: Final = 64 * 2**20
"""Octets that may wait for a slow reader before frames are dropped from its capture (never from the lab)."""
MEMORY_LIMIT: Final = 64 * 2**20


class Sink(Protocol):
    """Takes the blocks of one capture file, in order."""

    def keep(self, block: bytes) -> None:
        """Take a block that the file cannot do without: section and interface headers, statistics."""

    def packet(self, block: bytes) -> bool:
        """Take a packet block; return False if there is no room for it."""

    def flush(self) -> None:
        """Let readers see what came so far."""

    def close(self) -> None:
        """Nothing more comes."""


@final
class FileSink:
    """A file, written through a buffer. Errors of the disk come out of ``keep`` and ``packet`` as OSError."""

    __slots__ = ("_file", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("wb", buffering=FILE_BUFFER)
        except OSError as error:
            raise UsageError(f"cannot write the capture {path}: {error.strerror or error}") from error

    def keep(self, block: bytes) -> None:
        """Write at once: who opens the file early finds its headers."""
        self._file.write(block)
        self._file.flush()

    def packet(self, block: bytes) -> bool:
        """Write through the buffer."""
        self._file.write(block)
        return True

    def flush(self) -> None:
        """Let others see what was written so far."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


@final
class QueueSink:
    """A bounded queue toward one task that may be slow; what finds no room is refused, never waited for."""

    __slots__ = ("_blocks", "_closed", "_wake", "limit", "octets")

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self.limit = limit
        self.octets = 0
        self._blocks: deque[bytes] = deque()
        self._closed = False
        self._wake: trio.Event | None = None

    def keep(self, block: bytes) -> None:
        """Queue beyond the limit too; these blocks are few and small."""
        self._append(block)

    def packet(self, block: bytes) -> bool:
        """Queue, if the limit allows."""
        if self.octets + len(block) > self.limit:
            return False
        self._append(block)
        return True

    def flush(self) -> None:
        """Do nothing: the reader has been woken."""

    def close(self) -> None:
        """Let the reader come to an end once it has everything."""
        self._closed = True
        if self._wake is not None:
            self._wake.set()

    def take(self) -> bytes:
        """Return everything that waits, without waiting."""
        data = b"".join(self._blocks)
        self._blocks.clear()
        self.octets = 0
        return data

    async def wait_data(self) -> bytes:
        """Wait for data and return all of it; b"" says that the capture has ended."""
        while not self._blocks and not self._closed:
            self._wake = trio.Event()
            try:
                await self._wake.wait()
            finally:
                self._wake = None
        return self.take()

    def _append(self, block: bytes) -> None:
        self._blocks.append(block)
        self.octets += len(block)
        if self._wake is not None:
            self._wake.set()


@final
class MemorySink:
    """Memory, for tests: keeps the newest packets when the limit is reached, because a failure is explained by its end."""

    __slots__ = ("_headers", "_octets", "_packets", "forgotten", "limit")

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self.limit = limit
        self.forgotten = 0
        self._headers: list[bytes] = []
        self._packets: deque[bytes] = deque()
        self._octets = 0

    def keep(self, block: bytes) -> None:
        """Keep for good, before all packets."""
        self._headers.append(block)

    def packet(self, block: bytes) -> bool:
        """Keep, and forget the oldest for it if need be."""
        packets = self._packets
        packets.append(block)
        self._octets += len(block)
        while self._octets > self.limit and len(packets) > 1:
            self._octets -= len(packets.popleft())
            self.forgotten += 1
        return True

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def octets(self) -> bytes:
        """Return the file as it stands."""
        return b"".join((*self._headers, *self._packets))


@final
class NoSink:
    """Nothing: everything is taken, nothing is kept."""

    __slots__ = ()

    def keep(self, block: bytes) -> None:
        """Forget."""

    def packet(self, block: bytes) -> bool:
        """Forget, as if it were kept."""
        return True

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
