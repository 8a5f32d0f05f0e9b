"""What a hostile guest tries at the user adapter, beside what the fuzzer throws at its port."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from socket import SOCK_DGRAM

import pytest

from tests.unit.adapters.test_user_ipv6 import PAYLOADS6
from tests.unit.adapters.user_rig import GATEWAY6, GUEST6, MACHINE6, Asker, Rig, port_of, receive, rig
from vnet.adapters.user.errors import Told
from vnet.adapters.user.outside import Outside
from vnet.addresses import multicast_mac
from vnet.ports import NO_OFFLOAD
from vnet.units import SECOND
from vnet.wire import ipv6, ndp, udp
from vnet.wire.ethernet import ETHERTYPE_IPV6
from vnet.wire.ipv4 import PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.tcp import RST, SYN, Tcp

FAR = IPv6Address("2001:db8::9").packed


def throw(lab: Rig, packet: bytes, mac: bytes | None = None) -> None:
    """Put an IPv6 packet on the cable as the guest's machine can, to the adapter's MAC address or another one."""
    lab.nic.port.send((mac or lab.spec.mac) + lab.nic.mac + ETHERTYPE_IPV6 + packet, NO_OFFLOAD)
    for _ in range(3):
        lab.loop.turn()


@contextmanager
def silent(lab: Rig) -> Iterator[int]:
    """Yield a port of the machine that answers no SYN, because its backlog is full."""
    with lab.server(backlog=0) as listener, socket.create_connection(listener.getsockname()[:2]):
        second = socket.socket(listener.family)
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        yield port_of(listener)
        second.close()


@pytest.mark.parametrize("protocol", PAYLOADS6)
@pytest.mark.parametrize(("destination", "hop_limit"), [(FAR, 1), (IPv6Address("fd00:2::77").packed, 64), (FAR, 64)])
@pytest.mark.parametrize("mac", [b"\x33\x33\0\0\0\1", b"\xff" * 6])
def test_frames_to_a_group_are_neither_passed_on_nor_answered(
    tmp_path: Path, protocol: int, destination: bytes, hop_limit: int, mac: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 1812, 5.3.4; RFC 4443, 2.4 (e.4): all on the link have such a packet, and would all answer."""
    with rig(tmp_path, version=6) as lab:
        monkeypatch.setattr(Outside, "open", lambda *_, **__: pytest.fail("a socket was opened"))
        heard: list[bytes] = []
        lab.nic.listen(lambda frame, offload: heard.append(frame))
        payload = PAYLOADS6[protocol](lab.own, destination)
        throw(lab, ipv6.build(lab.own, destination, protocol, len(payload), hop_limit=hop_limit) + payload, mac)
        assert not heard and lab.adapter.drops["ipv6-not-ours"] == 1


@pytest.mark.parametrize("asks", [True, False])
def test_a_guest_cannot_take_the_addresses_of_the_adapter(tmp_path: Path, asks: bool) -> None:
    """Neither by asking for them as they are taken into use, nor by saying that it has them (RFC 4862, 5.4.3 and 5.4.4)."""
    lab = Rig(tmp_path, version=4, address6=GATEWAY6, host6=MACHINE6)
    side = lab.adapter._outside.interface.ipv6
    assert side is not None
    addresses = [own.address for own in side.addresses]
    for _ in range(4):
        for address in addresses:
            if asks:
                group, source = ipv6.solicited_node(address), ipv6.ANY
                message: ndp.Message = ndp.NeighborSolicitation(address)
            else:
                group, source = ipv6.ALL_NODES, GUEST6.packed
                message = ndp.NeighborAdvertisement(address, False, False, True, ndp.Options(target_mac=lab.nic.mac))
            octets = ndp.encode(message).encode(source, group)
            head = ipv6.build(source, group, ipv6.PROTOCOL_ICMPV6, len(octets), hop_limit=ndp.HOP_LIMIT)
            throw(lab, head + octets, multicast_mac(group))
        lab.loop.skip(SECOND)
    assert len(addresses) == 3 and all(own.usable for own in side.addresses)
    assert set(addresses) <= set(side.node.local)
    lab.close()


