"""One line of text per frame, in the manner of tcpdump, for people who watch a lab.

Each layer is a generator of pieces: what it could read before the octets ran out is kept, and the line ends in
``[cut short]``. So ``describe`` never raises, whatever the octets are. Texts of peers (host names, DNS labels) are escaped:
a frame must not be able to move the cursor of the terminal that shows it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from struct import unpack_from
from typing import Final, TypeAlias

from vnet.addresses import BROADCAST, format_mac
from vnet.wire.describe_application import dhcp, dns, printable
from vnet.wire.describe_icmpv6 import icmp6, ipv6_text

Pieces: TypeAlias = Iterator[str]

_ICMP: Final = {
    0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request", 9: "router advertisement",
    10: "router solicitation", 11: "time exceeded", 12: "parameter problem", 13: "timestamp request", 14: "timestamp reply",
}  # fmt: skip
_ICMP_CODES: Final = {
    (3, 0): "network unreachable", (3, 1): "host unreachable", (3, 2): "protocol unreachable", (3, 3): "port unreachable",
    (3, 4): "fragmentation needed", (3, 5): "source route failed", (3, 9): "network prohibited", (3, 10): "host prohibited",
    (3, 13): "administratively prohibited", (5, 0): "redirect for network", (5, 1): "redirect for host",
    (11, 0): "time exceeded in transit", (11, 1): "reassembly time exceeded",
}  # fmt: skip
_PROTOCOLS: Final = {2: "IGMP", 4: "IPv4-in-IPv4", 41: "IPv6-in-IP", 47: "GRE", 50: "ESP", 51: "AH", 89: "OSPF", 112: "VRRP"}
_EXTENSION_HEADERS: Final = {0: "hop-by-hop options", 43: "routing header", 60: "destination options"}
_TCP_FLAGS: Final = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x10, "."), (0x20, "U"), (0x40, "E"), (0x80, "W"))
_BPDUS: Final = {0x00: "STP configuration", 0x80: "STP topology change", 0x02: "RSTP"}
_PORT_ROLES: Final = ("unknown", "alternate/backup", "root", "designated")


def describe(frame: bytes) -> str:
    """Describe an Ethernet frame on one line; never raises."""
    pieces = [format_mac(frame[6:12]) + " > " + ("broadcast" if frame[:6] == BROADCAST else format_mac(frame[:6]))]
    try:
        for piece in _ethernet(frame):
            pieces.append(piece)
    except (IndexError, struct.error):
        pieces.append("[cut short]")
    return ", ".join(pieces)


def _ethernet(frame: bytes) -> Pieces:
    position = 12
    kind = _half(frame, position)
    while kind in (0x8100, 0x88A8):
        tci = _half(frame, position + 2)
        tag = "vlan" if kind == 0x8100 else "s-vlan"
        yield f"{tag} {tci & 0xFFF}" + (f" pcp {tci >> 13}" if tci >> 13 else "") + (" dei" if tci & 0x1000 else "")
        position += 4
        kind = _half(frame, position)
    payload = frame[position + 2 :]
    if kind in _ETHERTYPES:
        yield from _ETHERTYPES[kind](payload)
    elif kind < 1536:
        yield from _llc(payload[:kind])
    else:
        yield f"ethertype 0x{kind:04x}"
        yield f"length {len(payload)}"


def _llc(data: bytes) -> Pieces:
    if data[:3] == b"\x42\x42\x03":
        yield from _bpdu(data[3:])
    else:
        yield f"LLC dsap 0x{data[0]:02x} ssap 0x{data[1]:02x} control 0x{data[2]:02x}"
        yield f"length {len(data)}"


def _bpdu(data: bytes) -> Pieces:
    version, kind = data[2], data[3]
    yield "MSTP" if version == 3 else _BPDUS.get(kind, f"BPDU type {kind}")
    if kind == 0x80:
        return
    flags = data[4]
    cost = unpack_from(">I", data, 13)[0]
    yield f"root {_bridge(data[5:13])} cost {cost}"
    yield f"bridge {_bridge(data[17:25])} port {_half(data, 25):04x}"
    if kind == 0x02:
        state = "forwarding" if flags & 0x20 else "learning" if flags & 0x10 else "discarding"
        yield _PORT_ROLES[flags >> 2 & 3] + " " + state
        for bit, name in ((0x02, "proposal"), (0x40, "agreement")):
            if flags & bit:
                yield name
    if flags & 1:
        yield "topology change"


def _bridge(identifier: bytes) -> str:
    return f"{_half(identifier, 0)}.{format_mac(identifier[2:])}"


def _lldp(data: bytes) -> Pieces:
    yield "LLDP"
    position = 0
    while position + 2 <= len(data):
        head = _half(data, position)
        kind, length = head >> 9, head & 0x1FF
        value = data[position + 2 : position + 2 + length]
        position += 2 + length
        if kind == 0:
            return
        if kind in (1, 2) and value:
            is_mac = len(value) == 7 and value[0] == (4 if kind == 1 else 3)
            yield ("chassis " if kind == 1 else "port ") + (format_mac(value[1:]) if is_mac else printable(value[1:]))
        elif kind == 3:
            yield f"ttl {_half(value, 0)}"
        elif kind == 5:
            yield "system " + printable(value)
    raise IndexError


def _slow_protocol(data: bytes) -> Pieces:
    yield {1: "LACP", 2: "LAG marker", 3: "Ethernet OAM"}.get(data[0], f"slow protocol {data[0]}")
    yield f"length {len(data)}"


def _arp(data: bytes) -> Pieces:
    if data[:6] != b"\x00\x01\x08\x00\x06\x04":
        yield f"ARP for hardware {_half(data, 0)} protocol 0x{_half(data, 2):04x}"
        return
    operation = _half(data, 6)
    sender_mac, target_mac = format_mac(data[8:14]), format_mac(data[18:24])
    sender, target = _ipv4_text(data, 14), _ipv4_text(data, 24)
    if operation == 1 and sender == "0.0.0.0":
        yield f"ARP probe {target}"
    elif operation == 1 and sender == target:
        yield f"ARP announcement {sender} is-at {sender_mac}"
    elif operation == 1:
        yield f"ARP who-has {target} tell {sender}"
    elif operation == 2:
        yield f"ARP reply {sender} is-at {sender_mac} to {target_mac}"
    else:
        yield f"ARP operation {operation}"


def _ipv4(data: bytes) -> Pieces:
    header, total = (data[0] & 15) * 4, _half(data, 2)
    source, destination = _ipv4_text(data, 12), _ipv4_text(data, 16)
    if data[0] >> 4 != 4 or header < 20 or total < header:
        yield f"IPv4 bad header (version {data[0] >> 4}, header {header}, total {total})"
        return
    fragment = _half(data, 6)
    protocol, payload = data[9], data[header:total]
    if fragment & 0x1FFF:
        yield f"IPv4 {source} > {destination}"
        yield f"fragment at {(fragment & 0x1FFF) * 8} of id {_half(data, 4)}"
        yield _protocol(protocol)
        yield f"length {len(payload)}"
        return
    yield from _transport(source, destination, protocol, payload, "IPv4")
    if fragment & 0x2000:
        yield f"first fragment of id {_half(data, 4)}"
    if len(data) < total:
        raise IndexError


def _ipv6(data: bytes) -> Pieces:
    if data[0] >> 4 != 6:
        yield f"IPv6 bad header (version {data[0] >> 4})"
        return
    length, protocol, source, destination = _half(data, 4), data[6], ipv6_text(data, 8), ipv6_text(data, 24)
    payload = data[40 : 40 + length]
    while protocol in _EXTENSION_HEADERS:
        yield _EXTENSION_HEADERS[protocol]
        protocol, payload = payload[0], payload[8 + 8 * payload[1] :]
    if protocol == 44:
        offset = _half(payload, 2) & 0xFFF8
        yield f"fragment at {offset} of id {unpack_from('>I', payload, 4)[0]}"
        protocol, payload = payload[0], payload[8:]
        if offset:
            yield f"IPv6 {source} > {destination}"
            yield _protocol(protocol)
            return
    yield from _transport(source, destination, protocol, payload, "IPv6")
    if len(data) < 40 + length:
        raise IndexError


def _transport(source: str, destination: str, protocol: int, data: bytes, family: str) -> Pieces:
    if protocol in (6, 17):
        ports = f"{_half(data, 0)}", f"{_half(data, 2)}"
        yield f"{family} {source}.{ports[0]} > {destination}.{ports[1]}"
        yield from _tcp(data) if protocol == 6 else _udp(data)
        return
    yield f"{family} {source} > {destination}"
    if protocol == 1:
        yield from _icmp(data)
    elif protocol == 58:
        yield from icmp6(data)
    else:
        yield _protocol(protocol)
        yield f"length {len(data)}"


def _protocol(number: int) -> str:
    return {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", **_PROTOCOLS}.get(number, f"protocol {number}")


def _icmp(data: bytes) -> Pieces:
    kind, code = data[0], data[1]
    name = _ICMP_CODES.get((kind, code)) or _ICMP.get(kind, f"type {kind} code {code}")
    yield "ICMP " + name
    if kind in (0, 8):
        yield f"id {_half(data, 4)}"
        yield f"seq {_half(data, 6)}"
        yield f"length {len(data)}"
    elif kind in (3, 5, 11):
        if (kind, code) == (3, 4):
            yield f"mtu {_half(data, 6)}"
        if kind == 5:
            yield f"to {_ipv4_text(data, 4)}"
        yield "about " + " ".join(_quoted(data[8:]))


def _quoted(data: bytes) -> Pieces:
    """Name the packet that an ICMP error carries, of which only the first octets are there."""
    header, protocol = (data[0] & 15) * 4, data[9]
    ports = (f".{_half(data, header)}", f".{_half(data, header + 2)}") if protocol in (6, 17) else ("", "")
    yield f"{_protocol(protocol)} {_ipv4_text(data, 12)}{ports[0]} > {_ipv4_text(data, 16)}{ports[1]}"


def _udp(data: bytes) -> Pieces:
    source, destination, length = _half(data, 0), _half(data, 2), _half(data, 4)
    payload = data[8:length] if length >= 8 else data[8:]
    ports = {source, destination}
    if ports & {67, 68}:
        yield from dhcp(payload)
    elif ports & {53, 5353}:
        yield from dns(payload)
    else:
        yield "UDP"
        yield f"length {len(payload)}"
    if length < 8:
        yield f"bad UDP length {length}"


def _tcp(data: bytes) -> Pieces:
    sequence, acknowledgement = unpack_from(">II", data, 4)
    offset, flags, window = (data[12] >> 4) * 4, data[13], _half(data, 14)
    yield "TCP [" + ("".join(letter for bit, letter in _TCP_FLAGS if flags & bit) or "none") + "]"
    if offset < 20:
        yield f"bad data offset {offset}"
        return
    octets = len(data) - offset
    yield f"seq {sequence}" + (f":{(sequence + octets) & 0xFFFFFFFF}" if octets > 0 else "")
    if flags & 0x10:
        yield f"ack {acknowledgement}"
    yield f"win {window}"
    if offset > 20:
        yield "options [" + ",".join(_tcp_options(data[20:offset])) + "]"
    yield f"length {max(octets, 0)}"
    if octets < 0:
        raise IndexError


def _tcp_options(data: bytes) -> Pieces:
    position = 0
    while position < len(data) and data[position] != 0:
        kind = data[position]
        if kind == 1:
            yield "nop"
            position += 1
            continue
        length = data[position + 1] if position + 1 < len(data) else 0
        value = data[position + 2 : position + length]
        if length < 2 or len(value) != length - 2:
            yield "bad"
            return
        yield _tcp_option(kind, value)
        position += length


def _tcp_option(kind: int, value: bytes) -> str:
    if kind == 2 and len(value) == 2:
        return f"mss {_half(value, 0)}"
    if kind == 3 and len(value) == 1:
        return f"wscale {value[0]}"
    if kind == 4:
        return "sackOK"
    if kind == 5:
        edges = [unpack_from(">I", value, at)[0] for at in range(0, len(value) - 3, 4)]
        return "sack " + " ".join(f"{left}:{right}" for left, right in zip(edges[::2], edges[1::2], strict=False))
    if kind == 8 and len(value) == 8:
        return "TS val {} ecr {}".format(*unpack_from(">II", value))
    return f"option {kind}"


def _half(data: bytes, position: int) -> int:
    return data[position] << 8 | data[position + 1]


def _ipv4_text(data: bytes, position: int) -> str:
    return str(IPv4Address(unpack_from(">I", data, position)[0]))


_ETHERTYPES: Final[dict[int, Callable[[bytes], Pieces]]] = {
    0x0800: _ipv4, 0x0806: _arp, 0x86DD: _ipv6, 0x88CC: _lldp, 0x8809: _slow_protocol,
}  # fmt: skip
