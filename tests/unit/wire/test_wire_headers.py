"""The headers of IPv4, ARP, ICMP, UDP and TCP, with dpkt as the second opinion."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import WireError
from vnet.wire import arp, icmpv4, ipv4, tcp, udp

A, B = b"\x0a\0\0\1", b"\xc0\xa8\1\2"
u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
addresses = st.binary(min_size=4, max_size=4)
macs = st.binary(min_size=6, max_size=6)
options = st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))


@given(
    st.builds(
        ipv4.Ipv4, source=addresses, destination=addresses, protocol=u8, ttl=u8, tos=u8, ident=u16,
        dont_fragment=st.booleans(), more_fragments=st.booleans(), offset=st.integers(0, 8191).map(lambda n: n * 8),
        options=options,
    ),
    st.binary(max_size=100),
)  # fmt: skip
def test_ipv4_round_trip(header, payload):
    octets = header.encode(len(payload)) + payload
    assert ipv4.decode(octets) == (header, payload)
    assert ipv4.decode(octets + b"padding") == (header, payload)
    theirs = dpkt.ip.IP(octets)
    assert (theirs.src, theirs.dst, theirs.p, theirs.ttl, theirs.id) == (
        header.source, header.destination, header.protocol, header.ttl, header.ident,
    )  # fmt: skip
    assert theirs.offset * 8 == header.offset and theirs.opts == header.options
    assert dpkt.dpkt.in_cksum(octets[: len(octets) - len(payload)]) == 0


@given(st.integers(68, 1500), st.binary(min_size=1, max_size=5000), options, u16, st.booleans(), st.integers(0, 100))
def test_fragments_cover_the_packet_exactly(mtu, payload, opts, ident, more, first):
    header = ipv4.Ipv4(
        source=A, destination=B, protocol=17, ident=ident, options=opts, more_fragments=more, offset=first * 8
    )
    payload = payload[: len(payload) & ~7] if more else payload
    if not payload:
        return
    packet = header.encode(len(payload)) + payload
    parts = ipv4.fragment(packet, mtu)
    assert all(len(part) <= mtu for part in parts)
    joined, position = b"", first * 8
    for part in parts:
        head, body = ipv4.decode(part)
        assert head.offset == position and (head.ident, head.protocol) == (ident, 17)
        assert head.more_fragments == (more or part is not parts[-1])
        position += len(body)
        joined += body
    assert joined == payload


def test_only_options_with_the_copied_flag_go_into_later_fragments():
    record_route, router_alert = b"\x07\x07\x04\x00\x00\x00\x00", b"\x94\x04\x00\x00"
    packet = ipv4.Ipv4(source=A, destination=B, protocol=17, options=record_route + b"\x01" + router_alert).encode(1000)
    first, second, *_ = ipv4.fragment(packet + bytes(1000), 576)
    assert ipv4.decode(first)[0].options == record_route + b"\x01" + router_alert
    assert ipv4.decode(second)[0].options == router_alert
    assert ipv4.copied_options(b"\x94\x09\x00\x00") == b"", "a length beyond the end"
    assert ipv4.copied_options(b"\x94") == b""


def test_an_mtu_without_room_is_refused():
    packet = ipv4.Ipv4(source=A, destination=B, protocol=17, options=bytes(40)).encode(100) + bytes(100)
    with pytest.raises(WireError, match="MTU"):
        ipv4.fragment(packet, 64)


@given(macs, addresses, macs, addresses)
def test_arp_frames_are_read_by_others(mac, sender, target_mac, target):
    request = arp.request_frame(mac, sender, target)
    reply = arp.reply_frame(mac, sender, target_mac, target)
    assert arp.decode(request) == arp.Arp(arp.REQUEST, mac, sender, bytes(6), target)
    assert arp.decode(reply) == arp.Arp(arp.REPLY, mac, sender, target_mac, target)
    for frame, operation in ((request, 1), (reply, 2)):
        ethernet = dpkt.ethernet.Ethernet(frame)
        assert ethernet.type == 0x0806 and ethernet.src == mac
        theirs = ethernet.data
        assert (theirs.op, theirs.sha, theirs.spa, theirs.tpa) == (operation, mac, sender, target)
        assert (theirs.hrd, theirs.pro, theirs.hln, theirs.pln) == (1, 0x0800, 6, 4)
        assert arp.decode(frame).encode() == frame[14:]


@given(u8, u8, u32, st.binary(max_size=100))
def test_icmp_round_trip(kind, code, rest, body):
    octets = icmpv4.build(kind, code, rest, body)
    message = icmpv4.decode(octets)
    assert message == icmpv4.Icmp(kind, code, rest, body) and message.encode() == octets
    padded = octets + b"\0" if len(octets) & 1 else octets
    assert dpkt.dpkt.in_cksum(padded) == 0
    assert isinstance(icmpv4.describe(kind, code), str)
    assert message.is_error == (kind in (3, 4, 5, 11, 12))


@given(addresses, addresses, u16, u16, st.binary(max_size=200))
def test_udp_round_trip(source, destination, source_port, destination_port, payload):
    octets = udp.build(source, destination, source_port, destination_port, payload)
    assert udp.decode(octets, source, destination) == udp.Udp(source_port, destination_port, payload)
    assert udp.decode(octets + b"tail", source, destination).payload == payload
    theirs = dpkt.ip.IP(src=source, dst=destination, p=17, data=dpkt.udp.UDP(octets))
    theirs.data.sum = 0
    bytes(theirs)
    assert theirs.data.sum.to_bytes(2, "big") == octets[6:8]
    if octets[8:]:
        with pytest.raises(WireError):
            udp.decode(octets[:-1] + bytes((octets[-1] ^ 1,)), source, destination)
    assert udp.decode(octets[:6] + b"\0\0" + octets[8:], source, destination).payload == payload


@given(
    addresses, addresses,
    st.builds(
        tcp.Tcp, source_port=u16, destination_port=u16, sequence=u32, acknowledgment=u32, flags=u8, window=u16, urgent=u16,
        options=options, payload=st.binary(max_size=100),
    ),
)  # fmt: skip
def test_tcp_round_trip(source, destination, segment):
    octets = segment.encode(source, destination)
    assert tcp.decode(octets, source, destination) == segment
    pseudo = source + destination + b"\0\6" + len(octets).to_bytes(2, "big")
    padded = octets + b"\0" if len(octets) & 1 else octets
    assert dpkt.dpkt.in_cksum(pseudo + padded) == 0
    theirs = dpkt.tcp.TCP(octets)
    assert (theirs.sport, theirs.seq, theirs.flags, theirs.opts) == (
        segment.source_port, segment.sequence, segment.flags, segment.options,
    )  # fmt: skip
    assert segment.length == len(segment.payload) + (segment.flags >> 1 & 1) + (segment.flags & 1)


@given(st.binary(max_size=80))
def test_decoders_raise_only_wire_errors(octets):
    for decode in (
        ipv4.decode, arp.decode, icmpv4.decode, lambda o: icmpv4.decode(o, verify=False),
        lambda o: udp.decode(o, A, B), lambda o: udp.decode(o, A, B, verify=False),
        lambda o: tcp.decode(o, A, B), lambda o: tcp.decode(o, A, B, verify=False),
    ):  # fmt: skip
        try:
            decode(octets)
        except WireError as error:
            assert str(error)
