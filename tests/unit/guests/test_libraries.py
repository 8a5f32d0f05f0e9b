"""Libraries for trio, unmodified, as programs of two guests, over both IP versions: httpx and h11, anyio, trio-websocket,
dnspython."""

from __future__ import annotations

import socket as stdlib_socket
import subprocess
import sys

import anyio
import dns.asyncquery
import dns.asyncresolver
import dns.message
import dns.rdatatype
import dns.resolver
import dns.rrset
import h11
import httpx
import pytest
import trio
from socket_bed import in_places
from trio_websocket import ConnectionClosed, open_websocket, serve_websocket

on_two_guests = in_places(["fake", "guests"])


def in_url(address):
    return f"[{address}]" if ":" in address else address


async def http_server(stream):
    """Answer requests as the documentation of h11 does it."""
    connection = h11.Connection(h11.SERVER)
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            body = event.target + b" "
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            head = h11.Response(status_code=200, headers=[("content-length", str(len(body)))])
            for answer in (head, h11.Data(data=body), h11.EndOfMessage()):
                await stream.send_all(connection.send(answer))
            if connection.our_state is h11.MUST_CLOSE:
                break
            connection.start_next_cycle()
        else:
            break
    await stream.aclose()


@on_two_guests
async def test_httpx_talks_to_an_h11_server(guests):
    async def client():
        async with httpx.AsyncClient(verify=False, trust_env=False) as session:
            assert (await session.get("http://b/hello")).text == "/hello "
            big = b"0123456789" * 20_000
            response = await session.post(f"http://{in_url(guests.server_address)}:80/", content=big)
            assert response.content == b"/ " + big
            with pytest.raises(httpx.ConnectError):
                await session.get("http://b:81/")
            with pytest.raises(httpx.ConnectError):
                await session.get("http://www.example.org/")

    async with trio.open_nursery() as nursery:
        await nursery.start(guests.b.serve_tcp, http_server, 80)
        await guests.a.run(client)
        nursery.cancel_scope.cancel()


@on_two_guests
async def test_many_requests_at_once(guests):
    async def client():
        async with httpx.AsyncClient(verify=False, trust_env=False) as session, trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(get, session, number)

    async def get(session, number):
        assert (await session.get(f"http://b/{number}")).text == f"/{number} "

    async with trio.open_nursery() as nursery:
        await nursery.start(guests.b.serve_tcp, http_server, 80)
        await guests.a.run(client)
        nursery.cancel_scope.cancel()


@on_two_guests
async def test_websockets(guests):
    async def echo(request):
        websocket = await request.accept()
        try:
            while True:
                await websocket.send_message((await websocket.get_message())[::-1])
        except ConnectionClosed:
            pass

    async def client():
        async with open_websocket("b", 8080, "/chat", use_ssl=False) as websocket:
            for text in ("hello", "x" * 100_000):
                await websocket.send_message(text)
                assert await websocket.get_message() == text[::-1]
            await websocket.ping(b"still there?")
        assert websocket.closed.code == 1000

    async with trio.open_nursery() as nursery, guests.b.activate():
        await nursery.start(serve_websocket, echo, None, 8080, None)
        await guests.a.run(client)
        nursery.cancel_scope.cancel()


