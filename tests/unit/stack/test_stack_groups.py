"""Multicast groups of a host: who listens, what is sent, looped and told to the link; dpkt reads what was told."""

from __future__ import annotations

from ipaddress import IPv4Interface

import dpkt
import pytest

from vnet.addresses import multicast_mac
from vnet.errors import UsageError, WireError
from vnet.stack.igmp import MAX_GROUPS, OLDER_QUERIER_PATIENCE
from vnet.units import SECOND
from vnet.wire import igmp, ipv4

ONE, TWO = (bytes((10, 0, 0, n)) for n in (1, 2))
GROUP, OTHER = bytes((239, 1, 2, 3)), bytes((239, 1, 2, 4))
ROUTER, ROUTER_MAC = bytes((10, 0, 0, 254)), bytes((0x52, 0x54, 0, 0, 0, 254))


class Inbox(list):
    def __call__(self, payload, source):
        self.append((payload, source))


@pytest.fixture
def pair(lan):
    return lan.host(1), lan.host(2)


def told(lan):
    """Return (sender, destination, kind, what) of the IGMP messages since the last call, each checked from outside."""
    found = []
    for frame in lan.hub.take():
        if frame[12:14] != b"\x08\x00" or frame[23] != 2:
            continue
        ip = dpkt.ethernet.Ethernet(frame).data
        assert (ip.ttl, ip.opts) == (1, igmp.ROUTER_ALERT)
        assert frame[:6] == multicast_mac(ip.dst)
        message = frame[38:]
        assert dpkt.in_cksum(message) == 0 and dpkt.in_cksum(frame[14:38]) == 0
        if message[0] == igmp.REPORT_V3:
            assert ip.tos == 0xC0 and int.from_bytes(message[6:8], "big") * 8 == len(message) - 8
            what = [(message[at], message[at + 4 : at + 8]) for at in range(8, len(message), 8)]
        else:
            what = message[4:8]
        found.append((ip.src, ip.dst, message[0], what))
    return found


def ask(lan, message, destination=ipv4.ALL_HOSTS):
    head = ipv4.build(ROUTER, destination, 2, len(message), ttl=1, options=igmp.ROUTER_ALERT)
    lan.inject(multicast_mac(destination) + ROUTER_MAC + b"\x08\x00" + head + message)


def test_joining_and_leaving_are_told_twice(lan, pair):
    one, _ = pair
    interface = one.interfaces["eth0"]
    one.groups.join(interface, GROUP)
    assert told(lan) == [(ONE, igmp.ALL_IGMPV3_ROUTERS, igmp.REPORT_V3, [(igmp.TO_EXCLUDE, GROUP)])], "at once"
    lan.run(SECOND)
    assert told(lan) == [(ONE, igmp.ALL_IGMPV3_ROUTERS, igmp.REPORT_V3, [(igmp.TO_EXCLUDE, GROUP)])], "and within 1 s"
    one.groups.join(interface, GROUP)
    one.groups.leave(interface, GROUP)
    lan.run(10 * SECOND)
    assert told(lan) == [] and one.groups.groups(interface) == (GROUP,), "somebody else still listens"
    one.groups.leave(interface, GROUP)
    lan.run(10 * SECOND)
    assert told(lan) == [(ONE, igmp.ALL_IGMPV3_ROUTERS, igmp.REPORT_V3, [(igmp.TO_INCLUDE, GROUP)])] * 2
    one.groups.leave(interface, GROUP)
    assert one.groups.groups(interface) == () and not interface.is_group(GROUP)


def test_only_listeners_hear_and_the_ttl_is_1(lan, pair):
    one, two = pair
    three = lan.host(3)
    heard = {host: Inbox() for host in (two, three)}
    for host in (two, three):
        host.udp_bind(5000, on_datagram=heard[host])
    two.groups.join(two.interfaces["eth0"], GROUP)
    lan.hub.take()
    socket = one.udp_bind(6000, on_datagram=Inbox())
    assert socket.send_to(b"all of you", (GROUP, 5000)) is None
    lan.run(0)
    assert heard[two] == [(b"all of you", (ONE, 6000))] and heard[three] == []
    (frame,) = lan.hub.take()
    assert frame[22] == 1 and frame[:6] == multicast_mac(GROUP)
    socket.group_ttl = 5
    socket.send_to(b"far away", (GROUP, 5000))
    assert lan.hub.take()[0][22] == 5
    socket.group_ttl = 0
    assert socket.send_to(b"nobody", (GROUP, 5000)) is None
    assert lan.hub.take() == []


