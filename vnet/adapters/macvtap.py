"""A NIC given to one network alone, through a macvtap device: mode ``macvtap`` of the bridge adapter.

In mode passthru, which is the one that takes frames for all MAC addresses, the device has its NIC to itself. It is opened
like a TAP device, by a character device of its own, ``/dev/tapN``. Unlike a TAP device it outlives the process that made it,
so it is written down before it is made.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final, final

from vnet.adapters.base import AdapterContext, Poller
from vnet.adapters.netlink import Link, Netlink, link, macvtap, quiet_ipv6
from vnet.adapters.netns import cookie
from vnet.adapters.resources import LinkResource
from vnet.adapters.tap import QUEUE_LENGTH, TapDevice, TapPort
from vnet.errors import HostError
from vnet.ports import Handler

MODE_PASSTHRU: Final = 8
"""MACVLAN_MODE_PASSTHRU (linux/if_link.h)."""
_NAME_OCTETS: Final = 5
"""Random octets of a device's name: none is ever called as another was."""


@final
class MacvtapChannel:
    """A macvtap device on *nic*, from the making of the object to ``close``; raise HostError or OSError if it cannot be."""

    def __init__(self, nic: Link, deliver: Handler, context: AdapterContext) -> None:
        self._ledger = context.ledger
        self._resource = LinkResource(f"vmt-{context.streams('macvtap').octets(_NAME_OCTETS).hex()}", cookie())
        self._ledger.add(self._resource)
        try:
            self._device = _make(self._resource.name, nic, context.directory)
        except BaseException:
            self._remove()
            raise
        self._tap = TapPort(context.port.name, self._device, nic.mtu)
        self._tap.port.plug(deliver)
        self.send: Handler = self._tap.port.receive

    @property
    def drops(self) -> Counter[str]:
        """What the device did not take."""
        return self._tap.drops

    @property
    def problem(self) -> str:
        """Somebody may have deleted the device."""
        return "" if self._tap.is_reading else f"macvtap device {self._resource.name} is gone"

    def start(self, poller: Poller) -> None:
        """Begin to pass frames."""
        self._tap.start(poller)

    def close(self) -> None:
        """Remove the device; blocks for some ms."""
        self._tap.stop()
        self._device.close()
        self._remove()

    def _remove(self) -> None:
        self._resource.remove()
        self._ledger.done(self._resource)


def _make(name: str, nic: Link, directory: str) -> TapDevice:
    try:
        with closing(Netlink()) as netlink:
            netlink.run([macvtap(name, nic.index, MODE_PASSTHRU)])
            netlink.run([*quiet_ipv6(name), link(name, queue_length=QUEUE_LENGTH)])
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EINVAL):
            raise HostError(f"{nic.name} is in use: macvtap needs one without bridge or macvlan device") from error
        raise
    return TapDevice(name, fd=_open_node(name, directory))


def _open_node(name: str, directory: str) -> int:
    """Open the device's node; where nobody makes nodes (in containers), make one for a moment."""
    index = socket.if_nametoindex(name)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(f"/dev/tap{index}", flags)
    except FileNotFoundError:
        major, minor = Path(f"/sys/class/net/{name}/macvtap/tap{index}/dev").read_text().split(":")
    node = f"{directory}/{name}"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(int(major), int(minor)))
    try:
        return os.open(node, flags)
    finally:
        os.unlink(node)
