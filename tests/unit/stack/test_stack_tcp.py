"""Closed TCP ports (RFC 9293, 3.10.7.1) and the probe."""

from __future__ import annotations

import dpkt
import pytest

from vnet.addresses import BROADCAST
from vnet.stack.tcp import ProbeResult
from vnet.units import SECOND
from vnet.wire import icmpv4
from vnet.wire.ipv4 import Ipv4
from vnet.wire.tcp import ACK, FIN, RST, SYN, Tcp, decode

ONE, TWO, NINE = (bytes((10, 0, 0, n)) for n in (1, 2, 9))
MAC1, MAC9 = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 9))


@pytest.fixture
def host(lan):
    host = lan.host(1)
    host.interfaces["eth0"].neighbors.lookup(NINE).heard(MAC9, confirmed=True)
    return host


def frame(segment, destination=MAC1, to=ONE):
    octets = segment.encode(NINE, to)
    return destination + MAC9 + b"\x08\x00" + Ipv4(source=NINE, destination=to, protocol=6).encode(len(octets)) + octets


def segment(flags, payload=b"", sequence=1000, acknowledgment=0, source_port=5000, destination_port=80):
    return Tcp(
        source_port=source_port, destination_port=destination_port, sequence=sequence, acknowledgment=acknowledgment,
        flags=flags, payload=payload, window=1000,
    )  # fmt: skip


def answer(frame_):
    ethernet = dpkt.ethernet.Ethernet(frame_)
    ethernet.data.sum = ethernet.data.data.sum = 0
    assert bytes(ethernet) == frame_, "dpkt computes the same checksums"
    return decode(frame_[34:], frame_[26:30], frame_[30:34])


@pytest.mark.parametrize(
    ("sent", "sequence", "acknowledgment", "flags"),
    [
        (segment(SYN), 0, 1001, RST | ACK),
        (segment(SYN | FIN, b"abc"), 0, 1005, RST | ACK),
        (segment(0, b"abc"), 0, 1003, RST | ACK),
        (segment(SYN, sequence=0xFFFFFFFF), 0, 0, RST | ACK),
        (segment(ACK, b"abc", acknowledgment=77), 77, 0, RST),
        (segment(SYN | ACK, acknowledgment=77), 77, 0, RST),
    ],
)
def test_a_closed_port_resets(lan, host, sent, sequence, acknowledgment, flags):
    (octets,) = lan.inject(frame(sent))
    reset = answer(octets)
    assert (reset.sequence, reset.acknowledgment, reset.flags) == (sequence, acknowledgment, flags)
    assert (reset.source_port, reset.destination_port) == (80, 5000)


def test_a_reset_and_a_broadcast_are_not_answered(lan, host):
    assert lan.inject(frame(segment(RST))) == []
    assert lan.inject(frame(segment(RST | ACK))) == []
    assert lan.inject(frame(segment(SYN), BROADCAST)) == []
    assert lan.inject(frame(segment(SYN), BROADCAST, to=b"\x0a\0\0\xff")) == []
    assert host.drops == {"tcp-port": 2, "tcp-group": 2}


def test_malformed_segments_are_counted(lan, host):
    good = frame(segment(SYN, b"abc"))
    lan.inject(good[:-1] + b"!")
    octets = segment(SYN).encode(NINE, ONE)
    for bad in (octets[:19], octets[:12] + b"\x10" + octets[13:], octets[:12] + b"\xf0" + octets[13:]):
        lan.inject(MAC1 + MAC9 + b"\x08\x00" + Ipv4(source=NINE, destination=ONE, protocol=6).encode(len(bad)) + bad)
    assert host.drops == {"tcp-malformed": 4}


def test_a_probe_of_a_closed_port_is_refused(lan, host):
    lan.host(2)
    found = []
    host.tcp_probe(TWO, 80, on_result=found.append)
    lan.run()
    assert found == [ProbeResult("refused", 0, TWO)] and not found[0].ok


def test_a_probe_of_an_open_port_resets_the_connection(lan, host):
    found = []
    host.tcp_probe(NINE, 80, on_result=found.append)
    syn = answer(lan.hub.take()[0])
    assert syn.flags == SYN and syn.destination_port == 80
    accepted = segment(
        SYN | ACK, sequence=5, acknowledgment=(syn.sequence + 1) % 2**32, source_port=80, destination_port=syn.source_port
    )
    (octets,) = lan.inject(frame(accepted))
    reset = answer(octets)
    assert (reset.flags, reset.sequence) == (RST, (syn.sequence + 1) % 2**32)
    lan.run(5 * SECOND)
    assert found == [ProbeResult("open", 0, NINE)] and found[0].ok


def test_an_answer_with_a_wrong_number_does_not_count(lan, host):
    found = []
    host.tcp_probe(NINE, 80, on_result=found.append)
    syn = answer(lan.hub.take()[0])
    for flags in (SYN | ACK, RST | ACK):
        lan.inject(frame(segment(flags, acknowledgment=syn.sequence, source_port=80, destination_port=syn.source_port)))
    assert found == []
    lan.run(SECOND)
    assert found == [ProbeResult("no answer")]


def test_what_else_may_come_of_a_probe(lan, host):
    found = []
    host.tcp_probe(b"\x08\x08\x08\x08", 80, on_result=found.append)
    assert found == []
    lan.run(0)
    host.tcp_probe(TWO, 80, timeout=5 * SECOND, on_result=found.append)
    lan.run(5 * SECOND)
    lan.hub.take()
    host.tcp_probe(NINE, 80, on_result=found.append)
    syn = lan.hub.take()[0]
    error = icmpv4.build(3, 13, 0, syn[14:42])
    lan.inject(MAC1 + MAC9 + b"\x08\x00" + Ipv4(source=TWO, destination=ONE, protocol=1).encode(len(error)) + error)
    assert [(result.state, result.source) for result in found] == [
        ("no route", None), ("host unreachable", ONE), ("communication prohibited", TWO),
    ]  # fmt: skip


def test_another_transport_can_be_plugged_in(lan, host):
    class Other:
        def __init__(self):
            self.packets = []

        def receive(self, interface, packet, octets, *, trusted, group):
            self.packets.append((interface.name, packet[octets:], trusted, group))

        def error(self, quoted, octets, error):
            return False

    host.protocols[6] = other = Other()
    sent = segment(SYN)
    assert lan.inject(frame(sent)) == []
    assert other.packets == [("eth0", sent.encode(NINE, ONE), False, False)]
