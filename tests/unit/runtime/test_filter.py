"""The filter language: what matches, what is refused and where, and dpkt as an oracle for whole expressions."""

from __future__ import annotations

import socket
from collections.abc import Callable

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import UsageError
from vnet.runtime.filter import MAX_DEPTH, compile_filter

A, B, ALL = bytes.fromhex("525400000001"), bytes.fromhex("525400000002"), b"\xff" * 6


def ethernet(payload: bytes, kind: int = 0x0800, destination: bytes = B, vids: tuple[int, ...] = ()) -> bytes:
    tags = b"".join(b"\x81\x00" + (vid | 0x6000).to_bytes(2, "big") for vid in vids)
    return destination + A + tags + kind.to_bytes(2, "big") + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes, offset: int = 0) -> bytes:
    packet = dpkt.ip.IP(src=socket.inet_aton(source), dst=socket.inet_aton(destination), p=protocol, data=payload)
    packet.len = 20 + len(payload)
    octets = bytearray(bytes(packet))
    octets[6:8] = offset.to_bytes(2, "big")
    return bytes(octets)


def udp(source: int, destination: int, payload: bytes = b"") -> bytes:
    return bytes(dpkt.udp.UDP(sport=source, dport=destination, ulen=8 + len(payload), data=payload))


QUERY = ethernet(ipv4("10.0.0.1", "10.9.0.2", 17, udp(5000, 53)))
TAGGED = ethernet(ipv4("10.0.0.1", "192.168.0.2", 17, udp(68, 67)), vids=(20,), destination=ALL)
SYN = ethernet(ipv4("10.0.0.1", "10.9.0.2", 6, bytes(dpkt.tcp.TCP(sport=4000, dport=80, flags=2))))
PING = ethernet(ipv4("10.0.0.1", "10.9.0.2", 1, b"\x08\0\0\0\0\1\0\1"))
LATER = ethernet(ipv4("10.0.0.1", "10.9.0.2", 17, udp(5000, 53), offset=100))
ARP = ethernet(bytes(dpkt.arp.ARP(sha=A, spa=bytes((10, 0, 0, 1)), tpa=bytes((10, 0, 0, 2)))), 0x0806, ALL)
IP6 = ethernet(bytes.fromhex("60000000000c 0040") + b"\xfe\x80" + bytes(13) + b"\1" + b"\xfe\x80" + bytes(13) + b"\2"
               + bytes.fromhex("3a00 050200000000 8000000000010001"), 0x86DD)  # fmt: skip
