"""ping, traceroute, arping and iperf3 across switches, a plain router and NAT."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import trio
from live_labs import EXTERNAL, INNER, PC, PERIMETER, SITE, WEB, WWW, guest, live, needs, program, run

from vnet.guests.namespace import NamespaceGuest

pytestmark = needs("ping", "traceroute", "arping", "iperf3")

SIZES = (0, 1, 55, 56, 1471, 1472, 1473, 2952, 2953, 9000, 65507)
"""Octets of data: none, the usual, the last that fits one packet, the first in two and three pieces, the most there is."""

NARROW = """
name: NAME
networks:
  wide: {subnet: 10.1.0.0/24}
  narrow: {subnet: 10.2.0.0/24}
routers:
  router: {interfaces: {wide: 10.1.0.1/24, narrow: {address: 10.2.0.1/24, mtu: 1400}}NAT}
guests:
  a: {kind: namespace, nics: [{network: wide, address: 10.1.0.2/24}]}
  b: {kind: namespace, nics: [{network: narrow, address: 10.2.0.2/24, mtu: 1400GATEWAY}]}
"""


@pytest.mark.trio
@pytest.mark.parametrize("target", [INNER, WEB, PERIMETER, EXTERNAL, WWW])
async def test_ping_of_all_sizes(target: str) -> None:
    """To the near router, behind it, to the NAT's inside and outside address, and through the NAT.

    With a deadline (-w): without, ping waits two round trips for the last answer, which is nothing on a busy machine.
    """
    async with live(SITE) as lab:
        pc = guest(lab, "pc")
        for size in SIZES:
            said = await run(pc, "ping", "-c", "2", "-i", "0.01", "-w", "10", "-s", str(size), target)
            assert "2 received" in said and "DUP" not in said and "wrong" not in said, said
        many = await run(pc, "ping", "-f", "-c", "300", "-w", "10", target)
        assert "300 received" in many, many
        for router in lab.routers.values():
            assert not router.drops and not router.host.drops


@pytest.mark.trio
@pytest.mark.parametrize("nat", [False, True], ids=["plain", "nat"])
async def test_the_path_mtu_is_found(nat: bool) -> None:
    """A router says "fragmentation needed" with the next hop's MTU (RFC 1191); Linux believes it, for TCP too."""
    text = NARROW.replace("NAT}", ", nat: {outside: narrow, inside: [wide]}}" if nat else "}")
    async with live(text.replace("GATEWAY", ", gateway: none" if nat else "")) as lab:
        a, b = guest(lab, "a"), guest(lab, "b")
        too_long = await run(a, "ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1373", "10.2.0.2", status=1)
        assert re.search(r"From 10\.1\.0\.1 .*Frag needed and DF set \(mtu = 1400\)", too_long), too_long
        assert "1400" in await run(a, "ip", "route", "get", "10.2.0.2")
        await run(a, "ip", "route", "flush", "cache")
        assert "1 received" in await run(a, "ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1372", "10.2.0.2")
        assert "1 received" in await run(a, "ping", "-c", "1", "-W", "5", "-M", "dont", "-s", "4000", "10.2.0.2")
        async with program(b, "iperf3", "-s", "--forceflush", ready="listening"):
            report = await iperf(a, "10.2.0.2", "-n", "5M")
        assert report["end"]["sum_sent"]["bytes"] >= 5 * 2**20


