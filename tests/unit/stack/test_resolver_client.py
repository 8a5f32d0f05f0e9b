"""Lookups of a host over its own UDP and TCP, against a server on another host, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Interface, ip_address

import pytest

from vnet.programs.dns import NameTable
from vnet.stack.resolver import ResolverSettings
from vnet.stack.resolver_answer import Outcome
from vnet.stack.resolver_client import HostLookup
from vnet.units import SECOND
from vnet.wire import dns

TABLE = NameTable(
    {
        "www.example": [ip_address("192.0.2.1"), ip_address("2001:db8::1")],
        "many.example": [IPv4Address(0x0A010000 + index) for index in range(1000)],
    }
)
TWO, THREE, DEAD = (bytes((10, 0, 0, number)) for number in (2, 3, 9))


class Bed:
    """Host h1 looks names up, h2 is the server, h3 a machine without one."""

    def __init__(self, lan):
        self.lan, self.client, self.server = lan, lan.host(1), lan.host(2)
        lan.host(3)
        self.queries, self.results, self.ended = [], [], []
        self.socket = self.server.udp_bind(53, on_datagram=self.datagram)

    def datagram(self, payload, source):
        self.queries.append((dns.decode(payload), source))
        self.socket.send_to(TABLE.answer(payload), source)

    def listen(self, take):
        listener = self.server.tcp.listen(53)
        listener.on_ready = lambda: take(listener.accept())

    def look_up(self, name, *servers, kinds=(dns.A, dns.AAAA), until=60):
        lookup = HostLookup(self.client, name, kinds, ResolverSettings(servers=servers or (TWO,)), self.done)
        lookup.start()
        assert not self.results
        self.lan.timeline.run_until(self.lan.timeline.now + until * SECOND)
        return self.results.pop() if self.results else lookup

    def done(self, result):
        self.results.append(result)
        self.ended.append(self.lan.timeline.now / SECOND)


@pytest.fixture
def bed(lan):
    return Bed(lan)


def answers(stream, *, piece=1 << 16, again=1):
    """Answer what comes over a connection, in pieces."""
    buffer = bytearray()

    def changed():
        buffer.extend(stream.receive(1 << 16))
        while len(buffer) >= 2 and len(buffer) >= 2 + int.from_bytes(buffer[:2], "big"):
            end = 2 + int.from_bytes(buffer[:2], "big")
            answer = TABLE.answer(bytes(buffer[2:end]), over_tcp=True)
            del buffer[:end]
            octets = (len(answer).to_bytes(2, "big") + answer) * again
            for start in range(0, len(octets), piece):
                stream.send(octets[start : start + piece])

    stream.on_change = changed


def test_a_name_is_found(bed):
    result = bed.look_up("www.example")
    assert [str(ip_address(each)) for each in result.addresses] == ["192.0.2.1", "2001:db8::1"]
    ports = {source for _, source in bed.queries}
    assert len(bed.queries) == 2 and len(ports) == 1 and not bed.client.udp.sockets
    assert bed.look_up("none.example").outcome is Outcome.NO_NAME
    assert {source for _, source in bed.queries[2:]}.isdisjoint(ports)  # another port for each (RFC 5452, 9.2)


def test_a_silent_server_costs_its_five_seconds(bed):
    bed.lan.host(4).udp_bind(53, on_datagram=lambda *_: None)
    assert bed.look_up("www.example", bytes((10, 0, 0, 4)), TWO).outcome is Outcome.FOUND
    assert bed.ended == [pytest.approx(5, abs=0.01)]


def test_a_machine_that_is_not_there_costs_what_the_neighbor_cache_takes(bed):
    result = bed.look_up("www.example", DEAD, TWO)
    assert result.outcome is Outcome.FOUND and result.told == ("10.0.0.9: host unreachable for www.example",)
    assert bed.ended == [pytest.approx(3, abs=0.01)]


def test_a_machine_without_server_costs_nothing(bed):
    result = bed.look_up("www.example", THREE, TWO)
    assert result.outcome is Outcome.FOUND and result.told == ("10.0.0.3: port unreachable for www.example",)
    assert bed.ended == [pytest.approx(0, abs=0.01)]


def test_without_a_way_to_any_server_it_ends_at_once(bed):
    result = bed.look_up("www.example", b"\xc0\0\2\1", ip_address("fd00::1").packed)
    assert result.outcome is Outcome.AGAIN and result.told[0] == "192.0.2.1: no route for www.example"
    assert len(result.told) == 4 and bed.ended == [0]


def test_others_cannot_answer(bed):
    forger = bed.lan.host(4)

    def forge(payload, source):
        query = dns.decode(payload)
        good = dns.address_record(query.questions[0].name, 60, ip_address("192.0.2.66"))
        message = dns.Message(query.identifier, 0x8080, query.questions, (good,))
        forger.udp_bind(53, on_datagram=lambda *_: None).send_to(dns.encode(message), source)
        bed.server.udp_bind(5353, on_datagram=lambda *_: None).send_to(dns.encode(message), source)
        bed.socket.send_to(dns.encode(replace(message, identifier=query.identifier ^ 1)), source)
        bed.socket.send_to(b"\xff" * 40, source)

    bed.socket.on_datagram = forge
    result = bed.look_up("www.example", kinds=(dns.A,), until=4)
    assert isinstance(result, HostLookup) and result._lookup.ignored == 3
    result.cancel()


def test_what_is_truncated_comes_over_tcp(bed):
    bed.listen(lambda stream: answers(stream, piece=1))
    result = bed.look_up("many.example", kinds=(dns.A,))
    assert len(result.addresses) == 1000 and result.addresses[-1] == (0x0A010000 + 999).to_bytes(4, "big")
    assert not bed.client.tcp.connections or all(each.user_closed for each in bed.client.tcp.connections)


def test_what_is_truncated_comes_over_tcp_from_an_ipv6_server_too(bed):
    for number, host in enumerate((bed.client, bed.server), 1):
        host.interfaces["eth0"].enable_ipv6().add_address(IPv6Interface(f"2001:db8::{number}/64"))
    bed.lan.run(5 * SECOND)  # the addresses are tested for duplicates
    bed.socket.close()
    bed.socket = bed.server.udp_bind(53, on_datagram=bed.datagram, both=True)
    listener = bed.server.tcp.listen(53, both=True)
    listener.on_ready = lambda: answers(listener.accept())
    result = bed.look_up("many.example", ip_address("2001:db8::2").packed, kinds=(dns.A,))
    assert len(result.addresses) == 1000 and not result.told


def test_both_kinds_come_over_one_connection(bed):
    taken = []
    bed.listen(lambda stream: (taken.append(stream), answers(stream)))
    assert len(bed.look_up("many.example").addresses) == 1000 and len(taken) == 1


@pytest.mark.parametrize("how", ["refuses", "closes", "resets", "babbles"])
def test_tcp_that_leads_nowhere(bed, how):
    if how == "closes":
        bed.listen(lambda stream: stream.close())
    elif how == "resets":
        bed.listen(lambda stream: stream.abort())
    elif how == "babbles":
        bed.listen(lambda stream: stream.send(b"\0\1x" * 10_000))
    result = bed.look_up("many.example", kinds=(dns.A,))
    assert result.outcome is Outcome.AGAIN and len(result.told) == 2
    word = {"refuses": "TCP: refused", "closes": "TCP: closed before", "resets": "TCP: reset", "babbles": "no answer"}[how]
    assert all(word in each for each in result.told)
    assert bed.ended == [pytest.approx(10 if how == "babbles" else 0, abs=0.1)]


def test_cancelled_and_aborted(bed):
    lookup = bed.look_up("www.example", DEAD, until=1)
    assert len(bed.client.udp.sockets) == 1
    lookup.cancel()
    lookup.abort()
    assert not bed.client.udp.sockets and not bed.results
    lookup = bed.look_up("www.example", DEAD, until=1)
    lookup.abort()
    lookup.abort()
    assert [each.outcome for each in bed.results] == [Outcome.AGAIN] and not bed.client.udp.sockets
    bed.lan.timeline.run_until(100 * SECOND)
    assert len(bed.results) == 1


def test_it_asks_itself(bed):
    own = bed.client.udp_bind(53, on_datagram=lambda payload, source: own.send_to(TABLE.answer(payload), source))
    assert bed.look_up("www.example", bytes((127, 0, 0, 1))).outcome is Outcome.FOUND
