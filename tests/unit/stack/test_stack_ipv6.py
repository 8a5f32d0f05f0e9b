"""IPv6 of emulated hosts: UDP, errors, extension headers, groups, routes."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, IPv6Network

import pytest
from ipv6_lan import ONE, ROUTER, ROUTER_MAC, STRANGER, TWO, datagram, discovery, ip, mac, pair, pings, side, texts, to_us

from vnet.ports import Port
from vnet.units import MINUTE, SECOND
from vnet.wire import icmpv6, ipv6, mld, ndp
from vnet.wire.describe import describe
from vnet.wire.ipv6 import Ipv6
from vnet.wire.virtio_net import HEADER

# -- UDP


def test_datagrams_both_ways_and_by_the_same_socket_as_ipv4(lan):
    one, two = pair(lan)
    one.interfaces["eth0"].add_address(IPv4Interface("10.0.0.1/24"))
    two.interfaces["eth0"].add_address(IPv4Interface("10.0.0.2/24"))
    echo = two.udp_bind(7, both=True, on_datagram=lambda payload, source: echo.send_to(payload.upper(), source) and None)
    got = []
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: got.append((payload, source)))
    assert socket.send_to(b"six", (TWO, 7)) is None and socket.send_to(b"four", (b"\x0a\0\0\2", 7)) is None
    lan.run()
    assert sorted(got) == [(b"FOUR", (b"\x0a\0\0\2", 7)), (b"SIX", (TWO, 7))]
    bound = one.udp_bind(5353, b"\x0a\0\0\1", both=True, on_datagram=lambda payload, source: None)
    assert bound.send_to(b"x", (TWO, 7)) == "no address"
    plain = one.udp_bind(5352, on_datagram=lambda payload, source: got.append(payload))
    assert plain.send_to(b"x", (TWO, 7)) == "no address", "who reads it knows IPv4 addresses only"
    two.udp_bind(both=True, on_datagram=lambda payload, source: None).send_to(b"x", (ONE, 5352))
    lan.run()
    assert len(got) == 2 and one.drops == {"udp-port": 1}
    bound = one.udp_bind(5354, ONE, both=True, on_datagram=lambda payload, source: None)
    assert bound.send_to(b"x", (b"\x0a\0\0\2", 7)) == "no address"
    assert bound.send_to(bytes(65528), (TWO, 7)) == "message too long"
    assert bound.send_to(b"x", (ip("2001:db9::1"), 7)) == "no route"


@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 9000, 65527])
def test_datagrams_of_any_size(lan, size):
    one, two = pair(lan)
    assert pings(lan, one, TWO).ok, "more fragments than may wait for an unknown neighbor"
    lan.hub.take()
    got = []
    two.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    payload = bytes(index % 251 for index in range(size))
    assert socket.send_to(payload, (TWO, 7)) is None
    lan.run()
    assert got == [payload]
    sent = [frame for frame in lan.hub.take() if frame[20] in (17, 44)]
    assert all(len(frame) <= 1514 for frame in sent) and (len(sent) > 1) == (size > 1452)


def test_a_port_without_a_socket(lan):
    one, two = pair(lan)
    errors = []
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    socket.on_error = lambda destination, error: errors.append((destination, error.text, error.reporter))
    socket.send_to(b"x", (TWO, 9))
    lan.run()
    assert errors == [((TWO, 9), "port unreachable", TWO)] and two.drops == {"udp-port": 1}
    socket.send_to(b"x", (ipv6.LOOPBACK, 9))
    lan.run()
    assert errors[1:] == [((ipv6.LOOPBACK, 9), "port unreachable", ipv6.LOOPBACK)]


def test_a_datagram_to_a_group(lan):
    one, two = pair(lan)
    group = ip("ff02::1:3")
    got = []
    two.udp_bind(5355, both=True, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    socket.send_to(b"nobody", (group, 5355))
    lan.run()
    side(two).join(group)
    socket.send_to(b"joined", (group, 5355))
    socket.send_to(b"no error for a group", (group, 9999))
    lan.run()
    side(two).leave(group)
    socket.send_to(b"left", (group, 5355))
    lan.run(2 * SECOND)
    assert got == [b"joined"]
    said = texts(lan)
    assert sum("to-exclude ff02::1:3" in line for line in said) == 2, "twice within a second"
    assert sum("to-include ff02::1:3" in line for line in said) == 2
    assert not any("unreachable" in line for line in said)


def test_checksums_are_a_must(lan):
    one, _ = pair(lan)
    got = []
    one.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    packet = datagram(STRANGER, ONE, b"data")
    lan.inject(to_us(packet))
    lan.inject(to_us(packet[:46] + b"\0\0" + packet[48:]))
    lan.inject(to_us(packet[:-1] + b"x"))
    assert got == [b"data"] and one.drops == {"udp-malformed": 2}


# -- errors, extension headers


def test_errors_are_sent_for_what_is_unknown_and_at_a_bounded_rate(lan):
    one, _ = pair(lan)
    lan.inject(
        discovery(ndp.NeighborSolicitation(ONE, ndp.Options(source_mac=ROUTER_MAC)), STRANGER, ipv6.solicited_node(ONE))
    )
    unknown = Ipv6(source=STRANGER, destination=ONE, next_header=99).encode(4) + b"what"
    (answer,) = lan.inject(to_us(unknown))
    assert "ICMPv6 unrecognized next header, at 6, about protocol 99 2001:db8::63 > 2001:db8::1" in describe(answer)
    assert lan.inject(to_us(Ipv6(source=STRANGER, destination=ONE, next_header=59).encode(0))) == []
    assert lan.inject(to_us(Ipv6(source=ipv6.ANY, destination=ONE, next_header=99).encode(0))) == []
    group = Ipv6(source=STRANGER, destination=ipv6.ALL_NODES, next_header=99).encode(0)
    assert lan.inject(to_us(group, b"\x33\x33\0\0\0\1")) == []
    for kind, count in ((0x9E, 1), (0xDE, 0), (0x5E, 0), (0x1E, 0)):
        options = bytes((59, 0, kind, 4, 0, 0, 0, 0))
        packet = Ipv6(source=STRANGER, destination=ipv6.ALL_NODES, next_header=60).encode(8) + options
        answers = [each for each in lan.inject(to_us(packet, b"\x33\x33\0\0\0\1")) if each[6:12] == mac(1)]
        assert len(answers) == count, hex(kind)
    error = icmpv6.build(STRANGER, ONE, 1, 0, 0, unknown)
    wrapped = Ipv6(source=STRANGER, destination=ONE, next_header=60).encode(8 + len(error)) + bytes(
        (58, 0, 0xDE, 4, 0, 0, 0, 0)
    )
    assert lan.inject(to_us(wrapped + error)) == [], "no error about an error"
    count = sum(len(lan.inject(to_us(unknown))) for _ in range(100))
    assert 0 < count < 50 and one.drops["icmp-rate-limit"] == 100 - count
    lan.run()
    assert len(lan.inject(to_us(unknown))) == 1


def test_what_is_not_for_us(lan):
    one, _ = pair(lan)
    interface = one.interfaces["eth0"]
    before = interface.ignored
    lan.inject(to_us(datagram(STRANGER, TWO, b"x")))
    lan.inject(to_us(datagram(ip("ff02::5"), ONE, b"x")))
    lan.inject(to_us(datagram(ONE, ONE, b"x")))
    lan.inject(to_us(datagram(STRANGER, ONE, b"x"), mac(9)))
    lan.inject(to_us(datagram(STRANGER, ip("ff02::99"), b"x"), b"\x33\x33\0\0\0\x99"))
    lan.inject(to_us(b"\x60short"))
    lan.inject(to_us(datagram(STRANGER, ONE, b"cut off")[:-1]))
    assert one.drops == {"ipv6-not-ours": 1, "ipv6-source": 2, "ipv6-malformed": 2}
    assert interface.ignored == before + 2


def test_super_frames_and_pending_checksums(lan):
    one, _ = pair(lan)
    got = []
    one.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    packet = datagram(STRANGER, ONE, bytes(range(250)))
    lan.inject(to_us(packet[:46] + b"\0\1" + packet[48:]), HEADER.pack(1, 0, 0, 0, 54, 6))
    lan.inject(to_us(packet), HEADER.pack(1, 5, 62, 100, 54, 6))
    lan.inject(to_us(packet), HEADER.pack(0, 5, 62, 100, 54, 6))
    lan.inject(to_us(packet), b"short")
    assert [len(each) for each in got] == [250, 100, 100, 50] and one.drops == {"offload-malformed": 2}


# -- multicast listeners


def query(group: bytes = ipv6.ANY, source: bytes = ROUTER, **fields) -> bytes:
    to = ipv6.ALL_NODES if group == ipv6.ANY else group
    return to_us(mld.packet(source, to, mld.Query(group=group, **fields).encode()), b"\x33\x33" + to[-4:])


def test_queries_are_answered_within_their_time(lan):
    one, _ = pair(lan)
    side(one).join(ip("ff02::fb"))
    lan.run(2 * SECOND)
    lan.inject(query(max_response=1000))
    lan.run()
    (line,) = [line for line in texts(lan) if "fe80::5054:ff:fe00:1 > ff02::16" in line]
    assert "is-exclude ff02::1:ff00:1" in line and "is-exclude ff02::fb" in line
    lan.inject(query(ip("ff02::fb"), max_response=100))
    lan.run()
    (line,) = [line for line in texts(lan) if "ff02::16" in line]
    assert line.endswith("is-exclude ff02::fb, length 28")
    for bad in (query(source=ONE), query(source=STRANGER), query()[:-1] + b"\1"):
        lan.inject(bad)
    unalerted = query()
    octets = mld.Query().encode().encode(ROUTER, ipv6.ALL_NODES)
    lan.inject(unalerted[:14] + ipv6.build(ROUTER, ipv6.ALL_NODES, 58, len(octets), hop_limit=1) + octets)
    lan.run(11 * SECOND)
    assert not any("ff02::16" in line for line in texts(lan))
    assert one.drops == {"ipv6-source": 1, "mld-malformed": 2, "icmp-malformed": 1}


def test_a_querier_of_version_1_gets_what_it_understands(lan):
    one, _ = pair(lan)
    group = ip("ff02::fb")
    side(one).join(group)
    lan.run(2 * SECOND)
    lan.inject(query(version=1, max_response=1000))
    lan.run()
    side(one).leave(group)
    lan.run(2 * SECOND)
    said = [line for line in texts(lan) if "multicast listener" in line and "5054:ff:fe00:1 >" in line]
    ours = "hop-by-hop options, IPv6 fe80::5054:ff:fe00:1 > "
    assert f"{ours}ff02::fb, ICMPv6 multicast listener report, group ff02::fb, length 24" in said
    assert f"{ours}ff02::1:ff00:1, ICMPv6 multicast listener report, group ff02::1:ff00:1, length 24" in said
    assert f"{ours}ff02::2, ICMPv6 multicast listener done, group ff02::fb, length 24" in said
    assert not any("report v2" in line for line in said)
    lan.run(260 * SECOND)
    lan.inject(query(max_response=1000))
    lan.run()
    assert any("report v2, is-exclude ff02::1:ff00:1" in line for line in texts(lan)), "it is gone"


def test_static_routes(lan):
    one, two = pair(lan)
    one.ipv6.routes.add(IPv6Network("2001:db8:5::/48"), TWO)
    side(two).add_address(IPv6Interface("2001:db8:5::2/128"))
    lan.run(2 * SECOND)
    assert pings(lan, one, ip("2001:db8:5::2")).source == ip("2001:db8:5::2")
    assert pings(lan, one, ip("2001:db8:6::2")).error == "no route"


def test_who_loses_its_port_is_not_heard(lan):
    one, _ = pair(lan)
    interface = one.interfaces["eth0"]
    one.udp_bind(both=True, on_datagram=lambda payload, source: None).send_to(b"x", (STRANGER, 9))
    interface.port = Port("h1:gone", lambda frame, offload: None)
    lan.hub.take()
    side(one).join(ip("ff02::fb"))
    lan.run(MINUTE)
    assert not any(frame[6:12] == mac(1) for frame in lan.hub.take())
