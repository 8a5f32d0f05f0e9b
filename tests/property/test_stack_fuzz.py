"""Any octets, with any offload header, into a host's port: nothing escapes, frames are accounted for, the host lives on."""

from __future__ import annotations

import random
from ipaddress import IPv4Interface

from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, connect
from vnet.stack.host import Host
from vnet.stack.neighbor import MAX_ENTRIES
from vnet.units import SECOND
from vnet.wire import arp, icmpv4, igmp, ipv4, udp
from vnet.wire.ipv4 import Ipv4
from vnet.wire.tcp import SYN, Tcp
from vnet.wire.virtio_net import HEADER

ONE, TWO = b"\x0a\0\0\1", b"\x0a\0\0\2"
MAC1, MAC2 = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2"
BROADCAST = b"\xff" * 6
GROUP = b"\xef\1\2\3"
OUTGOING = ("icmp-rate-limit", "neighbor-queue-full", "no-neighbor")


def make(number: int, timeline: Timeline) -> Host:
    host = Host(f"h{number}", timeline, lambda purpose: RandomStreams(number).stream("host", purpose))
    interface = host.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, number)))
    interface.add_address(IPv4Interface(f"10.0.0.{number}/24"))
    host.groups.join(interface, GROUP)
    return host


def packet(protocol: int, payload: bytes, destination: bytes = ONE, **fields: object) -> bytes:
    header = Ipv4(source=TWO, destination=destination, protocol=protocol, **fields)  # type: ignore[arg-type]
    return MAC1 + MAC2 + b"\x08\x00" + header.encode(len(payload)) + payload


def valid_frames() -> list[bytes]:
    datagram = udp.build(TWO, ONE, 5000, 7, b"0123456789" * 20)
    quoted = Ipv4(source=ONE, destination=TWO, protocol=17).encode(8) + b"\x00\x07\x13\x88\x00\x08\x00\x00"
    syn = Tcp(source_port=1, destination_port=2, sequence=3, flags=SYN, options=b"\x02\x04\x05\xb4", payload=b"x")
    whole = Ipv4(source=TWO, destination=ONE, protocol=17, ident=5).encode(len(datagram)) + datagram
    return [
        packet(17, datagram),
        packet(17, datagram, options=b"\x94\x04\x00\x00"),
        packet(2, igmp.query_v3(bytes(4), 10), destination=b"\xe0\0\0\1", ttl=1),
        packet(2, igmp.simple(igmp.QUERY, GROUP, 10), destination=GROUP, ttl=1),
        packet(2, igmp.report_v3([(igmp.IS_EXCLUDE, GROUP)] * 3), ttl=1),
        packet(17, datagram, destination=b"\x0a\0\0\xff"),
        packet(6, syn.encode(TWO, ONE)),
        packet(1, icmpv4.build(8, 0, 0x10001, b"echo")),
        packet(1, icmpv4.build(0, 0, 0x10001, b"echo")),
        packet(1, icmpv4.build(3, 3, 0, quoted)),
        packet(99, b"unknown"),
        *(MAC1 + MAC2 + b"\x08\x00" + part for part in ipv4.fragment(whole, 100)),
        arp.request_frame(MAC2, TWO, ONE),
        arp.request_frame(MAC2, bytes(4), ONE),
        arp.request_frame(MAC2, ONE, ONE),
        arp.reply_frame(MAC2, TWO, MAC1, ONE),
        BROADCAST + MAC2 + b"\x86\xdd" + bytes(60),
    ]


VALID = valid_frames()


def mutate(draw: random.Random, frame: bytes) -> bytes:
    octets = bytearray(frame)
    for _ in range(draw.randrange(5)):
        kind = draw.randrange(5)
        if kind == 0 and octets:
            octets[draw.randrange(len(octets))] = draw.randrange(256)
        elif kind == 1:
            del octets[draw.randrange(len(octets) + 1) :]
        elif kind == 2:
            octets += draw.randbytes(draw.randrange(40))
        elif kind == 3 and len(octets) > 14:
            octets[draw.randrange(14, len(octets))] ^= 1 << draw.randrange(8)
        elif len(octets) > 34 and draw.randrange(2):
            octets[24:26] = b"\0\0"  # a header checksum that is right lets the mutation get further in
            field = -(int.from_bytes(octets[14:34], "big")) % 0xFFFF
            octets[24:26] = field.to_bytes(2, "big")
    return bytes(octets)


