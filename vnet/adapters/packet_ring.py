"""A packet socket that sees all of one interface, through a ring in shared memory: how frames of a NIC come and go.

Four ways of receiving were measured, in us a frame of 60 and of 1514 octets: ``os.read`` 4.6 and 3.6, ``recvmsg`` with
auxiliary data 5.3 and 5.9, a ring of TPACKET_V3 0.4 and 1.1, one of TPACKET_V2 0.4 and 1.2 (packet(7)). V3 hands over
blocks, and one that is not full only after a millisecond or more, which an exchange of single frames would wait for every
time. V2 hands over every frame at once. Its slots have one size; a frame that is larger, which is a super-frame mostly, has
only a mark in the ring, and comes whole by ``read`` (PACKET_COPY_THRESH). The virtio-net header stands before the frame
either way.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections import Counter
from struct import Struct, pack
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, Poller, cut_up
from vnet.adapters.socket_filter import attach, of_vlan
from vnet.adapters.tap import HEADER_OCTETS, JOIN_LIMIT, READ_OCTETS
from vnet.ports import NO_OFFLOAD, Handler
from vnet.wire.virtio_net import is_super

SLOT_OCTETS: Final = 2048
SLOTS: Final = 4096
"""Frames that may wait: 8 MiB of memory."""
QUEUE_OCTETS: Final = 16 << 20
"""What super-frames that wait may take, and frames that the NIC has not sent yet."""

_BLOCK_OCTETS: Final = 1 << 20
_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _COPY_THRESH, _VERSION, _VNET_HDR, _IGNORE_OUTGOING = 1, 5, 6, 7, 10, 15, 23
_PROMISCUOUS: Final = 1
_TPACKET_V2: Final = 1
_SO_MARK, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 36, 32, 33
_ETH_P_ALL: Final = 3
_SLOT: Final = Struct("=IIIH").unpack_from
"""struct tpacket2_hdr: status, length, octets that are there, where the frame begins."""
_STATUS: Final = Struct("=I").pack_into
_COUNTS: Final = Struct("=II")
_READY, _COPIED = 1, 2

_REASONS: Final = {
    errno.EAGAIN: "queue-full",
    errno.ENOBUFS: "queue-full",
    errno.ENETDOWN: "interface-down",
    errno.ENXIO: "nic-gone",
    errno.ENODEV: "nic-gone",
    errno.EMSGSIZE: "oversize",
    errno.EINVAL: "malformed",
    errno.EBADF: "closed",
}


@final
class PacketRing:
    """The socket of one VLAN (None: what is untagged) on the interface with *index*; ``deliver`` gets what came in.

    With *promiscuous* the NIC takes frames for all addresses as long as the socket is open. With a *mark* frames are seen
    that the machine itself sends, and what is sent here bears it (``vnet.adapters.to_machine``). Raise OSError if the kernel
    refuses.
    """

    __slots__ = ("_at", "_drops", "_map", "_poller", "_socket", "deliver", "fd")

    def __init__(self, index: int, vid: int | None, deliver: Handler, *, promiscuous: bool, mark: int = 0) -> None:
        self.deliver = deliver
        self._drops: Counter[str] = Counter()
        self._poller: Poller | None = None
        self._at = 0
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = packets = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            for option, value in ((_VERSION, _TPACKET_V2), (_VNET_HDR, 1), (_COPY_THRESH, 1)):
                packets.setsockopt(_SOL_PACKET, option, value)
            if not mark:
                packets.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            for option, value in ((_SO_MARK, mark), (_SO_RCVBUFFORCE, QUEUE_OCTETS), (_SO_SNDBUFFORCE, QUEUE_OCTETS)):
                packets.setsockopt(socket.SOL_SOCKET, option, value)
            octets = SLOTS * SLOT_OCTETS
            ring = pack("=4I", _BLOCK_OCTETS, octets // _BLOCK_OCTETS, SLOT_OCTETS, SLOTS)
            packets.setsockopt(_SOL_PACKET, _RX_RING, ring)
            self._map = mmap.mmap(packets.fileno(), octets)
            attach(packets, of_vlan(vid, outgoing=mark != 0))
            packets.bind((socket.if_indextoname(index), _ETH_P_ALL))
            if promiscuous:
                packets.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, pack("=iHH8s", index, _PROMISCUOUS, 0, bytes(8)))
        except BaseException:
            packets.close()
            raise
        self.fd = packets.fileno()

    @property
    def problem(self) -> str:
        """Nothing can happen to a socket as long as its interface is there."""
        return ""

    def start(self, poller: Poller) -> None:
        """Begin to pass frames."""
        self._poller = poller
        poller.register(self.fd, self.on_readable)

    def on_readable(self) -> None:
        """Pass on what has come, at most ``FRAMES_A_WAKE_UP`` frames."""
        ring, at, deliver = self._map, self._at, self.deliver
        for _ in range(FRAMES_A_WAKE_UP):
            status, length, present, begin = _SLOT(ring, at)
            if not status & _READY:
                break
            if status & _COPIED:
                data = self._read_large()
            elif present == length:
                begin += at
                data = ring[begin - HEADER_OCTETS : begin + present]
            else:
                data = b""
                self._drops["queue-full"] += 1
            _STATUS(ring, at, 0)
            at = (at + SLOT_OCTETS) % (SLOTS * SLOT_OCTETS)
            self._at = at
            if data:
                # a checksum that was verified already asks for nothing
                deliver(data[HEADER_OCTETS:], data[:HEADER_OCTETS] if data[0] & 1 or data[1] else NO_OFFLOAD)
        else:
            return
        self._clear_error()

    def send(self, frame: bytes, offload: bytes) -> None:
        """Hand a frame to the NIC: what its hardware cannot do, the kernel does."""
        try:
            if len(frame) < JOIN_LIMIT:
                os.write(self.fd, offload + frame)
            else:
                os.writev(self.fd, (offload, frame))
        except OSError as error:
            if error.errno == errno.EINVAL and is_super(offload):
                self._send_cut(frame, offload)
            else:
                self._drops[_REASONS.get(error.errno or 0) or errno.errorcode.get(error.errno or 0, "error").lower()] += 1

    @property
    def drops(self) -> Counter[str]:
        """Counts by reason of what did not go out, and of what came too fast."""
        if self.fd >= 0:
            _, dropped = _COUNTS.unpack(self._socket.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size))
            if dropped:  # the kernel begins anew whenever it is asked
                self._drops["overrun"] += dropped
        return self._drops

    def close(self) -> None:
        """Give the socket up; blocks for some ms. The memory goes with the last who reads from it."""
        if self._poller is not None:
            self._poller.unregister(self.fd)
        self.fd = -1
        self._socket.close()

    def _read_large(self) -> bytes:
        try:
            return os.read(self.fd, READ_OCTETS)
        except OSError:
            self._drops["unreadable"] += 1  # a kind of super-frame that the header cannot name; the kernel dropped it
            return b""

    def _send_cut(self, frame: bytes, offload: bytes) -> None:
        """Cut a super-frame that the kernel does not know: UDP before Linux 6.2."""
        for each in cut_up(frame, offload, self._drops):
            self.send(each, NO_OFFLOAD)

    def _clear_error(self) -> None:
        """Take back what epoll would report for ever: the interface went down; the socket goes on when it is up again."""
        if self.fd >= 0:
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
