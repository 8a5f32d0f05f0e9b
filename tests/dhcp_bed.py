"""DHCP servers and clients on one hub in virtual time, and a record of everything that was said."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from vnet.errors import WireError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import Port, connect, disconnect
from vnet.services.dhcp.binding import BindingStore
from vnet.services.dhcp.node import DhcpServerNode
from vnet.services.dhcp.policy import DhcpConfig
from vnet.stack.dhcp_client import DhcpClient
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.units import SECOND
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt


def config(subnet: str, first: str, last: str, server: str, gateway: str | None = None, **rest) -> DhcpConfig:
    for key in ("dns", "wins"):
        rest[key] = tuple(IPv4Address(each) for each in rest.get(key, ()))
    return DhcpConfig(
        server=IPv4Address(server),
        subnet=IPv4Network(subnet),
        range_start=IPv4Address(first),
        range_end=IPv4Address(last),
        gateway=IPv4Address(gateway) if gateway else None,
        **rest,
    )


# the three samples of the product (VS-54)
SAMPLE_A = config(
    "10.100.100.0/24", "10.100.100.16", "10.100.100.254", "10.100.100.10", "10.100.100.1", wins=["192.168.14.10"]
)
SAMPLE_B = config(
    "10.20.100.0/24", "10.20.100.128", "10.20.100.254", "10.20.100.2", "10.20.100.1",
    dns=["10.20.100.25", "192.168.16.26"], wins=["10.20.100.25", "192.168.15.40"],
)  # fmt: skip
SAMPLE_C = config("192.168.150.0/24", "192.168.150.16", "192.168.150.32", "192.168.150.1")


class Said(NamedTuple):
    """One DHCP message on the hub."""

    at: int
    to_mac: bytes
    to_ip: str
    from_ip: str
    message: dhcpv4.Message

    @property
    def kind(self) -> str:
        return dhcpv4.MESSAGE_NAMES[self.message.message_type]


class Bed:
    """A hub; ``events`` has (instant, node, kind, fields), ``said`` every DHCP message."""

    def __init__(self, seed: int = 1) -> None:
        self.timeline = Timeline()
        self.streams = RandomStreams(seed)
        self.events: list[tuple[int, str, str, dict]] = []
        self.said: list[Said] = []
        self.frames: list[bytes] = []
        self._sockets: list[tuple[Port, Port]] = []

    @property
    def now(self) -> int:
        return self.timeline.now

    def run(self, duration: int = 20 * SECOND) -> None:
        end = self.timeline.now + duration
        self.timeline.run_until(end)
        self.timeline.now = end

    def plug(self, port: Port) -> None:
        socket = Port("hub", lambda frame, offload: self._flood(socket, frame, offload))
        self._sockets.append((port, socket))
        connect(port, socket, defer=self.timeline)

    def unplug(self, port: Port) -> None:
        pair = next(pair for pair in self._sockets if pair[0] is port)
        self._sockets.remove(pair)
        disconnect(*pair)

    def server(self, settings: DhcpConfig, store: BindingStore | None = None, name: str = "lan:dhcp") -> DhcpServerNode:
        mac = b"\x52\x54\x00\xff\x00" + bytes([len(self._sockets)])
        node = DhcpServerNode(name, self.timeline, mac, settings, store, self._streams(name), self._reporter(name))
        self.plug(node.port)
        return node

    def host(self, name: str, mac: bytes | None = None) -> Interface:
        """Make a host that is not plugged in."""
        host = Host(name, self.timeline, self._streams(name), self._reporter(name))
        return host.add_interface("eth0", mac or b"\x52\x54\x00\x00" + len(self._sockets).to_bytes(2, "big"))

    def client(self, name: str, mac: bytes | None = None, probe: bool = True) -> DhcpClient:
        interface = self.host(name, mac)
        client = DhcpClient(interface, probe=probe)
        client.start()
        self.plug(interface.port)
        return client

    def of(self, kind: str) -> list[dict]:
        """The fields of every event of one kind."""
        return [fields for _, _, each, fields in self.events if each == kind]

    def kinds(self) -> list[str]:
        return [each.kind for each in self.said]

    def _streams(self, name: str):
        return lambda purpose: self.streams.stream(name, purpose)

    def _reporter(self, name: str):
        return lambda kind, **fields: self.events.append((self.timeline.now, name, kind, fields))

    def _flood(self, source: Port, frame: bytes, offload: bytes) -> None:
        self.frames.append(frame)
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] in (b"\0\x43", b"\0\x44"):
            with suppress(WireError):
                message = dhcpv4.decode(frame[42:])
                to, origin = str(IPv4Address(frame[30:34])), str(IPv4Address(frame[26:30]))
                self.said.append(Said(self.timeline.now, frame[:6], to, origin, message))
        for _, socket in self._sockets:
            if socket is not source:
                socket.send(frame, offload)


def request(kind: int, mac: bytes, xid: int = 7, **fields) -> dhcpv4.Message:
    """Make a client's message; *options* are added behind the message type."""
    options = {opt.MESSAGE_TYPE: bytes([kind]), **fields.pop("options", {})}
    return dhcpv4.Message(dhcpv4.BOOTREQUEST, xid, mac, options, **fields)
