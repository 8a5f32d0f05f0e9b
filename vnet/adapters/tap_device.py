"""The adapters ``tap`` and ``fd``: a TAP device of the machine's, which belongs to others as much as to the lab."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import closing, suppress
from typing import Final, final

from vnet.adapters import _linux
from vnet.adapters.base import AdapterContext
from vnet.adapters.netlink import Netlink, link, quiet_ipv6
from vnet.adapters.tap import QUEUE_LENGTH, TapDevice
from vnet.adapters.tap_base import TapBase
from vnet.errors import HostError
from vnet.topology.adapter_kinds.tap import FdSpec, TapSpec

_NEEDED: Final = _linux.IFF_TAP | _linux.IFF_NO_PI | _linux.IFF_VNET_HDR


@final
class TapAdapter(TapBase):
    """The device, from the making of the object to ``stop``; raise HostError if it cannot be had.

    One that is there already keeps its settings, and stays. One that is made is up and goes with the adapter.
    """

    def __init__(self, spec: TapSpec | FdSpec, context: AdapterContext) -> None:
        if isinstance(spec, FdSpec):
            device = _inherited(spec.fd)
            mtu = _mtu_of(device.name)
        else:
            mtu = _mtu_of(spec.name)
            device = TapDevice(spec.name, attach=True)
            if mtu is None:
                _set_up(device, context.mtu)
        super().__init__(device, mtu or context.mtu, context)


def _set_up(device: TapDevice, mtu: int) -> None:
    try:
        with closing(Netlink()) as netlink:
            netlink.run([*quiet_ipv6(device.name), link(device.name, mtu=mtu, queue_length=QUEUE_LENGTH)])
    except OSError as error:
        device.close()
        raise HostError(f"cannot configure interface {device.name}: {error.strerror}") from error


def _inherited(fd: int) -> TapDevice:
    """Take a copy of a descriptor, so that the network may be bound to it again."""
    try:
        request = fcntl.ioctl(fd, _linux.TUNGETIFF, bytes(40))
    except OSError as error:
        what = "is not open" if error.errno == errno.EBADF else "is no TAP device that has been set up"
        raise HostError(
            f"file descriptor {fd} {what}: open /dev/net/tun, do TUNSETIFF, and let the lab inherit it"
        ) from error
    name, flags = _linux.IFREQ_FLAGS.unpack_from(request)
    if flags & _NEEDED != _NEEDED:
        raise HostError(
            f"file descriptor {fd} is a TUN/TAP device without IFF_TAP, IFF_NO_PI or IFF_VNET_HDR: set all three"
        )
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.set_blocking(copy, False)
    device = TapDevice(name.rstrip(b"\0").decode(errors="replace"), fd=copy)
    with suppress(OSError):
        device.set_carrier(True)  # which the last network that was bound to it may have taken away
    return device


def _mtu_of(name: str) -> int | None:
    """Ask for an interface's MTU; None if it is not there."""
    with closing(Netlink()) as netlink, suppress(OSError):
        index = socket.if_nametoindex(name)
        return next((each.mtu for each in netlink.links() if each.index == index), None)
    return None
