"""A small LAN of emulated hosts for the tests of the stack."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import pytest

from tests.tcp_bed import Pair, Scripted
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Port
from vnet.stack.host import Host
from vnet.units import SECOND
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import TCP_CHECKSUM, UDP_CHECKSUM

DEFAULT = IPv4Network("0.0.0.0/0")


class Hub:
    """Repeats every frame to all other ports as an event, and keeps a record of it."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.ports: list[Port] = []
        self.frames: list[bytes] = []
        self.filter = lambda frame: True

    def plug(self, port: Port) -> None:
        self.ports.append(port)
        port.plug(lambda frame, offload: self.send(port, frame, offload))

    def send(self, sender: Port | None, frame: bytes, offload: bytes = NO_OFFLOAD) -> None:
        # what a capture would show: the checksum that a socket left pending is completed
        self.frames.append(complete(frame, offload)[0] if offload in (TCP_CHECKSUM, UDP_CHECKSUM) else frame)
        if self.filter(frame):
            for port in self.ports:
                if port is not sender:
                    self.timeline.soon(port.receive, frame, offload)

    def take(self) -> list[bytes]:
        """Return the frames since the last call."""
        frames, self.frames = self.frames, []
        return frames


class Lan:
    """Hosts h1, h2, ... with addresses 10.0.0.1/24, ... on one hub, in virtual time."""

    def __init__(self, seed: int = 1) -> None:
        self.timeline = Timeline()
        self.streams = RandomStreams(seed)
        self.hub = Hub(self.timeline)
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def host(self, number: int, address: str | None = "", mtu: int = 1500, hub: Hub | None = None) -> Host:
        name = f"h{number}"
        host = Host(
            name, self.timeline, lambda purpose: self.streams.stream(name, purpose),
            lambda kind, **fields: self.events.append((name, kind, fields)),
        )  # fmt: skip
        interface = host.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, number)), mtu)
        if address is not None:
            interface.add_address(IPv4Interface(address or f"10.0.0.{number}/24"))
        (hub or self.hub).plug(interface.port)
        return host

    def run(self, duration: int = SECOND) -> None:
        end = self.timeline.now + duration
        self.timeline.run_until(end)
        self.timeline.now = end

    def inject(self, frame: bytes, offload: bytes = NO_OFFLOAD) -> list[bytes]:
        """Send a frame that no host made, and return what the hosts said to it at once."""
        self.hub.take()
        self.hub.send(None, frame, offload)
        self.timeline.run_until(self.timeline.now)
        return self.hub.take()[1:]


@pytest.fixture
def lan() -> Lan:
    return Lan()


@pytest.fixture
def pair() -> Pair:
    """Two hosts and a wire between them."""
    return Pair()


@pytest.fixture
def peer() -> Scripted:
    """A host, and a peer whose every segment the test writes."""
    return Scripted()
