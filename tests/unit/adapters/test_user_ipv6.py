"""What the user adapter has for IPv6 alone: what is out of reach, its advertisements, scopes, large packets.

What it does over both IP versions is in the files beside this one, whose tests run over each.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from socket import SOCK_DGRAM

import pytest

from tests.unit.adapters.user_rig import GATEWAY, Rig, port_of, receive, rig, server
from vnet.adapters.user.errors import Told
from vnet.adapters.user.outside import Outside
from vnet.ports import NO_OFFLOAD
from vnet.stack.transport import IcmpError
from vnet.units import SECOND
from vnet.wire import icmpv4, icmpv6, ipv4, ipv6, udp
from vnet.wire.ipv6 import PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.tcp import SYN, Tcp

PAYLOADS6 = {
    PROTOCOL_TCP: lambda *ends: Tcp(source_port=5000, destination_port=80, sequence=1, flags=SYN).encode(*ends),
    PROTOCOL_UDP: lambda *ends: udp.build(*ends, 5000, 80, b"hello"),
    PROTOCOL_ICMPV6: lambda *ends: icmpv6.build(*ends, icmpv6.ECHO_REQUEST, 0, 0x10001, b"hello"),
}


def say(lab: Rig, protocol: int, source: bytes, destination: bytes) -> None:
    """Have the guest's machine send a packet whatever its stack thinks of the addresses."""
    payload = PAYLOADS6[protocol](source, destination)
    packet = ipv6.build(source, destination, protocol, len(payload)) + payload
    lab.nic.port.send(lab.spec.mac + lab.nic.mac + b"\x86\xdd" + packet, NO_OFFLOAD)
    lab.loop.turn()


