"""Real virtual machines (QEMU, emulating): an unmodified Debian kernel on every NIC model, its life cycle, and its end."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio
from vm_lab import BOOT, Shell, booting, machine, needs_qemu

import vnet
from vnet.adapters.resources import start_time
from vnet.errors import LabError, UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.qemu_command import empty_qcow2
from vnet.runtime.change import change
from vnet.runtime.views import show
from vnet.topology import parse_topology

pytestmark = [pytest.mark.real, pytest.mark.long, needs_qemu, pytest.mark.usefixtures("run_directory")]

BEHIND_NAT = """
name: models
networks:
  lan: {{subnet: 10.0.0.0/24, dhcp: {{}}}}
  out: {{subnet: 203.0.113.0/24}}
routers:
  gate:
    interfaces: {{lan: 10.0.0.1/24, out: 203.0.113.1/24}}
    nat: {{outside: out, inside: [lan]}}
guests:
  web: {{nics: [{{network: out, address: 203.0.113.80/24, gateway: none}}], run: [{{http: {{folder: {www}}}}}]}}
  vm: {{kind: qemu, nics: [{nics}], {booting}}}
"""


DRIVERS = {
    "virtio": "virtio_net", "e1000": "e1000", "rtl8139": "8139cp", "pcnet": "pcnet32", "vmxnet3": "vmxnet3",
    "tulip": "tulip", "ne2k": "ne2k-pci",
    "e1000e": "e1000e", "i82559er": "e100",
}  # fmt: skip


@pytest.mark.trio
@pytest.mark.parametrize(
    ("models", "size"),
    [
        (("virtio", "e1000", "rtl8139", "pcnet"), 10_000_000),
        (("vmxnet3", "tulip", "e1000e"), 10_000_000),
        (("ne2k", "i82559er"), 1_000_000),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
async def test_each_nic_model_leases_pings_and_downloads_through_nat(
    initrd: Path, tmp_path: Path, models: tuple[str, ...], size: int
) -> None:
    (tmp_path / "big").write_bytes(data := os.urandom(size))
    digest = hashlib.sha256(data).hexdigest()
    nics = ", ".join(f"{{network: lan, model: {model}}}" for model in models)
    topology = parse_topology(BEHIND_NAT.format(www=tmp_path, nics=nics, booting=booting(initrd)), source="models")
    async with vnet.open_lab(topology) as lab:
        await lab.wait_up(BOOT)
        shell = await Shell(machine(lab)).booted()
        for number, nic in enumerate(topology.guests["vm"].interfaces):
            name = (await shell.run(f"grep -il {nic.mac.hex(':')} /sys/class/net/eth*/address")).split("/")[4]
            address = await shell.lease(name)
            leases = [row for row in show(lab, "leases") if row["owner"] == f"vm:eth{number}"]
            assert [row["address"] for row in leases] == [address]
            await shell.run("ping -c 2 -W 5 203.0.113.80")
            assert (await shell.run("wget -q -O - http://203.0.113.80/big | sha256sum")).split()[0] == digest, nic.model
            driver = (await shell.run(f"ls -l /sys/class/net/{name}/device/driver")).strip().rpartition("/")[2]
            assert driver == DRIVERS[nic.model or ""]
            await shell.run(f"ip link set {name} down")
        web = lab.guests["web"]
        assert not (await web.ping(address, timeout=0.2)).ok, "nothing passes a NAT from outside"


@pytest.mark.trio
async def test_carrier_and_trunk_reach_the_machine(initrd: Path) -> None:
    topology = parse_topology(
        f"""
name: cables
networks:
  one: {{vlan: 1, subnet: 10.0.1.0/24}}
  office: {{vlan: 16, subnet: 10.0.16.0/24}}
  dmz: {{vlan: 20, subnet: 10.0.20.0/24, dhcp: {{}}}}
guests:
  a: {{nics: [{{network: one, address: 10.0.1.9/24}}]}}
  b: {{nics: [{{network: office, address: 10.0.16.9/24}}]}}
  c: {{nics: [{{network: dmz, address: 10.0.20.9/24}}]}}
  vm: {{kind: qemu, nics: [{{trunk: [16, 20], native: 1}}], {booting(initrd)}}}