@pytest.mark.trio
async def test_traceroute_shows_the_hops() -> None:
    async with live(SITE) as lab:
        pc, www = guest(lab, "pc"), guest(lab, "www")
        for target in (www, guest(lab, "web")):  # or else Linux answers six probes at once and then one a second
            await run(target, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit")
        for how in ([], ["-I"], ["-T", "-p", "80"], ["-U"]):
            # through the plain router and the NAT, whose hops answer with their near side
            assert await hops(pc, *how, WWW) == [INNER, PERIMETER, WWW], how
            assert await hops(pc, *how, WEB) == [INNER, WEB], how
            assert await hops(pc, *how, INNER) == [INNER], how
        assert await hops(pc, "-I", EXTERNAL) == [INNER, EXTERNAL]
        # from outside nothing behind the NAT is to be seen
        assert await hops(www, "-I", EXTERNAL) == [EXTERNAL]
        await run(www, "ip", "route", "add", "10.20.100.0/24", "via", EXTERNAL)
        said = await run(www, "traceroute", "-n", "-w", "0.3", "-m", "3", PC)
        assert re.findall(r"\d+\.\d+\.\d+\.\d+", said)[2:] == [EXTERNAL], "it knows of the TTL, and no further"


async def hops(where: NamespaceGuest, *arguments: str) -> list[str]:
    """Run traceroute, three probes a hop; all answers of a hop must come from one address."""
    said = await run(where, "traceroute", "-n", "-w", "3", "-m", "6", *arguments)
    lines = [line.split()[1:] for line in said.splitlines()[1:]]
    assert all(len(line) == 7 for line in lines), said  # one address and three times with their unit
    return [line[0] for line in lines]


@pytest.mark.trio
async def test_arping() -> None:
    """Linux, a router and an emulated host answer ARP; a free address is found free (RFC 5227)."""
    async with live(SITE + "  phone: {nics: [{network: office, address: 10.20.100.11/24}]}\n") as lab:
        pc = guest(lab, "pc")
        arping = ("arping", "-I", "eth0", "-w", "5")

        async def answers(target: str, mac: bytes) -> None:
            said = await run(pc, *arping, "-c", "2", target)
            assert said.count(mac.hex(":").upper()) == 2 and "Received 2 response" in said, said
            assert "Received 1 response" in await run(pc, *arping, "-D", "-c", "1", target, status=1)

        async def is_free(target: str) -> None:
            assert "Received 0 response" in await run(pc, *arping, "-D", "-c", "1", target)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers, INNER, lab.routers["inner"].interfaces["office"].mac)
            nursery.start_soon(answers, "10.20.100.11", lab.guests["phone"].interfaces()[0].mac)
            nursery.start_soon(is_free, "10.20.100.99")
            nursery.start_soon(is_free, WEB)  # ARP stays on its network


async def iperf(where: NamespaceGuest, *arguments: str) -> dict:
    done = await where.exec("iperf3", "-J", "-c", *arguments)
    assert done.ok, done
    return json.loads(done.output)


@pytest.mark.trio
@pytest.mark.parametrize("flows", [1, 8])
@pytest.mark.parametrize("direction", [(), ("-R",), ("--bidir",)], ids=["up", "down", "both"])
@pytest.mark.parametrize("server", ["www", "web"])
async def test_iperf3_tcp(
    flows: int, direction: tuple[str, ...], server: str, record_property: Callable[[str, object], None]
) -> None:
    """Through the NAT and through the plain router."""
    async with live(SITE) as lab:
        async with program(guest(lab, server), "iperf3", "-s", "--forceflush", ready="listening"):
            address = {"www": WWW, "web": WEB}[server]
            report = await iperf(guest(lab, "pc"), address, "-P", str(flows), "-n", "32M", *direction)
        end = report["end"]
        assert len(end["streams"]) == flows * (2 if "--bidir" in direction else 1)
        assert max(end[way]["bytes"] for way in ("sum_sent", "sum_sent_bidir_reverse") if way in end) >= 32 * 2**20
        assert all(stream["receiver"]["bytes"] for stream in end["streams"]), "every flow gets its share"
        record_property("Gbit/s", round(end["sum_received"]["bits_per_second"] / 1e9, 2))
        assert not lab.routers["perimeter"].drops and not lab.routers["inner"].drops


@pytest.mark.trio
@pytest.mark.parametrize("length", ["64", "1400", "8000"])
@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["up", "down"])
async def test_iperf3_udp(length: str, direction: tuple[str, ...]) -> None:
    """Small, full and fragmented datagrams through the NAT, at a rate that nobody has reason to drop at."""
    async with live(SITE) as lab:
        async with program(guest(lab, "www"), "iperf3", "-s", "--forceflush", ready="listening"):
            options = ("-u", "-b", "8M", "-l", length, "-n", "250K", "-w", "1M", *direction)
            report = await iperf(guest(lab, "pc"), WWW, *options)
        total = report["end"]["sum"]
        assert total["packets"] >= 250 * 1024 // int(length) and total["lost_packets"] == 0, total
        assert not lab.routers["perimeter"].drops and not lab.routers["inner"].drops
