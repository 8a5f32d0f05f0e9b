"""IPv6 hosts on a LAN, and what a stranger or a router says to them."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Interface

from vnet.stack.host import Host
from vnet.units import SECOND
from vnet.wire import ipv6, ndp, udp
from vnet.wire.describe import describe
from vnet.wire.ipv6 import Ipv6

ROUTER_MAC = bytes.fromhex("525400000063")


def ip(text: str) -> bytes:
    return IPv6Address(text).packed


def mac(number: int) -> bytes:
    return bytes((0x52, 0x54, 0, 0, 0, number))


ONE, TWO, STRANGER = ip("2001:db8::1"), ip("2001:db8::2"), ip("2001:db8::63")
LINK1, LINK2, ROUTER = ipv6.link_local(mac(1)), ipv6.link_local(mac(2)), ipv6.link_local(ROUTER_MAC)


def host6(lan, number: int, *addresses: str, **options) -> Host:
    host = lan.host(number, None, **options)
    side = host.interfaces["eth0"].enable_ipv6()
    for address in addresses or (f"2001:db8::{number}/64",):
        side.add_address(IPv6Interface(address))
    return host


def side(host: Host):
    return host.interfaces["eth0"].ipv6


def pair(lan) -> tuple[Host, Host]:
    hosts = host6(lan, 1), host6(lan, 2)
    lan.run(3 * SECOND)
    lan.hub.take()
    return hosts


def pings(lan, host: Host, destination: bytes, seconds: int = 5, **options):
    results = []
    host.ping(destination, on_result=results.append, timeout=4 * SECOND, **options)
    lan.run(seconds * SECOND)
    (result,) = results
    return result


def texts(lan) -> list[str]:
    return [describe(frame).partition(", ")[2] for frame in lan.hub.take() if frame[12:14] == b"\x86\xdd"]


def to_us(packet: bytes, destination: bytes = mac(1), source: bytes = ROUTER_MAC) -> bytes:
    return destination + source + b"\x86\xdd" + packet


def discovery(message, source: bytes, destination: bytes, hop_limit: int = 255, **macs) -> bytes:
    octets = ndp.encode(message).encode(source, destination)
    head = ipv6.build(source, destination, 58, len(octets), hop_limit=hop_limit)
    to = b"\x33\x33" + destination[-4:] if destination[0] == 0xFF else mac(1)
    return to_us(head + octets, to, **macs)


def datagram(source: bytes, destination: bytes, payload: bytes, source_port: int = 5000, port: int = 7) -> bytes:
    octets = udp.build(source, destination, source_port, port, payload)
    return Ipv6(source=source, destination=destination, next_header=17).encode(len(octets)) + octets
