"""IPv6 in a topology file: static and link-local addresses, beside IPv4 and alone, over switches and routes."""

from __future__ import annotations

import hashlib
from ipaddress import IPv6Address, IPv6Interface

import dns.asyncquery
import dns.message
import pytest
import trio

import vnet
from vnet.guests.base import Verdict
from vnet.runtime.sinks import MemorySink

LAB = """
name: six
networks:
  lan: {subnet: 10.0.0.0/24}
  six: {subnet: "2001:db8:6::/64"}
switches: {one: {}, two: {}}
links: [{between: [one, two], trunk: all}]
guests:
  both: {nics: [{network: lan, address: [10.0.0.1/24, "2001:db8::1/64"]}]}
  far: {switch: two, nics: [{network: lan, address: ["2001:db8::2/64", 10.0.0.2]}]}
  alone: {nics: [{network: six, address: "2001:db8:6::3"}]}
  gate: {nics: [{network: six, address: "2001:db8:6::1"}], routes: [{to: "2001:db8:9::/48", via: "2001:db8:6::3"}]}
  out: {nics: [{network: six, address: "2001:db8:6::4", gateway: "2001:db8:6::1"}]}
  local: {nics: [{network: six, ipv6: link-local, gateway: none}]}
  old: {nics: [{network: lan, address: 10.0.0.3}]}
"""


@pytest.mark.vnet(LAB)
async def test_ping_by_address_and_name(lab):
    assert lab.guests["old"].host.ipv6 is None, "who has no use for it does without"
    reply = await lab.ping("both", "2001:db8::2")
    assert reply.ok and reply.responder == IPv6Address("2001:db8::2")
    assert (await lab.ping("both", "far")).responder == lab.guests["far"].address, "a name means IPv4 if there is any"
    assert str(lab.guests["far"].address) == "10.0.0.2" and str(lab.guests["far"].address6) == "2001:db8::2"
    reply = await lab.ping("gate", "alone")
    assert reply.ok and str(reply.responder) == "2001:db8:6::3", "a guest with IPv6 only"
    assert (await lab.ping("old", "2001:db8::2")).error == "no route"
    assert (await lab.ping("both", "2001:db8:6::3")).error == "no route", "another network, and no router speaks IPv6"
    link_local = lab.guests["local"].interfaces()[0].addresses[0].ip
    assert (await lab.ping("alone", link_local)).ok


@pytest.mark.vnet(LAB)
async def test_programs_on_guests(lab):
    both, far = lab.guests["both"], lab.guests["far"]
    await lab.wait_up()
    async with await far.open_udp_socket(7) as server, await both.open_udp_socket() as client:
        await client.send_to(b"six", ("2001:db8::2", 7))
        payload, peer = await server.receive()
        assert (payload, peer) == (b"six", (IPv6Address("2001:db8::1"), client.port))
        await server.send_to(b"back", peer)
        assert await client.receive() == (b"back", (IPv6Address("2001:db8::2"), 7))
    refused = await both.udp_probe("2001:db8::2", 9)
    assert (refused.verdict, refused.error) == (Verdict.CLOSED, "port unreachable")
    lost = await both.ping("2001:db8::77", timeout=5)
    assert lost.error == "address unreachable" and not lost.ok
    assert (await both.tcp_probe("2001:db8::2", 80)).verdict is Verdict.CLOSED
    assert (await both.tcp_probe("2001:db8::77", 80, timeout=5)).error == "address unreachable"
    assert (await lab.guests["old"].tcp_probe("2001:db8::2", 80)).error == "no route"
    assert [str(hop.address) for hop in await both.traceroute("2001:db8::2")] == ["2001:db8::2"]


@pytest.mark.vnet(LAB)
async def test_the_file_decides_about_routes_and_what_is_shown(lab):
    await lab.guests["gate"].wait_up()
    routes = {str(route.network): route.gateway for route in lab.guests["gate"].host.ipv6.routes}
    assert routes == {"2001:db8:9::/48": IPv6Address("2001:db8:6::3").packed, "2001:db8:6::/64": None}
    (state,) = lab.guests["out"].interfaces()
    assert state.gateway == IPv6Address("2001:db8:6::1")
    assert lab.guests["out"].host.ipv6.routes.lookup(IPv6Address("2001:db8:77::").packed).gateway == state.gateway.packed
    (state,) = lab.guests["both"].interfaces()
    assert [str(address) for address in state.addresses][:2] == ["10.0.0.1/24", "2001:db8::1/64"]
    assert state.addresses[2].is_link_local


@pytest.mark.vnet(
    """
name: mixed
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests:
  a: {nics: [{network: lan, address: "2001:db8::1/64", dhcp: true}]}
  b: {nics: [{network: lan, address: "2001:db8::2/64"}]}
"""
)
async def test_dhcp_for_ipv4_beside_a_static_ipv6_address(lab):
    await lab.wait_up()
    assert [each.version for each in lab.guests["a"].interfaces()[0].addresses] == [4, 6, 6]
    assert lab.guests["a"].lease() is not None and lab.guests["b"].lease() is None
    assert (await lab.ping("a", "b")).ok and str(lab.guests["b"].address) == "2001:db8::2"


def test_two_guests_with_one_address():
    text = """
name: clash
networks: {lan: {}}
guests:
  a: {nics: [{network: lan, address: "2001:db8::1/64"}]}
  b: {nics: [{network: lan, ipv6: auto}]}
"""

    async def main():
        async with vnet.open_lab(vnet.parse_topology(text)) as lab:
            lab.guests["b"].host.interfaces["eth0"].ipv6.add_address(IPv6Interface("2001:db8::1/64"))
            await lab.wait_up()
            owners = [name for name in lab.guests if str(lab.guests[name].address) == "2001:db8::1"]
            assert len(owners) == 1
            return [event.kind for event in lab.events if event.kind.startswith("address")], lab.now

    kinds, now = vnet.simulate(main, seed=3)
    assert kinds == ["address-taken"] and 1 <= now <= 2
    assert vnet.simulate(main, seed=3) == (kinds, now), "one seed, one result"


