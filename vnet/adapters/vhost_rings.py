"""The two rings of a vhost-user network device, from the messages that set them up to the frames that pass.

Ring 0 is the guest's receive ring, ring 1 its transmit ring (VIRTIO 1.2, 5.1.2). A ring runs from SET_VRING_KICK to
GET_VRING_BASE; while it is disabled, what the guest sends is discarded and nothing is handed to it ("Ring states").
While frames are being taken the guest need not tell of more; before we wait we ask it to, and look once more.

The guest's header is that of the fabric with the number of buffers behind it (VIRTIO 1.2, 5.1.6). What the guest's driver
did not negotiate is done for it in software: super-frames are cut, checksums completed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, Poller
from vnet.adapters.vhost_memory import clear_event, signal_event
from vnet.adapters.virtqueue import LARGEST_CHAIN, Memory, RingError, Virtqueue
from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD, Port, Scheduler
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM

RECEIVE: Final = 0
TRANSMIT: Final = 1
DESCRIPTORS_A_WAKE_UP: Final = 2048
"""Descriptors after which other ports have their turn, however few frames they were."""

CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN = 0, 1, 7, 8, 9
HOST_TSO4, HOST_TSO6, HOST_ECN, MERGEABLE, ANY_LAYOUT, VERSION_1 = 11, 12, 13, 15, 27, 32
"""Feature bits (VIRTIO 1.2, 5.1.3 and 6)."""


def bits(*numbers: int) -> int:
    """Make a mask."""
    return sum(1 << number for number in numbers)


DEVICE_FEATURES: Final = bits(
    CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, HOST_TSO4, HOST_TSO6, HOST_ECN, MERGEABLE, ANY_LAYOUT, VERSION_1
)  # fmt: skip


@final
class Ring:
    """What a front-end has said of one ring so far, and the queue while it runs."""

    __slots__ = ("addresses", "base", "call", "enabled", "error", "kick", "queue", "size")

    def __init__(self) -> None:
        self.size = 0
        self.addresses: tuple[int, int, int] | None = None
        self.base = 0
        self.enabled = False
        self.kick = self.call = self.error = -1
        self.queue: Virtqueue | None = None

    def open(self, memory: Memory) -> Virtqueue:
        """Begin, or go on in other memory; raise RingError if it cannot be there."""
        if self.addresses is None or not self.size:
            raise RingError("a ring without addresses or without a size")
        self.halt()
        self.queue = Virtqueue(memory, self.size, *self.addresses, self.base)
        return self.queue

    def halt(self) -> int:
        """Let go of the memory; tell the index of the next buffer."""
        queue, self.queue = self.queue, None
        if queue is not None:
            self.base = queue.next_available
        return self.base

    def replace(self, which: str, fd: int) -> None:
        """Take a descriptor in place of another, -1 for none."""
        old = getattr(self, which)
        if old >= 0:
            os.close(old)
        setattr(self, which, fd)


@final
class NetDevice:
    """The device behind *port*: frames handed to the port go to the guest, what the guest sends leaves by it.

    ``broken`` says what the driver did wrong, after which nothing passes until its rings are set up anew.
    """

    def __init__(
        self, port: Port, poller: Poller, scheduler: Scheduler, drops: Counter[str], on_broken: Callable[[str], None]
    ) -> None:
        self.rings = (Ring(), Ring())
        self.memory = Memory()
        self.broken = ""
        self._port = port
        self._poller = poller
        self._scheduler = scheduler
        self._drops = drops
        self._on_broken = on_broken
        self._signalling = False
        self.negotiate(0)

    def negotiate(self, features: int) -> None:
        """Take note of what the driver knows of."""
        self._header_octets = 12 if features & bits(MERGEABLE, VERSION_1) else 10
        self._mergeable = bool(features & bits(MERGEABLE))
        guest = _kinds(features, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN)
        host = _kinds(features, CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN)
        self._guest_takes = frozenset(guest)
        self._guest_sends = frozenset(host)

    @property
    def is_running(self) -> bool:
        """Tell whether frames reach the guest."""
        ring = self.rings[RECEIVE]
        return ring.queue is not None and ring.enabled

    def start_ring(self, index: int, kick: int) -> None:
        """Begin with a ring; *kick* is ours to close. Raise WireError if the ring, or its descriptor, is of no use."""
        ring = self.rings[index]
        self.stop_ring(index)
        try:
            queue = ring.open(self.memory)
            self._poller.register(kick, self._take if index == TRANSMIT else self._kicked)
        except (OSError, WireError) as error:
            ring.halt()
            os.close(kick)
            raise WireError(str(error)) from error
        ring.replace("kick", kick)
        if index == RECEIVE:
            queue.want_notifications(False)  # we look whenever there is a frame
        self.broken = ""
        signal_event(kick)  # what was put up before we came may have been told to nobody
        if ring.call >= 0:
            signal_event(ring.call)

    def stop_ring(self, index: int) -> int:
        """End with a ring; tell the index of the next buffer."""
        ring = self.rings[index]
        if ring.kick >= 0:
            self._poller.unregister(ring.kick)
            ring.replace("kick", -1)
        return ring.halt()

    def move(self, memory: Memory) -> None:
        """Go on in other memory; the rings that are not in it end there."""
        self.memory = memory
        for index, ring in enumerate(self.rings):
            if ring.queue is not None:
                try:
                    ring.open(memory)
                except RingError as error:
                    self._break(index, str(error))

    def close(self) -> None:
        """Give everything back."""
        for index, ring in enumerate(self.rings):
            self.stop_ring(index)
            for which in ("call", "error"):
                ring.replace(which, -1)
        self.memory = Memory()

    # -- to the guest

    def deliver(self, frame: bytes, offload: bytes) -> None:
        """Hand a frame to the guest, or count why not; never waits."""
        ring = self.rings[RECEIVE]
        queue = ring.queue
        if queue is None or not ring.enabled:
            self._drops["not-running"] += 1
            return
        try:
            if offload == NO_OFFLOAD or (offload[0], offload[1]) in self._guest_takes:
                self._fill(queue, frame, offload)
            else:
                for each in complete(frame, offload):
                    self._fill(queue, each, NO_OFFLOAD)
        except RingError as error:
            self._break(RECEIVE, str(error))
        except WireError:
            self._drops["malformed"] += 1

    def _fill(self, queue: Virtqueue, frame: bytes, offload: bytes) -> None:
        header = offload + b"\1\0" if self._header_octets == 12 else offload
        if not queue.fill(header, frame, self._mergeable):
            self._drops["no-buffers"] += 1
        elif not self._signalling:
            self._signalling = True
            self._scheduler.soon(self._signal_received)  # one interrupt for all of a wake-up

    def _signal_received(self) -> None:
        self._signalling = False
        self._interrupt(self.rings[RECEIVE])

    def _kicked(self) -> None:
        clear_event(self.rings[RECEIVE].kick)

    # -- from the guest

    def _take(self) -> None:
        """Take what the guest has sent. While there may be more the eventfd stays as it is, so that we are called again."""
        ring = self.rings[TRANSMIT]
        queue, enabled = ring.queue, ring.enabled
        if queue is None:
            clear_event(ring.kick)
            return
        try:
            queue.want_notifications(False)
            frames, descriptors = FRAMES_A_WAKE_UP, DESCRIPTORS_A_WAKE_UP
            waiting = queue.waiting()
            while frames and descriptors > 0:
                if not waiting:
                    clear_event(ring.kick)
                    queue.want_notifications(True)
                    waiting = queue.waiting()
                    if not waiting:
                        break
                    queue.want_notifications(False)
                    signal_event(ring.kick)
                head, data, walked = queue.take()
                queue.give(head)
                frames, waiting, descriptors = frames - 1, waiting - 1, descriptors - walked
                if enabled:
                    self._send(data)
            if frames < FRAMES_A_WAKE_UP:
                self._interrupt(ring)
        except RingError as error:
            self._break(TRANSMIT, str(error))

    def _send(self, data: bytes) -> None:
        skip = self._header_octets
        if len(data) < skip + ETHERNET_OCTETS or len(data) > LARGEST_CHAIN:
            self._drops["malformed"] += 1
            return
        frame = data[skip:]
        if data.startswith(NO_OFFLOAD):
            self._port.send(frame, NO_OFFLOAD)
            return
        flags, kind = data[0] & NEEDS_CSUM, data[1]
        if not flags and not kind:
            self._port.send(frame, NO_OFFLOAD)
            return
        checksum_at = data[6] + data[8] + (data[7] + data[9] << 8)
        if (flags, kind) not in self._guest_sends or checksum_at + 2 > len(frame) or (kind and not data[4] | data[5]):
            self._drops["malformed"] += 1
            return
        self._port.send(frame, bytes((flags, kind)) + data[2:10])

    # -- both

    def _interrupt(self, ring: Ring) -> None:
        if ring.call >= 0 and ring.queue is not None and ring.queue.wants_interrupt():
            signal_event(ring.call)

    def _break(self, index: int, why: str) -> None:
        """A driver that breaks the rules gets no further: it needs a reset (VIRTIO 1.2, 2.1.2)."""
        ring = self.rings[index]
        self.stop_ring(index)
        if ring.error >= 0:
            signal_event(ring.error)
        self.broken = f"the driver broke its {'transmit' if index == TRANSMIT else 'receive'} ring: {why}"
        self._on_broken(self.broken)


def _kinds(features: int, csum: int, tso4: int, tso6: int, ecn: int) -> list[tuple[int, int]]:
    """List the (flags, gso_type) that a side takes from the other; plain frames not counted (VIRTIO 1.2, 5.1.3.1)."""
    if not features >> csum & 1:
        return []
    kinds = [kind for kind, bit in ((GSO_TCPV4, tso4), (GSO_TCPV6, tso6)) if features >> bit & 1]
    if features >> ecn & 1:
        kinds += [kind | GSO_ECN for kind in kinds]
    return [(NEEDS_CSUM, kind) for kind in (0, *kinds)]
