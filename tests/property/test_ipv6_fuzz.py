"""Any octets, with any offload header, into a host that speaks IPv6: nothing escapes, all is bounded, the host lives on."""

from __future__ import annotations

import random
from ipaddress import IPv6Address, IPv6Interface

from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, connect
from vnet.stack.host import Host
from vnet.stack.ipv6.autoconf import MAX_PREFIXES, MAX_ROUTERS, MAX_SERVERS
from vnet.stack.ipv6.paths import MAX_PATHS
from vnet.stack.neighbor import MAX_ENTRIES
from vnet.stack.reassembly import MAX_DATAGRAMS
from vnet.units import HOUR, SECOND
from vnet.wire import icmpv6, ipv6, mld, ndp, udp
from vnet.wire.checksum import checksum, pseudo_header_sum
from vnet.wire.tcp import ACK, SYN, Tcp
from vnet.wire.virtio_net import HEADER

MAC1, MAC2 = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2"
ONE, TWO = IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8::2").packed
LINK2 = ipv6.link_local(MAC2)
OUTGOING = ("icmp-rate-limit", "neighbor-queue-full", "no-neighbor", "fragment-timeout", "fragment-queue-full")


def make(number: int, timeline: Timeline) -> Host:
    host = Host(f"h{number}", timeline, lambda purpose: RandomStreams(number).stream("host", purpose))
    interface = host.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, number)))
    side = interface.enable_ipv6()
    side.add_address(IPv6Interface(f"2001:db8::{number}/64"))
    side.configure_itself()
    return host


def packet(kind: int, payload: bytes, destination: bytes = ONE, source: bytes = TWO, hop_limit: int = 64) -> bytes:
    to = b"\x33\x33" + destination[-4:] if destination[0] == 0xFF else MAC1
    return to + MAC2 + b"\x86\xdd" + ipv6.build(source, destination, kind, len(payload), hop_limit=hop_limit) + payload


def message(found: icmpv6.Icmpv6, destination: bytes = ONE, source: bytes = LINK2, hop_limit: int = 255) -> bytes:
    return packet(58, found.encode(source, destination), destination, source, hop_limit)


def valid_frames() -> list[bytes]:
    datagram = udp.build(TWO, ONE, 5000, 7, b"0123456789" * 200)
    short = udp.build(TWO, ONE, 5000, 7, b"0123456789")
    sent = ipv6.build(ONE, TWO, 17, 8) + b"\x00\x07\x13\x88\x00\x08\x00\x00"
    whole = ipv6.build(TWO, ONE, 17, len(datagram)) + datagram
    mac = ndp.Options(source_mac=MAC2)
    full = ndp.Options(
        source_mac=MAC2, mtu=1400, prefixes=(ndp.Prefix(IPv6Address("2001:db8:a::").packed, 64),),
        dns=(ndp.DnsServers((TWO,), 300),),
    )  # fmt: skip
    syn = Tcp(source_port=1, destination_port=80, sequence=3, flags=SYN, options=b"\x02\x04\x05\xb4").encode(TWO, ONE)
    data = Tcp(source_port=1, destination_port=80, sequence=4, flags=ACK, payload=bytes(3000)).encode(TWO, ONE)
    segment = ipv6.build(ONE, TWO, 6, 20) + Tcp(source_port=80, destination_port=1, sequence=3, flags=ACK).encode(ONE, TWO)
    return [
        packet(6, syn),
        packet(6, data),
        packet(60, bytes((6, 0, 1, 4, 0, 0, 0, 0)) + syn),
        *(message(icmpv6.Icmpv6(kind, 0, 1300, segment), source=TWO) for kind in (1, 2, 3, 4)),
        packet(17, short),
        packet(60, bytes((17, 0, 1, 4, 0, 0, 0, 0)) + short),
        packet(0, bytes((43, 0, 5, 2, 0, 0, 1, 0)) + bytes((17, 0, 0, 0, 0, 0, 0, 0)) + short),
        packet(99, b"unknown"),
        packet(17, short, source=ipv6.ALL_NODES),
        *(MAC1 + MAC2 + b"\x86\xdd" + part for part in ipv6.fragment(whole, 1280, 7)),
        message(icmpv6.Icmpv6(128, 0, 0x10001, b"echo"), source=TWO),
        message(icmpv6.Icmpv6(129, 0, 0x10001, b"echo"), source=TWO),
        *(message(icmpv6.Icmpv6(kind, 0, 1300, sent), source=TWO) for kind in (1, 2, 3, 4)),
        message(ndp.encode(ndp.NeighborSolicitation(ONE, mac)), ipv6.solicited_node(ONE)),
        message(ndp.encode(ndp.NeighborSolicitation(ONE)), ipv6.solicited_node(ONE), ipv6.ANY),
        message(ndp.encode(ndp.NeighborAdvertisement(TWO, False, True, True, ndp.Options(target_mac=MAC2)))),
        message(ndp.encode(ndp.RouterAdvertisement(options=full)), ipv6.ALL_NODES),
        message(ndp.encode(ndp.Redirect(LINK2, TWO))),
        b"\x33\x33\0\0\0\1" + MAC2 + b"\x86\xdd" + mld.packet(LINK2, ipv6.ALL_NODES, mld.Query().encode()),
    ]


VALID = valid_frames()


