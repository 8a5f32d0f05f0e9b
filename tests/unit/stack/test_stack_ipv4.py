"""IPv4 input checks, reassembly and fragmentation, offload; dpkt is the oracle for what is sent."""

from __future__ import annotations

import random

import dpkt
import pytest

from vnet.addresses import BROADCAST
from vnet.stack.reassembly import MAX_DATAGRAMS, TIMEOUT
from vnet.units import SECOND
from vnet.wire import ipv4, udp
from vnet.wire.ipv4 import Ipv4
from vnet.wire.virtio_net import DATA_VALID, GSO_UDP_L4, NEEDS_CSUM, Offload, encode

ONE, TWO, NINE = (bytes((10, 0, 0, n)) for n in (1, 2, 9))
MAC1, MAC9 = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 9))


@pytest.fixture
def host(lan):
    """h1 with a socket on port 7 whose datagrams are in ``host.got``; 10.0.0.9 is us, and known to it."""
    host = lan.host(1)
    got = []
    host.udp_bind(7, on_datagram=lambda payload, source: got.append(payload))
    host.interfaces["eth0"].neighbors.lookup(NINE).heard(MAC9, confirmed=True)
    return host, got


def frame(packet, destination=MAC1):
    return destination + MAC9 + b"\x08\x00" + packet


def packet_to(destination=ONE, source=NINE, payload=b"hello", port=7, **fields):
    datagram = udp.build(source, destination, 9, port, payload)
    header = Ipv4(source=source, destination=destination, protocol=17, **fields)
    return header.encode(len(datagram)) + datagram


def changed(packet, offset, value, fix=True):
    """Change octets of the header and, if wanted, its checksum with them."""
    packet = packet[:offset] + value + packet[offset + len(value) :]
    if fix:
        packet = packet[:10] + b"\0\0" + packet[12:]
        packet = packet[:10] + (0xFFFF - dpkt_sum(packet[:20])).to_bytes(2, "big") + packet[12:]
    return packet


def dpkt_sum(octets):
    return 0xFFFF - dpkt.dpkt.in_cksum(octets)


def test_padding_is_cut_and_options_are_skipped(lan, host):
    one, got = host
    lan.inject(frame(packet_to() + bytes(13)))
    lan.inject(frame(packet_to(options=b"\x94\x04\x00\x00", payload=b"router alert")))
    assert got == [b"hello", b"router alert"] and one.drops == {}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "ipv4-malformed"),
        (packet_to()[:19], "ipv4-malformed"),
        (changed(packet_to(), 0, b"\x55"), "ipv4-malformed"),
        (changed(packet_to(), 0, b"\x44"), "ipv4-malformed"),
        (changed(packet_to(), 2, b"\xff\xff"), "ipv4-malformed"),
        (changed(packet_to(), 2, b"\x00\x13"), "ipv4-malformed"),
        (changed(packet_to(), 8, b"\x09", fix=False), "ipv4-malformed"),
        (packet_to(source=b"\xe0\0\0\1"), "ipv4-source"),
        (packet_to(source=b"\xff\xff\xff\xff"), "ipv4-source"),
        (packet_to(source=b"\x7f\0\0\1"), "ipv4-source"),
        (packet_to(source=b"\x0a\0\0\xff"), "ipv4-source"),
        (packet_to(source=ONE), "ipv4-source"),
        (packet_to(destination=TWO), "ipv4-not-ours"),
        (packet_to(destination=b"\xe0\0\0\5"), "ipv4-not-ours"),
        (packet_to(destination=b"\x7f\0\0\1"), "ipv4-not-ours"),
        (packet_to()[:-1], "ipv4-malformed"),
        (changed(packet_to(), 3, b"\x1b"), "udp-malformed"),
        (packet_to()[:-1] + b"!", "udp-malformed"),
        (packet_to(port=8), "udp-port"),
    ],
)
def test_bad_packets_are_counted_by_reason(lan, host, packet, reason):
    one, got = host
    lan.inject(frame(packet))
    assert one.drops == {reason: 1} and got == []


def test_other_ethertypes_and_other_macs(lan, host):
    one, _ = host
    lan.inject(frame(packet_to(), destination=bytes((0x52, 0x54, 0, 0, 0, 2))))
    assert one.drops == {} and one.interfaces["eth0"].ignored == 1
    lan.inject(MAC1 + MAC9 + b"\x86\xdd" + bytes(40))
    lan.inject(MAC1 + MAC9 + b"\x88\xcc" + bytes(40))
    lan.inject(MAC1[:3])
    assert one.drops == {"ipv6": 1, "ethertype": 1, "short-frame": 1}