@pytest.mark.parametrize("protocol", PAYLOADS6)
@pytest.mark.parametrize(
    "address",
    [
        "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:203.0.113.1", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1",
        "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "fe80::1", "fe80::5054:ff:fe00:77", "ff02::1", "ff0e::1",
        "fd00:2::77", "fd00:9::5", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    ],
)  # fmt: skip
def test_the_machine_is_out_of_reach_over_ipv6(
    tmp_path: Path, address: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by its loopback, nor by any address that a machine or translator may take for an IPv4 one of its own."""
    routes = ((IPv6Network("fd00:9::/48"), IPv6Address("fd00:2::7")),)
    with rig(tmp_path, version=6, host6=None, routes=routes) as lab:
        monkeypatch.setattr(Outside, "open", lambda *_, **__: pytest.fail("a socket was opened"))
        say(lab, protocol, lab.own, IPv6Address(address).packed)
        counted = lab.adapter.drops
        assert counted["forbidden"] == 1 or counted["ipv6-not-ours"] or address.startswith("ff")


@pytest.mark.parametrize("protocol", PAYLOADS6)
@pytest.mark.parametrize("source", ["fe80::5054:ff:fe00:5", "::"])
def test_what_comes_from_an_address_of_the_link_alone_goes_no_further(
    tmp_path: Path, protocol: int, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 4291, 2.5.6: the sender is told that the destination is beyond its scope, if there is a sender."""
    with rig(tmp_path, version=6) as lab:
        monkeypatch.setattr(Outside, "open", lambda *_, **__: pytest.fail("a socket was opened"))
        heard: list[bytes] = []
        lab.nic.listen(lambda frame, offload: heard.append(frame[54:56]))
        say(lab, protocol, IPv6Address(source).packed, IPv6Address("2001:db8::1").packed)
        counted = "ipv6-source" if source == "::" and protocol != PROTOCOL_ICMPV6 else "scope"
        assert lab.adapter.drops[counted] == 1
        told = [b"\x01\x02"] if source != "::" else []
        lab.loop.until(lambda: [each for each in heard if each[0] < 128] == told)


def test_a_guest_is_told_the_router_the_prefix_and_the_dns_server(tmp_path: Path) -> None:
    with rig(tmp_path, version=6) as lab:
        side = lab.nic.ipv6
        assert side is not None and side.autoconf is not None
        assert side.autoconf.routers == (ipv6.link_local(lab.spec.mac),) and list(side.autoconf.servers) == [lab.gateway]
        assert [str(each) for each in side.usable_addresses()][0] == f"{IPv6Address(lab.own)}/64"
        assert lab.adapter.details()["ipv6"] == "fd00:2::1/64"
        lab.adapter.retire()
        lab.loop.turn()
        assert side.autoconf.routers == () and not side.autoconf.servers


@pytest.mark.parametrize(("said", "believed"), [(1300, 1300), (600, 1280)])
def test_a_packet_too_big_is_told_to_its_sender(tmp_path: Path, said: int, believed: int) -> None:
    """By who said so; and never less than what all links carry (RFC 8200, section 5)."""
    far, reporter = IPv6Address("2001:db8::9").packed, IPv6Address("2001:db8::1").packed
    with rig(tmp_path, version=6) as lab:
        errors: list[IcmpError] = []
        socket = lab.guest.udp_bind(on_datagram=lambda payload, source: None, both=True)
        socket.on_error = lambda destination, error: errors.append(error)
        datagram = udp.build(lab.own, far, socket.port, 80, bytes(1400))
        packet = ipv6.build(lab.own, far, PROTOCOL_UDP, len(datagram)) + datagram
        lab.adapter._outside.tell(packet, Told(icmpv6.PACKET_TOO_BIG, 0, reporter, b"", said))
        lab.loop.until(lambda: errors)
        assert (errors[0].mtu, errors[0].reporter) == (believed, reporter)
        assert lab.guest.use_ipv6().paths.get(lab.loop.timeline.now, far, 1500) == believed


def test_over_ipv4_linux_makes_packets_smaller_and_nobody_is_told(tmp_path: Path) -> None:
    with rig(tmp_path) as lab:
        heard: list[bytes] = []
        lab.nic.listen(lambda frame, offload: heard.append(frame))
        far = bytes((192, 0, 2, 9))
        packet = ipv4.build(lab.own, far, PROTOCOL_UDP, 8) + udp.build(lab.own, far, 5000, 80, b"")
        lab.adapter._outside.tell(packet, Told(icmpv4.UNREACHABLE, icmpv4.FRAGMENTATION_NEEDED, None, b"", 1300))
        for _ in range(5):
            lab.loop.turn()
        assert not heard


def test_a_datagram_without_a_checksum_is_dropped(tmp_path: Path) -> None:
    """RFC 8200, 8.1: over IPv6 nothing else says that a datagram is whole."""
    with rig(tmp_path, version=6) as lab:
        datagram = udp.build(lab.own, lab.machine, 5000, 80, b"hello")
        datagram = datagram[:6] + bytes(2) + datagram[8:]
        packet = ipv6.build(lab.own, lab.machine, PROTOCOL_UDP, len(datagram)) + datagram
        lab.nic.port.send(lab.spec.mac + lab.nic.mac + b"\x86\xdd" + packet, NO_OFFLOAD)
        lab.loop.until(lambda: lab.adapter.drops["udp-malformed"] == 1)
        assert lab.adapter.details()["udp"] == 0


def test_the_dns_server_answers_by_the_address_that_was_asked(tmp_path: Path) -> None:
    """By its link-local address, too, which is what some guests take for a server's."""
    question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x1c\x00\x01"
    with server(SOCK_DGRAM) as resolver, pytest.MonkeyPatch.context() as patch:
        patch.setattr("vnet.adapters.user.dns.DNS_PORT", port_of(resolver))
        with rig(tmp_path, version=6, dns=(IPv4Address("127.0.0.1"),)) as lab:
            for address in (lab.gateway, ipv6.link_local(lab.spec.mac), GATEWAY.ip.packed):
                answers: list[bytes] = []
                asker = lab.guest.udp_bind(both=True, on_datagram=lambda payload, source, got=answers: got.append(source[0]))
                asker.send_to(question, (address, port_of(resolver)))
                asked, peer = receive(lab, resolver)
                resolver.sendto(asked[:2] + b"\x81\x80" + asked[4:], peer)
                lab.loop.until(lambda got=answers: got)
                assert answers == [address]


def test_what_the_adapter_says_comes_from_its_address_and_not_from_the_alias(tmp_path: Path) -> None:
    """Although the alias has more bits in common with the guest's address (RFC 6724, section 5, rule 8)."""
    with rig(tmp_path, version=6) as lab:
        errors: list[IcmpError] = []
        socket = lab.guest.udp_bind(on_datagram=lambda payload, source: None, both=True)
        socket.on_error = lambda destination, error: errors.append(error)
        for hop_limit, destination, reporter in (
            (1, IPv6Address("2001:db8::9").packed, lab.gateway),
            (64, IPv6Address("fd00:2::77").packed, lab.gateway),
            (1, lab.machine, lab.machine),
        ):
            socket.hop_limit = hop_limit
            datagram = udp.build(lab.own, destination, socket.port, 80, b"x")
            packet = ipv6.build(lab.own, destination, PROTOCOL_UDP, len(datagram), hop_limit=hop_limit) + datagram
            lab.nic.port.send(lab.spec.mac + lab.nic.mac + b"\x86\xdd" + packet, NO_OFFLOAD)
            lab.loop.until(lambda: errors)
            assert errors.pop().reporter == reporter


def test_a_guest_with_an_address_of_another_prefix_is_answered(tmp_path: Path) -> None:
    """It may have one from before, or of its own: outside nobody sees it."""
    with rig(tmp_path, version=6) as lab, lab.server(SOCK_DGRAM) as far:
        got: list[bytes] = []
        lab.nic.enable_ipv6().add_address(IPv6Interface("2001:db8:77::5/64"))
        other = IPv6Address("2001:db8:77::5").packed
        for _ in range(6):
            lab.loop.skip(SECOND)
        socket = lab.guest.udp_bind(0, other, on_datagram=lambda payload, source: got.append(payload))
        socket.send_to(b"question", (lab.machine, port_of(far)))
        far.sendto(b"answer", receive(lab, far)[1])
        lab.loop.until(lambda: got)
        assert got == [b"answer"]


def test_without_an_ipv6_address_nothing_is_said_over_ipv6(tmp_path: Path) -> None:
    """So that labs of before are as they were: no advertisement, no neighbor, no listener report."""
    with rig(tmp_path) as lab:
        heard: list[bytes] = []
        lab.nic.listen(lambda frame, offload: heard.append(frame))
        side = lab.nic.enable_ipv6()
        side.configure_itself()
        for _ in range(30):
            lab.loop.skip(SECOND)
        assert not [frame for frame in heard if frame[12:14] == b"\x86\xdd"] and lab.adapter.drops["ipv6"] > 3
        assert lab.adapter.details()["ipv6"] is None
