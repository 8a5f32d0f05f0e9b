"""UDP and echo by the user adapter, over both IP versions."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from tests.unit.adapters.user_rig import Asker, Rig, port_of, receive, rig
from vnet.adapters.user import udp as udp_module
from vnet.adapters.user.outside import Outside
from vnet.ports import Handler
from vnet.stack.echo import PingResult
from vnet.units import SECOND
from vnet.wire import icmpv4, icmpv6

IP_RECVTTL, IPV6_RECVHOPLIMIT = 12, 51
FAR = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
ECHO = {4: (icmpv4.ECHO_REQUEST, icmpv4.ECHO_REPLY), 6: (icmpv6.ECHO_REQUEST, icmpv6.ECHO_REPLY)}


def test_datagrams_pass_in_both_directions(lab: Rig) -> None:
    asker = Asker(lab)
    with lab.server(socket.SOCK_DGRAM) as far:
        for payload in (b"one", b"", bytes(5000)):
            asker.send(payload, port_of(far))
            got, peer = receive(lab, far)
            far.sendto(got + b"!", peer)
            lab.loop.until(lambda: asker.got)
            assert asker.got.pop() == payload + b"!"
        assert lab.adapter.details()["udp"] == 1


def test_a_flow_keeps_its_port_and_others_get_their_own(lab: Rig) -> None:
    one, two = Asker(lab), Asker(lab)
    with lab.server(socket.SOCK_DGRAM) as far:
        peers = []
        for asker in (one, one, two):
            asker.send(b"x", port_of(far))
            peers.append(receive(lab, far)[1])
        assert peers[0] == peers[1] != peers[2]


def test_only_who_was_asked_answers(lab: Rig) -> None:
    """Address and port dependent filtering (RFC 4787, section 5): the socket is connected."""
    asker = Asker(lab)
    with lab.server(socket.SOCK_DGRAM) as far, lab.server(socket.SOCK_DGRAM) as other:
        asker.send(b"x", port_of(far))
        peer = receive(lab, far)[1]
        other.sendto(b"unasked", peer)
        far.sendto(b"asked", peer)
        lab.loop.until(lambda: asker.got)
        assert asker.got == [b"asked"]


def test_a_closed_port_comes_back_as_port_unreachable(lab: Rig) -> None:
    asker = Asker(lab)
    with lab.server(socket.SOCK_DGRAM) as far:
        port = port_of(far)
    asker.send(b"x", port)
    lab.loop.until(lambda: asker.errors)
    assert asker.errors == ["port unreachable"]
    asker.send(b"y", port)
    lab.loop.until(lambda: len(asker.errors) == 2)


def test_a_flow_ends_after_five_minutes_of_silence(lab: Rig) -> None:
    asker = Asker(lab)
    with lab.server(socket.SOCK_DGRAM) as far:
        asker.send(b"x", port_of(far))
        receive(lab, far)
        lab.loop.skip(299 * SECOND)
        assert lab.adapter.details()["udp"] == 1
        lab.loop.skip(20 * SECOND)
        lab.loop.until(lambda: lab.adapter.details()["udp"] == 0)
    assert not lab.loop.readers


def test_the_flows_of_a_full_table_that_were_silent_longest_give_way(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_module, "MAX_FLOWS", 16)
    with rig(tmp_path, version=version) as lab, lab.server(socket.SOCK_DGRAM) as far:
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
    with lab.server(socket.SOCK_DGRAM) as far:
        far.setsockopt(
            *((socket.IPPROTO_IP, IP_RECVTTL) if lab.version == 4 else (socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT)), 1
        )
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
    assert ping(lab, lab.gateway).ok and lab.adapter.details()["echo"] == 0


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
    far = FAR[lab.version].packed
    request, reply = ECHO[lab.version]

    def answer() -> None:
        message = linux.recv(65536)
        assert message[0] == request
        linux.send(bytes((reply, 0, 0, 0, 0xAB, 0xCD)) + message[6:])  # Linux has its own identifier

    with linux:
        lab.loop.register(linux.fileno(), answer)
        for size in (0, 56, 3000):
            result = ping(lab, far, size=size)
            assert result.ok and result.source == far
        lab.loop.unregister(linux.fileno())
        linux.send(b"")  # what no kernel says
        linux.send(bytes(8)[:7])
        lab.loop.turn()
        assert lab.adapter.details()["echo"] == 1 and ping_socket.destination == (str(FAR[lab.version]), 0)
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

    assert ping(lab, lab.gateway).ok
    port.hook(watched("in"), watched("out"))
    assert ping(lab, lab.gateway).ok
    assert seen == ["in", "out"]
    port.hook()
    assert ping(lab, lab.gateway).ok and len(seen) == 2


def test_echo_without_ping_sockets_is_counted(lab: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(lab.adapter._outside.destinations), "resolve", lambda self, address: lab.loopback)

    def refused(*_: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vnet.adapters.user.outside.socket.socket", refused)
    assert not ping(lab, FAR[lab.version].packed, timeout=SECOND // 10).ok
    assert lab.adapter.drops["socket"] == 1


def test_nothing_leads_there(lab: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(sock: socket.socket, address: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    asker = Asker(lab)
    asker.send(b"x", 80)
    lab.loop.until(lambda: asker.errors)
    assert asker.errors == ["net unreachable" if lab.version == 4 else "no route to destination"]
