"""The loopback adapter: an interface of the machine on a network of the lab (VS-30 to VS-33).

It is a TAP device in the machine's own network namespace, with a MAC address and addresses of its own. The machine gets
no route but those to its subnets, and forwards nothing on our account: guests reach the machine, and nothing behind it.
"""

from __future__ import annotations

import socket
from contextlib import closing
from typing import final

from vnet.adapters.base import AdapterContext
from vnet.adapters.netlink import Netlink, address, link, quiet_ipv6
from vnet.adapters.tap import QUEUE_LENGTH, TapDevice
from vnet.adapters.tap_base import TapBase
from vnet.errors import HostError
from vnet.topology.adapter_kinds.loopback import LoopbackSpec


@final
class LoopbackAdapter(TapBase):
    """The interface, from the making of the object to ``stop``; raise HostError if Linux refuses it."""

    def __init__(self, spec: LoopbackSpec, context: AdapterContext) -> None:
        self._spec = spec
        device = TapDevice(spec.name)
        try:
            _configure(spec, context.mtu)
        except OSError as error:
            device.close()
            raise HostError(f"cannot configure interface {spec.name}: {error.strerror}") from error
        super().__init__(device, context.mtu, context)

    def details(self) -> dict[str, object]:
        """Tell the interface and its addresses."""
        return super().details() | {"addresses": [str(each) for each in self._spec.addresses]}


def _configure(spec: LoopbackSpec, mtu: int) -> None:
    index = socket.if_nametoindex(spec.name)
    speaks_ipv6 = any(each.version == 6 for each in spec.addresses)
    messages = [] if speaks_ipv6 else quiet_ipv6(spec.name)
    messages.append(link(spec.name, mac=spec.mac, mtu=mtu, queue_length=QUEUE_LENGTH))
    with closing(Netlink()) as netlink:
        netlink.run([*messages, *(address(index, each) for each in spec.addresses)])
