"""Packets through a router with NAT, long way and short way, against dpkt: fields, payload and every checksum."""

import dpkt
from hypothesis import given, settings
from hypothesis import strategies as st
from test_router_fuzz import HOSTS, FuzzLab

from vnet.ports import NO_OFFLOAD
from vnet.services.nat.translator import NatConfig
from vnet.units import SECOND
from vnet.wire import arp, ipv4, tcp, udp
from vnet.wire.checksum import is_valid, pseudo_header_sum

NAT = NatConfig(outside="internet", inside=("dmz", "office"))
GUEST, PEER = (bytes(map(int, HOSTS[name].split("."))) for name in ("office", "internet"))
EXTERNAL = bytes((203, 0, 113, 2))
ports = st.integers(1, 65535)


class Tapped(FuzzLab):
    """A router whose frames are kept instead of delivered; the hosts' addresses are known to it already."""

    def __init__(self) -> None:
        super().__init__(NAT, None)
        self.sent: dict[str, list[bytes]] = {}
        for name, interface in self.router.interfaces.items():
            host = self.hosts[name].interfaces["eth0"]
            interface.port.receive(arp.request_frame(host.mac, host.address, interface.address), NO_OFFLOAD)
            kept = self.sent[name] = []
            interface.port.plug(lambda frame, offload, kept=kept: kept.append(frame))

    def pass_on(self, network: str, packet: bytes, to: str) -> bytes:
        """Let a packet arrive and return the one that leaves."""
        self.throw(network, self.router.interfaces[network].mac + bytes((2, 0, 0, 0, 1, 9)) + b"\x08\x00" + packet)
        assert not self.router.drops
        (frame,) = self.sent[to]
        self.sent[to].clear()
        assert frame[:6] == self.hosts[to].interfaces["eth0"].mac
        return frame[14:]


def check(packet: bytes, source: bytes, destination: bytes, protocol: int, *, no_checksum: bool = False) -> dpkt.ip.IP:
    """Check headers and checksums with dpkt's reading of the packet."""
    parsed = dpkt.ip.IP(packet)
    assert (parsed.src, parsed.dst, parsed.p) == (source, destination, protocol)
    octets = parsed.hl * 4
    assert is_valid(packet[:octets])
    if not no_checksum:
        assert is_valid(packet[octets:], pseudo_header_sum(source, destination, protocol, len(packet) - octets))
    assert parsed.len == len(packet)
    return parsed


@settings(max_examples=200, deadline=None)
@given(
    source_port=ports, port=ports, payload=st.binary(max_size=300), tos=st.integers(0, 255), ident=st.integers(0, 65535),
    ttl=st.integers(2, 255), df=st.booleans(), zero=st.booleans(), words=st.integers(0, 10),
)  # fmt: skip
def test_udp_there_and_back(source_port, port, payload, tos, ident, ttl, df, zero, words):
    lab = Tapped()
    word = ipv4.DONT_FRAGMENT if df else 0
    options = b"\x01" * (4 * words)
    datagram = udp.build(GUEST, PEER, source_port, port, payload)
    if zero:
        datagram = datagram[:6] + b"\0\0" + datagram[8:]
    packet = (
        ipv4.build(GUEST, PEER, 17, len(datagram), ttl=ttl, tos=tos, ident=ident, fragment_word=word, options=options)
        + datagram
    )
    passed = [lab.pass_on("office", packet, "internet") for _ in range(3)]
    assert passed[0] == passed[1] == passed[2]
    parsed = check(passed[0], EXTERNAL, PEER, 17, no_checksum=zero)
    assert (parsed.ttl, parsed.tos, parsed.id, bool(parsed.df)) == (ttl - 1, tos, ident, df)
    assert (parsed.data.sport, parsed.data.dport, bytes(parsed.data.data)) == (source_port, port, payload)
    assert (parsed.data.sum == 0) == zero
    answer = udp.build(PEER, EXTERNAL, port, source_port, payload)
    back = ipv4.build(PEER, EXTERNAL, 17, len(answer), ttl=ttl) + answer
    passed = [lab.pass_on("internet", back, "office") for _ in range(3)]
    assert passed[0] == passed[1] == passed[2]
    parsed = check(passed[0], PEER, GUEST, 17)
    assert (parsed.data.sport, parsed.data.dport, bytes(parsed.data.data)) == (port, source_port, payload)


@settings(max_examples=200, deadline=None)
@given(
    source_port=ports, port=ports, payload=st.binary(max_size=300), sequence=st.integers(0, 2**32 - 1),
    window=st.integers(0, 65535), options=st.sampled_from([b"", b"\x01\x01\x08\x0a" + bytes(8), b"\x02\x04\x05\xb4"]),
)  # fmt: skip
def test_tcp_there_and_back(source_port, port, payload, sequence, window, options):
    lab = Tapped()

    def segment(from_guest: bool, flags: int, data: bytes = b"") -> bytes:
        addresses = (GUEST, PEER) if from_guest else (PEER, EXTERNAL)
        numbers = (source_port, port) if from_guest else (port, source_port)
        head = tcp.Tcp(
            source_port=numbers[0], destination_port=numbers[1], sequence=sequence, flags=flags, window=window,
            options=options, payload=data,
        ).encode(*addresses)  # fmt: skip
        return ipv4.build(*addresses, 6, len(head)) + head

    check(lab.pass_on("office", segment(True, tcp.SYN), "internet"), EXTERNAL, PEER, 6)
    check(lab.pass_on("internet", segment(False, tcp.SYN | tcp.ACK), "office"), PEER, GUEST, 6)
    for from_guest, network, to, addresses in (
        (True, "office", "internet", (EXTERNAL, PEER)),
        (False, "internet", "office", (PEER, GUEST)),
    ):
        passed = [lab.pass_on(network, segment(from_guest, tcp.ACK | tcp.PSH, payload), to) for _ in range(3)]
        assert passed[0] == passed[1] == passed[2]
        parsed = check(passed[0], *addresses, 6)
        assert (parsed.data.seq, parsed.data.win, parsed.data.opts) == (sequence, window, options)
        assert bytes(parsed.data.data) == payload
    assert len(lab.router._forwarder.flows) == 2


def test_used_up_ports_and_limits_are_refused_counted_and_reported():
    lab = Tapped()
    events = []
    lab.router._log._limit._report = lambda kind, **fields: events.append(fields["reason"])

    def knock(port: int, host: int = 16) -> None:
        guest = GUEST[:3] + bytes((host,))
        datagram = udp.build(guest, PEER, port, 9, b"")
        lab.throw(
            "office",
            lab.router.interfaces["office"].mac
            + bytes(6)
            + b"\x08\x00"
            + ipv4.build(guest, PEER, 17, len(datagram))
            + datagram,
        )

    for port in range(2, 1024, 2):
        knock(port)
    assert not lab.router.drops
    knock(2, host=17)
    assert lab.router.drops == {"nat-ports-exhausted": 1}
    assert events == ["nat-ports-exhausted"]
    assert len(lab.router.nat_table()) == 511
    lab.settle(299 * SECOND)
    knock(2, host=17)
    assert lab.router.drops == {"nat-ports-exhausted": 2}
    lab.settle(1 * SECOND)
    knock(2, host=17)
    assert [entry.outside for entry in lab.router.nat_table()] == ["203.0.113.2:2"]
