"""ICMP: echo, errors and to whom they go (RFC 792, RFC 1122 section 3.2.2)."""

from __future__ import annotations

import dpkt
import pytest

from vnet.addresses import BROADCAST
from vnet.stack.echo import ERROR_BURST, MAX_PINGS, PingResult
from vnet.units import MILLISECOND, SECOND
from vnet.wire import icmpv4, ipv4, udp
from vnet.wire.ipv4 import Ipv4

ONE, TWO, NINE = (bytes((10, 0, 0, n)) for n in (1, 2, 9))
MAC1, MAC9 = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 9))


@pytest.fixture
def host(lan):
    host = lan.host(1)
    host.interfaces["eth0"].neighbors.lookup(NINE).heard(MAC9, confirmed=True)
    return host


def packet(protocol, payload, source=NINE, destination=ONE, **fields):
    return Ipv4(source=source, destination=destination, protocol=protocol, **fields).encode(len(payload)) + payload


def frame(packet_, destination=MAC1):
    return destination + MAC9 + b"\x08\x00" + packet_


def echo(rest=0x00010002, body=b"abc"):
    return icmpv4.build(icmpv4.ECHO_REQUEST, 0, rest, body)


def read(frame_):
    """Read an ICMP frame with dpkt, which must compute the same checksums."""
    ethernet = dpkt.ethernet.Ethernet(frame_)
    ethernet.data.sum = ethernet.data.data.sum = 0
    assert bytes(ethernet) == frame_
    return ethernet.data


def test_an_echo_is_answered_with_all_its_data(lan, host):
    (reply,) = lan.inject(frame(packet(1, echo(body=b"0123456789"))))
    ip = read(reply)
    assert (ip.src, ip.dst, ip.ttl) == (ONE, NINE, 64)
    assert (ip.data.type, ip.data.code) == (0, 0)
    assert bytes(ip.data.data) == b"\x00\x01\x00\x02" + b"0123456789"


def test_a_large_echo_comes_back_in_fragments(lan, host):
    found = []
    other = lan.host(2)
    host.ping(TWO, size=8000, on_result=found.append)
    lan.run()
    assert found[0].ok and other.delivered == 1


def test_an_echo_to_everybody_is_not_answered(lan, host):
    assert lan.inject(frame(packet(1, echo(), destination=b"\x0a\0\0\xff"), BROADCAST)) == []
    assert lan.inject(frame(packet(1, echo()), BROADCAST)) == []
    assert host.drops == {"icmp-echo-group": 2}


def test_ping_measures_the_round_trip(lan):
    one, two = lan.host(1), lan.host(2)
    plain = lan.hub.send
    lan.hub.send = lambda sender, octets, offload: lan.timeline.at(
        lan.timeline.now + MILLISECOND, plain, sender, octets, offload
    )
    found = []
    one.ping(TWO, on_result=found.append)
    lan.run()
    one.ping(TWO, on_result=found.append, ttl=7)
    lan.run()
    assert found == [
        PingResult(True, 4 * MILLISECOND, 64, TWO),
        PingResult(True, 2 * MILLISECOND, 64, TWO),
    ]
    assert two.delivered == 2


def test_ping_without_route_answer_or_address(lan):
    one, nobody = lan.host(1), lan.host(2, None)
    found = []
    one.ping(b"\x08\x08\x08\x08", on_result=found.append)
    assert found == [], "never from within the call"
    lan.run(0)
    one.ping(NINE, timeout=SECOND // 2, on_result=found.append)
    lan.run()
    nobody.ping(NINE, on_result=found.append)
    lan.run()
    assert [result.error for result in found] == ["no route", "no answer", "no route"]


def test_an_answer_that_comes_too_late_is_unmatched(lan):
    one = lan.host(1)
    lan.host(2)
    plain = lan.hub.send
    lan.hub.send = lambda sender, octets, offload: lan.timeline.at(lan.timeline.now + SECOND, plain, sender, octets, offload)
    found = []
    one.ping(TWO, timeout=SECOND, on_result=found.append)
    lan.run(10 * SECOND)
    assert [result.error for result in found] == ["no answer"]
    assert one.drops == {"icmp-unmatched": 1}


def test_an_answer_from_somebody_else_does_not_count(lan, host):
    found = []
    host.ping(NINE, on_result=found.append)
    request = lan.hub.take()[-1]
    rest = int.from_bytes(request[38:42], "big")
    reply = icmpv4.build(icmpv4.ECHO_REPLY, 0, rest, bytes(56))
    lan.inject(frame(packet(1, reply, source=TWO)))
    lan.inject(frame(packet(1, icmpv4.build(icmpv4.ECHO_REPLY, 0, rest ^ 0x10000, bytes(56)))))
    assert found == [] and host.drops == {"icmp-unmatched": 2}
    lan.inject(frame(packet(1, reply)))
    assert found[0].ok


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        (3, 0, "net unreachable"),
        (3, 1, "host unreachable"),
        (3, 4, "fragmentation needed"),
        (3, 13, "communication prohibited"),
        (11, 0, "time exceeded"),
        (12, 0, "parameter problem"),
    ],
)
def test_an_error_ends_the_ping_that_caused_it(lan, host, kind, code, text):
    found = []
    host.ping(NINE, on_result=found.append)
    host.ping(NINE, on_result=found.append)
    first, _ = lan.hub.take()
    error = icmpv4.build(kind, code, 0, first[14:42])
    lan.inject(frame(packet(1, error, source=TWO)))
    assert [(result.ok, result.error, result.source) for result in found] == [(False, text, TWO)]


