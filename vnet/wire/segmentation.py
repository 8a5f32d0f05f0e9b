"""Do in software what a super-frame's header promises: cut it into frames, and complete checksums.

Only those who cannot take super-frames call this: captures, links with loss, adapters without offload,
emulated hosts for what is not plain TCP.
Sources: VIRTIO 1.2, 5.1.6.2 (what the header means); RFC 9293 3.1 and RFC 768 for the fields that change from frame to
frame. A header that lies about its frame raises WireError; the caller counts it.
"""

from __future__ import annotations

from typing import Final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD
from vnet.wire.checksum import checksum, ones_sum
from vnet.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SVLAN, ETHERTYPE_VLAN, HEADER_OCTETS
from vnet.wire.virtio_net import GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HEADER, NEEDS_CSUM, decode

MAX_SEGMENTS: Final = 2048
"""More frames from one super-frame than any sender asks for: 64 KiB cut at 32 octets."""

_MAX_IP: Final = 0xFFFF
_UDP_CSUM_OFFSET: Final = 6
_TCP_FIN_PSH: Final = 0x09
_TCP_CWR: Final = 0x80


def complete(frame: bytes, offload: bytes) -> list[bytes]:
    """Turn a frame with pending offload into the plain frames it stands for.

    Raise WireError where header and frame do not fit each other.
    """
    if offload == NO_OFFLOAD:
        return [frame]
    flags, gso_type, _, gso_size, start, offset = decode(offload)
    kind = gso_type & 0x7F
    if kind == GSO_NONE:
        return [_fill_checksum(frame, start, offset)] if flags & NEEDS_CSUM else [frame]
    if not flags & NEEDS_CSUM or gso_size == 0:
        raise WireError("a super-frame without checksum offload or segment size")
    network = _network_offset(frame)
    if kind in (GSO_TCPV4, GSO_TCPV6):
        return _cut_tcp(frame, network, start, gso_size)
    if kind == GSO_UDP_L4:
        return _cut_udp(frame, network, start, gso_size)
    raise WireError(f"unknown kind of super-frame {kind}")


def header_octets(frame: bytes, offload: bytes) -> int:
    """Count the octets of headers that each frame cut from this super-frame repeats; 0 for what is none.

    This and the three below believe the header, which may lie: they never raise, and ``complete`` finds the lie.
    """
    kind = offload[1] & 0x7F if len(offload) == HEADER.size else GSO_NONE
    if kind == GSO_NONE:
        return 0
    start = offload[6] | offload[7] << 8
    if kind == GSO_UDP_L4:
        return start + 8
    return start + (frame[start + 12] >> 4) * 4 if len(frame) > start + 12 else len(frame)


def largest_frame(frame: bytes, offload: bytes) -> int:
    """Tell the size of the largest frame that this one becomes on a wire, in octets."""
    if offload == NO_OFFLOAD:
        return len(frame)
    headers = header_octets(frame, offload)
    return min(len(frame), headers + (offload[4] | offload[5] << 8)) if headers else len(frame)


