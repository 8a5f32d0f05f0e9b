"""Whatever octets arrive at whatever port of a router: nothing is raised, everything is counted, and it still forwards."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD
from vnet.services.firewall.rules import AllowRule, FirewallConfig
from vnet.services.nat.translator import NatConfig, PortForward
from vnet.services.router.router import Router
from vnet.stack.echo import PingResult
from vnet.stack.host import Host
from vnet.units import SECOND
from vnet.wire import icmpv4, ipv4, tcp, udp

NETWORKS = ("internet", "dmz", "office")
ADDRESSES = {"internet": "203.0.113.2/24", "dmz": "172.17.1.1/24", "office": "10.20.100.1/24"}
HOSTS = {"internet": "203.0.113.9", "dmz": "172.17.1.26", "office": "10.20.100.16"}
NAT = NatConfig(
    outside="internet", inside=("dmz", "office"), filtering="endpoint-independent",
    forwards=(PortForward(protocol="tcp", port=8080, address=IPv4Address("172.17.1.26"), to_port=80),),
)  # fmt: skip
FIREWALL = FirewallConfig(policy="reject", allow=(AllowRule(from_networks=("office",)), AllowRule(to_networks=("dmz",))))


class FuzzLab:
    """A router with a host in each of three networks, and the count of every frame that leaves the router."""

    def __init__(self, nat: NatConfig | None, firewall: FirewallConfig | None) -> None:
        self.timeline = Timeline()
        streams = RandomStreams(3)
        self.router = Router("router", self.timeline, lambda purpose: streams.stream("router", purpose))
        self.hosts: dict[str, Host] = {}
        for number, name in enumerate(NETWORKS):
            interface = self.router.add_interface(name, bytes((2, 0, 0, 0, 0, number)), [IPv4Interface(ADDRESSES[name])])
            host = Host(name, self.timeline, lambda purpose, name=name: streams.stream(name, purpose))
            end = host.add_interface("eth0", bytes((2, 0, 0, 0, 1, number)))
            end.add_address(IPv4Interface(HOSTS[name] + "/24"))
            host.routes.add(IPv4Network("0.0.0.0/0"), interface.address)
            interface.port.plug(lambda f, o, end=end: self.timeline.soon(end.port.receive, f, o))
            end.port.plug(lambda f, o, interface=interface: self.timeline.soon(interface.port.receive, f, o))
            self.hosts[name] = host
        self.router.configure_nat(nat)
        self.router.configure_firewall(firewall)

    def throw(self, network: str, frame: bytes, offload: bytes = NO_OFFLOAD) -> None:
        """Let a frame arrive at the router."""
        self.router.interfaces[network].port.receive(frame, offload)

    def settle(self, duration: int = 2 * SECOND) -> None:
        """Let time pass."""
        end = self.timeline.now + duration
        self.timeline.run_until(end, limit=1_000_000)
        self.timeline.now = end

    def still_forwards(self) -> bool:
        """Tell whether an echo request from the office is answered by the internet."""
        results: list[PingResult] = []
        self.hosts["office"].ping(IPv4Address(HOSTS["internet"]).packed, on_result=results.append)
        self.settle(5 * SECOND)
        return results[0].ok

    def ends(self) -> int:
        """Count the frames that have come to an end, whichever it was."""
        host = self.router.host
        ignored = sum(interface.ignored for interface in self.router.interfaces.values())
        drops = sum(count for reason, count in host.drops.items() if reason not in SECONDARY)
        return self.router.forwarded + host.delivered + ignored + sum(self.router.drops.values()) + drops


SECONDARY = ("icmp-rate-limit", "neighbor-queue-full", "no-neighbor")
"""What a host drops of what it sends."""
CONFIGURATIONS = [(None, None), (NAT, None), (None, FIREWALL), (NAT, FIREWALL)]
ANY = [IPv4Address(text).packed for text in [
    *HOSTS.values(), *(address.split("/")[0] for address in ADDRESSES.values()), "8.8.8.8", "255.255.255.255", "127.0.0.1",
    "172.17.1.255", "224.0.0.1", "0.0.0.0", "10.20.100.77",
]]  # fmt: skip
PORTS = (0, 1, 53, 68, 80, 5000, 8080, 65535)


def random_packet(draw: "RandomNumbers", network: str, depth: int = 0) -> bytes:
    """Draw a packet that is nearly right: real protocols, addresses that matter, fields that may be anything."""
    source = draw.one(ANY) if draw.below(4) == 0 else IPv4Address(HOSTS[network]).packed
    destination = draw.one(ANY) if draw.below(3) == 0 else draw.one(ANY[:6])
    if depth:
        source, destination = destination, source  # what is quoted went the other way
    ports = draw.one(PORTS), draw.one(PORTS)
    payload = draw.octets(draw.below(40))
    kind = draw.below(5)
    if kind == 0:
        protocol, body = 17, udp.build(source, destination, *ports, payload)
    elif kind == 1:
        segment = tcp.Tcp(source_port=ports[0], destination_port=ports[1], sequence=9, flags=draw.below(64), payload=payload)
        protocol, body = 6, segment.encode(source, destination)
    elif kind == 2:
        protocol, body = 1, icmpv4.build(draw.one((0, 8, 13, 14, 17)), 0, draw.below(1 << 32), payload)
    elif kind == 3 and depth < 2:
        quoted = random_packet(draw, network, depth + 1)[: 28 + draw.below(40)]
        protocol, body = 1, icmpv4.build(draw.one((3, 4, 5, 11, 12)), draw.below(16), 0, quoted)
    else:
        protocol, body = draw.below(256), payload
    word = draw.one((0, 0, 0, 0, 0x4000, 0x4000, 0x2000, 1, 0x2001, draw.below(65536)))
    options = draw.one((b"", b"", b"", b"", b"\x01\x01\x01\x00", draw.octets(4 * draw.below(10))))
    ttl = draw.one((0, 1, 2, 64, 64, 64, 64, 255))
    return (
        ipv4.build(
            source, destination, protocol, len(body), ttl=ttl, ident=draw.below(3), fragment_word=word, options=options
        )
        + body
    )


def mutated(draw: "RandomNumbers", frame: bytes) -> bytes:
    """Damage a frame a little, or not at all."""
    kind = draw.below(8)
    if kind == 0 and frame:
        return frame[: draw.below(len(frame))]
    if kind == 1:
        return frame + draw.octets(draw.below(30))
    if kind == 2 and frame:
        at = draw.below(len(frame))
        return frame[:at] + draw.octets(1) + frame[at + 1 :]
    return frame


class RandomNumbers:
    """A seeded stream with a choice."""

    def __init__(self, seed: int) -> None:
        stream = RandomStreams(seed).stream("fuzz", "router")
        self.below, self.octets = stream.below, stream.octets

    def one(self, choices):
        return choices[self.below(len(choices))]


@pytest.mark.parametrize(("nat", "firewall"), CONFIGURATIONS)
def test_nearly_right_packets(nat, firewall):
    lab = FuzzLab(nat, firewall)
    draw = RandomNumbers(11)
    offloads = [NO_OFFLOAD] * 30 + [
        b"\1" + bytes(5) + b"\x22\0\x10\0",
        b"\1\1\x36\0\x64\0\x22\0\x10\0",
        b"\1\5\x2a\0\x0a\0\x22\0\x06\0",
        b"\1" + bytes(9),
        b"",
        bytes(3),
        b"\xff" * 10,
    ]
    for number in range(5_000):
        network = draw.one(NETWORKS)
        mac = draw.one((lab.router.interfaces[network].mac,) * 6 + (b"\xff" * 6, b"\x01\0\x5e\0\0\1"))
        frame = mutated(draw, mac + bytes((2, 0, 0, 0, 1, 9)) + b"\x08\x00" + random_packet(draw, network))
        lab.throw(network, frame, draw.one(offloads))
        if number % 500 == 0:
            lab.settle()
    lab.settle(60 * SECOND)
    assert lab.still_forwards()
    assert lab.router.forwarded > 250
    lab.settle(200 * 60 * SECOND)
    assert lab.router.flows() == []
    assert lab.router.nat_table() == []
    assert len(lab.router._forwarder.flows) <= 131_072
    assert lab.router._forwarder.fragments._octets == 0


@pytest.mark.parametrize("nat", [None, NAT])
def test_every_frame_ends_in_one_counter(nat):
    """Whole unicast packets, one at a time: exactly one of forwarded, delivered, ignored and dropped goes up by one."""
    lab = FuzzLab(nat, None)
    assert lab.still_forwards()
    draw = RandomNumbers(12)
    for _ in range(3_000):
        network = draw.one(NETWORKS)
        packet = random_packet(draw, network)
        if packet[6] & 0x3F or packet[7]:
            continue
        lab.settle(0)
        before = lab.ends()
        frame = lab.router.interfaces[network].mac + bytes((2, 0, 0, 0, 1, 9)) + b"\x08\x00" + packet
        lab.throw(network, mutated(draw, frame))
        assert lab.ends() == before + 1, packet.hex()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NETWORKS), st.binary(max_size=120), st.binary(max_size=12)), max_size=20))
def test_any_octets(frames):
    lab = FuzzLab(NAT, FIREWALL)
    for network, octets, offload in frames:
        lab.throw(network, octets)
        lab.throw(network, lab.router.interfaces[network].mac + b"\x02\0\0\0\1\x09\x08\x00\x45" + octets, offload)
        lab.settle(0)
    assert lab.still_forwards()


def test_the_same_seed_gives_the_same_frames():
    def run() -> list[tuple[int, str, bytes]]:
        lab = FuzzLab(NAT, FIREWALL)
        sent: list[tuple[int, str, bytes]] = []
        for name, interface in lab.router.interfaces.items():
            interface.port.hook(
                tx=lambda send, name=name: lambda f, o: (sent.append((lab.timeline.now, name, f)), send(f, o))[1]
            )
        draw = RandomNumbers(5)
        for _ in range(800):
            network = draw.one(NETWORKS)
            lab.throw(
                network,
                lab.router.interfaces[network].mac + bytes((2, 0, 0, 0, 1, 9)) + b"\x08\x00" + random_packet(draw, network),
            )
            lab.settle(SECOND // 100)
        return sent

    first = run()
    assert len(first) > 200
    assert first == run()