def test_what_is_sent_comes_back_to_listeners_of_the_host_itself(lan, pair):
    one, _ = pair
    inbox = Inbox()
    one.udp_bind(5000, on_datagram=inbox)
    socket = one.udp_bind(6000, on_datagram=Inbox())
    socket.send_to(b"not yet", (GROUP, 5000))
    lan.run(0)
    assert inbox == []
    one.groups.join(one.interfaces["eth0"], GROUP)
    socket.send_to(b"now", (GROUP, 5000))
    assert inbox == [], "never within the call"
    lan.run(0)
    assert inbox == [(b"now", (ONE, 6000))]
    socket.group_loop = False
    socket.send_to(b"others", (GROUP, 5000))
    lan.run(0)
    assert len(inbox) == 1


def test_a_group_is_not_sent_to_the_gateway(lan, pair):
    one, _ = pair
    one.routes.add(IPv4Interface("0.0.0.0/0").network, TWO, one.interfaces["eth0"])
    one.udp_bind(6000, on_datagram=Inbox()).send_to(b"x", (GROUP, 5000))
    assert [frame[:6] for frame in lan.hub.take()] == [multicast_mac(GROUP)]


def test_sockets_that_share_a_port_all_get_what_a_group_gets(lan, pair):
    one, two = pair
    boxes = [Inbox(), Inbox()]
    for box in boxes:
        two.udp_bind(5000, on_datagram=box, shared=True)
    with pytest.raises(UsageError):
        two.udp_bind(5000, on_datagram=Inbox())
    two.groups.join(two.interfaces["eth0"], GROUP)
    sender = one.udp_bind(6000, on_datagram=Inbox())
    sender.send_to(b"both", (GROUP, 5000))
    lan.run(0)
    assert [len(box) for box in boxes] == [1, 1]
    sender.send_to(b"one", (TWO, 5000))
    lan.run(SECOND)
    assert sorted(len(box) for box in boxes) == [1, 2]


def test_a_query_of_version_3_is_answered_once_for_all_groups(lan, pair):
    one, _ = pair
    interface = one.interfaces["eth0"]
    for group in (GROUP, OTHER, ipv4.ALL_HOSTS):
        one.groups.join(interface, group)
    lan.run(10 * SECOND)
    told(lan)
    ask(lan, igmp.query_v3(ipv4.ANY, 100))
    assert told(lan) == []
    lan.run(10 * SECOND)
    both = [(igmp.IS_EXCLUDE, GROUP), (igmp.IS_EXCLUDE, OTHER)]
    assert told(lan) == [(ONE, igmp.ALL_IGMPV3_ROUTERS, igmp.REPORT_V3, both)], "nobody tells of 224.0.0.1"
    ask(lan, igmp.query_v3(OTHER, 10), OTHER)
    lan.run(SECOND)
    assert told(lan) == [(ONE, igmp.ALL_IGMPV3_ROUTERS, igmp.REPORT_V3, [(igmp.IS_EXCLUDE, OTHER)])]
    lan.run(100 * SECOND)
    assert told(lan) == []


def test_an_older_router_is_answered_in_its_words_for_as_long_as_it_is_heard(lan, pair):
    one, two = pair
    interface = one.interfaces["eth0"]
    one.groups.join(interface, GROUP)
    lan.run(10 * SECOND)
    told(lan)
    ask(lan, igmp.simple(igmp.QUERY, ipv4.ANY, 100))
    lan.run(10 * SECOND)
    assert told(lan) == [(ONE, GROUP, igmp.REPORT_V2, GROUP)]
    one.groups.leave(interface, GROUP)
    lan.run(20 * SECOND)
    assert told(lan) == [(ONE, igmp.ALL_ROUTERS, igmp.LEAVE, GROUP)]
    lan.run(OLDER_QUERIER_PATIENCE)
    one.groups.join(interface, GROUP)
    assert [kind for _, _, kind, _ in told(lan)] == [igmp.REPORT_V3]


