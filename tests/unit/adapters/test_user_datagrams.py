"""UDP, echo and DNS by the user adapter."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.unit.adapters.user_rig import GATEWAY, MACHINE, Rig, port_of, rig, server
from vnet.adapters.user import dns as dns_module
from vnet.adapters.user import udp as udp_module
from vnet.adapters.user.dns import read_servers
from vnet.adapters.user.outside import Outside
from vnet.ports import Handler
from vnet.stack.echo import PingResult
from vnet.stack.udp import UdpSocket
from vnet.units import SECOND
from vnet.wire import icmpv4

IP_RECVTTL = 12


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


class Asker:
    """A UDP socket of the guest."""

    def __init__(self, lab: Rig) -> None:
        self.lab = lab
        self.got: list[bytes] = []
        self.errors: list[str] = []
        self.socket: UdpSocket = lab.guest.udp_bind(on_datagram=lambda payload, source: self.got.append(payload))
        self.socket.on_error = lambda destination, error: self.errors.append(error.text)

    def send(self, payload: bytes, port: int, address: bytes = MACHINE.packed) -> None:
        self.socket.send_to(payload, (address, port))


def receive(lab: Rig, far: socket.socket) -> tuple[bytes, tuple[str, int]]:
    found = []

    def arrived() -> bool:
        try:
            found.append(far.recvfrom(65536))
        except BlockingIOError:
            return False
        return True

    lab.loop.until(arrived)
    return found[0]


def test_datagrams_pass_in_both_directions(lab: Rig) -> None:
    asker = Asker(lab)
    with server(socket.SOCK_DGRAM) as far:
        for payload in (b"one", b"", bytes(5000)):
            asker.send(payload, port_of(far))
            got, peer = receive(lab, far)
            far.sendto(got + b"!", peer)
            lab.loop.until(lambda: asker.got)
            assert asker.got.pop() == payload + b"!"
        assert lab.adapter.details()["udp"] == 1


def test_a_flow_keeps_its_port_and_others_get_their_own(lab: Rig) -> None:
    one, two = Asker(lab), Asker(lab)
    with server(socket.SOCK_DGRAM) as far:
        peers = []
        for asker in (one, one, two):
            asker.send(b"x", port_of(far))
            peers.append(receive(lab, far)[1])
        assert peers[0] == peers[1] != peers[2]


def test_only_who_was_asked_answers(lab: Rig) -> None:
    """Address and port dependent filtering (RFC 4787, section 5): the socket is connected."""
    asker = Asker(lab)
    with server(socket.SOCK_DGRAM) as far, server(socket.SOCK_DGRAM) as other:
        asker.send(b"x", port_of(far))
        peer = receive(lab, far)[1]
        other.sendto(b"unasked", peer)
        far.sendto(b"asked", peer)
        lab.loop.until(lambda: asker.got)
        assert asker.got == [b"asked"]


def test_a_closed_port_comes_back_as_port_unreachable(lab: Rig) -> None:
    asker = Asker(lab)
    with server(socket.SOCK_DGRAM) as far:
        port = port_of(far)
    asker.send(b"x", port)
    lab.loop.until(lambda: asker.errors)
    assert asker.errors == ["port unreachable"]
    asker.send(b"y", port)
    lab.loop.until(lambda: len(asker.errors) == 2)


def test_a_flow_ends_after_five_minutes_of_silence(lab: Rig) -> None:
    asker = Asker(lab)
    with server(socket.SOCK_DGRAM) as far:
        asker.send(b"x", port_of(far))
        receive(lab, far)
        lab.loop.skip(299 * SECOND)
        assert lab.adapter.details()["udp"] == 1
        lab.loop.skip(20 * SECOND)
        lab.loop.until(lambda: lab.adapter.details()["udp"] == 0)
    assert not lab.loop.readers


def test_the_flows_of_a_full_table_that_were_silent_longest_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_module, "MAX_FLOWS", 16)
    with rig(tmp_path) as lab, server(socket.SOCK_DGRAM) as far:
        askers = [Asker(lab) for _ in range(17)]
        peers = []
        for asker in askers:
            asker.send(b"x", port_of(far))
            peers.append(receive(lab, far)[1])
        assert lab.adapter.details()["udp"] == 16 and lab.adapter.drops["udp-flows-full"] == 1
        askers[1].send(b"x", port_of(far))
        assert receive(lab, far)[1] == peers[1]
        askers[0].send(b"x", port_of(far))
        receive(lab, far)
        assert lab.adapter.drops["udp-flows-full"] == 2, "the first had given way"


def test_hop_limits_end_here_and_go_on(lab: Rig) -> None:
    asker = Asker(lab)
    asker.socket.ttl = 1
    asker.send(b"x", 4000)
    lab.loop.until(lambda: asker.errors)
    assert asker.errors == ["time exceeded"]
    with server(socket.SOCK_DGRAM) as far:
        far.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        asker.socket.ttl = 9
        asker.send(b"x", port_of(far))
        receive_ttl: list[int] = []

        def arrived() -> bool:
            try:
                _, control, _, _ = far.recvmsg(10, 100)
            except BlockingIOError:
                return False
            receive_ttl.append(int.from_bytes(control[0][2], "little"))
            return True

        lab.loop.until(arrived)
        assert receive_ttl == [8]


# -- echo


def ping(lab: Rig, address: bytes, **options: int) -> PingResult:
    results: list[PingResult] = []
    lab.guest.ping(address, on_result=results.append, **options)
    lab.loop.until(lambda: results)
    return results[0]


def test_the_gateway_answers_itself(lab: Rig) -> None:
    assert ping(lab, GATEWAY.ip.packed).ok and lab.adapter.details()["echo"] == 0


class PingSocket(socket.socket):
    """Stands for a ping socket, which many machines let nobody have; the other end is Linux."""

    def connect(self, address: object) -> None:
        self.destination = address

    def setsockopt(self, *_: object) -> None:
        """Take any option."""


def test_echo_goes_on_with_the_identifier_of_the_guest(lab: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, linux = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ping_socket = PingSocket(fileno=ours.detach())
    ping_socket.setblocking(False)
    monkeypatch.setattr(Outside, "open", lambda self, *kind: ping_socket)
    far = bytes((192, 0, 2, 1))

    def answer() -> None:
        message = linux.recv(65536)
        assert message[0] == icmpv4.ECHO_REQUEST
        linux.send(bytes((icmpv4.ECHO_REPLY, 0, 0, 0, 0xAB, 0xCD)) + message[6:])  # Linux has its own identifier

    with linux:
        lab.loop.register(linux.fileno(), answer)
        for size in (0, 56, 3000):
            result = ping(lab, far, size=size)
            assert result.ok and result.source == far
        lab.loop.unregister(linux.fileno())
        linux.send(b"")  # what no kernel says
        linux.send(bytes(8)[:7])
        lab.loop.turn()
        assert lab.adapter.details()["echo"] == 1 and ping_socket.destination == ("192.0.2.1", 0)
        lab.loop.skip(70 * SECOND)
        lab.loop.until(lambda: lab.adapter.details()["echo"] == 0)


def test_whoever_watches_the_port_sees_both_directions(lab: Rig) -> None:
    port, seen = lab.adapter._context.port, []

    def watched(way: str) -> Callable[[Handler], Handler]:
        def wrap(handler: Handler) -> Handler:
            def handle(frame: bytes, offload: bytes) -> None:
                seen.append(way)
                handler(frame, offload)

            return handle

        return wrap

    assert ping(lab, GATEWAY.ip.packed).ok
    port.hook(watched("in"), watched("out"))
    assert ping(lab, GATEWAY.ip.packed).ok
    assert seen == ["in", "out"]
    port.hook()
    assert ping(lab, GATEWAY.ip.packed).ok and len(seen) == 2


def test_echo_without_ping_sockets_is_counted(lab: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(lab.adapter._outside.destinations), "resolve", lambda self, address: "127.0.0.1")

    def refused(*_: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vnet.adapters.user.outside.socket.socket", refused)
    assert not ping(lab, bytes((192, 0, 2, 1)), timeout=SECOND // 10).ok
    assert lab.adapter.drops["socket"] == 1


def test_nothing_leads_there(lab: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(sock: socket.socket, address: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    asker = Asker(lab)
    asker.send(b"x", 80)
    lab.loop.until(lambda: asker.errors)
    assert asker.errors == ["net unreachable"]


# -- DNS

QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x01\x00\x01"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two servers on a port of their own, at 127.0.0.1 and 127.0.0.2."""
    with server(socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
        two.bind(("127.0.0.2", port_of(one)))
        two.setblocking(False)
        monkeypatch.setattr(dns_module, "DNS_PORT", port_of(one))
        yield one, two


RESOLVERS = (IPv4Address("127.0.0.1"), IPv4Address("127.0.0.2"))


def ask(lab: Rig, asker: Asker, port: int, question: bytes = QUESTION) -> None:
    asker.send(question, port, GATEWAY.ip.packed)


def test_questions_go_to_the_resolver_and_answers_come_back(
    tmp_path: Path, servers: tuple[socket.socket, socket.socket]
) -> None:
    with rig(tmp_path, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        asked, peer = receive(lab, servers[0])
        assert asked[2:] == QUESTION[2:]
        servers[0].sendto(bytes(2) + b"\x81\x80" + asked[4:], peer)  # whoever guesses wrong is not believed
        servers[0].sendto(asked[:2] + b"\x81\x80" + asked[4:], peer)
        lab.loop.until(lambda: asker.got)
        assert asker.got == [QUESTION[:2] + b"\x81\x80" + QUESTION[4:]]
        assert lab.adapter.details()["dns_answered"] == 1 and (asked[:2] == bytes(2) or lab.adapter.drops["dns-stray"] == 1)


def test_the_next_server_is_asked_when_one_is_silent_or_does_not_know(
    tmp_path: Path, servers: tuple[socket.socket, socket.socket]
) -> None:
    with rig(tmp_path, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        receive(lab, servers[0])
        lab.loop.skip(4 * SECOND)
        asked, peer = receive(lab, servers[1])
        servers[1].sendto(asked[:2] + b"\x81\x80" + asked[4:], peer)
        lab.loop.until(lambda: asker.got)
        ask(lab, asker, port_of(servers[0]), b"\x99\x99" + QUESTION[2:])
        asked, peer = receive(lab, servers[0])
        servers[0].sendto(asked[:2] + b"\x81\x82" + asked[4:], peer)  # SERVFAIL
        asked, peer = receive(lab, servers[1])
        servers[1].sendto(asked[:2] + b"\x81\x83" + asked[4:], peer)  # NXDOMAIN is an answer
        lab.loop.until(lambda: len(asker.got) == 2)
        assert asker.got[1][:4] == b"\x99\x99\x81\x83"


def test_when_nobody_answers_the_guest_is_told(tmp_path: Path, servers: tuple[socket.socket, socket.socket]) -> None:
    with rig(tmp_path, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        for turn in range(4):
            receive(lab, servers[turn % 2])
            lab.loop.skip(4 * SECOND)
        lab.loop.until(lambda: asker.got)
        assert asker.got[0][:4] == b"\x12\x34\x81\x82" and asker.got[0][4:] == QUESTION[4:]
        assert not lab.loop.readers


def test_a_server_that_is_not_there_is_passed_over_at_once(
    tmp_path: Path, servers: tuple[socket.socket, socket.socket]
) -> None:
    nobody = IPv4Address("127.0.0.3")
    with rig(tmp_path, dns=(nobody, RESOLVERS[1])) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        receive(lab, servers[1])
        assert lab.loop.timeline.now < 2 * SECOND


@pytest.mark.parametrize("payload", [b"", b"short", QUESTION[:2] + b"\x80" + QUESTION[3:]])
def test_what_is_no_question_is_dropped(
    tmp_path: Path, servers: tuple[socket.socket, socket.socket], payload: bytes
) -> None:
    with rig(tmp_path, dns=RESOLVERS) as lab:
        ask(lab, Asker(lab), port_of(servers[0]), payload)
        lab.loop.until(lambda: lab.adapter.drops["dns-malformed"] == 1)
        assert not lab.loop.readers


def test_the_oldest_of_too_many_questions_gives_way(
    tmp_path: Path, servers: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_module, "MAX_QUESTIONS", 4)
    with rig(tmp_path, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        for number in range(6):
            ask(lab, asker, port_of(servers[0]), bytes((0, number)) + QUESTION[2:])
        lab.loop.until(lambda: lab.adapter.drops["dns-full"] == 2)
        assert len(lab.loop.readers) == 4
        ask(lab, asker, port_of(servers[0]), bytes((0, 5)) + QUESTION[2:])
        lab.loop.turn()
        assert len(lab.loop.readers) == 4, "one that was asked is not asked twice"


def test_tcp_goes_to_the_first_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as listener:
        monkeypatch.setattr(dns_module, "DNS_PORT", port_of(listener))
        monkeypatch.setattr("vnet.adapters.user.tcp.DNS_PORT", port_of(listener))
        with rig(tmp_path, dns=RESOLVERS) as lab:
            connection = lab.guest.tcp.connect(GATEWAY.ip.packed, port_of(listener))
            lab.loop.until(lambda: connection.is_established)
            other = lab.guest.tcp.connect(GATEWAY.ip.packed, 81)
            lab.loop.until(lambda: other.error is not None)
            assert other.error == "refused"


def test_resolv_conf_is_read_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# no server\n")
    with rig(tmp_path) as lab:
        resolvers = lab.adapter._resolvers
        resolvers._path = str(file)
        lab.loop.skip(2 * SECOND)
        assert resolvers.servers == ("127.0.0.1",)
        file.unlink()
        file.with_name("new").write_text("nameserver 192.0.2.1\n")
        file.with_name("new").rename(file)
        assert resolvers.servers == ("127.0.0.1",), "not within a second"
        lab.loop.skip(2 * SECOND)
        assert resolvers.servers == ("192.0.2.1",)
        file.unlink()
        lab.loop.skip(2 * SECOND)
        assert resolvers.servers == ("127.0.0.1",)


def test_servers_of_a_file() -> None:
    text = "search a.b\nnameserver 192.0.2.1\n nameserver fe80::1%eth0 # x\nnameserver here\n"
    text += "nameserver 2001:db8::1\nnameserver 1.1.1.1\n"
    assert read_servers(text) == ("192.0.2.1", "fe80::1%eth0", "2001:db8::1")
