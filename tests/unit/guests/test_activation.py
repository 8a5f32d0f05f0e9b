"""Which guest a trio program runs on: activation, names, families, and errors that only a network gives."""

from __future__ import annotations

import errno

import pytest
import trio
from socket_bed import on_guests

from vnet.errors import UsageError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.trio_sockets import GuestSocket
from vnet.stack.host import Host
from vnet.units import SECOND


async def shout(stream):
    async for part in stream:
        await stream.send_all(part.upper())


async def ask(host, port, text):
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(text)
        return await stream.receive_some(), stream.socket.getsockname()[0]


@on_guests
async def test_several_guests_at_once_each_with_its_own_network(guests):
    seen = {}

    async def program(name, other):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_tcp, shout, 7)
            await trio.sleep(1)
            async with trio.open_nursery() as inner:
                inner.start_soon(keep, name, other)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    async def keep(name, other):
        seen[name] = await ask(other, 7, name.encode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guests.a.run, program, "a", "b")
        nursery.start_soon(guests.b.run, program, "b", "a")
    assert seen == {"a": (b"A", "10.0.0.1"), "b": (b"B", "10.0.0.2")}


@on_guests
async def test_blocks_nest_and_end(guests):
    plain = trio.socket.socket()
    assert not isinstance(plain, GuestSocket)
    async with guests.a.activate():
        first = trio.socket.socket()
        async with guests.b.activate():
            second = trio.socket.socket()
        third = trio.socket.socket()
    assert [each._table.host.name for each in (first, second, third)] == ["a", "b", "a"]
    after = trio.socket.socket()
    assert not isinstance(after, GuestSocket) and after.fileno() > 0
    for each in (plain, after):
        each.close()


@on_guests
async def test_run_passes_arguments_results_and_errors(guests):
    async def add(*numbers):
        await trio.lowlevel.checkpoint()
        return sum(numbers)

    async def fail():
        raise KeyError("mine")

    assert await guests.a.run(add, 1, 2, 3) == 6
    with pytest.raises(KeyError, match="mine"):
        await guests.a.run(fail)
    sock = trio.socket.socket()
    assert not isinstance(sock, GuestSocket)
    sock.close()


@on_guests
async def test_the_task_that_starts_another_decides(guests):
    made = {}

    async def make(name):
        await trio.sleep(1)
        made[name] = trio.socket.socket()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, "outside")
        async with guests.a.activate():
            nursery.start_soon(make, "inside")
    assert isinstance(made["inside"], GuestSocket) and not isinstance(made["outside"], GuestSocket)
    made["outside"].close()


def test_what_was_installed_before_serves_those_without_a_guest():
    class Factory(trio.abc.SocketFactory):
        def socket(self, *arguments):
            return "theirs"

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host, *rest):
            return [("theirs", host)]

        async def getnameinfo(self, *rest):
            return ("their", "names")

    async def main():
        trio.socket.set_custom_socket_factory(Factory())
        trio.socket.set_custom_hostname_resolver(Resolver())
        guest = EmulatedGuest(Host("x", Timeline(), lambda purpose: RandomStreams(1).stream("x", purpose)))
        for _ in range(2):
            async with guest.activate():
                assert isinstance(trio.socket.socket(), GuestSocket)
            assert trio.socket.socket() == "theirs"
        assert await trio.socket.getaddrinfo("name.invalid", 80) == [("theirs", b"name.invalid")]
        assert await trio.socket.getnameinfo(("127.0.0.1", 80), 0) == ("their", "names")

    trio.run(main)


def test_without_a_guest_names_are_the_machine_s():
    async def main():
        guest = EmulatedGuest(Host("x", Timeline(), lambda purpose: RandomStreams(1).stream("x", purpose)))
        async with guest.activate():
            pass
        found = await trio.socket.getaddrinfo("localhost", 80, trio.socket.AF_INET, trio.socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 80)
        assert await trio.socket.getnameinfo(("127.0.0.1", 80), trio.socket.NI_NUMERICHOST) == ("127.0.0.1", "http")

    trio.run(main)


