"""The command line of a machine: from the words of the topology to QEMU's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, final

from vnet.adapters.plug_kinds import QEMU, escaped
from vnet.addresses import Mac, format_mac
from vnet.errors import HostError
from vnet.topology.machines import ResolvedMachine
from vnet.topology.nic_models import device_of

QCOW2_MAGIC: Final = b"QFI\xfb"
ETHERNET_MTU: Final = 1500
STATE_DRIVE: Final = "vmstate"
STATE_OCTETS: Final = 1 << 20
"""Size of that drive as the machine sees it; saved states lie beyond."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MachineNic:
    """A NIC of a machine; its back end listens at ``path``."""

    name: str
    mac: Mac
    model: str
    path: str
    mtu: int = ETHERNET_MTU


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The descriptors that the machine inherits, and the disk that saved states go to."""

    qmp: int
    console: int
    state_file: str


def netdev_id(number: int) -> str:
    """Name the back end of a NIC, as ``set_link`` wants it."""
    return f"net{number}"


def command_line(name: str, machine: ResolvedMachine, nics: tuple[MachineNic, ...], lines: Lines) -> list[str]:
    """Write the whole command line; the machine waits for ``cont`` before its first instruction.

    Firmware and boot loaders talk to the serial console, since there is no screen (``graphics=off``). A machine with a
    kernel does not look for a network to boot from: that saves each NIC's boot ROM.
    """
    argv = [QEMU, "-name", f"guest={escaped(name)}", "-nodefaults", "-no-user-config", "-display", "none", "-S"]
    argv += ["-accel", machine.accel, "-machine", f"{machine.machine},graphics=off", "-m", f"{machine.memory >> 20}M"]
    argv += ["-smp", str(machine.cpus)] if machine.cpus > 1 else []
    argv += ["-cpu", "host"] if machine.accel == "kvm" else []
    argv += ["-chardev", f"socket,id=qmp,fd={lines.qmp}", "-mon", "chardev=qmp,mode=control"]
    if machine.console:
        argv += ["-chardev", f"socket,id=console,fd={lines.console}", "-serial", "chardev:console"]
    for option, value in (("-kernel", machine.kernel), ("-initrd", machine.initrd), ("-append", machine.append)):
        argv += [option, value] if value is not None else []
    disk_kind = None if machine.disk is None else disk_format(machine.disk)
    if disk_kind != "qcow2":  # states go to the first disk that can keep them, and are not there without all of those
        argv += ["-drive", f"if=none,id={STATE_DRIVE},format=qcow2,file={escaped(lines.state_file)}"]
    if machine.disk is not None:
        argv += ["-drive", f"if=virtio,id=disk,format={disk_kind},file={escaped(machine.disk)}"]
    if machine.iso is not None:
        argv += ["-drive", f"if=ide,media=cdrom,readonly=on,id=iso,format=raw,file={escaped(machine.iso)}"]
    if machine.kernel is None:
        argv += ["-boot", "order=" + "c" * (machine.disk is not None) + "d" * (machine.iso is not None) + "n"]
    for number, nic in enumerate(nics):
        back = netdev_id(number)
        device = device_of(nic.model) or nic.model
        options = f"{device},id=nic{number},netdev={back},mac={format_mac(nic.mac)}"
        options += ",romfile=" if machine.kernel is not None else ""
        options += f",host_mtu={nic.mtu}" if nic.mtu != ETHERNET_MTU and device == "virtio-net-pci" else ""
        argv += ["-netdev", f"stream,id={back},server=on,addr.type=unix,addr.path={escaped(nic.path)}", "-device", options]
    return [*argv, *machine.args]


def check_files(name: str, machine: ResolvedMachine) -> None:
    """Raise HostError for a file of a machine that is not there, before anything is made."""
    for key, path in machine.files:
        if not os.path.isfile(path):
            raise HostError(f"guest {name}: there is no {key} {path}")


def disk_format(path: str) -> str:
    """Tell qcow2 from raw by the first octets; a file that is not there is raw."""
    try:
        with open(path, "rb") as file:
            return "qcow2" if file.read(4) == QCOW2_MAGIC else "raw"
    except OSError:
        return "raw"


def empty_qcow2() -> bytes:
    """Make an empty disk image, for saved states to go into: header, L1 table and reference counts of a version 2 file.

    (QEMU's docs/interop/qcow2.txt.) Four clusters of 64 KiB, all of which are counted.
    """
    cluster = 1 << 16
    header = b"".join(
        value.to_bytes(octets, "big")
        for value, octets in (
            (int.from_bytes(QCOW2_MAGIC, "big"), 4), (2, 4), (0, 8), (0, 4), (16, 4), (STATE_OCTETS, 8), (0, 4),
            (1, 4), (3 * cluster, 8), (cluster, 8), (1, 4), (0, 4), (0, 8),
        )
    )  # fmt: skip
    table = (2 * cluster).to_bytes(8, "big")
    counts = (1).to_bytes(2, "big") * 4
    return b"".join(part.ljust(cluster, b"\0") for part in (header, table, counts, b""))