"""
    )
    async with vnet.open_lab(topology) as lab:
        lab.links["vm:eth0"].up = False  # before it runs
        await lab.wait_up(BOOT)
        shell = await Shell(machine(lab)).booted()
        await shell.run("ip link set eth0 up")
        await shell.until("cat /sys/class/net/eth0/carrier", "0")
        assert (await change(lab, "vm:eth0", ["up"]))["state"] == "up"
        await shell.until("cat /sys/class/net/eth0/carrier", "1")
        await shell.run("ip addr add 10.0.1.1/24 dev eth0; ping -c 1 -W 5 10.0.1.9")
        await shell.run("vconfig add eth0 16; vconfig add eth0 20")
        await shell.run("ip addr add 10.0.16.1/24 dev eth0.16; ip link set eth0.16 up; ping -c 1 -W 5 10.0.16.9")
        assert (await shell.lease("eth0.20")).startswith("10.0.20.")
        await shell.run("ping -c 1 -W 5 10.0.20.9")
        assert (await lab.guests["b"].ping("10.0.16.1", timeout=5)).ok
        assert {entry["vlan"] for entry in show(lab, "fdb") if entry["owner"] == "vm:eth0"} == {1, 16, 20}
        await machine(lab).save("plugged-in")
        lab.links["vm:eth0"].up = False
        await shell.until("cat /sys/class/net/eth0.16/carrier", "0")
        await machine(lab).restore("plugged-in")
        await shell.until("cat /sys/class/net/eth0.16/carrier", "0")


LIFE = """
name: life
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: {{}}}}}}
guests:
  peer: {{nics: [{{network: lan, address: 10.0.0.9/24}}]}}
  vm: {{kind: qemu, nics: [{{network: lan, dhcp: true}}], {booting}}}
"""


@pytest.mark.trio
async def test_a_life_with_an_open_connection(initrd: Path) -> None:
    """S36: paused and resumed, saved and restored in both ways, reset, turned off from inside, on again, and crashed."""
    async with vnet.open_lab(parse_topology(LIFE.format(booting=booting(initrd)))) as lab, trio.open_nursery() as nursery:
        vm, peer = machine(lab), lab.guests["peer"]
        assert isinstance(peer, EmulatedGuest)
        with trio.fail_after(BOOT):
            await vm.wait_started()
        assert [row["machine"]["state"] for row in show(lab, "guests") if row["machine"]] == ["running"]  # type: ignore[index]
        assert vm.interfaces()[0].dhcp == "waiting"
        shell = await Shell(vm).booted()
        address = await shell.lease("eth0")
        assert str(await vm.dhcp(5)) == address == str(lab.resolve("vm"))
        await lab.wait_up(5)

        lines: list[bytes] = []
        got = trio.Event()

        async def take(stream: trio.SocketStream) -> None:
            async for piece in stream:
                nonlocal got
                lines.append(piece)
                got.set()
                got = trio.Event()
                await stream.send_all(piece.upper())

        await nursery.start(peer.serve_tcp, take, 7)
        await shell.run("mkdir -p /tmp; (while true; do echo tick; sleep 0.2; done) | nc 10.0.0.9 7 > /tmp/answers &")
        with trio.fail_after(10):
            await got.wait()
        await vm.pause()
        with pytest.raises(UsageError, match="cannot pause vm: it is paused, and must be running"):
            await vm.pause()
        await vm.save("now")
        assert vm.state.value == "paused"
        heard, pinged = len(lines), await peer.ping(address, timeout=0.3)
        await trio.sleep(0.5)
        assert not pinged.ok and len(lines) <= heard + 1, "a paused machine says nothing"
        assert (await change(lab, "vm", ["resume"]))["state"] == "running"

        async def flows() -> None:
            before = len(lines)
            with trio.fail_after(30):
                while len(lines) < before + 5:
                    await got.wait()

        await flows()
        assert (await peer.ping(address, timeout=10)).ok
        await shell.run("echo lost > /tmp/later")
        assert (await change(lab, "vm", ["save=again", "restore=again"]))["state"] == "running"
        await flows()
        assert "lost" in await shell.run("cat /tmp/later")
        pid = vm.pid
        assert pid is not None
        assert (await change(lab, "vm", ["save"]))["state"] == "saved"
        assert vm.pid is None and start_time(pid) is None, "saved, it uses nothing"
        heard = len(lines)
        assert not (await peer.ping(address, timeout=0.5)).ok and len(lines) == heard
        assert (await change(lab, "vm", ["restore"]))["state"] == "running"
        await flows()
        await vm.pause()
        assert (await change(lab, "vm", ["save", "start"]))["state"] == "running"
        await flows()
        assert "lost" in await shell.run("cat /tmp/later"), "it is the same machine in another process"
        with pytest.raises(LabError, match="cannot restore it: "):
            await vm.restore("never")
        with pytest.raises(UsageError, match="cannot be the name"):
            await vm.save("a b")

        since = vm.console.said
        await change(lab, "vm", ["reset"])
        await vm.console.wait_for("guest-is-up", BOOT, since)
        await vm.console.write(b"poweroff -f\n")
        with trio.fail_after(30):
            await vm.wait_state("stopped")
        assert vm.pid is None and vm.error == ""
        since = vm.console.said
        assert (await change(lab, "vm", ["start"]))["state"] == "running"
        await vm.console.wait_for("SeaBIOS", BOOT, since)
        assert vm.pid is not None
        os.kill(vm.pid, 11)
        with trio.fail_after(30):
            await vm.wait_state("failed")
        failed = [event for event in lab.events if event.kind == "vm-failed"]
        assert [event.fields["error"] for event in failed] == ["was ended by SIGSEGV"]
        assert "SeaBIOS" in str(failed[0].fields["console"])
        assert (await change(lab, "vm", ["start"]))["state"] == "running"
        assert (await change(lab, "vm", ["stop"]))["state"] == "stopped"
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_is_saved_on_its_own_disk_outlives_the_lab(initrd: Path, tmp_path: Path) -> None:
    """VS-84: saved as its lab ends, and gone on with in the next; the disk is as it was then, too."""
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(empty_qcow2())
    topology = parse_topology(
        f"""
