"""Multicast on trio's sockets: the same on loopback and on guests, and what guests tell the link of it."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
import trio
from socket_bed import in_place

from vnet.guests.socket_groups import MAX_MEMBERSHIPS

GROUP, OTHER = "239.1.2.3", "239.1.2.4"
PLACES = ["loopback", "guests"]
IP = socket.IPPROTO_IP


def in_both(function):
    @pytest.mark.parametrize("place", PLACES)
    def test(place):
        in_place(place, function)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


def request(group, interface):
    return socket.inet_aton(group) + socket.inet_aton(interface)


async def listener(place, port=0, group=GROUP):
    async with place.as_server():
        sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind((group, port))
        sock.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, request(group, place.server_address))
        return sock


async def sender(place):
    async with place.as_client():
        sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        await sock.bind((client_address(place), 0))
        sock.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton(client_address(place)))
        return sock


def client_address(place):
    return "127.0.0.1" if place.server_address == "127.0.0.1" else "10.0.0.1"


@in_both
async def test_every_listener_gets_what_is_sent_to_its_group(place):
    one = await listener(place)
    two = await listener(place, one.getsockname()[1])
    other = await listener(place, one.getsockname()[1], OTHER)
    source = await sender(place)
    port = one.getsockname()[1]
    assert await source.sendto(b"to all", (GROUP, port)) == 6
    for sock in (one, two):
        assert await sock.recvfrom(100) == (b"to all", source.getsockname())
    await source.sendto(b"to others", (OTHER, port))
    assert await other.recvfrom(100) == (b"to others", source.getsockname())
    one.setsockopt(IP, socket.IP_DROP_MEMBERSHIP, request(GROUP, place.server_address))
    two.close()
    await source.sendto(b"to nobody", (GROUP, port))
    await source.sendto(b"the last", (OTHER, port))
    assert await other.recv(100) == b"the last"
    one.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, request(GROUP, place.server_address))
    await source.sendto(b"to one", (GROUP, port))
    assert await one.recv(100) == b"to one", "and nothing from before"


@in_both
async def test_options_and_their_defaults(place):
    sock = await sender(place)
    assert (sock.getsockopt(IP, socket.IP_MULTICAST_TTL), sock.getsockopt(IP, socket.IP_MULTICAST_LOOP)) == (1, 1)
    sock.setsockopt(IP, socket.IP_MULTICAST_TTL, struct.pack("B", 32))
    sock.setsockopt(IP, socket.IP_MULTICAST_LOOP, 0)
    assert (sock.getsockopt(IP, socket.IP_MULTICAST_TTL), sock.getsockopt(IP, socket.IP_MULTICAST_LOOP)) == (32, 0)
    sock.setsockopt(IP, socket.IP_MULTICAST_TTL, -1)
    assert sock.getsockopt(IP, socket.IP_MULTICAST_TTL) == 1
    with pytest.raises(OSError, match="Invalid argument"):
        sock.setsockopt(IP, socket.IP_MULTICAST_TTL, 256)


@in_both
async def test_what_is_refused(place):
    sock = await listener(place)
    here = place.server_address
    for number, option, value in (
        (errno.EADDRINUSE, socket.IP_ADD_MEMBERSHIP, request(GROUP, here)),
        (errno.EINVAL, socket.IP_ADD_MEMBERSHIP, request("10.1.2.3", here)),
        (errno.EINVAL, socket.IP_ADD_MEMBERSHIP, b"short"),
        (errno.ENODEV, socket.IP_ADD_MEMBERSHIP, request(GROUP, "203.0.113.77")),
        (errno.EADDRNOTAVAIL, socket.IP_DROP_MEMBERSHIP, request(OTHER, here)),
        (errno.EADDRNOTAVAIL, socket.IP_MULTICAST_IF, socket.inet_aton("203.0.113.77")),
    ):
        with pytest.raises(OSError, match=".") as caught:
            sock.setsockopt(IP, option, value)
        assert caught.value.errno == number, (option, value)
    for last in range(1, MAX_MEMBERSHIPS):
        sock.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, request(f"239.9.9.{last}", here))
    with pytest.raises(OSError, match=".") as caught:
        sock.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, request(OTHER, here))
    assert caught.value.errno == errno.ENOBUFS
