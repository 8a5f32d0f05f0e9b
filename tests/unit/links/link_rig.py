"""A link between two ports, and frames to send by it."""

from __future__ import annotations

from functools import partial
from typing import Any

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.links.link import Link
from vnet.ports import NO_OFFLOAD, Port
from vnet.wire.virtio_net import GSO_TCPV4, NEEDS_CSUM, Offload, encode

FOREVER = 1 << 62
MBIT, GBIT = 10**6, 10**9


class Rig:
    """A link between two ports that note what arrives, and when."""

    def __init__(self, seed: int = 1, **options: Any) -> None:
        self.timeline = Timeline()
        self.at_a: list[tuple[int, bytes]] = []
        self.at_b: list[tuple[int, bytes]] = []
        self.a = Port("a", lambda frame, offload: self.at_a.append((self.timeline.now, frame)))
        self.b = Port("b", lambda frame, offload: self.at_b.append((self.timeline.now, frame)))
        streams = RandomStreams(seed)
        self.link = Link(self.timeline, self.a, self.b, partial(streams.stream, "link"), **options)

    def run(self, until: int = FOREVER) -> None:
        self.timeline.run_until(until)
        if until != FOREVER:
            self.timeline.now = until

    def send(self, octets: int, mark: int = 0, offload: bytes = NO_OFFLOAD) -> None:
        self.a.send(bytes((mark,)) * octets, offload)

    def arrivals(self) -> list[tuple[int, int]]:
        """Tell instant and mark of what reached b."""
        return [(when, frame[0]) for when, frame in self.at_b]


def super_frame(kind: int, payload: int, gso_size: int) -> tuple[bytes, bytes]:
    """Make a super-frame over IPv4 with headers of 54 (TCP) or 42 (UDP) octets."""
    head = bytes(12) + b"\x08\x00\x45\x00" + bytes(18)
    head += bytes(12) + b"\x50\x10" + bytes(6) if kind == GSO_TCPV4 else bytes(8)
    return head + bytes(payload), encode(Offload(NEEDS_CSUM, kind, len(head), gso_size, 34, 16))
