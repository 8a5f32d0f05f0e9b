from ipaddress import IPv4Interface, IPv4Network

import pytest
from router_lab import DEFAULT, EXTERNAL, NAT, RouterLab, Talker, packed

from vnet.ports import connect
from vnet.services.nat.translator import NatConfig
from vnet.services.router.router import Router
from vnet.stack.host import Host
from vnet.units import SECOND
from vnet.wire import icmpv4


def office_lab(nat: NatConfig = NAT):
    lab = RouterLab(nat)
    return lab, lab.host("pc", "office", "10.20.100.16"), lab.host("peer", "internet", "203.0.113.9", gateway=False)


def test_a_guest_reaches_outside_and_only_the_external_address_is_seen():
    lab, pc, peer = office_lab()
    server, client = Talker(peer, 7, echo=True), Talker(pc, 5000)
    for number in range(5):
        client.send("203.0.113.9", 7, b"x" * number)
        lab.run()
    assert [payload for payload, _ in client.got] == [b"x" * number for number in range(5)]
    assert {source for _, source in server.got} == {(packed(EXTERNAL), 5000)}
    assert lab.ping(pc, "203.0.113.9").ok
    assert {frame[26:30] for frame, _ in lab.seen["peer"] if frame[12:14] == b"\x08\x00"} == {packed(EXTERNAL)}
    assert [(entry.protocol, entry.inside, entry.outside) for entry in lab.router.nat_table()] == [
        ("udp", "10.20.100.16:5000", f"{EXTERNAL}:5000"),
        ("icmp", lab.router.nat_table()[1].inside, lab.router.nat_table()[1].outside),
    ]
    assert not lab.router.drops


def test_two_guests_with_one_port_to_one_server_both_work():
    lab, pc, peer = office_lab()
    server = Talker(peer, 7, echo=True)
    one, two = Talker(pc, 5000), Talker(lab.host("pc2", "office", "10.20.100.17"), 5000)
    one.send("203.0.113.9", 7, b"one")
    two.send("203.0.113.9", 7, b"two")
    lab.run()
    assert [payload for payload, _ in one.got] == [b"one"]
    assert [payload for payload, _ in two.got] == [b"two"]
    assert len({port for _, (_, port) in server.got}) == 2


def test_a_mapping_is_the_same_towards_everybody():
    lab, pc, peer = office_lab()
    other = lab.host("other", "internet", "203.0.113.10", gateway=False)
    first, second = Talker(peer, 7), Talker(other, 9)
    client = Talker(pc, 5001)
    client.send("203.0.113.9", 7)
    client.send("203.0.113.10", 9)
    lab.run()
    assert first.got[0][1] == second.got[0][1]


def test_unsolicited_packets_are_refused_counted_and_logged_once():
    lab, pc, peer = office_lab()
    client, stranger = Talker(pc, 5000), Talker(peer, 6000)
    server = Talker(peer, 7)
    client.send("203.0.113.9", 7)
    lab.run()
    for _ in range(3):
        stranger.send(EXTERNAL, 5000)
        lab.run(SECOND)
    assert not client.got
    assert server.got
    assert lab.router.drops == {"unsolicited": 3}
    assert len([kind for _, kind, _ in lab.events if kind == "refused"]) == 1
    assert lab.probe(peer, EXTERNAL, 22).state == "no answer"
    assert lab.ping(peer, EXTERNAL).ok  # the router itself answers


def test_an_inside_address_does_not_exist_outside():
    lab, pc, peer = office_lab()
    peer.routes.add(IPv4Network("10.20.100.0/24"), packed(EXTERNAL))
    assert not lab.ping(peer, "10.20.100.16").ok
    assert not lab.ping(peer, "10.20.100.1").ok  # nor the router's own there
    assert lab.router.drops == {"unsolicited": 2}
    assert not lab.seen["pc"]


@pytest.mark.parametrize(
    ("filtering", "same_address", "anybody"),
    [("endpoint-independent", 1, 1), ("address-dependent", 1, 0), ("address-and-port-dependent", 0, 0)],
)
def test_filtering(filtering, same_address, anybody):
    lab, pc, peer = office_lab(NatConfig(outside="internet", inside=("office",), filtering=filtering))
    other = lab.host("other", "internet", "203.0.113.10", gateway=False)
    Talker(peer, 7)
    client = Talker(pc, 5000)
    client.send("203.0.113.9", 7)
    lab.run()
    Talker(peer, 8).send(EXTERNAL, 5000)
    lab.run()
    assert len(client.got) == same_address
    Talker(other, 8).send(EXTERNAL, 5000)
    lab.run()
    assert len(client.got) == same_address + anybody


def test_a_forward_reaches_its_guest_and_answers_come_from_outside_address():
    lab, _, peer = office_lab()
    web = lab.host("web", "dmz", "172.17.1.26")
    server = Talker(web, 53, echo=True)
    client = Talker(peer, 4000)
    client.send(EXTERNAL, 5300)
    lab.run()
    assert server.got == [(b"hello", (packed("203.0.113.9"), 4000))]
    assert client.got == [(b"hello", (packed(EXTERNAL), 5300))]
    assert lab.probe(peer, EXTERNAL, 8080).state == "refused"  # by the guest: nothing listens there
    assert {entry.outside for entry in lab.router.nat_table()} == {f"{EXTERNAL}:5300", f"{EXTERNAL}:8080"}