@on_guests
async def test_names(guests):
    s = trio.socket
    async with guests.a.activate():
        for name, address in (("b", "10.0.0.2"), ("B.", "10.0.0.2"), ("a", "10.0.0.1"), ("192.0.2.7", "192.0.2.7")):
            found = await s.getaddrinfo(name, 80, type=s.SOCK_STREAM)
            assert found == [(s.AF_INET, s.SOCK_STREAM, 6, "", (address, 80))]
        for name, address, scope in (("fd00::1", "fd00::1", 0), ("fe80::1%2", "fe80::1", 2)):
            found = await s.getaddrinfo(name, 80, type=s.SOCK_STREAM)
            assert found == [(s.AF_INET6, s.SOCK_STREAM, 6, "", (address, 80, 0, scope))]
        both = [(s.AF_INET6, s.SOCK_STREAM, 6, "", ("::1", 80, 0, 0)), (s.AF_INET, s.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
        for name in ("localhost", "web.localhost", None):
            assert await s.getaddrinfo(name, 80, type=s.SOCK_STREAM) == both
            for family, found in ((s.AF_INET6, both[:1]), (s.AF_INET, both[1:])):
                assert await s.getaddrinfo(name, 80, family, s.SOCK_STREAM) == found
        mapped = await s.getaddrinfo("b", 80, s.AF_INET6, s.SOCK_STREAM, flags=s.AI_V4MAPPED)
        assert [each[4] for each in mapped] == [("::ffff:10.0.0.2", 80, 0, 0)]
        everywhere = await s.getaddrinfo(None, 80, type=s.SOCK_STREAM, flags=s.AI_PASSIVE)
        assert [each[4] for each in everywhere] == [("0.0.0.0", 80), ("::", 80, 0, 0)]
        assert (await s.getaddrinfo("b", "http"))[0][4] == ("10.0.0.2", 80)
        assert (await s.getaddrinfo("b", 1, flags=s.AI_CANONNAME | s.AI_ADDRCONFIG))[0][3] == "b"
        assert await s.getnameinfo(("10.0.0.2", 80), 0) == ("10.0.0.2", "http")
        assert await s.getnameinfo(("2001:db8::2", 80, 0, 0), 0) == ("2001:db8::2", "http")
        assert await s.getnameinfo(("fe80::2", 80, 0, 2), s.NI_NUMERICSERV) == ("fe80::2%eth0", "80")
        for where, written in (
            (("fe80::1", 80, 0, 1), "fe80::1%lo"), (("fe80::1", 80, 0, 77), "fe80::1%77"), (("fe80::1", 80, 0), "fe80::1"),
            (("ff02::1", 80, 0, 2), "ff02::1%eth0"), (("ff05::1", 80, 0, 2), "ff05::1%2"),
            (("2001:db8::1", 80, 0, 2), "2001:db8::1%2"),
        ):  # fmt: skip
            assert (await s.getnameinfo(where, s.NI_NUMERICHOST))[0] == written, "as glibc has it"
        for flow in (-1, 1 << 20):
            with s.socket(s.AF_INET6, s.SOCK_DGRAM) as datagrams, pytest.raises(OverflowError, match="0-1048575"):
                await datagrams.sendto(b"x", ("fd00::1", 9, flow, 0))
        for name, family in (("www.example.org", 0), ("b", s.AF_INET6), ("bücher", 0), ("fe80::1%no-such-nic", 0)):
            with pytest.raises(s.gaierror):
                await s.getaddrinfo(name, 80, family)
        with pytest.raises(s.gaierror) as caught:
            await trio.open_tcp_stream("www.example.org", 80)
        assert caught.value.errno == s.EAI_NONAME


@on_guests
async def test_there_is_no_way_out_of_a_guest(guests):
    s = trio.socket
    async with guests.a.activate():
        for family in (s.AF_UNIX, s.AF_NETLINK, 12345):
            with pytest.raises(OSError, match="guest a has IPv4 and IPv6 sockets, none of") as caught:
                s.socket(family)
            assert caught.value.errno == errno.EAFNOSUPPORT
        with pytest.raises(OSError) as caught:
            s.socket(s.AF_INET, s.SOCK_RAW, 1)
        assert caught.value.errno == errno.EPROTONOSUPPORT
        with pytest.raises(OSError):
            await trio.open_unix_socket("/tmp/nowhere")
        with pytest.raises(OSError) as caught:
            await trio.open_tcp_stream("fd00::1", 80)
        assert caught.value.__cause__.exceptions[0].errno == errno.ENETUNREACH
        sock = s.socket()
        for refused in (sock.detach, sock.dup, lambda: sock.set_inheritable(True)):
            with pytest.raises(OSError) as caught:
                refused()
            assert caught.value.errno == errno.EOPNOTSUPP
        assert sock.get_inheritable() is False


@on_guests
async def test_errors_of_the_network(guests):
    async with guests.a.activate():
        for address, number in (("10.0.0.9", errno.EHOSTUNREACH), ("192.0.2.1", errno.ENETUNREACH)):
            with pytest.raises(OSError) as caught:
                await trio.socket.socket().connect((address, 80))
            assert caught.value.errno == number
        sock = trio.socket.socket()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, TimeoutError, sock.connect, ("10.0.0.2", 80))
            await trio.lowlevel.checkpoint()
            guests.a.host.tcp.connections[-1].fail("timed out")


async def expect(kind, function, *args):
    with pytest.raises(kind):
        await function(*args)


@on_guests
async def test_a_refused_socket_may_connect_elsewhere(guests):
    async with trio.open_nursery() as nursery:
        await nursery.start(guests.b.serve_tcp, shout, 80)
        async with guests.a.activate():
            client = trio.socket.socket()
            await expect(ConnectionRefusedError, client.connect, ("b", 79))
            await client.connect(("b", 80))
            assert client.getpeername() == ("10.0.0.2", 80)
            with pytest.raises(OSError) as caught:
                await client.connect(("b", 80))
            assert caught.value.errno == errno.EISCONN
        nursery.cancel_scope.cancel()


@on_guests
async def test_a_guest_talks_to_itself(guests):
    async with guests.a.activate(), trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, shout, 80)
        assert await ask("localhost", 80, b"me") == (b"ME", "::1")
        assert await ask("0.0.0.0", 80, b"me") == (b"ME", "127.0.0.1")
        nursery.cancel_scope.cancel()


