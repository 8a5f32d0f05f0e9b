"""Names of programs on guests: the lab's first, then DNS; getaddrinfo, getnameinfo, sockets and the direct API."""

from __future__ import annotations

from ipaddress import IPv6Interface, ip_address

import pytest
import trio
from socket_bed import Guests

from vnet.errors import NoAnswer, PeerError, UnknownName, UsageError
from vnet.programs.dns import NameTable, serve
from vnet.runtime.clock import simulate
from vnet.wire import dns

s = trio.socket
TABLE = NameTable(
    {
        "www.example": [ip_address("10.0.0.2"), ip_address("2001:db8::2")],
        "four.example": [ip_address("10.0.0.2"), ip_address("10.0.0.7")],
        "pc.office.example": [ip_address("10.0.0.2")],
        "far.example": [ip_address("fd00:9::1"), ip_address("192.0.2.1")],
        "b": [ip_address("192.0.2.66")],
    }
)


def with_server(function):
    """Run ``function(guests)`` in virtual time: b answers by DNS, a asks it."""

    async def main():
        guests = Guests()
        guests.a.names.servers = (ip_address("10.0.0.2"),)
        async with trio.open_nursery() as nursery:
            async with guests.b.activate():
                await nursery.start(serve, TABLE)
            await function(guests)
            nursery.cancel_scope.cancel()

    def test():
        simulate(main, seed=3)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


async def give_ipv6(guests):
    for number, guest in enumerate((guests.a, guests.b), 1):
        guest.host.interfaces["eth0"].enable_ipv6().add_address(IPv6Interface(f"2001:db8::{number}/64"))
    for guest in (guests.a, guests.b):
        await guest.settle()


async def look_up(name, port=80, **options):
    return [entry[4][0] for entry in await s.getaddrinfo(name, port, type=s.SOCK_STREAM, **options)]


async def number_of(function, *arguments, **options):
    with pytest.raises(s.gaierror) as caught:
        await function(*arguments, **options)
    return caught.value.errno


@with_server
async def test_programs_find_names_by_dns(guests):
    async with guests.a.activate():
        entries = await s.getaddrinfo("www.example", 80, s.AF_INET, s.SOCK_STREAM)
        assert entries == [(s.AF_INET, s.SOCK_STREAM, 6, "", ("10.0.0.2", 80))]
        assert await look_up("four.example") == ["10.0.0.2", "10.0.0.7"]
        assert await look_up("B") == ["10.0.0.2"]  # the lab's own names first
        assert await number_of(s.getaddrinfo, "none.example", 80) == s.EAI_NONAME
        assert await number_of(s.getaddrinfo, "four.example", 80, s.AF_INET6) == s.EAI_NODATA
        assert await number_of(s.getaddrinfo, "www.example", "no-such-service") == s.EAI_SERVICE
        assert await number_of(s.getaddrinfo, "www.example", 80, s.AF_UNIX) == s.EAI_FAMILY
        assert await number_of(s.getaddrinfo, "www.example", 80, flags=s.AI_NUMERICHOST) == s.EAI_NONAME
        kinds = {(entry[0], entry[1]) for entry in await s.getaddrinfo("www.example", 53)}
        assert {(s.AF_INET, s.SOCK_DGRAM), (s.AF_INET6, s.SOCK_STREAM)} <= kinds
    async with guests.b.activate():  # it has no server of its own
        assert await number_of(s.getaddrinfo, "www.example", 80) == s.EAI_NONAME


@with_server
async def test_both_families_are_sorted_by_what_the_guest_can_reach(guests):
    async with guests.a.activate():
        assert await look_up("www.example") == ["10.0.0.2", "2001:db8::2"]
        await give_ipv6(guests)
        assert await look_up("www.example") == ["2001:db8::2", "10.0.0.2"]
        assert await look_up("www.example", family=s.AF_INET6) == ["2001:db8::2"]
        assert await look_up("far.example") == ["192.0.2.1", "fd00:9::1"]  # neither can be reached: by the table


