from ipaddress import IPv4Interface, IPv4Network

import pytest
from router_lab import DEFAULT, NAT, RouterLab, Talker, frame_to, packed
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from vnet.ports import NO_OFFLOAD
from vnet.services.nat.translator import NatConfig
from vnet.units import SECOND
from vnet.wire.checksum import ones_sum
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, Offload, encode

PC, WEB, PEER = "10.20.100.16", "172.17.1.26", "203.0.113.9"


def plain_lab(**fields):
    lab = RouterLab(**fields)
    return lab, lab.host("pc", "office", PC), lab.host("web", "dmz", WEB), lab.host("peer", "internet", PEER)


def ipv4_seen(lab: RouterLab, host: str) -> list[IP]:
    return [IP(frame[14:]) for frame, _ in lab.seen[host] if frame[12:14] == b"\x08\x00"]


def is_right(packet: IP) -> bool:
    """Tell whether scapy would write the same checksums."""
    again = packet.copy()
    del again.chksum
    if again.frag == 0 and not again.flags.MF:
        del again.payload.chksum
    return bytes(again) == bytes(packet)


def warm(lab: RouterLab, host, *targets: str) -> None:
    """Let everybody find everybody, so that what follows is all that is seen."""
    for target in targets:
        lab.ping(host, target)
    for seen in lab.seen.values():
        seen.clear()


def test_everybody_reaches_everybody_without_nat_and_firewall():
    lab, *hosts = plain_lab()
    for host in hosts:
        for target in (PC, WEB, PEER):
            assert lab.ping(host, target).ok
    assert lab.ping(hosts[0], WEB).ttl == 63
    assert not lab.router.drops
    assert lab.router.flows() == []


def test_the_ttl_is_counted_and_its_end_told():
    lab, pc, *_ = plain_lab()
    result = lab.ping(pc, WEB, ttl=1)
    assert (result.ok, result.error, result.source) == (False, "time exceeded", packed("10.20.100.1"))
    assert lab.ping(pc, WEB, ttl=2).ok
    assert lab.ping(pc, "10.20.100.1", ttl=1).ok
    assert lab.router.drops == {"ttl": 1}


def test_no_route_and_no_neighbor_are_told():
    lab, pc, *_ = plain_lab()
    assert lab.ping(pc, "198.51.100.1").error == "net unreachable"
    result = lab.ping(pc, "172.17.1.99", timeout=9 * SECOND)
    assert (result.error, result.source) == ("host unreachable", packed("10.20.100.1"))
    assert lab.router.drops == {"no-route": 1}


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("127.0.0.1", WEB, "martian-source"),
        ("0.0.0.1", WEB, "martian-source"),
        ("224.0.0.1", WEB, "martian-source"),
        ("255.255.255.255", WEB, "martian-source"),
        ("10.20.100.255", WEB, "martian-source"),
        ("172.17.1.1", WEB, "martian-source"),
        (PC, "127.0.0.1", "martian-destination"),
        (PC, "0.0.0.7", "martian-destination"),
        (PC, "240.0.0.1", "martian-destination"),
        (PC, "224.0.0.99", "martian-destination"),
        ("169.254.1.1", WEB, "link-local"),
        (PC, "169.254.1.1", "link-local"),
        (PC, "172.17.1.255", "directed-broadcast"),
    ],
)
@pytest.mark.parametrize("nat", [None, NAT])
def test_what_must_not_be_forwarded(source: str, destination: str, reason: str, nat: NatConfig | None):
    lab, pc, *_ = plain_lab(nat=nat)
    warm(lab, pc, WEB)
    frame_to(lab.router, "office", bytes(IP(src=source, dst=destination) / UDP(sport=1, dport=2)))
    lab.run()
    assert lab.router.drops == {reason: 1}
    assert not ipv4_seen(lab, "web")
    assert not ipv4_seen(lab, "pc")


def test_a_packet_for_one_host_in_a_frame_for_many_is_not_forwarded():
    lab, *_ = plain_lab()
    packet = bytes(IP(src=PC, dst=WEB) / UDP())
    lab.router.interfaces["office"].port.receive(b"\xff" * 6 + bytes(6) + b"\x08\x00" + packet, NO_OFFLOAD)
    assert lab.router.drops == {"group-frame": 1}


@pytest.mark.parametrize("damage", [
    lambda p: p[:10] + b"\x12\x34" + p[12:], lambda p: p[:19], lambda p: b"\x65" + p[1:], lambda p: b"\x44" + p[1:],
    lambda p: p[:2] + b"\xff\xff" + p[4:], lambda p: b"",
])  # fmt: skip
def test_a_damaged_header_ends_here_on_the_long_way_and_on_the_short(damage):
    lab, pc, *_ = plain_lab()
    packet = bytes(IP(src=PC, dst=WEB) / UDP(sport=1, dport=9) / Raw(b"data"))
    warm(lab, pc, WEB)
    for number in range(3):
        frame_to(lab.router, "office", damage(packet))
        lab.run()
        assert lab.router.drops == {"ipv4-malformed": number + 1}
        frame_to(lab.router, "office", packet)
    lab.run()
    assert len(ipv4_seen(lab, "web")) == 3