@on_guests
async def test_the_guest_s_own_calls(guests):
    where = []

    async def handler(stream):
        where.append(trio.socket.socket()._table.host.name)
        await shout(stream)

    async with trio.open_nursery() as nursery:
        (listener, _) = await nursery.start(guests.b.serve_tcp, handler, 0)
        port = listener.socket.getsockname()[1]
        for target in ("b", "10.0.0.2", guests.b, guests.b.address):
            async with await guests.a.open_tcp_stream(target, port) as stream:
                assert isinstance(stream, trio.abc.HalfCloseableStream)
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"X"
        await (await guests.b.open_tcp_stream("localhost", port)).aclose()
        assert set(where) == {"b"}, "the handlers are programs of the guest"
        with pytest.raises(ConnectionRefusedError):
            await guests.a.open_tcp_stream("b", 1)
        with pytest.raises(UsageError):
            await guests.a.open_tcp_stream("b", 70_000)
        with pytest.raises(OSError) as caught:
            await guests.b.serve_tcp(handler, port)
        assert caught.value.errno == errno.EADDRINUSE
        nursery.cancel_scope.cancel()


@on_guests
async def test_options_reach_the_connection(guests):
    s = trio.socket
    async with trio.open_nursery() as nursery:
        await nursery.start(guests.b.serve_tcp, shout, 80)
        async with guests.a.activate():
            sock = s.socket()
            sock.setsockopt(s.SOL_SOCKET, s.SO_KEEPALIVE, 1)
            sock.setsockopt(s.IPPROTO_TCP, s.TCP_KEEPIDLE, 5)
            await sock.connect(("b", 80))
        (connection,) = guests.a.host.tcp.connections
        assert (connection.no_delay, connection.keep_alive) == (False, 5 * SECOND)
        sock.setsockopt(s.IPPROTO_TCP, s.TCP_NODELAY, 1)
        sock.setsockopt(s.SOL_SOCKET, s.SO_KEEPALIVE, 0)
        assert (connection.no_delay, connection.keep_alive) == (True, None)
        nursery.cancel_scope.cancel()


@on_guests
async def test_datagrams_between_guests_and_what_icmp_says(guests):
    s = trio.socket
    async with guests.b.activate():
        server = s.socket(s.AF_INET, s.SOCK_DGRAM)
        await server.bind(("", 53))
        assert server.getsockname() == ("0.0.0.0", 53)
    async with guests.a.activate():
        client = s.socket(s.AF_INET, s.SOCK_DGRAM)
        await client.sendto(b"hello", ("b", 53))
        payload, (address, port) = await server.recvfrom(100)
        assert (payload, address) == (b"hello", "10.0.0.1") and port == client.getsockname()[1]
        await client.connect(("b", 54))
        assert client.getsockname() == ("10.0.0.1", port)
        await client.send(b"anybody?")
        await expect(ConnectionRefusedError, client.recv, 10)
        with pytest.raises(OSError) as caught:
            await client.sendto(b"x", ("192.0.2.1", 9))
        assert caught.value.errno == errno.ENETUNREACH
        await client.sendto(b"not from the peer", ("b", 53))
        await server.sendto(b"dropped", ("10.0.0.1", port))
        await trio.sleep(1)
        assert not client.is_readable() and guests.a.host.drops["udp-peer"] == 1
        client.setsockopt(s.SOL_SOCKET, s.SO_BROADCAST, 1)
        client.setsockopt(s.IPPROTO_IP, s.IP_TTL, 9)
        await client.sendto(b"to all", ("10.0.0.255", 53))
        await server.recv(100)
        assert await server.recv(100) == b"to all"