def frame_count(frame: bytes, offload: bytes) -> int:
    """Tell how many frames this one becomes on a wire."""
    headers = header_octets(frame, offload)
    if not headers:
        return 1
    size = offload[4] | offload[5] << 8
    return max(1, -(-(len(frame) - headers) // size)) if size else 1


def wire_octets(frame: bytes, offload: bytes) -> int:
    """Count the octets, headers repeated, of all frames that this one becomes."""
    count = frame_count(frame, offload)
    return len(frame) + (count - 1) * header_octets(frame, offload) if count > 1 else len(frame)


def _fill_checksum(frame: bytes, start: int, offset: int) -> bytes:
    at = start + offset
    if at + 2 > len(frame):
        raise WireError("the checksum field lies outside the frame")
    value = -ones_sum(frame[start:]) % 0xFFFF
    if offset == _UDP_CSUM_OFFSET:
        value = value or 0xFFFF
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]


def _network_offset(frame: bytes) -> int:
    at = HEADER_OCTETS
    while frame[at - 2 : at] in (ETHERTYPE_VLAN, ETHERTYPE_SVLAN):
        at += 4
    if frame[at - 2 : at] not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise WireError("a super-frame that is not IP")
    return at


def _pseudo_sum(frame: bytes, network: int, protocol: int) -> int:
    """Sum addresses and protocol; the length is added per segment."""
    if frame[network] >> 4 == 4:
        return ones_sum(frame[network + 12 : network + 20]) + protocol
    return ones_sum(frame[network + 8 : network + 40]) + protocol


def _ip_headers(frame: bytes, network: int, transport: int) -> tuple[bytes, bytes, int, bool]:
    """Split the IP header so that length, identification and checksum can be filled in; return its parts."""
    if transport < network + 20:
        raise WireError("the transport header lies inside the IP header")
    version = frame[network] >> 4
    if version == 4:
        if transport != network + (frame[network] & 15) * 4:
            raise WireError("the transport header is not where the IPv4 header ends")
    elif version != 6 or transport < network + 40:
        raise WireError("the transport header lies inside the IP header")
    if frame[network - 2 : network] != (ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6):
        raise WireError("EtherType and IP version differ")
    return frame[:network], frame[network:transport], version, version == 4


def _check_sizes(frame: bytes, network: int, headers: int, gso_size: int) -> None:
    """Refuse what no sender asks for: too many frames, or frames that an IP header cannot give the length of."""
    payload = len(frame) - headers
    if -(-payload // gso_size) > MAX_SEGMENTS or headers - network + min(gso_size, payload) > _MAX_IP:
        raise WireError("a super-frame whose segment size is impossible")


def _segment_ip(ip: bytes, length: int, index: int, is_v4: bool) -> bytes:
    """Write the IP header of segment number *index* with *length* octets of transport header and payload."""
    if not is_v4:
        return ip[:4] + (len(ip) - 40 + length).to_bytes(2, "big") + ip[6:]
    identification = (int.from_bytes(ip[4:6], "big") + index) & 0xFFFF
    head = ip[:2] + (len(ip) + length).to_bytes(2, "big") + identification.to_bytes(2, "big") + ip[6:10]
    tail = ip[12:]
    return head + checksum(head + b"\0\0" + tail).to_bytes(2, "big") + tail


def _cut_tcp(frame: bytes, network: int, transport: int, gso_size: int) -> list[bytes]:
    if len(frame) < transport + 20:
        raise WireError("a TCP super-frame without a TCP header")
    end = transport + (frame[transport + 12] >> 4) * 4
    if not transport + 20 <= end <= len(frame):
        raise WireError("a TCP super-frame whose data offset is impossible")
    _check_sizes(frame, network, end, gso_size)
    payload = frame[end:]
    link, ip, _, is_v4 = _ip_headers(frame, network, transport)
    tcp = frame[transport:end]
    pseudo = _pseudo_sum(frame, network, 6)
    sequence = int.from_bytes(tcp[4:8], "big")
    flags = tcp[13]
    frames: list[bytes] = []
    last = max(0, (len(payload) - 1) // gso_size)
    for index in range(last + 1):
        chunk = payload[index * gso_size : (index + 1) * gso_size]
        here = flags if index == last else flags & ~_TCP_FIN_PSH
        if index:
            here &= ~_TCP_CWR
        number = (sequence + index * gso_size) & 0xFFFFFFFF
        head = tcp[:4] + number.to_bytes(4, "big") + tcp[8:13] + bytes((here,)) + tcp[14:16]
        tail = tcp[18:] + chunk
        length = len(tcp) + len(chunk)
        value = checksum(head + b"\0\0" + tail, pseudo + length)
        frames.append(link + _segment_ip(ip, length, index, is_v4) + head + value.to_bytes(2, "big") + tail)
    return frames


def _cut_udp(frame: bytes, network: int, transport: int, gso_size: int) -> list[bytes]:
    if len(frame) < transport + 8:
        raise WireError("a UDP super-frame without a UDP header")
    _check_sizes(frame, network, transport + 8, gso_size)
    payload = frame[transport + 8 :]
    link, ip, _, is_v4 = _ip_headers(frame, network, transport)
    ports = frame[transport : transport + 4]
    pseudo = _pseudo_sum(frame, network, 17)
    frames: list[bytes] = []
    for index in range(max(1, -(-len(payload) // gso_size))):
        chunk = payload[index * gso_size : (index + 1) * gso_size]
        length = 8 + len(chunk)
        head = ports + length.to_bytes(2, "big")
        value = checksum(head + b"\0\0" + chunk, pseudo + length) or 0xFFFF
        frames.append(link + _segment_ip(ip, length, index, is_v4) + head + value.to_bytes(2, "big") + chunk)
    return frames