@pytest.mark.parametrize("kind", [icmpv4.SOURCE_QUENCH, icmpv4.REDIRECT])
def test_redirects_and_source_quench_end_nothing(lan, host, kind):
    found = []
    host.ping(NINE, on_result=found.append)
    lan.inject(frame(packet(1, icmpv4.build(kind, 1, 0x0A000002, lan.hub.take()[0][14:42]), source=TWO)))
    assert found == [] and host.drops == {"icmp-type": 1}


def test_errors_about_what_we_never_sent_are_unmatched(lan, host):
    host.ping(NINE, on_result=lambda result: pytest.fail("not this ping"))
    sent = lan.hub.take()[0][14:]
    for quoted in (
        b"",
        sent[:19],
        sent[:27],
        packet(1, echo(), source=TWO),
        packet(17, udp.build(ONE, NINE, 5, 6, b""), source=ONE, destination=NINE),
        packet(6, bytes(20), source=ONE, destination=NINE),
        packet(99, bytes(20), source=ONE, destination=NINE),
        sent[:24] + b"\xff\xff" + sent[26:],
        sent[:6] + b"\x00\x01" + sent[8:],
    ):
        lan.inject(frame(packet(1, icmpv4.build(3, 1, 0, quoted), source=TWO)))
    assert host.drops == {"icmp-unmatched": 9}


def test_a_closed_port_and_an_unknown_protocol_are_told(lan, host):
    offending = packet(17, udp.build(NINE, ONE, 9, 4444, b"x" * 600))
    (answer,) = lan.inject(frame(offending))
    ip = read(answer)
    assert (ip.data.type, ip.data.code) == (3, 3)
    assert bytes(ip.data.data)[4:] == offending[: icmpv4.MAX_QUOTE] and ip.len == 576
    (answer,) = lan.inject(frame(packet(99, b"")))
    assert answer[34:36] == b"\x03\x02"


@pytest.mark.parametrize(
    "offending",
    [
        frame(packet(17, udp.build(NINE, ONE, 9, 4444, b"x")), BROADCAST),
        frame(packet(17, udp.build(NINE, b"\x0a\0\0\xff", 9, 4444, b"x"), destination=b"\x0a\0\0\xff"), BROADCAST),
        frame(packet(17, udp.build(bytes(4), ONE, 9, 4444, b"x"), source=bytes(4))),
        frame(packet(1, icmpv4.build(3, 3, 0, packet(99, b"12345678")))),
        frame(packet(1, icmpv4.build(13, 0, 0, b""))),
        frame(packet(99, b"12345678", offset=8)),
    ],
)
def test_no_error_is_sent_about(lan, host, offending):
    assert lan.inject(offending) == []


def test_errors_are_limited_in_rate(lan, host):
    offending = frame(packet(99, b""))
    assert sum(len(lan.inject(offending)) for _ in range(200)) == ERROR_BURST
    assert host.drops["icmp-rate-limit"] == 200 - ERROR_BURST
    lan.run(10 * MILLISECOND)
    assert sum(len(lan.inject(offending)) for _ in range(200)) == 10
    assert len(lan.inject(frame(packet(1, echo())))) == 1, "an echo reply is no error"


def test_malformed_messages_are_counted(lan, host):
    lan.inject(frame(packet(1, b"\x08\x00\x00")))
    lan.inject(frame(packet(1, echo()[:-1] + b"!")))
    lan.inject(frame(packet(1, icmpv4.build(42, 0, 0, b""))))
    assert host.drops == {"icmp-malformed": 2, "icmp-type": 1}


def test_pings_are_bounded(lan, host):
    found = []
    for _ in range(MAX_PINGS + 3):
        host.ping(TWO, on_result=found.append)
    lan.run(0)
    assert [result.error for result in found] == ["too many pings"] * 3
    lan.run(2 * SECOND)
    assert len(found) == MAX_PINGS + 3


def test_a_router_tells_the_sender_of_a_packet_that_found_no_neighbor(lan, host):
    host.interfaces["eth0"].neighbor(TWO).send(packet(17, udp.build(NINE, TWO, 1, 2, b"")), bytes(10))
    lan.run(3 * SECOND)
    answer = [f for f in lan.hub.take() if f[12:14] == b"\x08\x00"][-1]
    ip = read(answer)
    assert (ip.src, ip.dst, ip.data.type, ip.data.code) == (ONE, NINE, 3, 1)
    assert ipv4.decode(bytes(ip.data.data)[4:])[0].source == NINE