@with_server
async def test_flags(guests):
    async with guests.a.activate():
        assert await look_up("www.example", flags=s.AI_ADDRCONFIG) == ["10.0.0.2"]
        mapped = {"family": s.AF_INET6, "flags": s.AI_V4MAPPED}
        assert await look_up("four.example", **mapped) == ["::ffff:10.0.0.2", "::ffff:10.0.0.7"]
        assert await look_up("www.example", **mapped) == ["2001:db8::2"]
        assert await look_up("www.example", family=s.AF_INET6, flags=s.AI_V4MAPPED | s.AI_ALL) == [
            "2001:db8::2", "::ffff:10.0.0.2",
        ]  # fmt: skip
        assert await number_of(look_up, "none.example", **mapped) == s.EAI_NONAME
        assert await number_of(look_up, "www.example", family=s.AF_INET6, flags=s.AI_ADDRCONFIG) == s.EAI_NONAME
        guests.a.names.search = ("office.example",)
        assert (await s.getaddrinfo("pc", 1, flags=s.AI_CANONNAME))[0][3] == "pc.office.example"
        assert (await s.getaddrinfo("b", 1, flags=s.AI_CANONNAME))[0][3] == "b"


@with_server
async def test_sockets_take_names(guests):
    async with guests.a.activate():
        async with await trio.open_tcp_stream("www.example", 53) as stream:
            assert stream.socket.getpeername() == ("10.0.0.2", 53)
        sock = s.socket()
        await sock.connect(("www.example", 53))
        assert sock.getpeername() == ("10.0.0.2", 53)
        sock.close()
        for _ in range(2):
            query = dns.encode(dns.Message(7, 0, (dns.Question(dns.parse_name("four.example"), dns.A),)))
            with s.socket(type=s.SOCK_DGRAM) as sock:
                await sock.sendto(query, ("www.example", 53))
                answer, peer = await sock.recvfrom(512)
                assert peer == ("10.0.0.2", 53) and len(dns.decode(answer).answers) == 2
                await sock.sendmsg([query], (), 0, ("www.example", 53))
                assert (await sock.recv(512))[:2] == b"\0\7"
        with s.socket() as sock:
            assert await number_of(sock.bind, ("none.example", 0)) == s.EAI_NONAME


@with_server
async def test_a_connect_that_is_cancelled_while_it_looks_up_closes_its_socket(guests):
    guests.a.names.servers = (ip_address("10.0.0.9"),)
    async with guests.a.activate():
        sock = s.socket()
        with trio.move_on_after(3) as scope:
            await sock.connect(("www.example", 80))
        assert scope.cancelled_caught and sock.fileno() == -1
        assert not guests.a.host.udp.sockets


@with_server
async def test_the_direct_api_takes_names(guests):
    a = guests.a
    assert [str(each) for each in await a.resolve("four.example")] == ["10.0.0.2", "10.0.0.7"]
    assert [str(each) for each in await a.resolve("b")] == ["10.0.0.2"]
    assert await a.ping("www.example") and (await a.tcp_probe("www.example", 53)).ok
    assert [str(hop.address) for hop in await a.traceroute("www.example")] == ["10.0.0.2"]
    assert not await a.udp_probe("www.example", 54)
    async with await a.open_tcp_stream("www.example", 53) as stream:
        assert stream.socket.getpeername() == ("10.0.0.2", 53)
    async with await a.open_udp_socket() as one, await guests.b.open_udp_socket(9) as two:
        await one.send_to(b"x", ("www.example", 9))
        assert (await two.receive())[0] == b"x"
        with pytest.raises(UnknownName):
            await one.send_to(b"x", ("none.example", 9))


