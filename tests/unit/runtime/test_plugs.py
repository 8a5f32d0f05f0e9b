"""Ports plugged into a running lab: who gets what, in which VLAN, and that nothing of them stays."""

from __future__ import annotations

import os
from pathlib import Path
from struct import pack

import pytest
import trio

import vnet
from vnet.addresses import BROADCAST
from vnet.errors import HostError, UsageError
from vnet.runtime.plugs import Plug
from vnet.runtime.views import show
from vnet.topology import parse_topology

TOPOLOGY = parse_topology(
    """
name: plugs
networks:
  lan: {vlan: 16, subnet: 10.0.0.0/24}
  far: {vlan: 20, subnet: 10.0.1.0/24, dhcp: {}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge]}]
guests:
  a: {nics: [{network: lan, address: 10.0.0.1/24}]}
  b: {nics: [{network: far, address: 10.0.1.5/24}]}
""",
    source="plugs",
)
MAC = bytes.fromhex("525400aabbcc")
pytestmark = pytest.mark.usefixtures("run_directory")


def request(address: bytes, tag: bytes = b"") -> bytes:
    """Ask who has an address (RFC 826), in a frame with a tag or without."""
    packet = bytes.fromhex("0001080006040001") + MAC + bytes((0, 0, 0, 0)) + bytes(6) + address
    return (BROADCAST + MAC + tag + b"\x08\x06" + packet).ljust(60, b"\0")


