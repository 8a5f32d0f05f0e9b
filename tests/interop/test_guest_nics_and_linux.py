"""VLAN sub-interfaces and bonds of emulated guests, with Linux at the other end."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from linux_programs import TALK
from live_labs import guest, live, needs, program, run, until

import vnet
from vnet.runtime.filter import compile_filter
from vnet.runtime.sinks import FileSink

pytestmark = [*needs("ip", "ping", "tshark"), pytest.mark.trio]

VLANS = """
name: NAME
networks:
  home: {vlan: 1, subnet: 10.1.0.0/24}
  office: {vlan: 16, subnet: 10.16.0.0/24}
  voice: {vlan: 20}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: [1, 16, 20]}]
guests:
  emulated:
    nics:
      - trunk: [16, 20]
        native: 1
        address: 10.1.0.1
        vlans: {16: [10.16.0.1/24, "fd00:16::1/64"], 20: 10.20.0.1/24}
  linux: {kind: namespace, switch: edge, nics: [{network: office, address: [10.16.0.2/24, "fd00:16::2/64"]}]}
  native: {kind: namespace, switch: edge, nics: [{network: home, address: 10.1.0.2}]}
"""
BOND = """
name: NAME
networks: {lan: {vlan: 10}}
switches: {far: {}, core: {}, edge: {}}
links: [{between: [far, core], trunk: all}, {between: [far, edge], trunk: all}]
guests:
  emulated:
    nics:
      - network: lan
        address: [10.16.0.1/24, "fd00:16::1/64"]
        bond: {members: [core, edge], primary: eth0}
  linux: {kind: namespace, switch: far, nics: [{network: lan, address: [10.16.0.2/24, "fd00:16::2/64"]}]}
"""
SIZE = 20 << 20
EXPECTED = hashlib.sha256(bytes(range(256)) * (SIZE >> 8)).hexdigest()

CONNECT = f"""{TALK}
s = socket.create_connection(("10.16.0.1", 9000), 10)
s.settimeout(30)
talk(s, bytes(range(256)) * ({SIZE} >> 8))
"""


class Served:
    """Both halves of one connection to an emulated guest: what it sends, and a digest of what comes."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.received = 0
        self.done = trio.Event()

    async def __call__(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream)
            async for piece in stream:
                self.digest.update(piece)
                self.received += len(piece)
        self.done.set()

    @staticmethod
    async def _send(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(range(256)) * (SIZE >> 8))
        await stream.send_eof()


async def exchange(lab: vnet.Lab, halfway: Sequence[tuple[str, bool]] = ()) -> None:
    """Have 20 MB go both ways between Linux and the emulated guest, and links change on the way."""
    served = Served()
    async with trio.open_nursery() as nursery:
        await nursery.start(lab.guests["emulated"].serve_tcp, served, 9000)
        async with program(guest(lab, "linux"), sys.executable, "-c", CONNECT) as client:
            for number, (name, up) in enumerate(halfway, 1):
                share = number * SIZE // (len(halfway) + 1)
                await until(lambda share=share: served.received > share, f"{share} octets received")
                lab.links[name].up = up
            await served.done.wait()
            assert await client.ends() == 0
            await client.says(f"{SIZE} {EXPECTED}")
        nursery.cancel_scope.cancel()
    assert (served.received, served.digest.hexdigest()) == (SIZE, EXPECTED)


def shark(file: Path, *fields: str) -> list[list[str]]:
    words = [word for field in fields for word in ("-e", field)]
    command = [
        "tshark",
        "-n",
        "-r",
        str(file),
        "-otcp.check_checksum:TRUE",
        "-oip.check_checksum:TRUE",
        "-T",
        "fields",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line.split("\t") for line in done.stdout.splitlines()]