@with_server
async def test_errors_say_what_each_server_did(guests):
    names = guests.a.names
    with pytest.raises(UnknownName, match=r"^there is no name none.example \(10.0.0.2: NXDOMAIN for none.example\)$"):
        await guests.a.resolve("none.example")
    names.servers = (ip_address("10.0.0.9"),)
    before = trio.current_time()
    told = r"\(10.0.0.9: host unreachable for www.example, 2 times\)$"
    with pytest.raises(NoAnswer, match=r"^www.example cannot be looked up now " + told):
        await guests.a.resolve("www.example")
    assert trio.current_time() - before == pytest.approx(6)
    async with guests.a.activate():
        with pytest.raises(s.gaierror, match=r"^\[Errno -3\] www.example: Temporary failure in name resolution " + told):
            await s.getaddrinfo("www.example", 80)
    names.servers = ()
    with pytest.raises(UsageError, match="neither an IP address nor a guest"):
        await guests.a.resolve("www.example")
    names.servers = (ip_address("10.0.0.1"),)
    own = guests.a.host.udp_bind(53, on_datagram=lambda *_: None)
    own.on_datagram = lambda payload, source: own.send_to(payload[:2] + b"\x80\x81" + payload[4:], source)  # FORMERR
    with pytest.raises(PeerError, match="10.0.0.1: an error for www.example"):
        await guests.a.resolve("www.example")
    async with guests.a.activate():
        assert await number_of(s.getaddrinfo, "www.example", 80) == s.EAI_NONAME  # as glibc has it


@with_server
async def test_names_of_addresses(guests):
    a = guests.a
    a.names.use(lambda name: None, lambda address: "lab-name" if str(address) == "10.0.0.1" else None)
    async with a.activate():
        for address, name in (("10.0.0.1", "lab-name"), ("10.0.0.7", "four.example"), ("127.0.0.1", "localhost"),
                              ("10.0.0.8", "10.0.0.8"), ("2001:db8::2", "www.example")):  # fmt: skip
            assert await s.getnameinfo((address, 80), 0) == (name, "http")
        assert await s.getnameinfo(("10.0.0.7", 80), s.NI_NUMERICHOST | s.NI_NUMERICSERV) == ("10.0.0.7", "80")
        assert await s.getnameinfo(("10.0.0.7", 80), s.NI_NAMEREQD) == ("four.example", "http")
        assert await number_of(s.getnameinfo, ("10.0.0.8", 80), s.NI_NAMEREQD) == s.EAI_NONAME
        assert await number_of(s.getnameinfo, ("four.example", 80), 0) == s.EAI_NONAME
        a.names.servers = ()
        assert await s.getnameinfo(("10.0.0.7", 80), 0) == ("10.0.0.7", "http")


@with_server
async def test_a_guest_that_crashes_leaves_nobody_waiting(guests):
    guests.a.names.servers = (ip_address("10.0.0.9"),)
    errors = []

    async def client():
        try:
            await guests.a.resolve("www.example")
        except NoAnswer as error:
            errors.append((str(error), trio.current_time() - started))

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        await trio.sleep(2)
        guests.a.replace_host(guests.guest("a", 1).host)
    assert errors == [("www.example cannot be looked up now (a went down)", 2)]


@with_server
async def test_servers_that_a_router_tells_are_asked_over_ipv6(guests):
    a, b = guests.a, guests.b
    await give_ipv6(guests)
    over_six = []

    def answer(payload, source):
        over_six.append(ip_address(source[0]))
        server.send_to(TABLE.answer(payload), source)

    server = b.host.udp_bind(53, ip_address("2001:db8::2").packed, on_datagram=answer)
    side = a.host.interfaces["eth0"].ipv6
    side.configure_itself()
    side.autoconf.servers[ip_address("2001:db8::2").packed] = None
    assert a.names.settings.servers == (bytes((10, 0, 0, 2)), ip_address("2001:db8::2").packed)
    a.names.servers = ()
    assert [str(each) for each in await a.resolve("four.example")] == ["10.0.0.2", "10.0.0.7"]
    assert over_six == [ip_address("2001:db8::1")] * 2
