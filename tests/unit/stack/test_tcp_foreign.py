"""Connections that a host ends for others: a transparent host, and who sees to segments that are nobody's."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from vnet.stack.tcp.states import State
from vnet.units import SECOND
from vnet.wire import icmpv4

FAR = bytes((192, 0, 2, 9))
GATEWAY = bytes((10, 0, 0, 2))


@pytest.fixture
def pair(lan):
    """A guest whose default route leads to a transparent host."""
    guest, gate = lan.host(1), lan.host(2)
    guest.routes.add(IPv4Network("0.0.0.0/0"), GATEWAY, guest.interfaces["eth0"])
    gate.transparent = True
    return guest, gate


def test_a_syn_is_answered_when_it_is_admitted_and_not_before(lan, pair):
    guest, gate = pair
    kept = []
    gate.tcp.foreign = lambda interface, packet, key, segment: not kept.append((packet[16:20], key, segment))
    connection = guest.tcp.connect(FAR, 80)
    lan.run(2 * SECOND)
    assert connection.state is State.SYN_SENT and len(kept) == 2, "it came again, and was not answered either"
    far, key, segment = kept[0]
    assert far == FAR
    taken = gate.tcp.admit(key, segment)
    told = []
    taken.on_change = lambda: told.append(taken.state)
    lan.run(2 * SECOND)
    assert connection.is_established and taken.is_established and told[0] is State.ESTABLISHED
    assert taken.local == (FAR, 80) and gate.tcp.admit(key, segment) is None
    assert connection.send(b"there") == 5 and taken.send(b"back") == 4
    lan.run()
    assert taken.receive(99) == b"there" and connection.receive(99) == b"back"


def test_what_nobody_sees_to_is_reset(lan, pair):
    guest, gate = pair
    gate.tcp.foreign = lambda interface, packet, key, segment: False
    connection = guest.tcp.connect(FAR, 80)
    lan.run()
    assert connection.error == "refused" and gate.drops == {"tcp-port": 1}


def test_a_port_in_time_wait_may_be_used_again(lan, pair):
    guest, gate = pair
    taken = []
    gate.tcp.foreign = lambda interface, packet, key, segment: not taken.append(gate.tcp.admit(key, segment))
    for _ in range(2):
        connection = guest.tcp.connect(FAR, 80, source_port=5000)
        lan.run()
        taken[-1].close()
        lan.run()
        connection.close()
        lan.run()
        assert taken[-1].state is State.TIME_WAIT, "who closes first waits"
    assert len(taken) == 2 and taken[0].state is State.CLOSED


def test_an_error_names_whom_it_is_to_come_from(lan, pair):
    guest, gate = pair
    errors = []

    def foreign(interface, packet, key, segment):
        gate.send_icmp_error(interface, packet, icmpv4.UNREACHABLE, icmpv4.HOST_UNREACHABLE, reporter=FAR)
        return True

    gate.tcp.foreign = foreign
    guest.tcp_probe(FAR, 80, on_result=errors.append)
    lan.run()
    assert "unreachable" in str(errors[0]) and any(frame[26:30] == FAR for frame in lan.hub.take())


def test_other_hosts_let_foreign_packets_be(lan, pair):
    guest, gate = pair
    gate.transparent = False
    gate.tcp.foreign = lambda interface, packet, key, segment: pytest.fail("not ours")
    guest.tcp.connect(FAR, 80)
    lan.run()
    assert set(gate.drops) == {"ipv4-not-ours"}
