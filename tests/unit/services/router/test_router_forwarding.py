from ipaddress import IPv4Interface, IPv4Network

import pytest
from plain_router import PC, PEER, WEB, ipv4_seen, is_right, plain_lab, warm
from router_lab import DEFAULT, NAT, Talker, frame_to, packed
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from vnet.ports import NO_OFFLOAD
from vnet.services.nat.translator import NatConfig
from vnet.units import SECOND
from vnet.wire.checksum import ones_sum
from vnet.wire.virtio_net import NEEDS_CSUM, Offload, encode


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
