"""TCP by the user adapter: ends, errors and back-pressure pass in both directions."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from struct import pack

import pytest

from tests.unit.adapters.user_rig import GUEST, Rig, port_of, rig
from vnet.adapters.netlink import Netlink
from vnet.adapters.user.outside import Outside
from vnet.ports import NO_OFFLOAD, Handler
from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.states import State
from vnet.units import HOUR, SECOND
from vnet.wire import icmpv4, ipv4, udp
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.tcp import RST, SYN, Tcp


def accepted(lab: Rig, listener: socket.socket) -> socket.socket:
    found: list[socket.socket] = []

    def taken() -> bool:
        try:
            found.append(listener.accept()[0])
        except BlockingIOError:
            return False
        return True

    lab.loop.until(taken)
    found[0].setblocking(False)
    return found[0]


def joined(lab: Rig) -> tuple[TcpConnection, socket.socket]:
    with lab.server() as listener:
        connection = lab.guest.tcp.connect(lab.machine, port_of(listener))
        far = accepted(lab, listener)
    lab.loop.until(lambda: connection.is_established)
    return connection, far


def read(lab: Rig, far: socket.socket, count: int) -> bytes:
    data = b""

    def more() -> bool:
        nonlocal data
        try:
            piece = far.recv(65536)
        except BlockingIOError:
            return False
        data += piece
        return len(data) >= count or not piece

    lab.loop.until(more)
    return data


def test_octets_pass_in_both_directions(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        connection.send(b"question")
        assert read(lab, far, 8) == b"question"
        far.send(b"answer")
        lab.loop.until(lambda: connection.available)
        assert connection.receive(100) == b"answer"
        assert lab.adapter.details()["tcp"] == 1


def test_each_direction_ends_by_itself(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        connection.send(b"all I have")
        connection.shutdown()
        assert read(lab, far, 11) == b"all I have" and read(lab, far, 1) == b""
        far.send(b"later")
        lab.loop.until(lambda: connection.available)
        assert connection.receive(100) == b"later"
        far.shutdown(socket.SHUT_WR)
        lab.loop.until(lambda: connection.state is State.TIME_WAIT)
    assert lab.adapter.details()["tcp"] == 0 and not lab.loop.readers


def test_the_far_end_may_end_first(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        far.send(b"goodbye")
        far.shutdown(socket.SHUT_WR)
        lab.loop.until(lambda: connection.receiver.ended)
        assert connection.receive(100) == b"goodbye" and connection.at_end
        connection.send(b"and thanks")
        assert read(lab, far, 10) == b"and thanks"
        connection.close()
        assert read(lab, far, 1) == b""
    lab.loop.until(lambda: connection.state is State.CLOSED)
    assert connection.error is None and lab.adapter.details()["tcp"] == 0


def test_a_reset_of_the_guest_reaches_the_far_end(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        connection.abort()
        lab.loop.until(lambda: lab.adapter.details()["tcp"] == 0)
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_a_reset_of_the_far_end_reaches_the_guest(lab: Rig) -> None:
    connection, far = joined(lab)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    far.close()
    lab.loop.until(lambda: connection.error is not None)
    assert connection.error == "reset" and lab.adapter.details()["tcp"] == 0


def test_a_closed_port_refuses(lab: Rig) -> None:
    with lab.server() as listener:
        port = port_of(listener)
    connection = lab.guest.tcp.connect(lab.machine, port)
    lab.loop.until(lambda: connection.error is not None)
    assert connection.error == "refused" and lab.adapter.drops["refused"] == 1


def test_a_far_end_that_is_silent_leaves_the_guest_without_an_answer(lab: Rig) -> None:
    """A backlog that is full drops SYNs, as a filter would: the guest's SYNs are not answered."""
    with lab.server(backlog=0) as listener, socket.create_connection(listener.getsockname()[:2]) as first:
        second = socket.socket(listener.family)
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        connection = lab.guest.tcp.connect(lab.machine, port_of(listener))
        lab.loop.until(lambda: lab.adapter.details()["tcp_opening"] == 1)
        lab.loop.skip(2 * SECOND)
        lab.loop.skip(4 * SECOND)
        assert connection.state is State.SYN_SENT and lab.adapter.details()["tcp_opening"] == 1
        connection.close()
        second.close()
        del first


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES])
def test_what_is_unreachable_is_said_to_be(lab: Rig, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: number)
    connection = lab.guest.tcp.connect(lab.machine, 80)
    lab.loop.until(lambda: connection.error is not None)
    assert any(word in str(connection.error) for word in ("unreachable", "prohibited", "no route"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "10.0.2.77", "10.1.2.3", "240.0.0.1", "224.0.0.5"]
)
@pytest.mark.parametrize("protocol", [PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP])
def test_the_machine_is_out_of_reach(tmp_path: Path, address: str, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket is opened for such packets, whatever they carry."""
    with rig(tmp_path, host=None, routes=((IPv4Network("10.1.0.0/16"), IPv4Address("10.0.2.7")),)) as lab:
        monkeypatch.setattr(Outside, "open", lambda *_, **__: pytest.fail("a socket was opened"))
        source, far = GUEST.ip.packed, socket.inet_aton(address)
        payload = {
            PROTOCOL_TCP: Tcp(source_port=5000, destination_port=80, sequence=1, flags=SYN).encode(source, far),
            PROTOCOL_UDP: udp.build(source, far, 5000, 80, b"hello"),
            PROTOCOL_ICMP: icmpv4.build(icmpv4.ECHO_REQUEST, 0, 0x10001, b"hello"),
        }[protocol]
        packet = ipv4.build(source, far, protocol, len(payload)) + payload
        lab.nic.port.send(lab.spec.mac + lab.nic.mac + b"\x08\x00" + packet, NO_OFFLOAD)
        lab.loop.turn()
        counted = lab.adapter.drops
        assert counted["forbidden"] == 1 or counted["ipv4-not-ours"] or address == "224.0.0.5"


def test_own_addresses_of_the_machine_are_out_of_reach(tmp_path: Path) -> None:
    """Whatever Linux calls local: here all its addresses that are not loopback."""
    found = [each.ip for _, each in Netlink().addresses() if not each.ip.is_loopback]
    with rig(tmp_path, host=None) as lab:
        for address in found:
            assert lab.adapter._outside.destinations.resolve(address.packed) is None
        assert lab.adapter._outside.destinations.resolve(bytes((192, 0, 2, 1))) == "192.0.2.1"
        assert lab.adapter._outside.destinations.resolve(IPv6Address("2001:db8::1").packed) == "2001:db8::1"


def test_a_slow_far_end_slows_the_guest_down(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        sent = 0
        for _ in range(400):
            sent += connection.send(bytes(65536))
            lab.loop.turn()
        assert connection.room == 0 or connection.unsent > 0, "somebody waits"
        stuck = sent
        for _ in range(20):
            sent += connection.send(bytes(65536))
            lab.loop.turn()
        assert sent == stuck
        (splice,) = lab.adapter._tcp._splices
        assert splice.connection.available <= splice.connection.receiver.capacity
        assert len(read(lab, far, sent)) == sent


def test_a_slow_guest_slows_the_far_end_down(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        sent = 0
        for _ in range(400):
            with contextlib.suppress(BlockingIOError):
                sent += far.send(bytes(65536))
            lab.loop.turn()
        (splice,) = lab.adapter._tcp._splices
        assert not splice._is_reading and splice.connection.unsent <= splice.connection.sender.capacity
        assert splice._fd not in lab.loop.readers, "and nobody looks at it meanwhile"
        got = 0

        def all_of_it() -> bool:
            nonlocal got
            got += len(connection.receive(1 << 20))
            return got == sent

        lab.loop.until(all_of_it)


def test_a_large_transfer_is_the_same_at_the_other_end(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        data = b"".join(hashlib.sha256(bytes((i & 255, i >> 8))).digest() for i in range(65536))
        echoed, out, back = bytearray(), 0, bytearray()

        def step() -> bool:
            nonlocal out
            out += connection.send(data[out : out + 200_000]) if out < len(data) else 0
            with contextlib.suppress(BlockingIOError):
                echoed.extend(far.recv(70_001))
            if echoed:
                with contextlib.suppress(BlockingIOError):
                    del echoed[: far.send(echoed)]
            back.extend(connection.receive(100_003))
            return len(back) >= len(data)

        lab.loop.until(step)
        assert back == data


def test_a_guest_that_vanishes_is_noticed(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        lab.nic.port.set_handler(lambda frame, offload: None)
        for _ in range(40):
            lab.loop.skip(HOUR // 4)
        for _ in range(12):
            lab.loop.skip(80 * SECOND)
        assert lab.adapter.details()["tcp"] == 0
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        del connection


def test_a_guest_that_gives_up_leaves_no_socket(lab: Rig) -> None:
    with lab.server(backlog=0) as listener, socket.create_connection(listener.getsockname()[:2]):
        second = socket.socket(listener.family)
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        connection = lab.guest.tcp.connect(lab.machine, port_of(listener))
        lab.loop.until(lambda: lab.adapter.details()["tcp_opening"] == 1)
        reset = Tcp(
            source_port=connection.local[1],
            destination_port=port_of(listener),
            sequence=connection.sender.iss + 1,
            flags=RST,
        ).encode(lab.own, lab.machine)
        send = lab.guest.send_ipv4 if lab.version == 4 else lab.guest.use_ipv6().send
        send(lab.machine, PROTOCOL_TCP, reset, source=lab.own)
        lab.loop.until(lambda: lab.adapter.details()["tcp_opening"] == 0)
        second.close()


def test_no_descriptor_left_is_counted_and_the_syn_comes_again(lab: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with lab.server() as listener:
        with monkeypatch.context() as patch:
            patch.setattr("vnet.adapters.user.outside.socket.socket", none_left)
            connection = lab.guest.tcp.connect(lab.machine, port_of(listener))
            lab.loop.until(lambda: lab.adapter.drops["descriptors"] == 1)
        lab.loop.skip(SECOND)
        accepted(lab, listener).close()
    lab.loop.until(lambda: connection.is_established)


def test_ends_with_the_adapter(lab: Rig) -> None:
    connection, far = joined(lab)
    with far:
        lab.adapter.retire()
        lab.loop.until(lambda: connection.error == "reset")
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_everything_leaves_from_the_source_that_is_stated(tmp_path: Path) -> None:
    with rig(tmp_path, source=IPv4Address("127.0.0.7")) as lab:
        _, far = joined(lab)
        with far:
            assert far.getpeername()[0] == "127.0.0.7"
        with lab.server(socket.SOCK_DGRAM) as datagrams:
            lab.guest.udp_bind(on_datagram=lambda *_: None).send_to(b"x", (lab.machine, port_of(datagrams)))
            peers = []

            def arrived() -> bool:
                with contextlib.suppress(BlockingIOError):
                    peers.append(datagrams.recvfrom(10)[1][0])
                return bool(peers)

            lab.loop.until(arrived)
            assert peers == ["127.0.0.7"]


def test_a_source_that_is_not_the_machines_is_counted(tmp_path: Path, version: int) -> None:
    nobodys = {"source": IPv4Address("192.0.2.1"), "source6": IPv6Address("2001:db8::1")}
    with rig(tmp_path, version=version, **nobodys) as lab, lab.server() as listener:
        lab.guest.tcp.connect(lab.machine, port_of(listener))
        lab.loop.until(lambda: lab.adapter.drops["source"] == 1)


def test_a_guest_that_begins_anew_is_answered_by_its_new_number(lab: Rig) -> None:
    """It gave up without a word, and tries again from the same port while the host socket still waits."""
    with lab.server(backlog=0) as listener, socket.create_connection(listener.getsockname()[:2]) as first:
        second = socket.socket(listener.family)
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        port = port_of(listener)
        given_up = lab.guest.tcp.connect(lab.machine, port, source_port=5000)
        lab.loop.until(lambda: lab.adapter.details()["tcp_opening"] == 1)
        given_up.close()
        lab.loop.skip(SECOND // 2)
        flags: list[int] = []
        flags_at = {b"\x08\x00": 47, b"\x86\xdd": 67}

        def noted(send: Handler) -> Handler:
            return lambda frame, offload: (
                flags.append(frame[flags_at[frame[12:14]]] if frame[12:14] in flags_at and len(frame) > 67 else 0),
                send(frame, offload),
            )[1]

        lab.nic.port.hook(tx=noted)
        connection = lab.guest.tcp.connect(lab.machine, port, source_port=5000)
        lab.loop.turn()
        accepted: list[socket.socket] = []

        def is_established() -> bool:
            with contextlib.suppress(BlockingIOError):  # SYNs that the kernel drops come again
                accepted.append(listener.accept()[0])
            return connection.is_established

        lab.loop.until(is_established)
        assert not any(flag & RST for flag in flags), "it was not answered by the old one first"
        for each in accepted:
            each.close()
        second.close()
        del first