@pytest.mark.parametrize("version", [4, 6])
def test_a_reset_ends_an_opening_by_its_very_number_alone(tmp_path: Path, version: int) -> None:
    """RFC 5961, section 3: who does not see the SYN cannot end what it began."""
    with rig(tmp_path, version=version) as lab, silent(lab) as port:
        connection = lab.guest.tcp.connect(lab.machine, port)
        lab.loop.until(lambda: lab.adapter.details()["tcp_opening"] == 1)
        send = lab.guest.send_ipv4 if version == 4 else lab.guest.use_ipv6().send
        ports = {"source_port": connection.local[1], "destination_port": port}
        for number, left in (
            (0, 1),
            (connection.sender.iss, 1),
            (connection.sender.iss + 2, 1),
            (connection.sender.iss + 1, 0),
        ):
            reset = Tcp(**ports, sequence=number & 0xFFFFFFFF, flags=RST).encode(lab.own, lab.machine)
            send(lab.machine, PROTOCOL_TCP, reset, source=lab.own)
            for _ in range(3):
                lab.loop.turn()
            assert lab.adapter.details()["tcp_opening"] == left


@pytest.mark.parametrize("version", [4, 6])
def test_what_waits_holds_no_more_of_a_packet_than_an_error_quotes(tmp_path: Path, version: int) -> None:
    """A SYN may have 64 KiB of data, a datagram as much of extension headers; thousands of either may wait."""
    with rig(tmp_path, version=version) as lab, silent(lab) as port, lab.server(SOCK_DGRAM) as far:
        syn = Tcp(source_port=5000, destination_port=port, sequence=1, flags=SYN, payload=bytes(12000))
        datagram = udp.build(lab.own, lab.machine, 5000, port_of(far), b"x")
        if version == 4:
            lab.guest.send_ipv4(lab.machine, PROTOCOL_TCP, syn.encode(lab.own, lab.machine), source=lab.own)
            lab.guest.send_ipv4(lab.machine, PROTOCOL_UDP, datagram, source=lab.own)
        else:
            lab.guest.use_ipv6().send(lab.machine, PROTOCOL_TCP, syn.encode(lab.own, lab.machine), source=lab.own)
            options = bytes((PROTOCOL_UDP, 199)) + 6 * (b"\1\xff" + bytes(255)) + b"\1\x36" + bytes(54)
            head = ipv6.build(lab.own, lab.machine, ipv6.DESTINATION_OPTIONS, len(options + datagram))
            throw(lab, head + options + datagram)
        lab.loop.until(lambda: lab.adapter.details()["tcp_opening"] == 1 and lab.adapter.details()["udp"] == 1)
        (opening,), (flow,) = lab.adapter._tcp._opening.values(), lab.adapter._udp._table.flows.values()
        assert len(opening.packet) <= 1232 and not opening.segment.payload
        assert len(flow._quote) <= 1232


def test_what_comes_after_the_end_opens_nothing(tmp_path: Path) -> None:
    with rig(tmp_path, version=6) as lab, lab.server(SOCK_DGRAM) as far:
        asker = Asker(lab)
        asker.send(b"before", port_of(far))
        assert receive(lab, far)[0] == b"before"
        lab.adapter.retire()
        asker.send(b"after", port_of(far))
        for _ in range(3):
            lab.loop.turn()
        assert not lab.loop.readers and lab.adapter.details()["udp"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_request_that_cannot_go_on_is_counted_and_one_after_an_error_is_sent(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that waits at the socket is about an earlier request; what Linux itself refuses may not vanish uncounted."""
    refusals = [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), OSError(errno.EINVAL, "invalid")]

    class Refusing(socket.socket):
        def send(self, octets: bytes, *flags: int) -> int:
            if refusals:
                raise refusals.pop(0)
            return super().send(octets, *flags)

        def setsockopt(self, *_: object) -> None:
            """Take any option."""

    ours, linux = socket.socketpair(socket.AF_UNIX, SOCK_DGRAM)
    ping_socket = Refusing(fileno=ours.detach())
    ping_socket.setblocking(False)
    errors = [[Told(1, 0, None, b"")], []]
    monkeypatch.setattr("vnet.adapters.user.echo.told", lambda sock: errors.pop(0) if errors else [])
    monkeypatch.setattr(Outside, "connect", lambda *_: ping_socket)
    with rig(tmp_path, version=version) as lab, linux:
        lab.guest.ping(FAR if version == 6 else bytes((192, 0, 2, 9)), on_result=lambda result: None)
        lab.loop.until(lambda: lab.adapter.drops["echo-failed"] == 1)
        refusals[:], errors[:] = [ConnectionRefusedError(errno.ECONNREFUSED, "refused")], [[Told(1, 0, None, b"")]]
        lab.guest.ping(FAR if version == 6 else bytes((192, 0, 2, 9)), on_result=lambda result: None)
        lab.loop.until(lambda: select.select([linux], [], [], 0)[0])
