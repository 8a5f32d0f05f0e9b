from ipaddress import IPv4Network

import pytest
from router_lab import EXTERNAL, NAT, RouterLab, Talker, frame_to, packed

from vnet.services.firewall.rules import AllowRule, FirewallConfig
from vnet.services.nat.translator import NatConfig
from vnet.units import MILLISECOND, SECOND
from vnet.wire import ipv4, udp
from vnet.wire.virtio_net import HEADER, NEEDS_CSUM, UDP_CHECKSUM

PERIMETER = FirewallConfig(
    policy="drop",
    allow=(
        AllowRule(from_networks=("office",), to_networks=("dmz", "internet")),
        AllowRule(from_networks=("internet",), to_networks=("dmz",), protocol="udp", ports=((53, 53),)),
        AllowRule(from_networks=("internet",), to_networks=("dmz",), protocol="icmp"),
    ),
)


def perimeter(policy: str = "drop", nat: NatConfig | None = None):
    lab = RouterLab(nat, FirewallConfig(policy=policy, allow=PERIMETER.allow))  # type: ignore[arg-type]
    pc, web = lab.host("pc", "office", "10.20.100.16"), lab.host("web", "dmz", "172.17.1.26")
    peer = lab.host("peer", "internet", "203.0.113.9")
    return lab, pc, web, peer


def test_what_begins_inside_passes_with_its_answers_and_nothing_else():
    """Scenario S2: internet to web, office to the DMZ, and no way from the DMZ to the office."""
    lab, pc, web, peer = perimeter()
    assert lab.ping(pc, "172.17.1.26").ok
    assert lab.ping(pc, "203.0.113.9").ok
    assert lab.ping(peer, "172.17.1.26").ok
    assert not lab.ping(web, "10.20.100.16").ok
    assert not lab.ping(peer, "10.20.100.16").ok
    assert not lab.ping(web, "203.0.113.9").ok
    assert lab.router.drops == {"policy": 3}
    assert lab.router.rule_counters() == {"rule 1": 2, "rule 2": 0, "rule 3": 1, "policy": 3}


def test_the_router_itself_answers_everybody():
    lab, pc, web, _ = perimeter()
    assert lab.ping(web, "172.17.1.1").ok
    assert lab.ping(pc, "172.17.1.1").ok


def test_ports_and_protocols():
    lab, _, web, peer = perimeter()
    dns, other = Talker(web, 53, echo=True), Talker(web, 54, echo=True)
    client = Talker(peer, 4000)
    client.send("172.17.1.26", 53)
    client.send("172.17.1.26", 54)
    lab.run()
    assert len(client.got) == len(dns.got) == 1
    assert not other.got
    assert lab.probe(peer, "172.17.1.26", 53).state == "no answer"


def test_a_related_error_passes_and_an_invented_one_does_not():
    lab, pc, web, _ = perimeter()
    client = Talker(pc, 5000)
    client.send("172.17.1.26", 9)
    lab.run()
    assert client.errors == ["port unreachable"]
    quoted = ipv4.build(packed("10.20.100.16"), packed("172.17.1.26"), 17, 8) + udp.build(bytes(4), bytes(4), 5001, 9, b"")
    web.icmp.send_error(web.interfaces["eth0"], quoted, 3, 3)
    lab.run()
    assert lab.router.drops == {"icmp-unrelated": 1}


def test_reject_tells_the_sender_at_once():
    lab, _, web, peer = perimeter("reject")
    result = lab.probe(peer, "172.17.1.26", 80)
    assert result.state == "refused"
    client = Talker(web, 5000)
    client.send("10.20.100.16", 9)
    lab.run()
    assert client.errors == ["communication prohibited"]
    assert lab.ping(web, "10.20.100.16").error == "communication prohibited"
    assert lab.router.drops == {"policy": 3}


def test_accept_tracks_and_lets_everything_begin():
    lab, pc, web, peer = perimeter("accept")
    for host, target in ((web, "10.20.100.16"), (peer, "10.20.100.16"), (pc, "203.0.113.9")):
        assert lab.ping(host, target).ok
    assert len(lab.router.flows()) == 3
    assert {flow.state for flow in lab.router.flows()} == {"answered"}


def test_a_segment_from_nowhere_begins_nothing():
    lab, pc, web, _ = perimeter("accept")
    from vnet.wire.tcp import ACK, SYN, Tcp

    for flags in (ACK, SYN | ACK, 0, SYN | 1):
        segment = Tcp(source_port=5, destination_port=80, sequence=1, flags=flags).encode(
            packed("10.20.100.16"), packed("172.17.1.26")
        )
        frame_to(lab.router, "office", ipv4.build(packed("10.20.100.16"), packed("172.17.1.26"), 6, len(segment)) + segment)
    assert lab.router.drops == {"no-connection": 4}