name: kept
networks: {{lan: {{}}}}
guests:
  vm: {{kind: qemu, nics: [lan], disk: {disk}, stop_action: save, {booting(initrd)}}}
"""
    )
    async with vnet.open_lab(topology) as lab:
        await machine(lab).wait_started()
        shell = await Shell(machine(lab)).booted()
        await shell.run("mkdir -p /tmp; echo remembered > /tmp/what")
    assert [event.kind for event in lab.events if event.kind.startswith("vm-")] == ["vm-started", "vm-saved"]
    async with vnet.open_lab(topology) as lab:
        await machine(lab).wait_started()
        assert "remembered" in await Shell(machine(lab)).run("cat /tmp/what")
        assert [event.kind for event in lab.events if event.kind.startswith("vm-")] == ["vm-restored"]
        await machine(lab).save()
        await machine(lab).stop()
    async with vnet.open_lab(topology) as lab:
        await Shell(machine(lab)).booted()
        assert [event.kind for event in lab.events if event.kind.startswith("vm-")] == ["vm-started"], "that was discarded"


@pytest.mark.trio
async def test_what_does_not_start_says_why(run_directory: Path) -> None:
    topology = parse_topology(
        "{name: broken, networks: {lan: {}}, guests: {a: {nics: [lan]}, bad: {kind: qemu, nics: [lan], machine: pd},"
        " late: {kind: qemu, nics: [lan], start_order: -1, memory: 32MiB},"
        " last: {kind: qemu, nics: [lan], start_delay: 24h}}}"
    )
    async with vnet.open_lab(topology) as lab:
        with pytest.raises(LabError, match=r"bad did not start: .*unsupported machine type"):
            await lab.wait_up(30)
        assert [machine(lab, name).state.value for name in ("late", "bad", "last")] == ["running", "failed", "stopped"]
        text = await machine(lab, "late").console.wait_for("SeaBIOS", 20)
        assert "SeaBIOS" in text, "firmware talks to the console"
    assert not (run_directory / "broken").exists()


@pytest.mark.trio
async def test_firmware_boots_from_the_network_in_the_order_of_the_file() -> None:
    """iPXE in three NIC models asks the lab's DHCP server; VS-84: one machine after the other, with a delay."""
    guests = "".join(
        f" {model}: {{kind: qemu, memory: 64MiB, nics: [{{network: lan, model: {model}, dhcp: true}}], {more}}},"
        for model, more in (
            ("rtl8139", "start_order: 2, start_delay: 300ms"),
            ("virtio", "stop_action: save"),
            ("e1000", "start_order: 1"),
        )
    )
    topology = parse_topology(f"{{name: pxe, networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: {{}}}}}}, guests: {{{guests}}}}}")
    async with vnet.open_lab(topology) as lab:
        await lab.wait_up(BOOT)
        assert {row["owner"] for row in show(lab, "leases")} == {"rtl8139:eth0", "virtio:eth0", "e1000:eth0"}
        assert all("iPXE" in machine(lab, name).console.output.decode(errors="replace") for name in lab.guests)
        started = [(event.node, event.instant) for event in lab.events if event.kind == "vm-started"]
        assert [name for name, _ in started] == ["virtio", "e1000", "rtl8139"]
        assert started[2][1] - started[1][1] >= 300 * 10**6
        pids = [machine(lab, name).pid for name in lab.guests]
    ends = {event.node: event.kind for event in lab.events if event.node in lab.guests}
    assert ends == {"rtl8139": "vm-stopped", "virtio": "vm-saved", "e1000": "vm-stopped"}
    assert not any(start_time(pid) for pid in pids if pid is not None), "saved or not, none of them is left"
