"""How many packets a second the router translates in memory, beside a loop that only forwards.

The loop is the least that any router written in Python does to a packet: find the next hop by the destination address, write
the Ethernet header, count the TTL down, correct the header's checksum. It checks nothing, has no state and translates
nothing, so it is a ceiling and not a peer. The router is the whole product: frames enter at its port, and leave by another.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from time import perf_counter
from typing import Final

from benchmarks.rows import Row, interleave, medians
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD
from vnet.services.nat.translator import NatConfig
from vnet.services.router.router import Router
from vnet.wire import arp, ipv4, tcp, udp

FLOWS: Final = 200
PACKETS: Final = 40_000
"""In one measurement."""
GUEST: Final = IPv4Address("10.0.0.16").packed
SERVER: Final = IPv4Address("203.0.113.9").packed
EXTERNAL: Final = IPv4Address("203.0.113.2").packed
SERVER_MAC: Final = bytes.fromhex("025400000009")
PAYLOADS: Final = {
    "UDP, 18 octets": (17, 18),
    "TCP, no payload": (6, 0),
    "TCP, 1460 octets": (6, 1460),
    "TCP, 60,000 octets": (6, 60_000),
}
SUPER: Final = bytes((1, 1)) + b"".join(number.to_bytes(2, "little") for number in (54, 1460, 34, 16))
"""The virtio-net header of the largest of them: checksum pending, to be cut at 1460 octets."""


def _segment(source: bytes, destination: bytes, ports: tuple[int, int], flags: int, payload: bytes = b"") -> bytes:
    segment = tcp.Tcp(
        source_port=ports[0], destination_port=ports[1], sequence=1, flags=flags, payload=payload
    ).encode(source, destination)  # fmt: skip
    return _packet(source, destination, 6, segment)


def _packet(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    return ipv4.build(source, destination, protocol, len(payload), fragment_word=ipv4.DONT_FRAGMENT) + payload


class NatBed:
    """A router with NAT, an answered connection for every flow, and the frames that are to be translated."""

    def __init__(self, protocol: int, size: int) -> None:
        timeline, streams = Timeline(), RandomStreams()
        self.router = Router("router", timeline, lambda purpose: streams.stream("router", purpose))
        self.inside = self.router.add_interface("inside", b"\x02\0\0\0\0\1", [IPv4Interface("10.0.0.1/24")])
        self.outside = self.router.add_interface("outside", b"\x02\0\0\0\0\2", [IPv4Interface("203.0.113.2/24")])
        self.router.configure_nat(NatConfig(outside="outside", inside=("inside",)))
        self.count = 0
        self.sent: list[bytes] = []
        self.outside.port.plug(lambda frame, offload: self.sent.append(frame))
        self.outside.port.receive(arp.request_frame(SERVER_MAC, SERVER, EXTERNAL), NO_OFFLOAD)
        self.offload = SUPER if size > 1460 else NO_OFFLOAD
        self.frames = [self._flow(protocol, 20_000 + number, bytes(size)) for number in range(FLOWS)]
        for frame in self.frames:
            self.inside.port.receive(frame, self.offload)
        self.outside.port.plug(self._count)
        self.run(FLOWS)
        assert self.count == FLOWS, "packets got lost"
        assert not self.router.drops

    def _count(self, frame: bytes, offload: bytes) -> None:
        self.count += 1

    def _flow(self, protocol: int, port: int, payload: bytes) -> bytes:
        head = self.inside.mac + b"\x02\0\0\0\0\x10\x08\x00"
        if protocol == 17:
            return head + _packet(GUEST, SERVER, 17, udp.build(GUEST, SERVER, port, 53, payload))
        self.inside.port.receive(head + _segment(GUEST, SERVER, (port, 80), tcp.SYN), NO_OFFLOAD)
        answer = _segment(SERVER, EXTERNAL, (80, port), tcp.SYN | tcp.ACK)  # the port inside is kept outside
        self.outside.port.receive(self.outside.mac + SERVER_MAC + b"\x08\x00" + answer, NO_OFFLOAD)
        return head + _segment(GUEST, SERVER, (port, 80), tcp.ACK, payload)

    def run(self, packets: int) -> None:
        """Translate that many packets, rounded to whole turns of the flows."""
        receive, frames, offload = self.inside.port.receive, self.frames, self.offload
        for _ in range(packets // FLOWS):
            for frame in frames:
                receive(frame, offload)


class PlainLoop:
    """The ceiling: a dict of next hops, and nothing that is not needed to pass a packet on."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames
        self.count = 0
        self.hops = {SERVER: (SERVER_MAC + bytes(6) + b"\x08\x00", self._count)}

    def _count(self, frame: bytes, offload: bytes) -> None:
        self.count += 1

    def receive(self, frame: bytes, offload: bytes) -> None:
        """Forward a frame."""
        header, send = self.hops[frame[30:34]]
        check = ((frame[24] << 8 | frame[25]) + 0x0100) % 0xFFFF
        send(header + frame[14:22] + bytes((frame[22] - 1, frame[23])) + check.to_bytes(2, "big") + frame[26:], offload)

    def run(self, packets: int) -> None:
        """Forward that many packets."""
        receive, frames = self.receive, self.frames
        for _ in range(packets // FLOWS):
            for frame in frames:
                receive(frame, NO_OFFLOAD)


def _rate(run: Callable[[int], None], packets: int) -> Callable[[], float]:
    def measure() -> float:
        start = perf_counter()
        run(packets)
        return packets / (perf_counter() - start)

    return measure


def measure() -> list[Row]:
    """Measure each kind of packet; the ratio is the router's rate divided by the loop's."""
    rows = []
    for name, (protocol, size) in PAYLOADS.items():
        packets = PACKETS if size <= 1460 else PACKETS // 10
        bed = NatBed(protocol, size)
        plain = PlainLoop(bed.frames)
        rates = interleave({"vnet": _rate(bed.run, packets), "plain loop": _rate(plain.run, packets)})
        ratios = tuple(ours / theirs for ours, theirs in zip(rates["vnet"], rates["plain loop"], strict=True))
        rows.append(
            Row(
                what=f"NAT translations/s in memory vs a plain forwarding loop: {name}",
                gate=0.3, ambition=0.5, ratios=ratios, figures=medians(rates, "k/s", 1e3, 0),
            )
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    for row in measure():
        figures = ", ".join(f"{name} {figure}" for name, figure in row.figures.items())
        print(f"{row.what}: {row.measured:.2f} ({figures})")


if __name__ == "__main__":
    main()