def mutate(draw: random.Random, frame: bytes) -> bytes:
    octets = bytearray(frame)
    for _ in range(draw.randrange(4)):
        kind = draw.randrange(4)
        if kind == 0 and octets:
            octets[draw.randrange(len(octets))] = draw.randrange(256)
        elif kind == 1 and draw.randrange(3) == 0:
            del octets[draw.randrange(len(octets) + 1) :]
        elif kind == 2 and len(octets) > 54:
            octets[draw.randrange(54, len(octets))] = draw.randrange(256)
        elif len(octets) > 21 and draw.randrange(2):
            octets[18:20] = max(len(octets) - 54, 0).to_bytes(2, "big")
    if len(octets) > 60 and octets[20] == 58 and draw.randrange(4):
        octets[56:58] = b"\0\0"  # a checksum that is right lets the mutation get further in
        total = pseudo_header_sum(bytes(octets[22:38]), bytes(octets[38:54]), 58, len(octets) - 54)
        octets[56:58] = checksum(bytes(octets[54:]), total).to_bytes(2, "big")
    return bytes(octets)


def random_offload(draw: random.Random) -> bytes:
    kind = draw.randrange(5)
    if kind < 3:
        return NO_OFFLOAD
    if kind == 3:
        return draw.randbytes(draw.choice((10, 10, 10, 0, 3, 12)))
    return HEADER.pack(
        draw.choice((0, 1, 2, 3)), draw.choice((0, 1, 1, 4, 5, 5, 0x81)), draw.choice((0, 62, 74, 74)),
        draw.choice((0, 1, 8, 100, 1448)), draw.choice((54, 54, 14, 0, 65535)), draw.choice((6, 16, 0, 65535)),
    )  # fmt: skip


class Bench:
    """Two hosts on a cable; the frames go into the first one's port beside it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.one, self.two = make(1, self.timeline), make(2, self.timeline)
        connect(self.one.interfaces["eth0"].port, self.two.interfaces["eth0"].port, defer=self.timeline)
        echo = self.one.udp_bind(7, both=True, on_datagram=lambda payload, source: echo.send_to(payload, source) and None)
        echo.on_error = lambda destination, error: None
        self.one.tcp.listen(80, both=True)
        self.timeline.run_until(3 * SECOND)

    def accounted(self) -> int:
        """Count the frames that came in; what the host could not send in answer to them is not among those."""
        drops = sum(count for reason, count in self.one.drops.items() if reason not in OUTGOING)
        return drops + self.one.interfaces["eth0"].ignored + self.one.delivered

    def feed(self, frame: bytes, offload: bytes) -> None:
        self.one.interfaces["eth0"].port.receive(frame, offload)
        self.timeline.run_until(self.timeline.now)

    def check_alive(self) -> None:
        """Once the noise has died down and cable and addresses are new, a ping goes through both ways."""
        one, two = self.one.interfaces["eth0"], self.two.interfaces["eth0"]
        side = one.ipv6
        assert len(side.neighbors.entries) <= MAX_ENTRIES and len(self.one.ipv6.paths) <= MAX_PATHS
        assert len(side.autoconf.routers) <= MAX_ROUTERS and len(side.autoconf.servers) <= MAX_SERVERS
        assert len(side.addresses) <= 2 + MAX_PREFIXES
        assert self.one.ipv6._reassembler is None or len(self.one.ipv6._reassembler) <= MAX_DATAGRAMS
        for interface in (one, two):
            interface.port.set_carrier(False)
        for interface in (one, two):
            interface.port.set_carrier(True)
        self.timeline.run_until(self.timeline.now + HOUR)
        self.timeline.now += HOUR
        results = []
        self.one.ping(TWO, on_result=results.append, timeout=30 * SECOND)
        self.two.ping(ONE, on_result=results.append, timeout=30 * SECOND)
        self.timeline.run_until(self.timeline.now + 60 * SECOND)
        assert [result.ok for result in results] == [True, True], results


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.binary(max_size=120), st.binary(max_size=12)), max_size=20))
def test_any_octets(frames):
    bench = Bench()
    for octets, offload in frames:
        for frame in (MAC1 + MAC2 + b"\x86\xdd" + octets, packet(58, octets), packet(0, octets), packet(44, octets)):
            before = bench.accounted()
            bench.feed(frame, NO_OFFLOAD)
            assert bench.accounted() >= before
            bench.feed(frame, offload)
    bench.check_alive()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_mutated_packets(seed, count):
    draw = random.Random(seed)
    bench = Bench()
    for _ in range(count):
        bench.feed(mutate(draw, draw.choice(VALID)), random_offload(draw))
    bench.check_alive()


def test_five_thousand_mutated_packets_into_one_host():
    draw = random.Random(20261126)
    bench = Bench()
    for _ in range(5000):
        bench.feed(mutate(draw, draw.choice(VALID)), random_offload(draw))
    assert {
        "ipv6-malformed", "ipv6-parameter", "ipv6-protocol", "ipv6-source", "udp-malformed", "icmp-malformed",
        "ndp-malformed", "mld-malformed", "fragment-overlap", "offload-malformed",
    } <= set(bench.one.drops), sorted(bench.one.drops)  # fmt: skip
    bench.check_alive()


def test_every_frame_that_is_not_a_fragment_is_counted_exactly_once():
    draw = random.Random(7)
    bench = Bench()
    frames = 0
    for _ in range(3000):
        frame = mutate(draw, draw.choice(VALID))
        if frame[12:14] != b"\x86\xdd" or 44 in (frame[20:21] or b"\0") or frame[20:21] in (b"\0", b"\x2b", b"\x3c"):
            continue
        before = bench.accounted()
        bench.one.interfaces["eth0"].port.receive(frame, NO_OFFLOAD)
        assert bench.accounted() == before + 1, frame.hex()
        frames += 1
    assert frames > 1000