def test_broadcast_and_groups_are_received(lan, host):
    one, got = host
    lan.inject(frame(packet_to(destination=b"\xff" * 4, payload=b"limited"), BROADCAST))
    lan.inject(frame(packet_to(destination=b"\x0a\0\0\xff", payload=b"directed"), BROADCAST))
    group = b"\xe0\0\0\xfb"
    to_group = frame(packet_to(destination=group, payload=b"group"), bytes.fromhex("01005e0000fb"))
    lan.inject(to_group)
    one.interfaces["eth0"].join(group)
    lan.inject(to_group)
    one.interfaces["eth0"].leave(group)
    lan.inject(to_group)
    assert got == [b"limited", b"directed", b"group"]
    assert one.drops == {"ipv4-not-ours": 2}


def test_the_same_flow_again_is_checked_as_strictly(lan, host):
    """The second datagram of a flow takes the short way; it must see what the long way sees."""
    one, got = host
    good = frame(packet_to(payload=b"even"))
    for _ in range(3):
        lan.inject(good)
        lan.inject(frame(packet_to(payload=b"odd")))
    assert got == [b"even", b"odd"] * 3
    for position in range(14, len(good)):
        before = len(got)
        for bit in range(8):
            lan.inject(good[:position] + bytes((good[position] ^ 1 << bit,)) + good[position + 1 :])
        assert len(got) == before, f"a wrong bit at {position} went unnoticed"
    lan.inject(good + bytes(9))
    assert got[-1] == b"even"
    lan.inject(good[:40] + b"\0\0" + good[42:])
    assert got[-1] == b"even" and len(got) == 8, "a checksum of zero is none"


def test_partial_checksums_are_trusted(lan, host):
    one, got = host
    packet = packet_to()
    broken = frame(packet[:26] + b"\x12\x34" + packet[28:])
    lan.inject(broken, encode(Offload(NEEDS_CSUM, 0, 0, 0, 34, 6)))
    lan.inject(broken, encode(Offload(DATA_VALID, 0, 0, 0, 0, 0)))
    assert got == [b"hello"] * 2
    lan.inject(broken)
    assert one.drops == {"udp-malformed": 1}


def test_super_frames_are_cut(lan, host):
    one, got = host
    payload = bytes(range(250)) * 10
    frame_ = frame(packet_to(payload=payload))
    lan.inject(frame_, encode(Offload(NEEDS_CSUM, GSO_UDP_L4, 42, 1000, 34, 6)))
    assert got == [payload[:1000], payload[1000:2000], payload[2000:]]
    lan.inject(frame_, encode(Offload(NEEDS_CSUM, 99, 42, 1000, 34, 6)))
    lan.inject(frame_, b"\x01")
    assert one.drops == {"offload-malformed": 2}


def fragments(payload, mtu=576, **fields):
    return ipv4.fragment(packet_to(payload=payload, **fields), mtu)


@pytest.mark.parametrize("seed", range(20))
def test_fragments_in_any_order_make_the_datagram(lan, host, seed):
    one, got = host
    payload = random.Random(seed).randbytes(4000 + seed)
    parts = fragments(payload, ident=seed)
    random.Random(seed).shuffle(parts)
    for part in parts:
        assert got == []
        lan.inject(frame(part))
    assert got == [payload] and one.drops == {}


def test_datagrams_in_pieces_do_not_mix(lan, host):
    _, got = host
    first, second = fragments(b"a" * 1000, ident=1), fragments(b"b" * 1000, ident=2)
    for pair in zip(first, second, strict=True):
        for part in pair:
            lan.inject(frame(part))
    assert got == [b"a" * 1000, b"b" * 1000]


def test_duplicates_are_dropped_alone_and_overlaps_with_their_datagram(lan, host):
    one, got = host
    parts = fragments(b"x" * 1500, ident=1)
    lan.inject(frame(parts[0]))
    lan.inject(frame(parts[0]))
    for part in parts[1:]:
        lan.inject(frame(part))
    assert got == [b"x" * 1500] and one.drops == {"fragment-duplicate": 1}
    header, payload = ipv4.decode(parts[1])
    evil = Ipv4(source=NINE, destination=ONE, protocol=17, ident=1, more_fragments=True, offset=header.offset - 8)
    lan.inject(frame(parts[0]))
    lan.inject(frame(evil.encode(len(payload)) + payload))
    assert one.drops["fragment-overlap"] == 1
    for part in parts[1:]:
        lan.inject(frame(part))
    assert len(got) == 1, "what was dropped stays dropped"