def test_the_oldest_version_knows_no_leave(lan, pair):
    one, _ = pair
    interface = one.interfaces["eth0"]
    one.groups.join(interface, GROUP)
    lan.run(10 * SECOND)
    told(lan)
    ask(lan, igmp.simple(igmp.QUERY, ipv4.ANY))
    lan.run(10 * SECOND)
    assert told(lan) == [(ONE, GROUP, igmp.REPORT_V1, GROUP)]
    one.groups.leave(interface, GROUP)
    lan.run(20 * SECOND)
    assert told(lan) == []


def test_one_report_of_version_2_is_enough_for_the_link(lan, pair):
    for host in pair:
        host.groups.join(host.interfaces["eth0"], GROUP)
    lan.run(10 * SECOND)
    told(lan)
    ask(lan, igmp.simple(igmp.QUERY, ipv4.ANY, 100))
    lan.run(10 * SECOND)
    ((reporter, *_),) = told(lan)
    silent, loud = (pair[0], pair[1]) if reporter == TWO else (pair[1], pair[0])
    silent.groups.leave(silent.interfaces["eth0"], GROUP)
    lan.run(20 * SECOND)
    assert told(lan) == [], "the one that reported last is to tell"
    loud.groups.leave(loud.interfaces["eth0"], GROUP)
    assert [kind for _, _, kind, _ in told(lan)] == [igmp.LEAVE]


def test_groups_are_told_again_when_the_cable_comes_back(lan, pair):
    one, _ = pair
    interface = one.interfaces["eth0"]
    one.groups.join(interface, GROUP)
    lan.run(10 * SECOND)
    told(lan)
    interface.port.set_carrier(False)
    interface.port.set_carrier(True)
    assert [what for *_, what in told(lan)] == [[(igmp.TO_EXCLUDE, GROUP)]]


def test_bounds_and_what_is_no_group(lan, pair):
    one, _ = pair
    interface = one.interfaces["eth0"]
    with pytest.raises(UsageError, match="not a multicast group"):
        one.groups.join(interface, TWO)
    for number in range(MAX_GROUPS):
        one.groups.join(interface, bytes((239, 9, number >> 8, number & 255)))
    with pytest.raises(UsageError, match="already"):
        one.groups.join(interface, GROUP)
    lan.run(10 * SECOND)
    lan.hub.take()
    ask(lan, igmp.query_v3(ipv4.ANY, 1))
    lan.run(SECOND)
    assert [len(what) for *_, what in told(lan)] == [128] * 8, "reports that fit the MTU"


def test_what_is_wrong_on_the_wire_is_dropped(lan, pair):
    one, _ = pair
    one.groups.join(one.interfaces["eth0"], GROUP)
    query = igmp.query_v3(ipv4.ANY, 1)
    for message in (query[:7], bytes((query[0] ^ 1,)) + query[1:], igmp.report_v3([(2, GROUP)])[:8]):
        ask(lan, message)
    assert one.drops["igmp-malformed"] == 3
    cut_off = bytearray(igmp.report_v3([(2, GROUP)])[:8])
    cut_off[2:4] = (0xFFFF - 0x2200 - 1).to_bytes(2, "big")
    with pytest.raises(WireError, match="record"):
        igmp.decode(bytes(cut_off))


@pytest.mark.parametrize(
    ("version", "code", "expected"), [(1, 0, 10_000), (2, 100, 10_000), (3, 127, 12_700), (3, 0x8C, 22_400)]
)
def test_how_long_an_answer_may_take(version, code, expected):
    message = igmp.query_v3(GROUP, code) if version == 3 else igmp.simple(igmp.QUERY, GROUP, code)
    decoded = igmp.decode(message)
    assert (decoded.version, decoded.response_ms, decoded.groups) == (version, expected, (GROUP,))
