"""One connection of a vhost-user front-end (QEMU's ``docs/interop/vhost-user.rst``): its messages, and their answers.

A message is a header of request, flags and size, and a payload; descriptors come with its first octets. Numbers are
little-endian here, as the machine's, which ``vnet.adapters.tap`` demands of live labs too. Not offered, so that no
front-end may ask for it: logging of dirty memory (migration), an IOMMU, several queue pairs, packed rings, indirect
descriptors, event indices, in-band notifications.

A message that is wrong ends the connection, unless the front-end wants an acknowledgement: then that says so. The same goes
for a request that nobody knows, only that it is ignored where no acknowledgement is wanted.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, TypeAlias, final

from vnet.adapters.base import AdapterContext
from vnet.adapters.vhost_memory import SharedMemory, check_event, signal_event
from vnet.adapters.vhost_rings import DEVICE_FEATURES, NetDevice, Ring, bits
from vnet.adapters.virtqueue import MOST_REGIONS
from vnet.errors import WireError

HEADER: Final = Struct("<III")
U64: Final = Struct("<Q")
STATE: Final = Struct("<II")
ADDRESS: Final = Struct("<IIQQQQ")
LARGEST_PAYLOAD: Final = 512
"""Octets; the longest that we know is a table of eight regions, of 264."""
VERSION: Final = 1
REPLY: Final = 4
NEED_REPLY: Final = 8
MESSAGES_A_WAKE_UP: Final = 16

PROTOCOL_FEATURES: Final = 30
"""The feature bit that stands for having protocol features."""
MQ, REPLY_ACK = 0, 3
FEATURES: Final = DEVICE_FEATURES | bits(PROTOCOL_FEATURES)
OFFERED: Final = bits(MQ, REPLY_ACK)
_NO_FD: Final = 1 << 8

_Answer: TypeAlias = "Callable[[Session, bytes, list[int]], bytes | None]"


@final
class Session:
    """The connection; *on_end* is told why it ended by itself. What the guest gets is handed to ``device``."""

    def __init__(
        self,
        connection: socket.socket,
        context: AdapterContext,
        drops: Counter[str],
        on_end: Callable[[str], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._poller = context.poller
        self._drops = drops
        self._on_end = on_end
        self.device = NetDevice(context.port, context.poller, context.scheduler, drops, on_broken)
        self._shared: SharedMemory | None = None
        self._features = 0
        self._protocol = 0
        self._read = b""
        self._fds: list[int] = []
        self._is_open = True

    def start(self) -> None:
        """Begin to read."""
        self._poller.register(self._socket.fileno(), self.on_readable)

    def close(self) -> None:
        """Close the connection and give back all that came by it; calling again does nothing."""
        if self._is_open:
            self._is_open = False
            self._poller.unregister(self._socket.fileno())
            self._socket.close()
            self.device.close()
            self._unmap()
            self._close_fds()

    @property
    def features(self) -> int:
        """What the front-end took."""
        return self._features

    def on_readable(self) -> None:
        """Read and answer a few messages."""
        try:
            for _ in range(MESSAGES_A_WAKE_UP):
                if not self._receive():
                    return
        except OSError as error:
            self._end(error.strerror or "error")
        except WireError as error:
            self._drops["bad-message"] += 1
            self._end(str(error))

    def _end(self, reason: str) -> None:
        if self._is_open:
            self.close()
            self._on_end(reason)

    def _receive(self) -> bool:
        """Read on, and answer what is complete; tell whether there may be more."""
        missing = HEADER.size - len(self._read)
        if missing <= 0:
            missing = HEADER.size + self._size() - len(self._read)
        if missing:
            data = self._read_some(missing)
            if data is None:
                return False
            self._read += data
            if len(self._read) < HEADER.size or len(self._read) < HEADER.size + self._size():
                return True
        request, flags, _ = HEADER.unpack_from(self._read)
        payload, self._read = self._read[HEADER.size :], b""
        fds, self._fds = self._fds, []
        try:
            self._answer(request, flags, payload, fds)
        finally:
            for fd in fds:  # whoever keeps one takes it out
                os.close(fd)
        return self._is_open

    def _size(self) -> int:
        _, flags, size = HEADER.unpack_from(self._read)
        if flags & 3 != VERSION or size > LARGEST_PAYLOAD:
            raise WireError(f"a message of {size} octets with flags {flags:#x}")
        return int(size)

    def _read_some(self, octets: int) -> bytes | None:
        room = socket.CMSG_SPACE(MOST_REGIONS * 4)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(octets, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds += array("i", content[: len(content) // 4 * 4])
        if flags & socket.MSG_CTRUNC or len(self._fds) > MOST_REGIONS:
            raise WireError("more descriptors than a message may have")
        if not data:
            raise ConnectionResetError(0, "closed by the front-end")
        return data

    def _answer(self, request: int, flags: int, payload: bytes, fds: list[int]) -> None:
        answer = _ANSWERS.get(request)
        wants_ack = bool(flags & NEED_REPLY and self._protocol >> REPLY_ACK & 1)
        failed = False
        reply = None
        if answer is None:
            self._drops["unknown-message"] += 1
            failed = True
        else:
            try:
                reply = answer(self, payload, fds)
            except WireError:
                if not wants_ack:
                    raise
                self._drops["bad-message"] += 1
                failed = True
        if reply is None and wants_ack:
            reply = U64.pack(failed)
        if reply is not None:
            message = HEADER.pack(request, VERSION | REPLY, len(reply)) + reply
            if self._socket.send(message, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT) < len(message):
                raise ConnectionResetError(0, "the front-end does not read")

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _unmap(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    # -- requests

    def _get_features(self, payload: bytes, fds: list[int]) -> bytes:
        return U64.pack(FEATURES)

    def _set_features(self, payload: bytes, fds: list[int]) -> None:
        features = _u64(payload)
        if features & ~FEATURES:
            raise WireError(f"features {features & ~FEATURES:#x}, which were not offered")
        self._features = features
        self.device.negotiate(features)
        if not features >> PROTOCOL_FEATURES & 1:
            for ring in self.device.rings:
                ring.enabled = True

    def _get_protocol_features(self, payload: bytes, fds: list[int]) -> bytes:
        return U64.pack(OFFERED)

    def _set_protocol_features(self, payload: bytes, fds: list[int]) -> None:
        features = _u64(payload)
        if features & ~OFFERED:
            raise WireError(f"protocol features {features & ~OFFERED:#x}, which were not offered")
        self._protocol = features

    def _get_queue_num(self, payload: bytes, fds: list[int]) -> bytes:
        return U64.pack(1)

    def _nothing(self, payload: bytes, fds: list[int]) -> None:
        """Take note of an owner: there is one as long as there is a connection."""

    def _reset_owner(self, payload: bytes, fds: list[int]) -> None:
        for ring in self.device.rings:
            ring.enabled = False

    def _set_mem_table(self, payload: bytes, fds: list[int]) -> None:
        shared = SharedMemory(payload, fds)
        self.device.move(shared.memory)
        self._unmap()
        self._shared = shared

    def _set_vring_num(self, payload: bytes, fds: list[int]) -> None:
        ring, size = self._state(payload)
        ring.size = size

    def _set_vring_addr(self, payload: bytes, fds: list[int]) -> None:
        if len(payload) != ADDRESS.size:
            raise WireError("no addresses of a ring")
        index, _, table, used, available, _ = ADDRESS.unpack(payload)
        ring = self._ring(index)
        ring.addresses = table, available, used
        if ring.queue is not None:
            ring.open(self.device.memory)

    def _set_vring_base(self, payload: bytes, fds: list[int]) -> None:
        ring, base = self._state(payload)
        ring.base = base & 0xFFFF

    def _get_vring_base(self, payload: bytes, fds: list[int]) -> bytes:
        ring, _ = self._state(payload)
        index = self.device.rings.index(ring)
        base = self.device.stop_ring(index)
        ring.replace("call", -1)
        return STATE.pack(index, base)

    def _set_vring_kick(self, payload: bytes, fds: list[int]) -> None:
        index, fd = self._event(payload, fds)
        if fd < 0:
            raise WireError("a ring without a descriptor to kick: it would have to be polled")
        self.device.start_ring(index, fd)

    def _set_vring_call(self, payload: bytes, fds: list[int]) -> None:
        index, fd = self._event(payload, fds)
        self.device.rings[index].replace("call", fd)
        if fd >= 0 and self.device.rings[index].queue is not None:
            signal_event(fd)  # what was given back before may have been told to nobody

    def _set_vring_err(self, payload: bytes, fds: list[int]) -> None:
        index, fd = self._event(payload, fds)
        self.device.rings[index].replace("error", fd)

    def _set_vring_enable(self, payload: bytes, fds: list[int]) -> None:
        ring, wanted = self._state(payload)
        ring.enabled = bool(wanted)

    def _ring(self, index: int) -> Ring:
        if index >= len(self.device.rings):
            raise WireError(f"ring {index}, which there is not")
        return self.device.rings[index]

    def _state(self, payload: bytes) -> tuple[Ring, int]:
        if len(payload) != STATE.size:
            raise WireError("no state of a ring")
        index, number = STATE.unpack(payload)
        return self._ring(index), number

    def _event(self, payload: bytes, fds: list[int]) -> tuple[int, int]:
        """Read which ring, and take its eventfd out of *fds*; -1 for none."""
        value = _u64(payload)
        self._ring(value & 0xFF)
        if value & _NO_FD:
            return value & 0xFF, -1
        if len(fds) != 1:
            raise WireError(f"{len(fds)} descriptors in place of one")
        check_event(fds[0])
        return value & 0xFF, fds.pop()


def _u64(payload: bytes) -> int:
    if len(payload) != U64.size:
        raise WireError("no number of 64 bits")
    return int(U64.unpack(payload)[0])


_ANSWERS: Final[Mapping[int, _Answer]] = {
    1: Session._get_features,
    2: Session._set_features,
    3: Session._nothing,
    4: Session._reset_owner,
    5: Session._set_mem_table,
    8: Session._set_vring_num,
    9: Session._set_vring_addr,
    10: Session._set_vring_base,
    11: Session._get_vring_base,
    12: Session._set_vring_kick,
    13: Session._set_vring_call,
    14: Session._set_vring_err,
    15: Session._get_protocol_features,
    16: Session._set_protocol_features,
    17: Session._get_queue_num,
    18: Session._set_vring_enable,
}
"""By the number of the request; section "Front-end message types"."""