def test_padding_is_taken_off():
    lab, pc, *_ = plain_lab(nat=NatConfig(outside="dmz", inside=("office",)))
    warm(lab, pc, WEB)
    packet = bytes(IP(src=PC, dst=WEB) / UDP(sport=1, dport=9) / Raw(b"x"))
    for _ in range(3):
        frame_to(lab.router, "office", packet + b"padding")
    lab.run()
    assert [len(frame) for frame, _ in lab.seen["web"]] == [14 + len(packet)] * 3
    assert all(is_right(got) for got in ipv4_seen(lab, "web"))


@pytest.mark.parametrize("nat", [None, NatConfig(outside="dmz", inside=("office",))])
@pytest.mark.parametrize("size", [0, 1, 2, 17, 512, 1471, 1472])
def test_short_way_and_long_way_send_the_same(nat: NatConfig | None, size: int):
    lab, pc, *_ = plain_lab(nat=nat)
    warm(lab, pc, WEB)
    packets = [bytes(IP(src=PC, dst=WEB, id=7) / UDP(sport=3, dport=9) / Raw(b"d" * size)) for _ in range(3)]
    before = len(lab.router._forwarder.flows)
    for packet in packets:
        frame_to(lab.router, "office", packet)
    lab.run(SECOND)
    assert len(lab.router._forwarder.flows) >= before + 1
    seen = ipv4_seen(lab, "web")
    assert len(seen) == 3
    assert len({bytes(packet) for packet in seen}) == 1
    assert is_right(seen[0])
    assert seen[0].ttl == 63
    assert seen[0].src == ("172.17.1.1" if nat else PC)
    assert bytes(seen[0][UDP].payload) == b"d" * size


def test_a_udp_datagram_without_checksum_stays_without():
    lab, pc, *_ = plain_lab(nat=NatConfig(outside="dmz", inside=("office",)))
    warm(lab, pc, WEB)
    for _ in range(2):
        frame_to(lab.router, "office", bytes(IP(src=PC, dst=WEB) / UDP(sport=3, dport=9, chksum=0) / Raw(b"data")))
    lab.run()
    assert [packet[UDP].chksum for packet in ipv4_seen(lab, "web")] == [0, 0]


def test_a_tcp_connection_is_followed_on_both_ways():
    lab, pc, *_ = plain_lab(nat=NatConfig(outside="dmz", inside=("office",)))
    warm(lab, pc, WEB)

    def out(flags: str) -> None:
        frame_to(lab.router, "office", bytes(IP(src=PC, dst=WEB) / TCP(sport=50000, dport=80, flags=flags) / Raw(b"abc")))

    def back(flags: str) -> None:
        frame_to(lab.router, "dmz", bytes(IP(src=WEB, dst="172.17.1.1") / TCP(sport=80, dport=50000, flags=flags)))

    def states() -> list[str]:
        return [flow.state for flow in lab.router.flows() if flow.protocol == "tcp"]

    for step, flags, state in (
        (out, "S", "opening"),
        (back, "SA", "answered"),
        (back, "SA", "answered"),
        (out, "A", "established"),
        (out, "A", "established"),
        (back, "A", "established"),
        (back, "A", "established"),
        (out, "FA", "originator-closed"),
        (back, "A", "originator-closed"),
        (back, "FA", "closed"),
        (out, "A", "closed"),
        (out, "S", "opening"),
        (back, "SA", "answered"),
        (out, "A", "established"),
        (back, "R", "reset-by-responder"),
        (out, "A", "reset-by-responder"),
        (back, "A", "established"),
    ):
        step(flags)
        assert states() == [state], (step, flags)
    lab.run()
    assert all(is_right(packet) for packet in [*ipv4_seen(lab, "web"), *ipv4_seen(lab, "pc")])
    assert not lab.router.drops


def test_a_closed_connection_leaves_the_short_way_and_ends_after_four_minutes():
    lab, pc, *_ = plain_lab(nat=NatConfig(outside="dmz", inside=("office",)))
    warm(lab, pc, WEB)
    for side, source, target, ports, flags in (
        ("office", PC, WEB, (5, 80), "S"), ("dmz", WEB, "172.17.1.1", (80, 5), "SA"), ("office", PC, WEB, (5, 80), "A"),
        ("office", PC, WEB, (5, 80), "A"), ("office", PC, WEB, (5, 80), "R"),
    ):  # fmt: skip
        packet = IP(src=source, dst=target) / TCP(sport=ports[0], dport=ports[1], flags=flags)
        frame_to(lab.router, side, bytes(packet))
    ended = lab.timeline.now + 240 * SECOND
    lab.run(239 * SECOND)
    frame_to(lab.router, "office", bytes(IP(src=PC, dst=WEB) / TCP(sport=5, dport=80, flags="R")))
    lab.timeline.run_until(ended - 1)
    lab.timeline.now = ended - 1
    assert [flow.expires_in for flow in lab.router.flows() if flow.protocol == "tcp"] == [1]
    lab.timeline.run_until(ended)
    lab.timeline.now = ended
    assert not [flow for flow in lab.router.flows() if flow.protocol == "tcp"]


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


