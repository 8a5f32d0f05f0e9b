"""Traceroute over three routers made of hosts that forward."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest

from vnet.ports import NO_OFFLOAD, connect
from vnet.stack.ipv6.node import Ipv6Node
from vnet.stack.traceroute import Hop, Method, Traceroute
from vnet.units import SECOND
from vnet.wire import icmpv6, ipv4
from vnet.wire.segmentation import complete

DEFAULT = IPv4Network("0.0.0.0/0")


def forwarder(host):
    """Make a host pass packets on, with nothing but the time to live."""

    def on_ipv4(interface, frame, offload):
        packet = frame[14:]
        if host.is_local(packet[16:20]):
            host.deliver_ipv4(interface, frame, offload)
        elif packet[8] <= 1:
            host.send_icmp_error(interface, packet, 11, 0)
        else:
            header, payload = ipv4.decode(packet)
            left = ipv4.Ipv4(
                source=header.source, destination=header.destination, protocol=header.protocol, ttl=header.ttl - 1,
                ident=header.ident,
            )  # fmt: skip
            hop = host.next_hop(packet[16:20])
            if hop is None:
                host.send_icmp_error(interface, packet, 3, 0)
            else:
                hop[1].send(left.encode(len(payload)) + payload, NO_OFFLOAD)

    host.on_ipv4 = on_ipv4


@pytest.fixture
def path(lan):
    """h1 - h2 - h3 - h4 - h5 on networks 10.0.12.0/24, 10.0.23.0/24, ...; routes are set both ways."""
    hosts = [lan.host(number, None) for number in range(1, 6)]
    for left, right in zip(hosts, hosts[1:], strict=False):
        a, b = int(left.name[1:]), int(right.name[1:])
        one = left.add_interface("right", bytes((2, 0, 0, 0, a, b)))
        other = right.add_interface("left", bytes((2, 0, 0, 0, b, a)))
        one.add_address(IPv4Interface(f"10.0.{a}{b}.{a}/24"))
        other.add_address(IPv4Interface(f"10.0.{a}{b}.{b}/24"))
        connect(one.port, other.port, defer=lan.timeline)
    for host in hosts[1:-1]:
        forwarder(host)
    for number, host in enumerate(hosts, 1):
        for a in range(1, 5):
            if a > number:
                host.routes.add(IPv4Network(f"10.0.{a}{a + 1}.0/24"), bytes((10, 0, number * 11 + 1, number + 1)))
            elif a < number - 1:
                host.routes.add(IPv4Network(f"10.0.{a}{a + 1}.0/24"), bytes((10, 0, number * 11 - 10, number - 1)))
    return hosts


TARGET = bytes((10, 0, 45, 5))
WAY = [bytes((10, 0, 12, 2)), bytes((10, 0, 23, 3)), bytes((10, 0, 34, 4)), TARGET]


def trace(lan, host, target=TARGET, **options):
    found = []
    Traceroute(host, target, lambda hops, reached: found.append((hops, reached)), **options).start()
    lan.run(200 * SECOND)
    ((hops, reached),) = found
    return hops, reached


@pytest.mark.parametrize("method", Method)
def test_all_routers_are_found_in_order(lan, path, method):
    hops, reached = trace(lan, path[0], method=method)
    assert reached
    assert hops == [Hop(ttl, source, 0) for ttl, source in enumerate(WAY, 1)]


@pytest.mark.parametrize("method", Method)
def test_a_silent_router_is_passed(lan, path, method):
    deliver = path[2].on_ipv4
    path[2].on_ipv4 = lambda i, frame, o: None if frame[22] <= 1 else deliver(i, frame, o)
    hops, reached = trace(lan, path[0], method=method)
    assert reached and [hop.source for hop in hops] == [WAY[0], None, *WAY[2:]]


@pytest.mark.parametrize("method", Method)
def test_the_way_ends_where_nobody_answers(lan, path, method):
    hops, reached = trace(lan, path[0], bytes((10, 0, 45, 77)), method=method, max_hops=6, timeout=4 * SECOND)
    assert not reached
    assert hops[:3] == [Hop(ttl, source, 0) for ttl, source in enumerate(WAY[:3], 1)]
    assert hops[3] == Hop(4, WAY[2], 3 * SECOND, "host unreachable") and len(hops) == 4


@pytest.mark.parametrize("method", Method)
def test_without_a_route_it_ends_at_once(lan, path, method):
    hops, reached = trace(lan, path[0], b"\x08\x08\x08\x08", method=method)
    assert (hops, reached) == ([Hop(1, None, None, "no route")], False)
    assert len(path[0].udp._sockets) == 0


def test_the_number_of_hops_is_bounded(lan, path):
    path[1].on_ipv4 = lambda interface, frame, offload: None
    hops, reached = trace(lan, path[0], max_hops=5)
    assert not reached and hops == [Hop(ttl, None, None) for ttl in range(1, 6)]


# IPv6


def forwarder6(host):
    """Make a host pass IPv6 packets on, with nothing but the hop limit."""
    node = host.use_ipv6()

    def receive(interface, frame, offload):
        (plain,) = complete(frame, offload)
        packet = plain[14:]
        if frame[0] & 1 or packet[24:40] in node.local:
            Ipv6Node.receive(node, interface, frame, offload)
        elif packet[7] <= 1:
            node.icmp.send_error(interface, packet, icmpv6.TIME_EXCEEDED, icmpv6.HOP_LIMIT_EXCEEDED)
        else:
            hop = node.next_hop(packet[24:40])
            if hop is None:
                node.icmp.send_error(interface, packet, icmpv6.UNREACHABLE, icmpv6.NO_ROUTE)
            else:
                hop[1].send(packet[:7] + bytes((packet[7] - 1,)) + packet[8:])

    for interface in host.interfaces.values():
        plain = interface.receive

        def sort(frame, offload, interface=interface, plain=plain):
            receive(interface, frame, offload) if frame[12:14] == b"\x86\xdd" else plain(frame, offload)

        interface.port.receive = sort


@pytest.fixture
def path6(lan):
    """h1 - h2 - h3 - h4 on networks 2001:db8:12::/64, 2001:db8:23::/64, ...; routes are set both ways."""
    hosts = [lan.host(number, None) for number in range(1, 5)]
    wires = []
    for left, right in zip(hosts, hosts[1:], strict=False):
        a, b = int(left.name[1:]), int(right.name[1:])
        one = left.add_interface("right", bytes((2, 0, 0, 0, a, b)))
        other = right.add_interface("left", bytes((2, 0, 0, 0, b, a)))
        one.enable_ipv6().add_address(IPv6Interface(f"2001:db8:{a}{b}::{a}/64"))
        other.enable_ipv6().add_address(IPv6Interface(f"2001:db8:{a}{b}::{b}/64"))
        wires.append((one.port, other.port))
    for host in hosts[1:-1]:
        forwarder6(host)
    for one, other in wires:
        connect(one, other, defer=lan.timeline)
    default = IPv6Network("::/0")
    hosts[0].ipv6.routes.add(default, ip6("2001:db8:12::2"))
    hosts[1].ipv6.routes.add(IPv6Network("2001:db8:34::/64"), ip6("2001:db8:23::3"))
    hosts[2].ipv6.routes.add(IPv6Network("2001:db8:12::/64"), ip6("2001:db8:23::2"))
    hosts[3].ipv6.routes.add(default, ip6("2001:db8:34::3"))
    lan.run(5 * SECOND)
    return hosts


def ip6(text):
    return IPv6Address(text).packed


@pytest.mark.parametrize("method", Method)
def test_routers_of_ipv6_are_found_in_order(lan, path6, method):
    way = ["2001:db8:12::2", "2001:db8:23::3", "2001:db8:34::4"]
    hops, reached = trace(lan, path6[0], ip6(way[-1]), method=method)
    assert reached and hops == [Hop(ttl, ip6(source), 0) for ttl, source in enumerate(way, 1)]
    assert [str(hop.address) for hop in hops] == way
    hops, reached = trace(lan, path6[0], ip6("2001:db8:99::1"), method=method)
    assert not reached and hops == [Hop(1, ip6(way[0]), 0), Hop(2, ip6(way[0]), 0, "no route to destination")]
