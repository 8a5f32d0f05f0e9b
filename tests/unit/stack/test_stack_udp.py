"""UDP sockets; dpkt is the oracle for what the fast path writes."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import dpkt
import pytest

from vnet.addresses import BROADCAST
from vnet.errors import UsageError
from vnet.stack.udp import EPHEMERAL_FIRST
from vnet.units import SECOND
from vnet.wire import ipv4, udp

ONE, TWO, NINE = (bytes((10, 0, 0, n)) for n in (1, 2, 9))
ANY = b"\xff\xff\xff\xff"
MAC1, MAC2 = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 2))


def ignore(payload, source):
    pass


class Inbox(list):
    def __call__(self, payload, source):
        self.append((payload, source))


@pytest.fixture
def pair(lan):
    return lan.host(1), lan.host(2)


def test_every_size_is_written_as_others_read_it(lan, pair):
    one, two = pair
    inbox = Inbox()
    two.udp_bind(7, on_datagram=inbox)
    socket = one.udp_bind(5000, on_datagram=ignore)
    socket.send_to(b"first", (TWO, 7))
    lan.run(0)
    lan.hub.take()
    sizes = [0, 1, 2, 3, 63, 64, 511, 1471, 1472]
    for size in sizes:
        assert socket.send_to(bytes(i & 0xFF for i in range(size)), (TWO, 7)) is None
    lan.run(0)
    assert [len(payload) for payload, _ in inbox[1:]] == sizes
    assert all(source == (ONE, 5000) for _, source in inbox)
    for number, frame in enumerate(lan.hub.take()):
        ethernet = dpkt.ethernet.Ethernet(frame)
        assert (ethernet.dst, ethernet.src, ethernet.type) == (MAC2, MAC1, 0x0800)
        ip = ethernet.data
        assert (ip.src, ip.dst, ip.p, ip.ttl, ip.id) == (ONE, TWO, 17, 64, number + 2)
        ip.sum = ip.data.sum = 0  # have dpkt compute both
        assert bytes(ethernet) == frame


def test_a_checksum_that_comes_to_zero_is_sent_as_ones(lan, pair):
    one, two = pair
    inbox = Inbox()
    two.udp_bind(7, on_datagram=inbox)
    socket = one.udp_bind(5000, on_datagram=ignore)
    for trial in range(2):  # the long way, then the short one
        plain = udp.build(ONE, TWO, 5000, 7, b"\0\0")
        payload = plain[6:8]  # what brings the sum to zero
        socket.send_to(payload, (TWO, 7))
        lan.run(0)
        frame = lan.hub.take()[-1]
        assert frame[40:42] == b"\xff\xff"
        assert inbox[trial] == (payload, (ONE, 5000))


def test_the_short_way_writes_what_the_long_way_writes(lan, pair):
    one, _ = pair
    socket = one.udp_bind(5000, on_datagram=ignore)
    socket.ttl, socket.tos = 9, 0x2E << 2
    one.interfaces["eth0"].neighbors.lookup(TWO).heard(MAC2, confirmed=True)
    frames = []
    for _ in range(2):
        one.ident = 77
        socket.send_to(b"payload", (TWO, 7))
        frames.append(lan.hub.take()[0])
    assert frames[0] == frames[1]
    assert frames[0][15] == 0xB8 and frames[0][22] == 9


def test_ephemeral_ports_come_from_the_random_stream(lan, pair):
    one, _ = pair
    ports = [one.udp_bind(on_datagram=ignore).port for _ in range(50)]
    assert len(set(ports)) == 50 and min(ports) >= EPHEMERAL_FIRST
    again = type(lan)().host(1)
    assert [again.udp_bind(on_datagram=ignore).port for _ in range(50)] == ports


def test_a_port_is_taken_until_it_is_closed(pair):
    one, _ = pair
    socket = one.udp_bind(7, on_datagram=ignore)
    with pytest.raises(UsageError, match="7"):
        one.udp_bind(7, on_datagram=ignore)
    one.udp_bind(7, ONE, on_datagram=ignore)
    one.udp_bind(7, interface=one.interfaces["eth0"], on_datagram=ignore)
    socket.close()
    socket.close()
    one.udp_bind(7, on_datagram=ignore)
    with pytest.raises(UsageError):
        one.udp_bind(65536, on_datagram=ignore)


def test_what_a_host_sends_itself_opens_no_way_for_forged_frames(lan, pair):
    one, _ = pair
    inbox = Inbox()
    one.udp_bind(7, on_datagram=inbox)
    one.udp_bind(5000, on_datagram=ignore).send_to(b"own", (ONE, 7))
    lan.run(0)
    assert inbox == [(b"own", (ONE, 5000))]
    datagram = udp.build(ONE, ONE, 5000, 7, b"forged")
    lan.inject(MAC1 + MAC2 + b"\x08\x00" + ipv4.build(ONE, ONE, 17, len(datagram)) + datagram)
    assert len(inbox) == 1
    assert one.drops == {"ipv4-source": 1}


def test_the_more_special_socket_gets_the_datagram(lan, pair):
    one, two = pair
    wild, bound, special = Inbox(), Inbox(), Inbox()
    two.interfaces["eth0"].add_address(IPv4Interface("10.0.0.3/24"))
    two.udp_bind(7, on_datagram=wild)
    sender = one.udp_bind(on_datagram=ignore)

    def send(target):
        sender.send_to(b"x", (target, 7))
        lan.run(0)
        return len(wild), len(bound), len(special)

    assert send(TWO) == (1, 0, 0)
    assert send(TWO) == (2, 0, 0)
    socket = two.udp_bind(7, interface=two.interfaces["eth0"], on_datagram=bound)
    assert send(TWO) == (2, 1, 0)
    assert send(TWO) == (2, 2, 0)
    two.udp_bind(7, TWO, on_datagram=special)
    assert send(TWO) == (2, 2, 1)
    assert send(bytes((10, 0, 0, 3))) == (2, 3, 1)
    socket.close()
    assert send(bytes((10, 0, 0, 3))) == (3, 3, 1)
    assert send(TWO) == (3, 3, 2)


def test_everybody_gets_a_broadcast(lan, pair):
    one, two = pair
    wild, bound = Inbox(), Inbox()
    two.udp_bind(7, on_datagram=wild)
    two.udp_bind(7, interface=two.interfaces["eth0"], on_datagram=bound)
    sender = one.udp_bind(9, interface=one.interfaces["eth0"], on_datagram=ignore)
    for _ in range(2):
        assert sender.send_to(b"all", (ANY, 7)) is None
        assert sender.send_to(b"all", (bytes((10, 0, 0, 255)), 7)) is None
    lan.run(0)
    assert wild == bound == [(b"all", (ONE, 9))] * 4
    assert all(frame[:6] == BROADCAST for frame in lan.hub.take())


def test_the_handler_may_be_replaced(lan, pair):
    one, two = pair
    first, second = Inbox(), Inbox()
    socket = two.udp_bind(7, on_datagram=first)
    sender = one.udp_bind(on_datagram=ignore)
    for inbox in (first, first, second, second):
        socket.on_datagram = inbox
        sender.send_to(b"x", (TWO, 7))
        lan.run(0)
    assert len(first) == len(second) == 2


def test_a_closed_socket_hears_nothing_more(lan, pair):
    one, two = pair
    inbox = Inbox()
    socket = two.udp_bind(7, on_datagram=inbox)
    sender = one.udp_bind(on_datagram=ignore)
    for _ in range(2):
        sender.send_to(b"x", (TWO, 7))
        lan.run(0)
    socket.close()
    sender.send_to(b"x", (TWO, 7))
    lan.run(0)
    assert len(inbox) == 2 and two.drops == {"udp-port": 1}


def test_errors_come_to_the_socket_that_sent(lan, pair):
    one, _ = pair
    told = []
    sockets = [one.udp_bind(port, on_datagram=ignore) for port in (5000, 5001)]
    for socket in sockets:
        socket.on_error = lambda destination, error, port=socket.port: told.append((port, destination, error.text))
    sockets[1].send_to(b"x", (TWO, 7))
    sockets[0].send_to(b"x", (NINE, 7))
    lan.run(5 * SECOND)
    assert told == [(5001, (TWO, 7), "port unreachable"), (5000, (NINE, 7), "host unreachable")]


def test_a_refused_datagram_is_quoted_as_a_wire_would_have_carried_it(lan, pair):
    one, _ = pair
    socket = one.udp_bind(5000, on_datagram=ignore)
    for payload in (b"", b"odd", bytes(100)):
        socket.send_to(payload, (TWO, 7))
        lan.run(0)
        sent, refusal = (frame for frame in lan.hub.take() if frame[12:14] == b"\x08\x00")
        assert refusal[23] == 1 and refusal[42:] == sent[14:]


def test_what_cannot_be_sent_is_said(lan, pair):
    one, _ = pair
    socket = one.udp_bind(on_datagram=ignore)
    assert socket.send_to(b"x", (b"\x08\x08\x08\x08", 7)) == "no route"
    assert socket.send_to(bytes(udp.MAX_PAYLOAD + 1), (TWO, 7)) == "message too long"
    assert socket.send_to(bytes(udp.MAX_PAYLOAD), (TWO, 7)) is None
    nobody = lan.host(3, None)
    socket = nobody.udp_bind(interface=nobody.interfaces["eth0"], on_datagram=ignore)
    assert socket.send_to(b"x", (ANY, 7)) == "no address"


def test_a_new_route_or_address_is_used_at_once(lan, pair):
    one, two = pair
    inbox = Inbox()
    two.udp_bind(7, on_datagram=inbox)
    socket = one.udp_bind(5000, on_datagram=ignore)
    for _ in range(2):
        socket.send_to(b"x", (TWO, 7))
        lan.run(0)
    eth0 = one.interfaces["eth0"]
    eth0.add_address(IPv4Interface("10.0.0.5/24"))
    eth0.remove_address(IPv4Interface("10.0.0.1/24"))
    socket.send_to(b"x", (TWO, 7))
    lan.run(0)
    one.routes.add(IPv4Network("10.0.0.2/32"), NINE)
    socket.send_to(b"x", (TWO, 7))
    lan.run(0)
    assert [source for _, source in inbox] == [(ONE, 5000), (ONE, 5000), (bytes((10, 0, 0, 5)), 5000)]
    assert lan.hub.take()[-1][38:42] == NINE, "asked for the gateway"


def test_a_neighbor_that_moves_is_followed(lan, pair):
    one, _ = pair
    socket = one.udp_bind(5000, on_datagram=ignore)
    entry = one.interfaces["eth0"].neighbors.lookup(TWO)
    macs = []
    for last in (2, 2, 7, 7):
        entry.heard(MAC2[:5] + bytes((last,)), confirmed=True)
        socket.send_to(b"x", (TWO, 7))
        macs.append(lan.hub.take()[0][5])
    assert macs == [2, 2, 7, 7]


def test_dhcp_talks_before_there_is_an_address(lan):
    server, client = lan.host(1), lan.host(2, None)
    at_server, at_client = Inbox(), Inbox()
    eth0 = client.interfaces["eth0"]
    server.udp_bind(67, interface=server.interfaces["eth0"], on_datagram=at_server)
    client.udp_bind(68, interface=eth0, on_datagram=at_client)
    eth0.send_udp_raw(BROADCAST, bytes(4), ANY, 68, 67, b"discover")
    lan.run(0)
    assert at_server == [(b"discover", (bytes(4), 68))]
    server.interfaces["eth0"].send_udp_raw(MAC2, ONE, NINE, 67, 68, b"offer")  # to the address being offered
    server.interfaces["eth0"].send_udp_raw(BROADCAST, ONE, ANY, 67, 68, b"offer to all")
    lan.run(0)
    assert at_client == [(b"offer", (ONE, 67)), (b"offer to all", (ONE, 67))]
    eth0.add_address(IPv4Interface("10.0.0.9/24"))
    server.interfaces["eth0"].send_udp_raw(MAC2, ONE, TWO, 67, 68, b"not ours any more")
    lan.run(0)
    assert len(at_client) == 2 and client.drops == {"ipv4-not-ours": 1}