def test_hairpin_hides_the_source():
    lab, pc, _ = office_lab()
    web, pc2 = lab.host("web", "dmz", "172.17.1.26"), lab.host("pc2", "office", "10.20.100.17")
    server, client = Talker(web, 53, echo=True), Talker(pc, 5000)
    client.send(EXTERNAL, 5300)
    lab.run()
    assert server.got == [(b"hello", (packed(EXTERNAL), 5000))]
    assert client.got == [(b"hello", (packed(EXTERNAL), 5300))]
    # and to a mapping on the same network, which nobody forwards
    second = Talker(pc2, 6000, echo=True)
    second.send("203.0.113.9", 1)
    lab.run()
    client.send(EXTERNAL, 6000, b"hairpin")
    lab.run()
    assert second.got == [(b"hairpin", (packed(EXTERNAL), 5000))]
    assert client.got[-1] == (b"hairpin", (packed(EXTERNAL), 6000))


def test_no_hairpin_where_it_is_off():
    lab, pc, _ = office_lab(NatConfig(outside="internet", inside=("office", "dmz"), forwards=NAT.forwards, hairpin=False))
    server, client = Talker(lab.host("web", "dmz", "172.17.1.26"), 53), Talker(pc, 5000)
    client.send(EXTERNAL, 5300)
    lab.run()
    assert not server.got
    assert client.errors == ["port unreachable"]


def test_a_mapping_ends_at_its_very_nanosecond():
    for late, passes in ((0, False), (-1, True)):
        lab, pc, peer = office_lab()
        server, client = Talker(peer, 7), Talker(pc, 5000)
        for _ in range(2):
            client.send("203.0.113.9", 7)
            lab.run(SECOND)
        last = lab.timeline.now
        client.send("203.0.113.9", 7)
        lab.run(SECOND)
        assert len(server.got) == 3
        lab.timeline.at(last + 300 * SECOND + late, lambda server=server: server.send(EXTERNAL, 5000))
        lab.run(700 * SECOND)
        assert len(client.got) == passes, late
        assert lab.router.nat_table() == []


def test_errors_come_back_to_the_guest_about_what_it_sent():
    lab, pc, _ = office_lab()
    client = Talker(pc, 5000)
    client.send("203.0.113.9", 99)
    lab.run()
    assert client.errors == ["port unreachable"]
    client.send("203.0.113.77", 99)
    lab.run()
    assert client.errors == ["port unreachable", "host unreachable"]


def test_an_error_from_inside_shows_the_external_address():
    lab, _, peer = office_lab()
    lab.host("web", "dmz", "172.17.1.26")
    client = Talker(peer, 4000)
    client.send(EXTERNAL, 5300)
    lab.run()
    assert client.errors == ["port unreachable"]
    frame = next(frame for frame, _ in lab.seen["peer"] if frame[12:14] == b"\x08\x00")
    assert frame[26:30] == packed(EXTERNAL)
    assert icmpv4.decode(frame[34:]).body[16:20] == packed(EXTERNAL)


def test_traceroute_through_nat():
    lab, pc, _ = office_lab()
    beyond = RouterBeyond(lab)
    client = Talker(pc, 5000)
    sources = []
    for ttl in (1, 2, 3):
        client.socket.ttl = ttl
        pc_errors = len(client.errors)
        client.socket.on_error = lambda _, error: sources.append((error.reporter, error.text))
        client.send("198.51.100.9", 33434)
        lab.run()
        assert len(sources) == ttl, pc_errors
    assert sources == [
        (packed("10.20.100.1"), "time exceeded"),
        (packed("203.0.113.1"), "time exceeded"),
        (packed("198.51.100.9"), "port unreachable"),
    ]
    assert [lab.ping(pc, "198.51.100.9", ttl=ttl).source for ttl in (1, 2, 3)] == [source for source, _ in sources]
    assert beyond.router.forwarded >= 4


class RouterBeyond:
    """A second router on the internet, with a host behind it."""

    def __init__(self, lab: RouterLab):
        self.router = Router("isp", lab.timeline, lambda purpose: lab.streams.stream("isp", purpose))
        lab._join("internet", self.router.add_interface("internet", b"\x02\2\0\0\0\1", [IPv4Interface("203.0.113.1/24")]))
        far = self.router.add_interface("far", b"\x02\2\0\0\0\2", [IPv4Interface("198.51.100.1/24")])
        lab.router.routes.add(DEFAULT, packed("203.0.113.1"))
        host = Host("far", lab.timeline, lambda purpose: lab.streams.stream("far", purpose))
        interface = host.add_interface("eth0", b"\x02\2\0\0\0\3")
        interface.add_address(IPv4Interface("198.51.100.9/24"))
        host.routes.add(DEFAULT, packed("198.51.100.1"))
        connect(interface.port, far.port, defer=lab.timeline)


def test_flush_and_a_new_address_end_what_stands():
    lab, pc, peer = office_lab()
    server, client = Talker(peer, 7, echo=True), Talker(pc, 5000)
    client.send("203.0.113.9", 7)
    lab.run()
    assert lab.router.flush() == 1
    assert lab.router.nat_table() == lab.router.flows() == []
    client.send("203.0.113.9", 7)
    lab.run()
    outside = lab.router.interfaces["internet"]
    outside.remove_address(IPv4Interface("203.0.113.2/24"))
    assert lab.router.flows() == []
    outside.add_address(IPv4Interface("203.0.113.3/24"))
    client.send("203.0.113.9", 7)
    lab.run()
    assert server.got[-1][1] == (packed("203.0.113.3"), 5000)
    assert len(client.got) == 3


def test_turning_nat_on_is_on_record():
    lab, _, _ = office_lab()
    assert [(kind, fields["outside"], fields["inside"]) for _, kind, fields in lab.events if kind == "nat-enabled"] == [
        ("nat-enabled", "internet", "dmz,office")
    ]
