"""How gvproxy's protocols tell frames apart, as machines that see no socket.

``hyperkit`` and ``stdio`` put a length of two octets, little-endian, before each frame; hyperkit (vpnkit) has a greeting
before the first: a hello of 49 octets, sent back as it came, then a request of 41 for an interface, answered by 258 octets
with its MAC address and MTU. ``bess`` and ``vfkit`` have sockets that keep frames apart themselves; old vfkits say "VFKT"
first. After gvisor-tap-vsock, ``pkg/tap/protocols.go``, ``pkg/virtualnetwork/vpnkit.go`` and
``pkg/transport/unixgram_unix.go``, and hyperkit, ``src/lib/pci_virtio_net_vpnkit.c``.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from vnet.addresses import Mac
from vnet.errors import WireError
from vnet.topology.adapter_kinds.gvproxy import GvproxyProtocol

LARGEST_FRAME: Final = 9216 + 18
"""A jumbo frame with a tag. A longer one is a mistake, or an attack."""
VFKIT_HELLO: Final = b"VFKT"

HELLO: Final = Struct("<5sI40s")
"""Magic, version, and the commit of the program."""
COMMAND: Final = Struct("<B36sI")
"""What is wanted, the UUID of the interface, and an IPv4 address that is preferred."""
RESPONSE: Final = Struct("<BHH6s247x")
"""What it is, MTU, largest frame, MAC address."""
MAGIC: Final = b"VMN3T"
ETHERNET: Final = 1
PREFERRED_IPV4: Final = 8
INTERFACE: Final = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """The socket of a protocol, the length before a frame if there is one, and whether there is a greeting."""

    socket_kind: socket.SocketKind
    length: Struct | None = None
    greets: bool = False


_LITTLE_16: Final = Struct("<H")
FRAMINGS: Final[Mapping[GvproxyProtocol, Framing]] = {
    "hyperkit": Framing(socket_kind=socket.SOCK_STREAM, length=_LITTLE_16, greets=True),
    "stdio": Framing(socket_kind=socket.SOCK_STREAM, length=_LITTLE_16),
    "bess": Framing(socket_kind=socket.SOCK_SEQPACKET),
    "vfkit": Framing(socket_kind=socket.SOCK_DGRAM),
}


@final
class Deframer:
    """Takes a stream apart into frames, wherever it was cut."""

    __slots__ = ("_length", "_rest")

    def __init__(self, length: Struct) -> None:
        self._length = length
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; return the frames that are complete. Raise WireError for one that is too long."""
        data = self._rest + data if self._rest else data
        skip, at, frames = self._length.size, 0, []
        while len(data) - at >= skip:
            (octets,) = self._length.unpack_from(data, at)
            if octets > LARGEST_FRAME:
                raise WireError(f"a frame of {octets} octets")
            end = at + skip + octets
            if end > len(data):
                break
            frames.append(data[at + skip : end])
            at = end
        self._rest = data[at:]
        return frames


@final
class Greeting:
    """The lab's side of hyperkit's greeting: two messages come, two go. A UUID has the same MAC address each time."""

    __slots__ = ("_has_hello", "_lab", "_mtu", "_rest", "is_over")

    def __init__(self, lab: str, mtu: int) -> None:
        self._lab = lab
        self._mtu = mtu
        self._rest = b""
        self._has_hello = False
        self.is_over = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what came; return what to answer, and what is left when it is over. Raise WireError if it is none."""
        self._rest += data
        answer = b""
        if not self._has_hello:
            if not MAGIC.startswith(self._rest[: len(MAGIC)]):
                raise WireError("no greeting")
            if len(self._rest) < HELLO.size:
                return b"", b""
            answer, self._rest = self._rest[: HELLO.size], self._rest[HELLO.size :]
            self._has_hello = True
        if len(self._rest) < COMMAND.size:
            return answer, b""
        wanted, uuid, _ = COMMAND.unpack_from(self._rest)
        if wanted not in (ETHERNET, PREFERRED_IPV4):
            raise WireError(f"request {wanted} in place of one for an interface")
        self.is_over = True
        answer += RESPONSE.pack(INTERFACE, self._mtu, self._mtu + 14, mac_of(self._lab, uuid))
        rest, self._rest = self._rest[COMMAND.size :], b""
        return answer, rest


def mac_of(lab: str, uuid: bytes) -> Mac:
    """Derive a locally administered MAC address (IEEE 802-2014, 8.2.2) for the interface of this UUID."""
    octets = hashlib.sha256(lab.encode() + b"/" + uuid).digest()[:6]
    return bytes((octets[0] & 0xFC | 2,)) + octets[1:]