def test_a_packet_that_its_first_header_makes_too_long_is_dropped(lan, host):
    """Each fragment fits, the whole does not: the first one's header is longer than the others'."""
    one, got = host
    payload, room = 65515, 1440
    for start in range(0, payload, room):
        octets = min(room, payload - start)
        options = b"\x01" * 40 if start == 0 else b""
        header = Ipv4(
            source=NINE, destination=ONE, protocol=17, ident=1, offset=start, options=options,
            more_fragments=start + octets < payload,
        )  # fmt: skip
        lan.inject(frame(header.encode(octets) + bytes(octets)))
    assert one.drops == {"fragment-malformed": 1}
    assert got == []


def test_impossible_fragments_are_dropped(lan, host):
    one, got = host

    def send(octets, **fields):
        fields = {"protocol": 17, "ident": 1, **fields}
        header = Ipv4(source=NINE, destination=ONE, **fields)
        lan.inject(frame(header.encode(octets) + bytes(octets)))

    send(15, more_fragments=True)  # only the last may have an odd size
    send(0, more_fragments=True)
    send(1000, offset=65528)  # beyond 65535
    assert one.drops == {"fragment-malformed": 3}
    send(40, protocol=6, offset=8)  # RFC 1858: a TCP header cut in two
    assert one.drops["fragment-tiny"] == 1
    send(16, offset=800)  # the last ...
    send(16, offset=1600, more_fragments=True)  # ... and one behind it
    assert one.drops["fragment-overlap"] == 1
    send(16, offset=800)
    send(16, offset=1600)  # two ends
    assert one.drops["fragment-overlap"] == 2
    assert got == []


def test_the_rest_of_a_datagram_that_never_comes_is_waited_for_30_seconds(lan, host):
    one, got = host
    first, *rest = fragments(b"x" * 1500, ident=1)
    lan.inject(frame(first))
    lan.run(TIMEOUT - 1)
    lan.hub.take()
    lan.run(1)
    assert one.drops == {"fragment-timeout": 1}
    one.interfaces["eth0"].neighbors.lookup(NINE).heard(MAC9, confirmed=True)
    error = next(f for f in lan.hub.take() if f[12:14] == b"\x08\x00")
    assert error[34:36] == b"\x0b\x01", "time exceeded, reassembly (RFC 1122, 3.3.2)"
    for part in rest:
        lan.inject(frame(part))
    lan.run(2 * TIMEOUT)
    assert one.drops["fragment-timeout"] == 2 and got == []
    assert lan.timeline.next_instant() is None or lan.timeline.next_instant() > lan.timeline.now


def test_datagrams_in_pieces_are_bounded(lan, host):
    one, got = host
    everything = [fragments(b"%04d" % number * 300, ident=number) for number in range(MAX_DATAGRAMS + 5)]
    for first, *_ in everything:
        lan.inject(frame(first))
    assert one.drops == {"fragment-queue-full": 5}
    for part in everything[-1][1:]:
        lan.inject(frame(part))
    assert got == [b"%04d" % (MAX_DATAGRAMS + 4) * 300]


def test_what_exceeds_the_mtu_is_sent_in_fragments_that_others_understand(lan):
    one, two = lan.host(1, mtu=600), lan.host(2)
    got = []
    two.udp_bind(7, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(on_datagram=lambda payload, source: None)
    payload = random.Random(5).randbytes(3000)
    assert socket.send_to(payload, (TWO, 7)) is None
    lan.run()
    assert socket.send_to(payload, (TWO, 7)) is None
    lan.run()
    assert got == [payload] * 2
    packets = [dpkt.ip.IP(f[14:]) for f in lan.hub.frames if f[12:14] == b"\x08\x00"]
    assert len(packets) == 12 and all(packet.len <= 600 for packet in packets)
    assert [packet.offset * 8 for packet in packets[:6]] == [0, 576, 1152, 1728, 2304, 2880]
    assert [packet.mf for packet in packets[:6]] == [1] * 5 + [0]
    assert packets[0].id != packets[6].id


def test_do_not_fragment_is_obeyed(lan):
    one = lan.host(1, mtu=600)
    found = []
    one.ping(TWO, size=1000, dont_fragment=True, on_result=found.append)
    lan.run(0)
    assert found[0].error == "fragmentation needed"


def test_packets_to_ourselves_stay_inside(lan):
    one = lan.host(1)
    got = []
    one.udp_bind(7, on_datagram=lambda payload, source: got.append((payload, source)))
    socket = one.udp_bind(5000, on_datagram=lambda payload, source: None)
    for address in (ONE, b"\x7f\0\0\1"):
        assert socket.send_to(b"me", (address, 7)) is None
    lan.run(SECOND)
    assert got == [(b"me", (ONE, 5000)), (b"me", (b"\x7f\0\0\1", 5000))]
    assert lan.hub.frames == []
