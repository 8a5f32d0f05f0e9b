"""Packets that are too large, super-frames, and fragments, on their way through a router."""

from __future__ import annotations

import pytest
from plain_router import PC, PEER, WEB, ipv4_seen, is_right, plain_lab, warm
from router_lab import NAT, Talker, frame_to, packed
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from vnet.ports import NO_OFFLOAD
from vnet.services.nat.translator import NatConfig
from vnet.units import SECOND
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, Offload, encode

# Size


def test_fragmentation_needed_is_told_with_the_mtu():
    lab, pc, *_ = plain_lab(mtu={"dmz": 1000})
    result = lab.ping(pc, WEB, size=1200, dont_fragment=True)
    assert result.error == "fragmentation needed"
    error = ipv4_seen(lab, "pc")[-1]
    assert error[ICMP].nexthopmtu == 1000
    assert lab.router.drops == {"mtu": 1}


@pytest.mark.parametrize("nat", [None, NatConfig(outside="dmz", inside=("office",))])
def test_a_packet_that_may_be_cut_is(nat: NatConfig | None):
    lab, pc, *_ = plain_lab(mtu={"dmz": 600}, nat=nat)
    for size in (1200, 600, 573, 572, 571, 1473, 4000):
        assert lab.ping(pc, WEB, size=size).ok, size
    assert all(len(frame) <= 614 for frame, _ in lab.seen["web"])
    assert not lab.router.drops


def super_frame(protocol: str, size: int, gso_size: int, source: str = PC, target: str = WEB) -> tuple[bytes, bytes]:
    """Make a super-frame's packet and header as Linux does: the checksum field holds the pseudo-header's sum."""
    if protocol == "tcp":
        packet = bytearray(
            bytes(IP(src=source, dst=target, flags="DF") / TCP(sport=5, dport=80, flags="A") / Raw(b"p" * size))
        )
        kind, at, octets = GSO_TCPV4, 16, 20
    else:
        packet = bytearray(bytes(IP(src=source, dst=target) / UDP(sport=5, dport=80) / Raw(b"p" * size)))
        kind, at, octets = GSO_UDP_L4, 6, 8
    total = sum(int.from_bytes(packet[i : i + 2], "big") for i in range(12, 20, 2)) + packet[9] + len(packet) - 20
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    packet[20 + at : 22 + at] = total.to_bytes(2, "big")
    return bytes(packet), encode(Offload(NEEDS_CSUM, kind, 34 + octets, gso_size, 34, at))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("nat", [None, NatConfig(outside="dmz", inside=("office",))])
def test_a_super_frame_passes_whole_and_its_parts_are_right(protocol: str, nat: NatConfig | None):
    lab, pc, *_ = plain_lab(nat=nat)
    warm(lab, pc, WEB)
    if protocol == "tcp":
        frame_to(lab.router, "office", bytes(IP(src=PC, dst=WEB) / TCP(sport=5, dport=80, flags="S")))
        back = "172.17.1.1" if nat else PC
        frame_to(lab.router, "dmz", bytes(IP(src=WEB, dst=back) / TCP(sport=80, dport=5, flags="SA")))
        lab.run()
        lab.seen["web"].clear()
    packet, offload = super_frame(protocol, 20_001, 1400)
    for _ in range(3):
        frame_to(lab.router, "office", packet, offload)
    lab.timeline.run_until(lab.timeline.now)
    frames = lab.seen["web"]
    assert len(frames) == 3
    for frame, header in frames:
        assert header == offload
        parts = complete(frame, header)
        assert len(parts) == 15
        assert all(is_right(IP(part[14:])) for part in parts)
        assert {IP(part[14:]).src for part in parts} == {"172.17.1.1" if nat else PC}
    assert len({frame for frame, _ in frames}) == 1


def test_a_super_frame_that_does_not_fit_is_told_or_cut():
    lab, pc, *_ = plain_lab(mtu={"dmz": 1000})
    warm(lab, pc, WEB)
    packet, offload = super_frame("tcp", 20_000, 1400)
    frame_to(lab.router, "office", packet, offload)
    lab.run()
    assert ipv4_seen(lab, "pc")[-1][ICMP].nexthopmtu == 1000
    packet, offload = super_frame("udp", 3000, 1400)
    frame_to(lab.router, "office", packet, offload)
    lab.run()
    frames = lab.seen["web"]
    assert [bool(IP(frame[14:]).flags.MF) for frame, _ in frames] == [True, False, True, False, False]
    assert all(header == NO_OFFLOAD for _, header in frames)


# Fragments


def fragments(size: int = 4000, source: str = PC, target: str = WEB) -> list[bytes]:
    from vnet.wire.ipv4 import fragment

    return fragment(
        bytes(IP(src=source, dst=target, id=77) / UDP(sport=5, dport=53) / Raw(bytes(range(256)) * (size // 256))), 1000
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
@pytest.mark.parametrize("nat", [None, NatConfig(outside="dmz", inside=("office",))])
def test_fragments_in_any_order_reach_the_server(order: tuple[int, ...], nat: NatConfig | None):
    lab, pc, web, _ = plain_lab(nat=nat)
    warm(lab, pc, WEB)
    server = Talker(web, 53, echo=True)
    client = Talker(pc, 5)
    parts = fragments(3840)
    assert len(parts) == 4
    for index in order:
        frame_to(lab.router, "office", parts[index])
    lab.run()
    assert [(payload, source[0]) for payload, source in server.got] == [
        (bytes(range(256)) * 15, packed("172.17.1.1" if nat else PC))
    ]
    assert len(client.got) == 1
    assert not lab.router.drops


def test_fragments_of_a_refused_packet_are_refused_and_lonely_ones_forgotten():
    lab, pc, _, peer = plain_lab(nat=NAT)
    warm(lab, peer, "203.0.113.2")
    parts = fragments(source=PEER, target="203.0.113.2")
    for part in parts:
        frame_to(lab.router, "internet", part)
    assert lab.router.drops == {"unsolicited": 1, "fragment-refused": len(parts) - 1}
    for part in fragments(source=PC, target=PEER)[1:]:
        frame_to(lab.router, "office", part)
    lab.run(31 * SECOND)
    assert lab.router.drops["fragment-timeout"] == len(parts) - 1
    assert not ipv4_seen(lab, "peer")
    assert lab.router._forwarder.fragments.next_deadline() is None


def test_tiny_fragments_pass_no_filter():
    lab, *_ = plain_lab(nat=NAT)
    packet = bytes(IP(src=PC, dst=PEER, flags="MF") / TCP(sport=5, dport=80, flags="S"))[:28]
    tiny = bytearray(packet)
    tiny[2:4] = (28).to_bytes(2, "big")
    tiny[10:12] = b"\0\0"
    rebuilt = IP(bytes(tiny))
    del rebuilt.chksum
    frame_to(lab.router, "office", bytes(rebuilt))
    overwriting = IP(src=PC, dst=PEER, frag=1, proto=6) / Raw(bytes(16))
    frame_to(lab.router, "office", bytes(overwriting))
    assert lab.router.drops == {"fragment-tiny": 2}


def test_a_big_ping_through_nat_and_to_the_router():
    lab, pc, *_ = plain_lab(nat=NAT)
    assert lab.ping(pc, PEER, size=5000).ok
    assert lab.ping(pc, "203.0.113.2", size=5000).ok
    assert lab.ping(pc, WEB, size=5000).ok
