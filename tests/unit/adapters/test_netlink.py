from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest

from vnet.adapters.netlink import Netlink, address, link, route

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="needs Linux")


def attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    while body:
        length, kind = int.from_bytes(body[:2], "little"), int.from_bytes(body[2:4], "little")
        found[kind] = body[4:length]
        body = body[length + -length % 4 :]
    return found


def test_a_link_message_holds_what_was_asked_for_and_no_more() -> None:
    message = link("eth0", mac=b"\x52\x54\0\0\0\1", mtu=9000, queue_length=100)
    assert len(message.body) % 4 == 0
    assert attributes(message.body[16:]) == {
        3: b"eth0\0",
        1: b"\x52\x54\0\0\0\1",
        4: (9000).to_bytes(4, "little"),
        13: (100).to_bytes(4, "little"),
    }
    assert set(attributes(link("eth0").body[16:])) == {3}


def test_an_address_has_a_broadcast_address_where_there_is_one() -> None:
    body = address(2, IPv4Interface("10.1.2.3/24")).body
    assert body[:2] == bytes((socket.AF_INET, 24)) and body[4:8] == (2).to_bytes(4, "little")
    assert attributes(body[8:]) == {2: bytes((10, 1, 2, 3)), 1: bytes((10, 1, 2, 3)), 4: bytes((10, 1, 2, 255))}
    assert 4 not in attributes(address(2, IPv4Interface("10.1.2.3/31")).body[8:])


def test_a_default_route_names_no_destination() -> None:
    gateway = IPv4Address("10.1.2.1")
    body = route(IPv4Network("0.0.0.0/0"), gateway, 2).body
    assert body[1] == 0 and attributes(body[12:]) == {5: gateway.packed, 4: (2).to_bytes(4, "little")}
    body = route(IPv4Network("10.9.0.0/16"), None, 2).body
    assert body[1] == 16 and body[6] == 253 and attributes(body[12:])[1] == bytes((10, 9, 0, 0))


def test_ipv6_addresses_and_routes() -> None:
    own = IPv6Interface("fd00::2/64")
    body = address(2, own).body
    assert body[:3] == bytes((socket.AF_INET6, 64, 2)), "used at once"
    assert attributes(body[8:]) == {2: own.ip.packed, 1: own.ip.packed}
    body = route(IPv6Network("::/0"), own.ip, 2).body
    assert body[:2] == bytes((socket.AF_INET6, 0))
    assert attributes(body[12:]) == {5: own.ip.packed, 4: (2).to_bytes(4, "little")}


def test_the_kernel_answers_and_the_first_refusal_is_raised() -> None:
    netlink = Netlink()
    try:
        netlink.run([])
        with pytest.raises(OSError, match="interface nosuchdevice0") as caught:
            netlink.run([link("nosuchdevice0"), address(0x7FFFFFFF, IPv4Interface("10.1.2.3/24"))])
        assert caught.value.errno in {1, 19}  # EPERM for an ordinary user, ENODEV for root
        assert (socket.if_nametoindex("lo"), IPv4Interface("127.0.0.1/8")) in netlink.addresses() or os.geteuid()
        assert all(isinstance(each, IPv6Interface) for _, each in netlink.addresses6())
        assert all(isinstance(gateway, IPv4Address) for gateway in netlink.gateways().values())
    finally:
        netlink.close()
