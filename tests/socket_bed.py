"""Two places for programs that talk to each other: trio's own sockets on the loopback interface, and two emulated guests."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

import pytest
import trio
from tcp_fake import FakeTcp

from vnet.fabric.rng import RandomStreams
from vnet.guests.emulated import EmulatedGuest
from vnet.ports import connect
from vnet.runtime.clock import current_simulation, simulate
from vnet.stack.host import Host

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6
PLACES = ["loopback", "fake", "guests"]


class Place:
    """What programs need to know of the addresses there."""

    def __init__(self, family):
        self.family = family
        self.wildcard = "0.0.0.0" if family == IPV4 else "::"
        self.foreign_address = "192.0.2.1" if family == IPV4 else "2001:db8:9::1"
        self.largest_datagram = 65507 if family == IPV4 else 65527


class Loopback(Place):
    """Real sockets of this machine; there is one place only."""

    addresses = {IPV4: "127.0.0.1", IPV6: "::1"}

    def __init__(self, family=IPV4):
        super().__init__(family)
        self.server_address = "127.0.0.1" if family == IPV4 else "::1"

    patience = 0.2
    """Seconds after which nothing more moves; real ones, so few."""

    @asynccontextmanager
    async def as_server(self):
        yield

    as_client = as_server


class Guests(Place):
    """Guests a (client, 10.0.0.1 and 2001:db8::1) and b (server, the same with 2) on one cable."""

    patience = 10
    addresses = {IPV4: "10.0.0.2", IPV6: "2001:db8::2"}

    def __init__(self, fake=False, family=IPV4):
        super().__init__(family)
        self.server_address = "10.0.0.2" if family == IPV4 else "2001:db8::2"
        simulation = current_simulation()
        assert simulation is not None
        self.timeline = simulation.timeline
        self.a, self.b = self.guest("a", 1), self.guest("b", 2)
        ports = [guest.host.interfaces["eth0"].port for guest in (self.a, self.b)]
        connect(*ports, defer=self.timeline)
        for number, guest in enumerate((self.a, self.b), 1):
            guest.host.interfaces["eth0"].add_address(IPv4Interface(f"10.0.0.{number}/24"))
            if family == IPV6:
                guest.host.interfaces["eth0"].enable_ipv6().add_address(IPv6Interface(f"2001:db8::{number}/64"))
        if fake:
            world = {}
            for number, guest in enumerate((self.a, self.b), 1):
                addresses = guest.address.packed, IPv6Address(f"2001:db8::{number}").packed
                guest.host.tcp = FakeTcp(self.timeline, addresses, world)

    async def settle(self):
        """Wait until IPv6 addresses are in use."""
        for guest in (self.a, self.b):
            await guest.settle()

    def guest(self, name, number):
        host = Host(name, self.timeline, lambda purpose: RandomStreams(number).stream(name, purpose))
        host.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, number)))
        return EmulatedGuest(host, self.address_of)

    def address_of(self, name):
        """Resolve the guests' names, to addresses of the family."""
        guest = {"a": self.a, "b": self.b}.get(name)
        return None if guest is None else guest.address6 if self.family == IPV6 else guest.address

    def as_server(self):
        return self.b.activate()

    def as_client(self):
        return self.a.activate()


def on_guests(function):
    """Run ``function(guests)`` in virtual time, over the fake TCP."""

    def test():
        simulate(_call, function, seed=5)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


async def _call(function):
    await function(Guests(fake=True))


def in_place(place, function, family=IPV4):
    """Run ``function(place)`` on "loopback", "guests", or guests over the "fake" TCP, with addresses of a family."""

    async def main():
        with trio.fail_after(30):
            if place == "loopback":
                await function(Loopback(family))
                return
            guests = Guests(fake=place == "fake", family=family)
            await guests.settle()
            await function(guests)

    if place == "loopback":
        trio.run(main)
    else:
        simulate(main, seed=11)


def in_places(places):
    """Make tests of functions of (place) that run in these places, over IPv4 and over IPv6."""

    def decorate(function):
        @pytest.mark.parametrize("family", [IPV4, IPV6])
        @pytest.mark.parametrize("place", places)
        def test(place, family):
            in_place(place, function, family)

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return test

    return decorate


in_every_place = in_places(PLACES)


async def listening(place, backlog=16):
    """Return a socket of the server that listens."""
    async with place.as_server():
        sock = trio.socket.socket(place.family)
        await sock.bind((place.server_address, 0))
        sock.listen(backlog)
        return sock


async def connected(place):
    """Return the sockets of a client and a server."""
    listener = await listening(place)
    async with place.as_client():
        client = trio.socket.socket(place.family)
        await client.connect(listener.getsockname())
    server, address = await listener.accept()
    assert address == client.getsockname()
    listener.close()
    return client, server
