"""A router with emulated hosts around it, in virtual time."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Handler
from vnet.services.firewall.rules import FirewallConfig
from vnet.services.nat.translator import NatConfig, PortForward
from vnet.services.router.router import Router
from vnet.stack.echo import PingResult
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.stack.tcp import ProbeResult
from vnet.stack.udp import UdpSocket
from vnet.units import SECOND

NETWORKS = {"internet": "203.0.113.0/24", "dmz": "172.17.1.0/24", "office": "10.20.100.0/24"}
ROUTER = {"internet": "203.0.113.2", "dmz": "172.17.1.1", "office": "10.20.100.1"}
EXTERNAL = ROUTER["internet"]
DEFAULT = IPv4Network("0.0.0.0/0")
NAT = NatConfig(
    outside="internet",
    inside=("dmz", "office"),
    forwards=(
        PortForward(protocol="tcp", port=8080, address=IPv4Address("172.17.1.26"), to_port=80),
        PortForward(protocol="udp", port=5300, address=IPv4Address("172.17.1.26"), to_port=53),
    ),
)


def packed(address: str) -> bytes:
    return IPv4Address(address).packed


class RouterLab:
    """Three networks joined by one router; hosts are added with ``host``. Each network is a hub.

    ``seen[name]`` records what a host's cable brought it, as (frame, offload).
    """

    def __init__(
        self, nat: NatConfig | None = None, firewall: FirewallConfig | None = None, mtu: dict[str, int] | None = None
    ):
        self.timeline = Timeline()
        self.streams = RandomStreams(7)
        self.events: list[tuple[int, str, dict[str, object]]] = []
        self.router = Router("router", self.timeline, lambda purpose: self.streams.stream("router", purpose), self._report)
        self.hubs: dict[str, list[Interface]] = {}
        self.seen: dict[str, list[tuple[bytes, bytes]]] = {}
        for number, (name, network) in enumerate(NETWORKS.items()):
            address = IPv4Interface(f"{ROUTER[name]}/{IPv4Network(network).prefixlen}")
            interface = self.router.add_interface(
                name, bytes((2, 0, 0, 0, 0, number)), [address], (mtu or {}).get(name, 1500)
            )
            self.hubs[name] = []
            self._join(name, interface)
        if nat is not None:
            self.router.configure_nat(nat)
        if firewall is not None:
            self.router.configure_firewall(firewall)

    def _report(self, kind: str, **fields: object) -> None:
        self.events.append((self.timeline.now, kind, fields))

    def _join(self, network: str, interface: Interface) -> None:
        hub = self.hubs[network]

        def spread(frame: bytes, offload: bytes) -> None:
            for other in hub:
                if other is not interface:
                    self.timeline.soon(other.port.receive, frame, offload)

        interface.port.plug(spread)
        hub.append(interface)

    def host(self, name: str, network: str, address: str, gateway: bool = True) -> Host:
        host = Host(name, self.timeline, lambda purpose: self.streams.stream(name, purpose))
        interface = host.add_interface("eth0", bytes((2, 1, 0, 0, 0, len(self.seen))), 1500)
        interface.add_address(IPv4Interface(f"{address}/24"))
        if gateway:
            host.routes.add(DEFAULT, packed(ROUTER[network]))
        seen = self.seen[name] = []

        def watch(handler: Handler) -> Handler:
            def receive(frame: bytes, offload: bytes) -> None:
                if frame[:6] == interface.mac:
                    seen.append((frame, offload))
                handler(frame, offload)

            return receive

        interface.port.hook(rx=watch)
        self._join(network, interface)
        return host

    def run(self, duration: int = 10 * SECOND) -> None:
        end = self.timeline.now + duration
        self.timeline.run_until(end)
        self.timeline.now = end

    def ping(self, host: Host, target: str, **fields: int) -> PingResult:
        results: list[PingResult] = []
        host.ping(packed(target), on_result=results.append, **fields)
        self.run()
        (result,) = results
        return result

    def probe(self, host: Host, target: str, port: int) -> ProbeResult:
        results: list[ProbeResult] = []
        host.tcp_probe(packed(target), port, on_result=results.append)
        self.run()
        (result,) = results
        return result


class Talker:
    """A UDP socket that records what it gets; *echo* sends it back."""

    def __init__(self, host: Host, port: int = 0, echo: bool = False):
        self.got: list[tuple[bytes, tuple[bytes, int]]] = []
        self.errors: list[str] = []
        self.echo = echo
        self.socket: UdpSocket = host.udp_bind(port, on_datagram=self._datagram)
        self.socket.on_error = lambda _, error: self.errors.append(error.text)

    def _datagram(self, payload: bytes, source: tuple[bytes, int]) -> None:
        self.got.append((payload, source))
        if self.echo:
            self.socket.send_to(payload, source)

    def send(self, address: str, port: int, payload: bytes = b"hello") -> None:
        assert self.socket.send_to(payload, (packed(address), port)) is None


def frame_to(router: Router, network: str, packet: bytes, offload: bytes = NO_OFFLOAD) -> None:
    """Hand a packet to an interface as a frame of its network would."""
    interface = router.interfaces[network]
    interface.port.receive(interface.mac + b"\x02\x09\0\0\0\x01\x08\x00" + packet, offload)
