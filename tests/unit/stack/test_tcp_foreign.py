"""Connections that a host ends for others: a transparent host, and who sees to segments that are nobody's."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Interface, IPv6Network

import pytest
from ipv6_lan import ONE, TWO, host6, ip, to_us

from vnet.stack.tcp.states import State
from vnet.units import SECOND
from vnet.wire import icmpv4, icmpv6, ipv6
from vnet.wire.ipv6 import Ipv6
from vnet.wire.tcp import ACK, SYN, Tcp

FARS = {4: bytes((192, 0, 2, 9)), 6: ip("2001:db8:9::9")}
GATEWAY = bytes((10, 0, 0, 2))
ERRORS = {4: (icmpv4.UNREACHABLE, icmpv4.HOST_UNREACHABLE), 6: (icmpv6.UNREACHABLE, icmpv6.ADDRESS_UNREACHABLE)}


def pair_over(lan, version):
    if version == 4:
        guest, gate = lan.host(1), lan.host(2)
        guest.routes.add(IPv4Network("0.0.0.0/0"), GATEWAY, guest.interfaces["eth0"])
    else:
        guest, gate = host6(lan, 1), host6(lan, 2)
        lan.run(3 * SECOND)
        guest.ipv6.routes.add(IPv6Network("::/0"), TWO, guest.interfaces["eth0"])
        lan.hub.take()
    gate.transparent = True
    return guest, gate


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def version(request):
    return request.param


@pytest.fixture
def far(version):
    """An address of nobody, over the IP version that the test is run for."""
    return FARS[version]


@pytest.fixture
def pair(lan, version):
    """A guest whose default route leads to a transparent host."""
    return pair_over(lan, version)


def test_a_syn_is_answered_when_it_is_admitted_and_not_before(lan, pair, far):
    guest, gate = pair
    kept = []
    gate.tcp.foreign = lambda interface, packet, key, segment: (
        not kept.append((packet[16:20] if len(key) == 12 else packet[24:40], key, segment))
    )
    connection = guest.tcp.connect(far, 80)
    lan.run(2 * SECOND)
    assert connection.state is State.SYN_SENT and len(kept) == 2, "it came again, and was not answered either"
    destination, key, segment = kept[0]
    assert destination == far
    taken = gate.tcp.admit(key, segment)
    told = []
    taken.on_change = lambda: told.append(taken.state)
    lan.run(2 * SECOND)
    assert connection.is_established and taken.is_established and told[0] is State.ESTABLISHED
    assert taken.local == (far, 80) and gate.tcp.admit(key, segment) is None
    assert connection.send(b"there") == 5 and taken.send(b"back") == 4
    lan.run()
    assert taken.receive(99) == b"there" and connection.receive(99) == b"back"


def test_what_nobody_sees_to_is_reset(lan, pair, far):
    guest, gate = pair
    gate.tcp.foreign = lambda interface, packet, key, segment: False
    connection = guest.tcp.connect(far, 80)
    lan.run()
    assert connection.error == "refused" and gate.drops == {"tcp-port": 1}


def test_a_port_in_time_wait_may_be_used_again(lan, pair, far):
    guest, gate = pair
    taken = []
    gate.tcp.foreign = lambda interface, packet, key, segment: not taken.append(gate.tcp.admit(key, segment))
    for _ in range(2):
        connection = guest.tcp.connect(far, 80, source_port=5000)
        lan.run()
        taken[-1].close()
        lan.run()
        connection.close()
        lan.run()
        assert taken[-1].state is State.TIME_WAIT, "who closes first waits"
    assert len(taken) == 2 and taken[0].state is State.CLOSED


def test_an_error_names_whom_it_is_to_come_from(lan, pair, far, version):
    guest, gate = pair
    errors = []

    def foreign(interface, packet, key, segment):
        gate.send_icmp_error(interface, packet, *ERRORS[version], reporter=far)
        return True

    gate.tcp.foreign = foreign
    guest.tcp_probe(far, 80, on_result=errors.append)
    lan.run()
    assert "unreachable" in str(errors[0]) and any(far in (frame[26:30], frame[22:38]) for frame in lan.hub.take())


def test_other_hosts_let_foreign_packets_be(lan, pair, far, version):
    guest, gate = pair
    gate.transparent = False
    gate.tcp.foreign = lambda interface, packet, key, segment: pytest.fail("not ours")
    guest.tcp.connect(far, 80)
    lan.run()
    assert set(gate.drops) == {f"ipv{version}-not-ours"}


def test_errors_about_what_a_transparent_host_sent_for_others_reach_its_connections(lan):
    """A guest's "packet too big" is about a segment whose source is not the host's own."""
    guest, gate = pair_over(lan, 6)
    far = FARS[6]
    taken = []
    gate.tcp.foreign = lambda interface, packet, key, segment: not taken.append(gate.tcp.admit(key, segment))
    connection = guest.tcp.connect(far, 80)
    lan.run()
    before = taken[0].out._path.mtu
    begins = connection.local[1], taken[0].sender.una
    sent = Tcp(source_port=80, destination_port=begins[0], sequence=begins[1], flags=ACK).encode(far, ONE)
    packet = ipv6.build(far, ONE, 6, 1400) + sent
    error = icmpv6.build(ONE, far, icmpv6.PACKET_TOO_BIG, 0, 1300, packet)
    gate.interfaces["eth0"].receive(
        to_us(ipv6.build(ONE, far, 58, len(error)) + error, gate.interfaces["eth0"].mac), bytes(10)
    )
    lan.run()
    taken[0].send(b"x")
    assert before == 1500 and taken[0].out._path.mtu == 1300


@pytest.mark.parametrize("destination", ["::1", "::", "fe80::9", "ff05::9"])
def test_addresses_that_no_router_forwards_to_stay_out(lan, destination):
    """Not even a transparent host takes what may not be on a wire, or means another link (RFC 4291, 2.5; RFC 4007)."""
    _, gate = pair_over(lan, 6)
    gate.tcp.foreign = lambda *_: pytest.fail("not ours")
    segment = Tcp(source_port=5000, destination_port=80, sequence=1, flags=SYN).encode(ONE, ip(destination))
    gate.interfaces["eth0"].receive(
        to_us(
            Ipv6(source=ONE, destination=ip(destination), next_header=6).encode(len(segment)) + segment,
            gate.interfaces["eth0"].mac,
        ),
        bytes(10),
    )
    assert gate.drops == ({} if destination == "ff05::9" else {"ipv6-not-ours": 1}) and not lan.hub.take()


def test_an_address_of_its_own_is_not_taken_before_it_is_known_to_be_free(lan):
    _, gate = pair_over(lan, 6)
    gate.tcp.foreign = lambda *_: pytest.fail("not ours yet")
    own = ip("2001:db8::77")
    gate.interfaces["eth0"].ipv6.add_address(IPv6Interface((own, 64)))
    segment = Tcp(source_port=5000, destination_port=80, sequence=1, flags=SYN).encode(ONE, own)
    packet = Ipv6(source=ONE, destination=own, next_header=6).encode(len(segment)) + segment
    gate.interfaces["eth0"].receive(to_us(packet, gate.interfaces["eth0"].mac), bytes(10))
    assert gate.drops == {"ipv6-not-ours": 1}


def test_echo_requests_to_others_are_for_whoever_sees_to_them(lan):
    guest, gate = pair_over(lan, 6)
    results = []
    guest.ping(FARS[6], on_result=results.append)
    lan.run(2 * SECOND)
    assert not results[0].ok and gate.drops == {"ipv6-not-ours": 1}
    asked = []
    gate.use_ipv6().icmp.foreign = lambda interface, packet, offset, message: asked.append((packet[24:40], message.kind))
    guest.ping(FARS[6], on_result=results.append)
    guest.ping(TWO, on_result=results.append)
    lan.run(2 * SECOND)
    assert asked == [(FARS[6], icmpv6.ECHO_REQUEST)] and sorted(result.ok for result in results) == [False, False, True]