def test_an_answer_must_come_from_the_network_that_was_asked():
    lab, pc, web, _ = perimeter()
    Talker(web, 53)
    client = Talker(pc, 5000)
    client.send("172.17.1.26", 53)
    lab.run()
    forged = udp.build(packed("172.17.1.26"), packed("10.20.100.16"), 53, 5000, b"forged")
    frame_to(lab.router, "internet", ipv4.build(packed("172.17.1.26"), packed("10.20.100.16"), 17, len(forged)) + forged)
    lab.run()
    assert not client.got
    assert lab.router.drops == {"wrong-network": 1}


def test_nat_and_firewall_together():
    lab, pc, web, peer = perimeter(nat=NAT)
    assert lab.ping(pc, "203.0.113.9").ok
    assert not lab.ping(web, "203.0.113.9").ok  # no rule lets the DMZ out
    server, client = Talker(web, 53, echo=True), Talker(peer, 4000)
    client.send(EXTERNAL, 5300)  # a port forward needs no rule
    lab.run()
    assert len(server.got) == len(client.got) == 1
    assert lab.router.drops == {"policy": 1}


def test_new_rules_end_old_permissions():
    lab, pc, web, _ = perimeter()
    server, client = Talker(web, 53, echo=True), Talker(pc, 5000)
    for _ in range(3):
        client.send("172.17.1.26", 53)
        lab.run(SECOND)
    lab.router.configure_firewall(FirewallConfig(policy="drop"))
    client.send("172.17.1.26", 53)
    lab.run(SECOND)
    assert len(server.got) == 3
    lab.router.configure_firewall(None)
    client.send("172.17.1.26", 53)
    lab.run(SECOND)
    assert len(client.got) == 4
    assert lab.router.flows() == []


def test_drops_are_reported_once_for_a_flow_and_not_too_often():
    lab, _, web, _ = perimeter()
    source, target = packed("172.17.1.26"), packed("10.20.100.16")

    def knock(port: int) -> None:
        datagram = udp.build(source, target, 4000, port, b"")
        frame_to(lab.router, "dmz", ipv4.build(source, target, 17, len(datagram)) + datagram)

    for port in (1, 1, 2, 2):
        knock(port)
    refused = [fields for _, kind, fields in lab.events if kind == "refused"]
    assert [fields["destination"] for fields in refused] == ["10.20.100.16:1", "10.20.100.16:2"]
    assert refused[0] == {
        "reason": "policy", "protocol": "udp", "source": "172.17.1.26:4000", "destination": "10.20.100.16:1",
        "from_network": "dmz", "to_network": "office",
    }  # fmt: skip
    for port in range(100, 200):
        knock(port)
    assert len([1 for _, kind, _ in lab.events if kind == "refused"]) == 32
    lab.run(SECOND + MILLISECOND)
    knock(300)
    assert lab.events[-1][2]["not_reported"] == 70
    assert lab.router.drops == {"policy": 105}


@pytest.mark.parametrize("rule", [
    AllowRule(sources=(IPv4Network("10.20.100.16/32"),)),
    AllowRule(destinations=(IPv4Network("172.17.1.0/28"), IPv4Network("172.17.1.26/32"))),
])  # fmt: skip
def test_rules_by_prefix(rule: AllowRule):
    lab = RouterLab(firewall=FirewallConfig(allow=(rule,)))
    pc, _ = lab.host("pc", "office", "10.20.100.16"), lab.host("web", "dmz", "172.17.1.26")
    pc2, web2 = lab.host("pc2", "office", "10.20.100.17"), lab.host("web2", "dmz", "172.17.1.27")
    assert lab.ping(pc, "172.17.1.26").ok
    assert not lab.ping(pc2, "172.17.1.27").ok
    assert not lab.ping(web2, "10.20.100.17").ok


def test_a_pending_checksum_that_would_be_written_elsewhere_is_a_lie():
    """Whoever completes it would change what was judged: on the long way and on the short one the packet ends here."""
    lab, pc, web, _ = perimeter()
    got = Talker(web, 53).got
    lab.ping(pc, "172.17.1.26")
    datagram = udp.build(packed("10.20.100.16"), packed("172.17.1.26"), 4000, 53, b"hello")
    head = ipv4.build(packed("10.20.100.16"), packed("172.17.1.26"), 17, len(datagram), ident=1)
    truth = UDP_CHECKSUM
    lies = [
        HEADER.pack(NEEDS_CSUM, 0, 0, 0, start, offset) for start, offset in ((34, 16), (26, 0), (14, 16), (0, 30), (34, 0))
    ]
    for offload in (*lies, truth, *lies, truth):
        frame_to(lab.router, "office", head + datagram, offload)
        lab.run(MILLISECOND)
    assert len(got) == 2
    assert lab.router.drops == {"offload-malformed": 2 * len(lies)}