@on_two_guests
async def test_dnspython_asks_over_udp_and_then_over_tcp(guests):
    def answer(octets, *, is_datagram):
        reply = dns.message.make_response(dns.message.from_wire(octets))
        (question,) = reply.question
        name = question.name.to_text()
        if name == "many.example." and is_datagram:
            reply.flags |= dns.flags.TC
        elif name in ("many.example.", "one.example.") and question.rdtype == dns.rdatatype.A:
            count = 200 if name == "many.example." else 1
            addresses = [f"192.0.2.{number}" for number in range(count)]
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", *addresses))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()

    async def over_udp(*, task_status):
        with trio.socket.socket(guests.family, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("", 53))
            task_status.started()
            while True:
                octets, peer = await sock.recvfrom(4096)
                await sock.sendto(answer(octets, is_datagram=True), peer)

    async def over_tcp(stream):
        octets = await stream.receive_some()
        reply = answer(octets[2:], is_datagram=False)
        await stream.send_all(len(reply).to_bytes(2, "big") + reply)

    async def client():
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [guests.server_address]
        assert [each.address for each in await resolver.resolve("one.example", "A")] == ["192.0.2.0"]
        assert len(list(await resolver.resolve("many.example", "A"))) == 200
        with pytest.raises(dns.resolver.NXDOMAIN):
            await resolver.resolve("none.example", "A")
        before = trio.current_time()
        with pytest.raises(dns.exception.Timeout):
            await dns.asyncquery.udp(dns.message.make_query("one.example", "A"), f"{guests.server_address}9", timeout=3)
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)

    async with trio.open_nursery() as nursery:
        async with guests.b.activate():
            await nursery.start(over_udp)
            await nursery.start(trio.serve_tcp, over_tcp, 53)
        await guests.a.run(client)
        nursery.cancel_scope.cancel()


@on_two_guests
async def test_anyio(guests):
    async def echo(stream):
        async for part in stream:
            await stream.send_all(part)

    async def client():
        async with await anyio.connect_tcp("b", 7) as stream:
            assert stream.extra(anyio.abc.SocketAttribute.remote_address)[:2] == (guests.server_address, 7)
            assert stream.extra(anyio.abc.SocketAttribute.local_address)[0] == guests.server_address[:-1] + "1"
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        with pytest.raises(OSError):
            await anyio.connect_tcp("b", 8)

    async with trio.open_nursery() as nursery:
        await nursery.start(guests.b.serve_tcp, echo, 7)
        await guests.a.run(client)
        nursery.cancel_scope.cancel()


@on_two_guests
async def test_servers_of_anyio_are_those_of_the_guest(guests):
    async def echo(stream):
        async with stream:
            async for part in stream:
                await stream.send(part)

    async def serve(*, task_status):
        async with await anyio.create_tcp_listener(local_host=guests.server_address) as listener:
            task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(echo)

    async def serve_datagrams(*, task_status):
        async with await anyio.create_udp_socket(local_host=guests.server_address, local_port=7) as sock:
            task_status.started()
            async for packet, (host, port) in sock:
                await sock.sendto(packet, host, port)

    async def client(port):
        async with await anyio.connect_tcp("b", port) as stream:
            assert stream.extra(anyio.abc.SocketAttribute.remote_address) == (guests.server_address, port)
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
        async with await anyio.create_connected_udp_socket(guests.server_address, 7) as sock:
            await sock.send(b"hello")
            assert await sock.receive() == b"hello"

    async with trio.open_nursery() as nursery:
        async with guests.b.activate():
            port = await nursery.start(serve)
            await nursery.start(serve_datagrams)
            for host in ("192.0.2.1", "none.example"):
                with pytest.raises(OSError):
                    await anyio.create_tcp_listener(local_host=host, local_port=80)
            with pytest.raises(OSError):
                await anyio.create_unix_listener("/tmp/nowhere")
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener:  # the machine's
            assert type(listener.listeners[0]._raw_socket) is stdlib_socket.socket
        await guests.a.run(client, port)
        nursery.cancel_scope.cancel()


PROGRAM = """
import anyio, trio, vnet
from vnet.guests.trio_sockets import GuestSocket

async def serve():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        return type(listener.listeners[0]._raw_socket)

async def main():
    text = "{name: one, networks: {lan: {subnet: 10.0.0.0/24}}, guests: {a: {nics: [{network: lan, address: 10.0.0.1/24}]}}}"
    async with vnet.open_lab(vnet.parse_topology(text)) as lab:
        assert await lab.guests["a"].run(serve) is GuestSocket

vnet.simulate(main)
"""


def test_anyio_s_sockets_are_caught_though_it_imports_them_late():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