async def test_a_sub_interface_and_linux_on_an_access_port(tmp_path: Path) -> None:
    file = tmp_path / "trunk.pcapng"
    async with live(VLANS) as lab:
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        await emulated.settle()
        capture = lab.captures.start(FileSink(file), ["emulated:eth0"])
        for command in ("ping -c 3 -i 0.01 10.16.0.1", "ping -c 1 -s 6000 10.16.0.1", "ping -c 2 -i 0.01 fd00:16::1"):
            await run(linux, *command.split())
        assert (await emulated.ping("10.16.0.2", count=3)).received == 3
        assert (await emulated.ping("fd00:16::2")).ok
        assert (await emulated.tcp_probe("10.16.0.2", 80)).error == "refused"
        await run(guest(lab, "native"), "ping", "-c", "1", "10.1.0.1")
        await run(guest(lab, "native"), "ping", "-c", "1", "-W", "1", "10.16.0.1", status=2)  # no route to another VLAN
        capture.finish()
        await exchange(lab)
        mac = emulated.interfaces()[1].mac.hex(":")
        assert mac in await run(linux, "ip", "neigh", "show", "10.16.0.1")
        assert not {name for name in emulated.host.drops if name.startswith(("vlan", "offload"))}
    tags = Counter()
    for vid, priority, source, malformed in shark(file, "vlan.id", "vlan.priority", "ip.src", "_ws.malformed"):
        assert not malformed
        tags[vid] += 1
        if source.startswith("10."):
            assert vid == ("16" if source.startswith("10.16") else "") and priority in ("", "0")
    assert set(tags) == {"16", ""} and tags["16"] > 20


async def test_super_frames_of_both_carry_their_tag_and_right_checksums(tmp_path: Path) -> None:
    file = tmp_path / "bulk.pcapng"
    async with live(VLANS) as lab:
        sizes: Counter[bool] = Counter()
        port = lab.ports["emulated:eth0"]
        port.hook(tx=lambda send: lambda frame, offload: (sizes.update([len(frame) > 1518]), send(frame, offload))[1])
        await exchange(lab)
        assert sizes[True] > 100, "they left as super-frames"
        port.hook()
        capture = lab.captures.start(FileSink(file), ["emulated:eth0"], compile_filter("tcp"), count=4000)
        await exchange(lab)
        capture.finish()
    rows = shark(file, "vlan.id", "frame.len", "tcp.checksum.status", "ip.checksum.status", "ip.src")
    assert len(rows) == 4000 and {row[0] for row in rows} == {"16"}
    assert max(int(row[1]) for row in rows) == 1518
    assert {row[2] for row in rows} == {"1"} == {row[3] for row in rows}, "good, as tshark says"
    assert {row[4] for row in rows} == {"10.16.0.1", "10.16.0.2"}


@pytest.mark.alone
@pytest.mark.parametrize("target", ["10.16.0.1", "fd00:16::1"])
async def test_linux_pings_a_bond_across_a_failover(target: str) -> None:
    async with live(BOND) as lab:
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        await emulated.settle()
        await run(linux, "ping", "-c", "1", "-W", "5", target)
        before = await run(linux, "ip", "neigh", "show", target)
        async with program(linux, "ping", "-O", "-i", "0.02", "-c", "150", target) as ping:
            await ping.says("seq=40 ")
            lab.links["emulated:eth0"].up = False
            await ping.ends()
        await until(lambda: "received" in ping.said, "ping's result")
        sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", ping.said).groups())
        assert sent == 150
        assert 0 < sent - received <= 12, "100 ms of miimon are five pings; the rest is for a busy machine"
        assert emulated.interfaces()[0].active == "eth1"
        after = await run(linux, "ip", "neigh", "show", target)
        assert before.split()[4] == after.split()[4], "the MAC address is the bond's, whatever member is active"
        lab.links["emulated:eth0"].up = True
        await until(lambda: emulated.interfaces()[0].active == "eth0", "the primary is used again")
        await run(linux, "ping", "-c", "3", "-i", "0.02", target)


async def test_tcp_with_linux_outlives_two_failovers() -> None:
    async with live(BOND) as lab:
        await exchange(lab, [("emulated:eth0", False), ("emulated:eth0", True)])
        assert [event.fields["active"] for event in lab.events if event.kind == "bond"][:1] == ["eth1"]
