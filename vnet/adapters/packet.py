"""Packet sockets on an interface of a namespace, for a protocol that must speak before Linux has an address there.

``PacketPort`` is a port like any other: an emulated host can be plugged in, which then shares the interface with Linux.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, Poller
from vnet.adapters.socket_filter import Instruction, attach
from vnet.adapters.tap import HEADER_OCTETS, READ_OCTETS
from vnet.ports import NO_OFFLOAD, Port

ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15

_LDB, _LDH, _LDX_HEADER, _LDH_X, _JEQ, _JSET, _RETURN = 0x30, 0x28, 0xB1, 0x48, 0x15, 0x45, 0x06


def udp_to(port: int) -> list[Instruction]:
    """Write the filter for unfragmented IPv4 datagrams to a port."""
    return [
        (_LDB, 0, 0, 23),
        (_JEQ, 0, 6, socket.IPPROTO_UDP),
        (_LDH, 0, 0, 20),
        (_JSET, 4, 0, 0x1FFF),
        (_LDX_HEADER, 0, 0, 14),
        (_LDH_X, 0, 0, 16),
        (_JEQ, 0, 1, port),
        (_RETURN, 0, 0, 0x40000),
        (_RETURN, 0, 0, 0),
    ]


def packet_socket(
    packets: socket.socket, interface: str, protocol: int, program: Sequence[Instruction] = ()
) -> socket.socket:
    """Let a new packet socket take what comes in by *interface*, with virtio-net headers, for one EtherType; return it.

    Frames that Linux itself sends are not seen, because the socket is not for all EtherTypes. On OSError it is closed.
    """
    try:
        packets.setblocking(False)
        packets.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        if program:
            attach(packets, program)
        packets.bind((interface, protocol))
    except BaseException:
        packets.close()
        raise
    return packets


@final
class PacketPort:
    """The adapter of some packet sockets on one interface: each has its filter, all lead to ``port``.

    A frame comes in if *accept* is true of it; a frame handed over goes out by the first socket.
    """

    __slots__ = ("_accept", "_poller", "_sockets", "drops", "port")

    def __init__(self, name: str, sockets: Sequence[socket.socket], accept: Callable[[bytes], bool]) -> None:
        self.port = Port(name, self._to_linux)
        self.drops: Counter[str] = Counter()
        self._accept = accept
        self._sockets = tuple(sockets)
        self._poller: Poller | None = None

    @property
    def ports(self) -> tuple[Port, ...]:
        """The one port."""
        return (self.port,)

    def start(self, poller: Poller) -> None:
        """Begin to read."""
        self._poller = poller
        for packets in self._sockets:
            poller.register(packets.fileno(), partial(self._on_readable, packets.fileno()))

    def stop(self) -> None:
        """Stop reading and close the sockets."""
        for packets in self._sockets:
            if self._poller is not None:
                self._poller.unregister(packets.fileno())
            packets.close()
        self._poller = None
        self._sockets = ()

    def _on_readable(self, fd: int) -> None:
        try:
            for _ in range(FRAMES_A_WAKE_UP):
                data = os.read(fd, READ_OCTETS)
                frame = data[HEADER_OCTETS:]
                if self._accept(frame):
                    offload = data[:HEADER_OCTETS] if data[0] & 1 or data[1] else NO_OFFLOAD
                    self.port.send(frame, offload)
        except BlockingIOError:
            return
        except OSError:
            self.drops["interface-down"] += 1  # reported once by the socket, which goes on working

    def _to_linux(self, frame: bytes, offload: bytes) -> None:
        if not self._sockets:
            self.drops["closed"] += 1
            return
        try:
            os.writev(self._sockets[0].fileno(), (offload, frame))
        except OSError:
            self.drops["not-sent"] += 1
