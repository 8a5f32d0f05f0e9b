"""Multicast between an emulated host and Linux, both ways; tshark reads what the host tells the link of its groups."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import trio

from tests.interop.live_labs import PAIR, guest, live, needs, program, run
from vnet.runtime.sinks import FileSink
from vnet.wire import igmp, ipv4

pytestmark = [*needs("tshark"), pytest.mark.trio]

OURS, LINUX, GROUP = "10.77.0.1", "10.77.0.2", "239.1.2.3"
LISTENS = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
s.bind(("{GROUP}", 5000))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("{GROUP}") + socket.inet_aton("{LINUX}"))
print("listening", flush=True)
print(s.recvfrom(100), flush=True)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("{LINUX}"))
s.sendto(b"from Linux", ("{GROUP}", 6000))
"""


async def messages(file: Path) -> list[tuple[str, ...]]:
    """Dissect the IGMP messages of a capture; none is malformed, and their checksums are right."""
    fields = ["ip.src", "ip.dst", "igmp.type", "igmp.record_type", "igmp.maddr"]
    fields += ["igmp.checksum.status", "_ws.malformed", "ip.ttl"]
    words = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), "-Y", "igmp", "-T", "fields", *words]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert all(row[5:] == ["1", "", "1"] for row in rows), rows
    return [tuple(row[:5]) for row in rows]


async def test_groups_both_ways_and_what_is_told_of_them(tmp_path: Path) -> None:
    heard = []

    async def talk() -> None:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("", 6000))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + bytes(4))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            await sock.sendto(b"from us", (GROUP, 5000))
            heard.append(await sock.recvfrom(100))

    async with live(PAIR) as lab:
        linux = guest(lab, "linux")
        capture = lab.captures.start(FileSink(tmp_path / "c.pcapng"), ["emulated"])
        async with program(linux, sys.executable, "-c", LISTENS, ready="listening") as listener:
            await lab.guests["emulated"].run(talk)
            await listener.says("b'from us', ('10.77.0.1', 6000)")
            assert await listener.ends() == 0
        assert heard == [(b"from Linux", (LINUX, 5000))]
        capture.finish()
    rows = await messages(tmp_path / "c.pcapng")
    told = [row[2:] for row in rows if row[0] == OURS]
    assert told[0] == ("0x22", str(igmp.TO_EXCLUDE), GROUP) and told[-1] == ("0x22", str(igmp.TO_INCLUDE), GROUP)
    assert {row[1] for row in rows if row[0] == OURS} == {"224.0.0.22"}


ASKS = f"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
s.settimeout(20)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("{LINUX}"))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.22") + socket.inet_aton("{LINUX}"))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
s.sendto(bytes.fromhex(sys.argv[1]), ("224.0.0.1", 0))
while True:
    packet, (source, _) = s.recvfrom(2000)
    if source == "{OURS}" and packet[24] == int(sys.argv[2]):
        break
print(packet[24:].hex(), flush=True)
"""


async def test_a_router_on_linux_asks_and_is_answered() -> None:
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        interface = host.interfaces["eth0"]
        host.groups.join(interface, socket.inet_aton(GROUP))
        query = igmp.query_v3(ipv4.ANY, 5)
        said = await run(linux, sys.executable, "-c", ASKS, query.hex(), str(igmp.REPORT_V3))
        assert bytes.fromhex(said)[8:] in (
            bytes((kind, 0, 0, 0)) + socket.inet_aton(GROUP) for kind in (igmp.IS_EXCLUDE, igmp.TO_EXCLUDE)
        )
