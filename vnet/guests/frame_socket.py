"""Raw frames of an emulated guest: a socket that hears all that arrives by an interface, and sends what it is given.

It is what a packet socket is on Linux, for programs that speak a protocol which the stack does not, or speak one wrongly on
purpose. The stack goes on as if nobody listened.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final, final

import trio

from vnet.errors import UsageError, WireError
from vnet.guests.socket_table import SocketTable
from vnet.stack.interface import Interface
from vnet.wire import segmentation
from vnet.wire.ethernet import HEADER_OCTETS

QUEUE: Final = 1024
"""Frames that wait to be received; what comes when that many wait is dropped (``frame-queue-full``)."""
TAG_OCTETS: Final = 4
"""By which a frame with a C-tag may be longer (IEEE 802.1Q, 9.3)."""


@final
class EmulatedFrameSocket:
    """A socket for whole Ethernet frames, from destination address to the end of the payload, without FCS.

    With *ethertype* it hears frames of that type alone; a tagged frame is of type 0x8100 (IEEE 802.1Q, 9.6). What the guest
    sends is not heard. Super-frames arrive in the pieces that a wire would carry, checksums complete.
    """

    def __init__(self, table: SocketTable, interface: Interface, ethertype: int | None = None) -> None:
        if ethertype is not None and not 0 <= ethertype <= 0xFFFF:
            raise UsageError(f"{ethertype} is no EtherType: it must be 0 to 65535")
        self._table = table
        self._interface = interface
        self._wanted = None if ethertype is None else ethertype.to_bytes(2, "big")
        self._waiting: deque[bytes] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._number: int | None = table.opened(self.close)
        interface.listen(self._arrived)

    @property
    def mac(self) -> bytes:
        """The MAC address of the interface, six octets."""
        return self._interface.mac

    async def send(self, frame: bytes) -> None:
        """Send a frame as it is, whatever its source address; without a carrier it is lost.

        Raise UsageError if it has no header, or is longer than the interface's MTU allows.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        longest = HEADER_OCTETS + TAG_OCTETS + self._interface.mtu
        if not HEADER_OCTETS <= len(frame) <= longest:
            raise UsageError(f"a frame has {HEADER_OCTETS} to {longest} octets here, not {len(frame)}")
        self._interface.send(bytes(frame))

    async def receive(self) -> bytes:
        """Wait for a frame; raise UsageError if the socket is closed, as a crash of the guest does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        while not self._waiting:
            await self._readers.park()
            self._check_open()
        return self._waiting.popleft()

    def close(self) -> None:
        """Hear no more; whoever waits gets UsageError."""
        if self._number is not None:
            self._table.closed(self._number)
            self._number = None
            self._interface.unlisten(self._arrived)
            self._readers.unpark_all()

    async def __aenter__(self) -> EmulatedFrameSocket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._number is None:
            raise UsageError("the socket is closed")

    def _arrived(self, frame: bytes, offload: bytes) -> None:
        if self._wanted is not None and frame[12:14] != self._wanted:
            return
        try:
            frames = segmentation.complete(frame, offload)
        except WireError:
            self._interface.host.drop("frame-malformed")
            return
        for each in frames:
            if len(self._waiting) >= QUEUE:
                self._interface.host.drop("frame-queue-full")
                continue
            self._waiting.append(each)
            self._readers.unpark()