def random_offload(draw: random.Random) -> bytes:
    kind = draw.randrange(4)
    if kind < 2:
        return NO_OFFLOAD
    if kind == 2:
        return draw.randbytes(draw.choice((10, 10, 10, 0, 3, 12)))
    return HEADER.pack(
        draw.choice((0, 1, 2, 3)), draw.choice((0, 1, 1, 4, 5, 5, 0x81)), draw.choice((0, 42, 54)),
        draw.choice((0, 1, 8, 100, 1448)), draw.choice((34, 34, 14, 0, 65535)), draw.choice((6, 16, 0, 65535)),
    )  # fmt: skip


class Bench:
    """Two hosts on a cable; the frames go into the first one's port beside it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.one, self.two = make(1, self.timeline), make(2, self.timeline)
        self.received: list[bytes] = []
        connect(self.one.interfaces["eth0"].port, self.two.interfaces["eth0"].port, defer=self.timeline)
        echo = self.one.udp_bind(7, on_datagram=lambda payload, source: echo.send_to(payload, source) and None)
        echo.on_error = lambda destination, error: None
        self.sink = self.one.udp_bind(8, on_datagram=lambda payload, source: self.received.append(payload))
        self.one.interfaces["eth0"].probe(b"\x0a\0\0\x63", lambda taken: None)

    def accounted(self) -> int:
        """Count the frames that came in; what the host could not send in answer to them is not among those."""
        drops = sum(count for reason, count in self.one.drops.items() if reason not in OUTGOING)
        return drops + self.one.interfaces["eth0"].ignored + self.one.delivered

    def feed(self, frame: bytes, offload: bytes) -> None:
        self.one.interfaces["eth0"].port.receive(frame, offload)
        self.timeline.run_until(self.timeline.now)

    def check_alive(self) -> None:
        """Once the noise has died down, a ping goes through both ways."""
        self.one.interfaces["eth0"].neighbors.flush()
        self.two.interfaces["eth0"].neighbors.flush()
        for _ in range(2):
            self.timeline.run_until(self.timeline.now + 60 * SECOND)
        results = []
        self.one.ping(TWO, on_result=results.append)
        self.two.ping(ONE, on_result=results.append)
        self.timeline.run_until(self.timeline.now + SECOND)
        assert [result.ok for result in results] == [True, True]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.binary(max_size=120), st.binary(max_size=12)), max_size=20))
def test_any_octets(frames):
    bench = Bench()
    for frame, offload in frames:
        for octets in (frame, MAC1 + MAC2 + b"\x08\x00" + frame, BROADCAST + MAC2 + b"\x08\x06" + frame):
            before = bench.accounted()
            bench.feed(octets, NO_OFFLOAD)
            assert bench.accounted() >= before
            bench.feed(octets, offload)
    bench.check_alive()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_mutated_packets(seed, count):
    draw = random.Random(seed)
    bench = Bench()
    for _ in range(count):
        bench.feed(mutate(draw, draw.choice(VALID)), random_offload(draw))
    bench.check_alive()


def test_ten_thousand_mutated_packets_into_one_host():
    draw = random.Random(20261123)
    bench = Bench()
    for _ in range(10_000):
        bench.feed(mutate(draw, draw.choice(VALID)), random_offload(draw))
    interface = bench.one.interfaces["eth0"]
    assert len(interface.neighbors.entries) <= MAX_ENTRIES
    assert {
        "ipv4-malformed",
        "udp-malformed",
        "icmp-malformed",
        "tcp-malformed",
        "arp-malformed",
        "offload-malformed",
    } <= set(bench.one.drops), "the mutations reach every decoder"
    bench.check_alive()


def test_every_frame_that_is_not_arp_for_us_or_a_fragment_is_counted_exactly_once():
    draw = random.Random(7)
    bench = Bench()
    frames = 0
    for _ in range(3000):
        frame = mutate(draw, draw.choice(VALID))
        if frame[12:14] == b"\x08\x06" or (len(frame) > 21 and (frame[20] & 0x3F or frame[21])):
            continue
        before = bench.accounted()
        bench.one.interfaces["eth0"].port.receive(frame, NO_OFFLOAD)
        assert bench.accounted() == before + 1, frame.hex()
        frames += 1
    assert frames > 1000