BPDU = ethernet(b"\x42\x42\x03" + bytes(35), 38, bytes.fromhex("0180c2000000"))
LLDP = ethernet(b"\x02\x07\x04" + A, 0x88CC, bytes.fromhex("0180c200000e"))
FRAMES = {
    "query": QUERY, "tagged": TAGGED, "syn": SYN, "ping": PING, "later": LATER, "arp": ARP, "ip6": IP6,
    "bpdu": BPDU, "lldp": LLDP,
}  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("", "query tagged syn ping later arp ip6 bpdu lldp"),
        ("ip", "query tagged syn ping later"),
        ("ip6 or arp", "arp ip6"),
        ("icmp", "ping"),
        ("icmp6", "ip6"),
        ("tcp || udp", "query tagged syn later"),
        ("not ip", "arp ip6 bpdu lldp"),
        ("host 10.0.0.2", "arp"),
        ("arp host 10.0.0.1", "arp"),
        ("src host 10.9.0.2", ""),
        ("dst 10.9.0.2", "query syn ping later"),
        ("10.9.0.2 and tcp", "syn"),
        ("src or dst host 192.168.0.2", "tagged"),
        ("net 10.9.0.0/16", "query syn ping later"),
        ("src net 0.0.0.0/0 and !arp", "query tagged syn ping later"),
        ("dst net fe80::/64", "ip6"),
        ("host FE80::1", "ip6"),
        ("port 53", "query"),
        ("src port 53", ""),
        ("udp dst port 53", "query"),
        ("tcp port 53", ""),
        ("port 80 or port 67", "tagged syn"),
        ("dhcp", "tagged"),
        ("vlan", "tagged"),
        ("vlan 20 and udp", "tagged"),
        ("vlan 21", ""),
        ("not vlan and not (tcp or arp or icmp)", "query later ip6 bpdu lldp"),
        ("broadcast", "tagged arp"),
        ("ether multicast", "tagged arp bpdu lldp"),
        ("ether host 52:54:00:00:00:02 and len < 40", ""),
        ("ether src 52-54-00-00-00-01 and len=42", "query ping later arp"),
        ("ether dst 52:54:00:00:00:01", ""),
        ("ether proto 0x88cc", "lldp"),
        ("greater 50 and less 54", "syn bpdu"),
        ("stp or lldp", "bpdu lldp"),
        ("tcp or udp and vlan", "tagged syn"),
        ("(tcp or udp)and vlan", "tagged"),
    ],
)
def test_matches(expression: str, names: str) -> None:
    wanted = compile_filter(expression)
    assert " ".join(name for name, frame in FRAMES.items() if wanted(frame)) == names


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("tcp prot 80", "column 5: 'prot' is not expected here; join conditions with 'and' or 'or'; did you mean 'port'?"),
        ("boardcast", "column 1: 'boardcast' is not a filter word; did you mean 'broadcast'?"),
        ("tcp and", "column 8: a condition is missing"),
        ("host ten.0.0.1", "column 6: 'ten.0.0.1' is not an IP address"),
        ("host", "column 5: an address is missing"),
        ("net 10.0.0.0/33", "column 5: '10.0.0.0/33' is not a network such as 10.0.0.0/8"),
        ("port http", "column 6: 'http' is not a port number (0 to 65535)"),
        ("port 65536", "column 6: '65536' is not a port number (0 to 65535)"),
        ("port", "column 5: a port number is missing"),
        ("vlan 4096", "column 6: '4096' is not a VLAN ID (0 to 4095)"),
        ("ether 1:2", "column 7: '1:2' is not a MAC address such as 52:54:00:12:34:56"),
        ("(tcp", "column 5: a ')' is missing"),
        ("tcp)", "column 4: ')' is not expected here; join conditions with 'and' or 'or'"),
        ("len 60", "column 5: write a relation after 'len', such as len > 100"),
        ("len ~ 60", "column 5: write a relation after 'len', such as len > 100"),
        ("tcp & udp", "column 5: '&' has no meaning here"),
    ],
)
def test_errors_say_where(expression: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_filter(expression)
    assert str(caught.value) == "filter, " + text


@pytest.mark.parametrize("expression", ["(" * 9999, "not " * 2000, "(" * (MAX_DEPTH + 1) + "ip" + ")" * (MAX_DEPTH + 1)])
def test_depth_and_length_are_bounded(expression: str) -> None:
    with pytest.raises(UsageError, match="longer than|levels of"):
        compile_filter(expression)


@given(st.text(alphabet="tcp ()!&|10./:andorsvlhe><=x", max_size=30))
def test_any_text_compiles_or_is_refused(expression: str) -> None:
    try:
        wanted = compile_filter(expression)
    except UsageError:
        return
    for frame in FRAMES.values():
        assert wanted(frame) in (True, False)


@given(st.sampled_from(sorted(FRAMES)), st.integers(0, 80), st.binary(max_size=30))
def test_no_frame_makes_a_filter_raise(name: str, cut: int, tail: bytes) -> None:
    wanted = compile_filter("port 1 or host ::1 or net 10.0.0.0/8 or stp or dhcp or broadcast or vlan 3 or len > 3")
    assert wanted(FRAMES[name][:cut] + tail) in (True, False)


# An oracle that shares no code: dpkt decodes the frame, a dict of plain conditions judges it.


def facts(frame: bytes) -> dict[str, bool]:
    packet = dpkt.ethernet.Ethernet(frame)
    ip = packet.data if isinstance(packet.data, dpkt.ip.IP) else None
    segment = ip.data if ip is not None and isinstance(ip.data, dpkt.tcp.TCP | dpkt.udp.UDP) else None
    ends = {socket.inet_ntoa(ip.src), socket.inet_ntoa(ip.dst)} if ip is not None else set()
    vids = {tag.id for tag in getattr(packet, "vlan_tags", [])}
    return {
        "ip": ip is not None,
        "tcp": ip is not None and ip.p == 6,
        "udp": ip is not None and ip.p == 17,
        "icmp": ip is not None and ip.p == 1,
        "host 10.0.0.1": "10.0.0.1" in ends,
        "dst host 10.0.0.2": ip is not None and socket.inet_ntoa(ip.dst) == "10.0.0.2",
        "src net 10.0.0.0/31": ip is not None and socket.inet_ntoa(ip.src) in ("10.0.0.0", "10.0.0.1"),
        "port 53": segment is not None and 53 in (segment.sport, segment.dport),
        "src port 80": segment is not None and segment.sport == 80,
        "vlan": bool(vids),
        "vlan 20": 20 in vids,
        "broadcast": packet.dst == ALL,
        "len > 50": len(frame) > 50,
    }


Judge = Callable[[dict[str, bool]], bool]


def negate(one: tuple[str, Judge]) -> tuple[str, Judge]:
    return f"not ({one[0]})", lambda truths: not one[1](truths)


def join(parts: tuple[tuple[str, Judge], str, tuple[str, Judge]]) -> tuple[str, Judge]:
    (left_text, left), word, (right_text, right) = parts
    both: Judge = lambda truths: left(truths) and right(truths)  # noqa: E731
    either: Judge = lambda truths: left(truths) or right(truths)  # noqa: E731
    return f"({left_text}) {word} ({right_text})", both if word == "and" else either


def leaf(word: str) -> tuple[str, Judge]:
    return word, lambda truths: truths[word]


EXPRESSIONS = st.recursive(
    st.sampled_from(sorted(facts(QUERY))).map(leaf),
    lambda inner: st.one_of(inner.map(negate), st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(join)),
    max_leaves=6,
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    address = st.sampled_from(["10.0.0.0", "10.0.0.1", "10.0.0.2", "192.168.0.1"])
    port = st.sampled_from([53, 80, 4000])
    kind = draw(st.sampled_from(["udp", "tcp", "icmp"]))
    ports = draw(port), draw(port)
    if kind == "udp":
        payload = udp(*ports, draw(st.binary(max_size=20)))
    elif kind == "tcp":
        payload = bytes(dpkt.tcp.TCP(sport=ports[0], dport=ports[1]))
    else:
        payload = b"\x08\0\0\0\0\1\0\1"
    packet = ipv4(draw(address), draw(address), {"udp": 17, "tcp": 6, "icmp": 1}[kind], payload)
    vids = draw(st.sampled_from([(), (20,), (21,)]))
    return ethernet(packet, vids=vids, destination=draw(st.sampled_from([B, ALL])))


@given(EXPRESSIONS, frames())
def test_agrees_with_an_oracle_made_of_dpkt(expression: tuple[str, Judge], frame: bytes) -> None:
    text, judge = expression
    assert compile_filter(text)(frame) == judge(facts(frame))
