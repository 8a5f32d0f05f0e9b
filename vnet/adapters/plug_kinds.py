"""What can be plugged into a running lab from outside: for each kind the adapter, and the words that its program wants.

One kind, one line in ``PLUG_KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from vnet.addresses import Mac, format_mac
from vnet.topology.adapter_kinds.gvproxy import GvproxySpec
from vnet.topology.adapter_kinds.sockets import DgramSpec, SocketPlace, StreamSpec
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec

QEMU: Final = "qemu-system-x86_64"
UML: Final = "linux.uml"
"""User-mode Linux, as Debian calls the kernel that is a program."""
Details: TypeAlias = Mapping[str, object]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlugKind:
    """A kind of plug.

    ``spec`` names the adapter for a name that no other socket in the lab's run directory has. ``words`` are the arguments
    that a VM program needs: of the plug's name, the open adapter's ``details``, the NIC's device and its MAC address.
    Without ``has_models`` the program has one kind of NIC only.
    """

    about: str
    program: str
    spec: Callable[[str], AdapterSpec]
    words: Callable[[str, Details, str, Mac], list[str]]
    has_models: bool = True


def escaped(text: object) -> str:
    """Write a value of a QEMU option: a comma is doubled."""
    return str(text).replace(",", ",,")


def qemu_nic(netdev: str, name: str, device: str, mac: Mac) -> list[str]:
    """Write the two arguments of a NIC and what is behind it; both are known by *name*."""
    return ["-netdev", netdev, "-device", f"{device},netdev={name},mac={format_mac(mac)}"]


def _stream(name: str, details: Details, device: str, mac: Mac) -> list[str]:
    path = escaped(details["socket"])
    return qemu_nic(f"stream,id={name},server=off,addr.type=unix,addr.path={path}", name, device, mac)


def _dgram(name: str, details: Details, device: str, mac: Mac) -> list[str]:
    ends = f"local.type=unix,local.path={escaped(details['peer'])},remote.type=unix,remote.path={escaped(details['socket'])}"
    return qemu_nic(f"dgram,id={name},{ends}", name, device, mac)


def _legacy(name: str, details: Details, device: str, mac: Mac) -> list[str]:
    return qemu_nic(f"socket,id={name},connect={escaped(details['socket'])}", name, device, mac)


def _vhost_user(name: str, details: Details, device: str, mac: Mac) -> list[str]:
    """Share memory with QEMU; without ``vectors=0`` QEMU 7.2 crashes where it emulates the CPU (docs/vhost-user.md)."""
    memory = [
        "-m", "512", "-machine", f"q35,memory-backend={name}-m",
        "-object", f"memory-backend-memfd,id={name}-m,size=512M,share=on",
    ]  # fmt: skip
    socket = ["-chardev", f"socket,id={name}-c,path={escaped(details['socket'])},reconnect=1"]
    return [*memory, *socket, *qemu_nic(f"vhost-user,id={name},chardev={name}-c", name, f"{device},vectors=0", mac)]


def _uml(name: str, details: Details, device: str, mac: Mac) -> list[str]:
    """Write the option of the kernel's vector driver, whose NIC is vec0 inside."""
    return [f"vec0:transport=bess,dst={details['socket']},mac={format_mac(mac)}"]


PLUG_KINDS: Final[Mapping[str, PlugKind]] = {
    "qemu-stream": PlugKind(
        about="QEMU 7.2 or newer, -netdev stream over a Unix socket",
        program=QEMU,
        spec=lambda name: StreamSpec(place=SocketPlace(path=name), listens=True),
        words=_stream,
    ),
    "qemu-dgram": PlugKind(
        about="QEMU 7.2 or newer, -netdev dgram over Unix sockets",
        program=QEMU,
        spec=lambda name: DgramSpec(local=SocketPlace(path=name), remote=SocketPlace(path=f"{name}.vm")),
        words=_dgram,
    ),
    "qemu-legacy": PlugKind(
        about="any QEMU, -netdev socket over TCP on 127.0.0.1, where every user of the machine can connect",
        program=QEMU,
        spec=lambda name: StreamSpec(place=SocketPlace(host="127.0.0.1", port=0), listens=True),
        words=_legacy,
    ),
    "qemu-vhost-user": PlugKind(
        about="QEMU, -netdev vhost-user: the fastest; for virtio NICs, and one of it in a machine",
        program=QEMU,
        spec=lambda name: VhostUserSpec(place=SocketPlace(path=name), listens=True),
        words=_vhost_user,
    ),
    "uml": PlugKind(
        about="User-mode Linux, whose vector driver speaks as BESS does: a NIC vec0",
        program=UML,
        spec=lambda name: GvproxySpec(protocol="bess", place=SocketPlace(path=name)),
        words=_uml,
        has_models=False,
    ),
}  # fmt: skip