# Change


def test_routes_take_effect_at_once():
    lab, pc, _, peer = plain_lab()
    client, server = Talker(pc, 5), Talker(peer, 7, echo=True)
    peer.interfaces["eth0"].add_address(IPv4Interface("198.51.100.7/32"))
    client.send("198.51.100.7", 7)
    lab.run()
    assert client.errors == ["net unreachable"]
    lab.router.routes.add(IPv4Network("198.51.100.0/24"), packed(PEER))
    for _ in range(3):
        client.send("198.51.100.7", 7)
        lab.run(SECOND)
    assert len(server.got) == 3
    for route in list(lab.router.routes):
        if route.network == IPv4Network("198.51.100.0/24"):
            lab.router.routes.remove(route)
    client.send("198.51.100.7", 7)
    lab.run()
    assert len(server.got) == 3
    assert client.errors == ["net unreachable"] * 2


def test_a_neighbor_that_moves_is_followed():
    lab, pc, web, _ = plain_lab(nat=NatConfig(outside="dmz", inside=("office",)))
    server, client = Talker(web, 7, echo=True), Talker(pc, 5)
    for _ in range(2):
        client.send(WEB, 7)
        lab.run(SECOND)
    old = web.interfaces["eth0"]
    old.port.unplug()
    lab.hubs["dmz"].remove(old)
    second = lab.host("web2", "dmz", WEB)
    other = Talker(second, 7, echo=True)
    second.interfaces["eth0"].announce(packed(WEB))
    lab.run(3 * SECOND)
    client.send(WEB, 7)
    lab.run()
    assert (len(server.got), len(other.got), len(client.got)) == (2, 1, 3)


def test_a_default_gateway_on_the_outside():
    lab, pc, _, peer = plain_lab(nat=NAT)
    lab.router.routes.add(DEFAULT, packed(PEER))
    assert lab.ping(pc, "192.0.2.1").error == "net unreachable" or not lab.ping(pc, "192.0.2.1").ok
    assert any(packet.dst == "192.0.2.1" and packet.src == "203.0.113.2" for packet in ipv4_seen(lab, "peer"))


@pytest.mark.parametrize("nat", [None, NatConfig(outside="dmz", inside=("office",))])
def test_a_fragment_beyond_the_largest_packet_is_not_cut_again(nat: NatConfig | None):
    """Its pieces' offsets would not fit: they would wrap into the flags."""
    lab, pc, *_ = plain_lab(nat=nat, mtu={"dmz": 600})
    warm(lab, pc, WEB)
    if nat is not None:
        frame_to(lab.router, "office", bytes(IP(src=PC, dst=WEB, id=9, flags="MF") / UDP(sport=5, dport=53) / Raw(bytes(8))))
        lab.run()
        lab.seen["web"].clear()
    frame_to(lab.router, "office", bytes(IP(src=PC, dst=WEB, id=9, frag=8189, proto=17) / Raw(bytes(1000))))
    lab.run()
    assert lab.router.drops == {"fragment-malformed": 1}
    assert not lab.seen["web"]


@pytest.mark.parametrize("nat", [None, NAT])
@pytest.mark.parametrize("transport", [UDP(sport=1, dport=33434), TCP(sport=1, dport=80, flags="S")])
def test_an_error_quotes_the_packet_as_a_wire_would_have_carried_it(nat: NatConfig | None, transport: UDP | TCP):
    """A guest that leaves checksums to its NIC sends half of one, which Wireshark would call bad in the quote."""
    lab, pc, *_ = plain_lab(nat=nat)
    warm(lab, pc, WEB)
    packet = bytes(IP(src=PC, dst=PEER, ttl=1) / transport / Raw(b"x" * 30))
    at = 6 if isinstance(transport, UDP) else 16
    half = ones_sum(packet[12:20] + bytes((0, packet[9], 0, len(packet) - 20))).to_bytes(2, "big")
    pending = packet[: 20 + at] + half + packet[22 + at :]
    frame_to(lab.router, "office", pending, encode(Offload(NEEDS_CSUM, 0, 0, 0, 34, at)))
    lab.run()
    (error,) = ipv4_seen(lab, "pc")
    assert (error[ICMP].type, is_right(error)) == (11, True)
    assert bytes(error[ICMP].payload) == packet