class Machine:
    """Stands for a VM behind a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""

    @classmethod
    async def at(cls, plug: Plug) -> Machine:
        return cls(await trio.open_unix_socket(str(plug.adapter.details()["socket"])))

    async def send(self, frame: bytes) -> None:
        await self._stream.send_all(pack(">I", len(frame)) + frame)

    async def receive(self) -> bytes:
        with trio.fail_after(5):
            while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:4], "big"):
                piece = await self._stream.receive_some()
                assert piece, "closed"
                self._data += piece
        octets = int.from_bytes(self._data[:4], "big")
        frame, self._data = self._data[4 : 4 + octets], self._data[4 + octets :]
        return frame


@pytest.mark.trio
async def test_a_machine_is_on_the_network_it_is_plugged_into(run_directory: Path) -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        ports = set(lab.ports)
        plug = await lab.plug("lan", mac="52:54:00:aa:bb:cc")
        socket = run_directory / "plugs" / "p1.sock"
        assert plug.command == (
            f"qemu-system-x86_64 -netdev stream,id=vm1,server=off,addr.type=unix,addr.path={socket}"
            " -device virtio-net-pci,netdev=vm1,mac=52:54:00:aa:bb:cc"
        )
        machine = await Machine.at(plug)
        await machine.send(request(bytes((10, 0, 1, 5))))
        await machine.send(request(bytes((10, 0, 0, 1))))
        reply = await machine.receive()
        assert reply[:6] == MAC and reply[28:32] == bytes((10, 0, 0, 1)), "only the guest of its own VLAN answers"
        (row,) = [row for row in show(lab, "ports") if row["plug"]]
        assert (row["switch"], row["port"], row["peer"], row["pvid"]) == ("core", 1001, "vm1:eth0", 16)
        assert [entry["owner"] for entry in show(lab, "fdb") if entry["mac"] == "52:54:00:aa:bb:cc"][0] == "vm1:eth0"
        await lab.unplug("vm1")
        assert set(lab.ports) == ports and not socket.exists() and len(lab.plugs) == 0
        assert not [entry for entry in show(lab, "fdb") if entry["port"] == 1001]
        again = await lab.plug("lan")
        assert (again.name, again.number) == ("vm1", 1001)
    assert not run_directory.joinpath("plugs").exists()


@pytest.mark.trio
async def test_a_trunk_carries_tags() -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        plug = await lab.plug(trunk=["far"], native="lan", switch="edge", name="both")
        machine = await Machine.at(plug)
        await machine.send(request(bytes((10, 0, 0, 1))))
        assert (await machine.receive())[12:14] == b"\x08\x06"
        await machine.send(request(bytes((10, 0, 1, 5)), bytes.fromhex("81000014")))
        assert (await machine.receive())[12:18] == bytes.fromhex("810000140806")
        every = await lab.plug("far", trunk=["all"])
        (row,) = [row for row in show(lab, "ports") if row["name"] == every.switch + ":vm1:eth0"]
        assert (row["tagged"], row["untagged"], row["pvid"]) == ("all", [20], 20)


@pytest.mark.trio
async def test_each_kind_prints_what_its_program_wants(run_directory: Path) -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        dgram = await lab.plug("lan", kind="qemu-dgram", model="tulip")
        where = run_directory / "plugs"
        assert dgram.argv[2] == (
            f"dgram,id=vm1,local.type=unix,local.path={where}/p1.sock.vm,remote.type=unix,remote.path={where}/p1.sock"
        )
        assert dgram.argv[4].startswith("tulip,netdev=vm1,mac=52:54:00:")
        legacy = await lab.plug("lan", kind="qemu-legacy")
        uml = await lab.plug("lan", kind="uml", mac="52:54:00:aa:bb:cc", name="um")
        assert uml.command == f"linux.uml vec0:transport=bess,dst={where}/p3.sock,mac=52:54:00:aa:bb:cc"
        assert legacy.argv[2].startswith("socket,id=vm2,connect=127.0.0.1:") and not legacy.argv[2].endswith(":0")
        host, _, port = legacy.argv[2].partition("connect=")[2].partition(":")
        machine = Machine(trio.SocketStream((await trio.open_tcp_stream(host, int(port))).socket))
        await machine.send(request(bytes((10, 0, 0, 1))))
        assert (await machine.receive())[28:32] == bytes((10, 0, 0, 1))


@pytest.mark.trio
@pytest.mark.parametrize(
    ("network", "options", "told"),
    [
        ("lann", {}, "no network lann"),
        (None, {}, "which network?"),
        ("lan", {"vlan": "20"}, "give one of them"),
        (None, {"vlan": "4095"}, "is no VLAN"),
        (None, {"trunk": ["20-16"]}, "is no VLAN"),
        ("lan", {"native": "16"}, "only a trunk"),
        ("lan", {"kind": "qemu-streem"}, "did you mean 'qemu-stream'?"),
        ("lan", {"model": "rtl8319"}, "did you mean 'rtl8139'?"),
        ("lan", {"mac": "01:00:5e:00:00:01"}, "group address"),
        ("lan", {"mac": "1:2"}, "is not a MAC address"),
        ("lan", {"switch": "cor"}, "did you mean 'core'?"),
        ("lan", {"kind": "uml", "model": "e1000"}, "linux.uml has one kind of NIC; leave the model e1000 out"),
        ("lan", {"name": "a"}, "there is a 'a' in this lab already"),
        ("lan", {"name": "a:b"}, "cannot be a name"),
    ],
)
async def test_what_cannot_be_is_refused(network: str | None, options: dict[str, str], told: str) -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        before = set(lab.ports)
        with pytest.raises(UsageError) as caught:
            await lab.plug(network, **options)  # type: ignore[arg-type]
        assert told in str(caught.value)
        assert set(lab.ports) == before and len(lab.plugs) == 0


@pytest.mark.trio
async def test_a_refusal_of_the_machine_leaves_nothing(run_directory: Path) -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        (run_directory / "plugs" / "p1.sock").write_text("in the way")
        before, open_files = set(lab.ports), len(os.listdir("/proc/self/fd"))
        with pytest.raises(HostError, match="there is a file of that name"):
            await lab.plug("lan")
        assert set(lab.ports) == before and len(os.listdir("/proc/self/fd")) == open_files


def test_nothing_is_plugged_into_a_simulation() -> None:
    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            with pytest.raises(UsageError, match="simulated"):
                await lab.plug("lan")

    vnet.simulate(main)