@pytest.mark.vnet(LAB)
async def test_a_guest_that_crashes_and_comes_back(lab):
    assert (await lab.ping("both", "2001:db8::2")).ok
    both, far = lab.guests["both"], lab.guests["far"]
    with pytest.raises(ConnectionRefusedError):
        await both.open_tcp_stream("2001:db8::2", 80)

    async with far.activate():
        (listener,) = await trio.open_tcp_listeners(80, host="2001:db8::2")
    stream = await both.open_tcp_stream("2001:db8::2", 80)
    server = await listener.accept()
    await stream.send_all(b"hello")
    assert await server.receive_some() == b"hello"
    lab.faults.crash("far")
    assert not await lab.ping("both", "2001:db8::2")
    lab.faults.restart("far")
    await stream.send_all(b"are you there?")
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert (await lab.ping("both", "2001:db8::2")).ok


FAR = """
name: far
networks: {n: {vlan: 10}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, rate: 50mbit, latency: 5ms, loss: 2%}]
guests:
  a: {switch: edge, nics: [{network: n, address: ["2001:db8::1/64", 10.0.0.1/24]}]}
  b: {switch: core, nics: [{network: n, address: ["2001:db8::2/64", 10.0.0.2/24]}]}
"""


def test_programs_over_a_lossy_trunk_again_and_again_the_same():
    """Uploads over both IP versions at once, through tags and losses; one seed is one capture, to the octet."""
    data = bytes(range(256)) * 2000

    async def digest(stream):
        found = hashlib.sha256()
        async for part in stream:
            found.update(part)
        await stream.send_all(found.digest())

    async def upload(address):
        async with await trio.open_tcp_stream(address, 80) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            assert await stream.receive_some(32) == hashlib.sha256(data).digest()

    async def main():
        async with vnet.open_lab(vnet.parse_topology(FAR)) as lab, trio.open_nursery() as nursery:
            sink = MemorySink()
            capture = lab.captures.start(sink, ["b"])
            await lab.wait_up()
            async with lab.guests["b"].activate():
                await nursery.start(trio.serve_tcp, digest, 80)
            async with lab.guests["a"].activate(), trio.open_nursery() as uploads:
                for address in ("2001:db8::2", "10.0.0.2", "2001:db8::2"):
                    uploads.start_soon(upload, address)
            nursery.cancel_scope.cancel()
            capture.finish()
        return sink.octets()

    first, again, other = (vnet.simulate(main, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    assert first.count(b"\x86\xdd\x60\x00\x00\x00") > 200, "segments of IPv6"


SERVED = """
name: served
networks: {n: {}}
guests:
  web:
    nics: [{network: n, address: ["2001:db8::1/64", 10.0.0.1/24]}]
    run: [echo, sink, iperf3, {dns: {names: {www.example: [192.0.2.1, "2001:db8::80"]}}}]
  six: {nics: [{network: n, address: "2001:db8::2/64", rate: 100mbit}], run: [sink, iperf3, echo]}
  pc:
    nics: [{network: n, address: "2001:db8::3/64"}]
    run:
      - {traffic: {to: six, rate: 100/s, duration: 2s}}
      - {traffic: {to: six, pattern: request, rate: 20/s, duration: 2s}}
      - {traffic: {to: six, pattern: bulk, duration: 1s}}
      - {iperf3_client: {to: six, time: 1s, bitrate: 10mbit}}
  old: {nics: [{network: n, address: 10.0.0.4/24}], run: [{traffic: {to: web, rate: 100/s, duration: 2s}}]}
  late:
    nics: [{network: n, address: "2001:db8::5/64"}]
    run:
      - {iperf3_client: {to: six, udp: true, bitrate: 1mbit, time: 1s, start: 5s}}
      - {traffic: {to: "2001:db8::2", rate: 100/s, duration: 1s, start: 8s}}
"""


@pytest.mark.vnet(SERVED, wait=False)
async def test_programs_of_the_file_over_both_versions(lab):
    await lab.wait_programs()
    constant, requests, bulk, iperf3 = lab.guests["pc"].results
    assert (constant["sent"], constant["lost"]) == (200, 0) and requests["sent"] > requests["lost"] == 0
    assert bulk["lost"] == 0 and bulk["received_octets"] > 1_000_000 and iperf3["received_octets"] > 1_000_000
    assert lab.guests["old"].results[0]["lost"] == 0, "the servers are for IPv4 as before"
    datagrams, to_an_address = lab.guests["late"].results
    assert datagrams["datagrams"] > 50 and datagrams["lost"] == 0
    assert (to_an_address["sent"], to_an_address["lost"]) == (100, 0)
    assert not [event.fields for event in lab.events if event.kind == "program-failed"]

    async def ask(address):
        query = dns.message.make_query("www.example", "AAAA")
        (answer,) = (await dns.asyncquery.udp(query, address, timeout=5)).answer
        assert [each.address for each in answer] == ["2001:db8::80"]
        async with await trio.open_tcp_stream(address, 7) as stream:
            await stream.send_all(b"echo")
            assert await stream.receive_some() == b"echo"

    await lab.guests["pc"].run(ask, "2001:db8::1")
    await lab.guests["old"].run(ask, "10.0.0.1")
