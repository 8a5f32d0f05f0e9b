"""Super-frames cut in software, judged by scapy and dpkt."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD
from vnet.wire.checksum import ones_sum, pseudo_header_sum
from vnet.wire.segmentation import MAX_SEGMENTS, complete, frame_count, header_octets, largest_frame, wire_octets
from vnet.wire.virtio_net import (
    DATA_VALID,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    Offload,
    decode,
    encode,
)

FIN, SYN, PSH, ACK, URG, CWR = 0x01, 0x02, 0x08, 0x10, 0x20, 0x80


def build(
    version: int,
    protocol: int,
    payload: bytes,
    *,
    gso_size: int,
    tags: int = 0,
    flags: int = ACK,
    ip_options: int = 0,
    tcp_options: bytes = b"",
    sequence: int = 1,
    identification: int = 7,
    kind: int | None = None,
) -> tuple[bytes, bytes]:
    """Make what a kernel hands to a TAP: headers with a pseudo-header sum where the checksum goes, and the virtio header."""
    link = bytes.fromhex("525400000002525400000001")
    link += b"".join(
        (b"\x81\x00", b"\x88\xa8")[index % 2] + (0x2000 + 10 + index).to_bytes(2, "big") for index in range(tags)
    )
    source, destination = (
        (bytes(range(1, 5)), bytes(range(11, 15))) if version == 4 else (bytes(range(16)), bytes(range(32, 48)))
    )
    if protocol == 6:
        transport = (
            (4000).to_bytes(2, "big") + (80).to_bytes(2, "big") + sequence.to_bytes(4, "big") + (99).to_bytes(4, "big")
        )
        transport += bytes(((20 + len(tcp_options)) << 2, flags)) + b"\x20\x00" + bytes(4) + tcp_options
        at = 16
    else:
        transport = (
            (4000).to_bytes(2, "big") + (53).to_bytes(2, "big") + ((8 + len(payload)) & 0xFFFF).to_bytes(2, "big") + b"\0\0"
        )
        at = 6
    pseudo = pseudo_header_sum(source, destination, protocol, len(transport) + len(payload))
    transport = transport[:at] + pseudo.to_bytes(2, "big") + transport[at + 2 :]
    length = len(transport) + len(payload)
    if version == 4:
        octets = 20 + ip_options
        ip = bytes((0x40 | octets // 4, 0x12)) + ((octets + length) & 0xFFFF).to_bytes(2, "big")
        ip += identification.to_bytes(2, "big") + b"\x40\x00\x40" + bytes((protocol,)) + b"\0\0" + source + destination
        ip += b"\x01" * ip_options
        ip = ip[:10] + (-ones_sum(ip) % 0xFFFF).to_bytes(2, "big") + ip[12:]
    else:
        ip = b"\x60\x12\x34\x56" + (length & 0xFFFF).to_bytes(2, "big") + bytes((protocol, 64)) + source + destination
    ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
    start = len(link) + 2 + len(ip)
    if kind is None:
        kind = GSO_UDP_L4 if protocol == 17 else GSO_TCPV4 if version == 4 else GSO_TCPV6
    header = Offload(NEEDS_CSUM, kind, start + len(transport), gso_size if kind else 0, start, at)
    return link + ethertype + ip + transport + payload, encode(header)


def assert_sound(octets: bytes, version: int, protocol: int) -> Packet:
    """Let scapy compute all lengths and checksums anew, and dpkt take the frame apart; both must agree with it."""
    packet = Ether(octets)
    again = Ether(octets)
    fresh = again[IP if version == 4 else IPv6]
    if version == 4:
        del fresh.chksum, fresh.len
    else:
        del fresh.plen
    transport = again[TCP if protocol == 6 else UDP]
    del transport.chksum
    if protocol == 17:
        del transport.len
    assert bytes(again) == octets
    network = next(layer for layer in (octets[at:] for at in range(14, 27, 4)) if layer[0] >> 4 == version)
    parsed = dpkt.ip.IP(network) if version == 4 else dpkt.ip6.IP6(network)
    inner = parsed.data
    assert isinstance(inner, dpkt.tcp.TCP if protocol == 6 else dpkt.udp.UDP)
    source, destination = parsed.src, parsed.dst
    total = len(bytes(inner))
    tail = (
        bytes((0, protocol)) + total.to_bytes(2, "big")
        if version == 4
        else total.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
    )
    assert dpkt.in_cksum(source + destination + tail + bytes(inner)) == 0
    if version == 4:
        assert dpkt.in_cksum(network[: parsed.hl * 4]) == 0
        assert parsed.len == len(network)
    return packet


shapes = st.fixed_dictionaries({
    "version": st.sampled_from([4, 6]),
    "payload": st.builds(lambda seed, size: (seed * 100 + bytes(6000))[:size], st.binary(max_size=64), st.integers(0, 6000)),
    "gso_size": st.sampled_from([7, 100, 536, 1448, 1460, 65000]) | st.integers(20, 3000),
    "tags": st.sampled_from([0, 0, 1, 2]),
    "identification": st.sampled_from([0, 7, 0xFFFE, 0xFFFF]),
    "ip_options": st.sampled_from([0, 0, 4, 40]),
})  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.integers(0, 255),
    st.sampled_from([0, 1, 0xFFFFFFFF, 0xFFFFFC00]),
    st.sampled_from([b"", b"\x01" * 12, b"\x01" * 40]),
)
def test_tcp(shape: dict, flags: int, sequence: int, options: bytes) -> None:
    if shape["version"] == 6:
        shape["ip_options"] = 0
    payload = shape["payload"]
    size = shape["gso_size"] = max(shape["gso_size"], len(payload) // 6)  # scapy is slow: seven frames are enough
    octets, offload = build(protocol=6, flags=flags, sequence=sequence, tcp_options=options, **shape)
    frames = complete(octets, offload)
    assert len(frames) == frame_count(octets, offload) == max(1, -(-len(payload) // size))
    assert max(map(len, frames)) == largest_frame(octets, offload)
    assert sum(map(len, frames)) == wire_octets(octets, offload)
    joined = b""
    for index, single in enumerate(frames):
        last = index == len(frames) - 1
        packet = assert_sound(single, shape["version"], 6)
        tcp = packet[TCP]
        assert tcp.seq == (sequence + len(joined)) % 2**32
        expected = flags & ~(0 if last else FIN | PSH) & ~(CWR if index else 0)
        assert single[header_octets(octets, offload) - 20 - len(options) + 13] == expected
        assert (tcp.sport, tcp.dport, tcp.ack, tcp.window, tcp.dataofs) == (4000, 80, 99, 0x2000, (20 + len(options)) // 4)
        assert single[: 14 + 4 * shape["tags"]] == octets[: 14 + 4 * shape["tags"]]
        if shape["version"] == 4:
            ip = packet[IP]
            assert (ip.id, ip.ttl, ip.tos, int(ip.flags)) == ((shape["identification"] + index) % 65536, 64, 0x12, 2)
        else:
            ip = packet[IPv6]
            assert (ip.hlim, single[14 + 4 * shape["tags"] :][:4]) == (64, b"\x60\x12\x34\x56")
        chunk = single[header_octets(octets, offload) :]
        assert len(chunk) == (size if not last else len(payload) - len(joined))
        joined += chunk
    assert joined == payload


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_udp(shape: dict) -> None:
    if shape["version"] == 6:
        shape["ip_options"] = 0
    payload = shape["payload"]
    size = shape["gso_size"] = max(shape["gso_size"], len(payload) // 6)  # scapy is slow: seven frames are enough
    octets, offload = build(protocol=17, **shape)
    frames = complete(octets, offload)
    assert len(frames) == frame_count(octets, offload)
    assert max(map(len, frames)) == largest_frame(octets, offload)
    assert sum(map(len, frames)) == wire_octets(octets, offload)
    joined = b""
    for index, single in enumerate(frames):
        packet = assert_sound(single, shape["version"], 17)
        udp = packet[UDP]
        chunk = single[header_octets(octets, offload) :]
        assert (udp.sport, udp.dport, udp.len) == (4000, 53, 8 + len(chunk))
        assert udp.chksum != 0
        if shape["version"] == 4:
            assert packet[IP].id == (shape["identification"] + index) % 65536
        joined += chunk
        assert len(chunk) == size or index == len(frames) - 1
    assert joined == payload


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("size", [0, 1, 2, 99, 1460])
def test_a_pending_checksum_is_filled_in(version: int, protocol: int, size: int) -> None:
    octets, offload = build(version, protocol, bytes(range(1, 100)) * 15 + bytes(size), gso_size=0, kind=GSO_NONE, tags=1)
    (done,) = complete(octets, offload)
    assert_sound(done, version, protocol)
    assert len(done) == len(octets)
    assert (frame_count(octets, offload), wire_octets(octets, offload), largest_frame(octets, offload)) == (
        1,
        *[len(octets)] * 2,
    )


def test_a_udp_checksum_of_zero_is_sent_as_its_other_zero() -> None:
    octets, offload = build(4, 17, b"\0\0", gso_size=0, kind=GSO_NONE)
    (done,) = complete(octets, offload)
    field = int.from_bytes(done[40:42], "big")
    octets, offload = build(4, 17, field.to_bytes(2, "big"), gso_size=0, kind=GSO_NONE)
    (done,) = complete(octets, offload)
    assert done[40:42] == b"\xff\xff"
    assert_sound(done, 4, 17)
    octets, offload = build(4, 17, field.to_bytes(2, "big"), gso_size=100)
    (done,) = complete(octets, offload)
    assert done[40:42] == b"\xff\xff"


def test_frames_with_nothing_to_do_pass_as_they_are() -> None:
    octets = b"anything at all"
    assert complete(octets, NO_OFFLOAD) == [octets]
    assert complete(octets, encode(Offload(DATA_VALID, GSO_NONE, 0, 0, 0, 0))) == [octets]
    assert header_octets(octets, NO_OFFLOAD) == 0


def test_ecn_super_frames_are_cut_the_same() -> None:
    octets, offload = build(4, 6, bytes(3000), gso_size=1000, flags=ACK | CWR | PSH)
    marked, header = build(4, 6, bytes(3000), gso_size=1000, flags=ACK | CWR | PSH, kind=GSO_TCPV4 | GSO_ECN)
    assert complete(octets, offload) == complete(marked, header)
    assert [frame[47] for frame in complete(marked, header)] == [ACK | CWR, ACK, ACK | PSH]
    assert largest_frame(marked, header) == 1054


def test_the_most_and_one_more() -> None:
    octets, offload = build(4, 17, bytes(MAX_SEGMENTS), gso_size=1)
    assert len(complete(octets, offload)) == MAX_SEGMENTS
    with pytest.raises(WireError):
        complete(*build(4, 17, bytes(MAX_SEGMENTS + 1), gso_size=1))
    with pytest.raises(WireError):
        complete(*build(4, 6, bytes(MAX_SEGMENTS + 1), gso_size=1))


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize(("version", "headers"), [(4, 20), (6, 40)])
def test_the_largest_packet_and_one_more(version: int, headers: int, protocol: int) -> None:
    room = 65535 - headers - (20 if protocol == 6 else 8)
    (single,) = complete(*build(version, protocol, bytes(room), gso_size=65535))
    assert_sound(single, version, protocol)
    with pytest.raises(WireError):
        complete(*build(version, protocol, bytes(room + 1), gso_size=65535))


@pytest.mark.parametrize("change", [
    {"flags": 0}, {"gso_size": 0}, {"gso_type": 3}, {"gso_type": 99}, {"csum_start": 0}, {"csum_start": 33},
    {"csum_start": 35}, {"csum_start": 65535},
])  # fmt: skip
def test_lies_in_the_header_are_found(change: dict[str, int]) -> None:
    octets, offload = build(4, 6, bytes(3000), gso_size=1000)
    with pytest.raises(WireError):
        complete(octets, encode(decode(offload)._replace(**change)))


@pytest.mark.parametrize("octets", range(54))
def test_a_super_frame_cut_off_anywhere_in_its_headers_is_an_error(octets: int) -> None:
    whole, offload = build(4, 6, bytes(3000), gso_size=1000)
    with pytest.raises(WireError):
        complete(whole[:octets], offload)


def test_the_kinds_of_ip_must_agree() -> None:
    octets, offload = build(4, 6, bytes(3000), gso_size=1000)
    with pytest.raises(WireError):
        complete(octets[:12] + b"\x86\xdd" + octets[14:], offload)
    with pytest.raises(WireError):
        complete(octets[:12] + b"\x08\x06" + octets[14:], offload)
    with pytest.raises(WireError):
        complete(octets[:14] + b"\x35" + octets[15:], offload)
    with pytest.raises(WireError):
        complete(octets[:46] + b"\x40" + octets[47:], offload)


lies = st.binary(min_size=10, max_size=10) | st.builds(
    lambda *fields: encode(Offload(*fields)),
    st.integers(0, 3), st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x84, 0xFF]), st.integers(0, 100),
    st.sampled_from([0, 1, 2, 8, 500, 65535]), st.integers(0, 90) | st.just(65535), st.integers(0, 80) | st.just(65535),
)  # fmt: skip
starts = st.sampled_from([
    bytes(12) + tags + ip
    for tags in (b"", b"\x81\x00\x00\x01", b"\x81\x00\x00\x01\x88\xa8\x00\x02")
    for ip in (b"\x08\x00\x45", b"\x08\x00\x46", b"\x08\x00", b"\x86\xdd\x60", b"\x86\xdd", b"")
])  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=200) | st.tuples(starts, st.binary(max_size=150)).map(b"".join), lies | st.binary(max_size=12))
@example(bytes(12) + b"\x81\x00\x00\x01\x88\xa8\x00\x02\x08\x00", encode(Offload(1, 1, 0, 8, 0, 0)))
@example(bytes(70_000), encode(Offload(1, 1, 0, 65535, 0, 0)))
def test_no_octets_raise_anything_but_a_wire_error(octets: bytes, offload: bytes) -> None:
    headers, largest = header_octets(octets, offload), largest_frame(octets, offload)
    count, total = frame_count(octets, offload), wire_octets(octets, offload)
    assert headers >= 0
    assert 0 <= largest <= len(octets)
    assert count >= 1
    assert total >= len(octets)
    try:
        frames = complete(octets, offload)
    except WireError:
        return
    assert (len(frames), sum(map(len, frames)), max(map(len, frames))) == (count, total, largest)


def test_scapy_agrees_that_tags_stay() -> None:
    octets, offload = build(6, 17, bytes(2000), gso_size=900, tags=2)
    for single in complete(octets, offload):
        packet = Ether(single)
        assert (packet[Dot1Q].vlan, packet[Dot1Q].prio, packet[Dot1AD].vlan) == (10, 1, 11)
        assert packet[Raw].load == bytes(len(packet[Raw].load))
