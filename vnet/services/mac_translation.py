"""Many stations behind one MAC address: what a bridge to a wireless network must do (VS-25).

An access point takes frames from the addresses that have associated with it, and from no other (IEEE 802.11-2020, 4.5.3.3).
So every frame that leaves has the NIC's address as its source, in ARP (RFC 826) and neighbor discovery (RFC 4861) too, and
who is meant by a frame that comes to the NIC's address is told by the IP address in it. It is proxy ARP (RFC 1027) without
the router: stations keep their subnet, and their broadcasts and multicasts pass.

Protocols other than IP can send, but nobody can answer them by unicast. RARP announcements end here: there is one address
to announce, and the switches know it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, final

from vnet.addresses import Mac
from vnet.units import MINUTE, Duration, Instant
from vnet.wire import icmpv6, ipv4, ipv6
from vnet.wire.checksum import delta, update
from vnet.wire.dhcpv4_frame import PAYLOAD_OFFSET, is_dhcp
from vnet.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_RARP
from vnet.wire.ipv6 import PROTOCOL_ICMPV6
from vnet.wire.ndp import MAX_OPTIONS, SOURCE_LINK_LAYER, TARGET_LINK_LAYER
from vnet.wire.virtio_net import NEEDS_CSUM

MOST_STATIONS: Final = 1024
"""IP addresses behind one NIC; when there are more, the one that has been silent longest is forgotten."""
AGEING_TIME: Final[Duration] = 60 * MINUTE
"""How long a silent station is remembered. Its neighbors ask for it anew by broadcast much earlier."""
_REFRESH: Final[Duration] = 1 * MINUTE
"""A station's last frame is noted to this precision, which saves work on every frame."""

_ARP_OCTETS, _IPV4_OCTETS, _IPV6_OCTETS = 42, 34, 54
_NO_ADDRESSES: Final = frozenset({bytes(4), bytes(16), b"\xff\xff\xff\xff"})
_DHCP_SERVER, _DHCP_CLIENT = b"\0\x43", b"\0\x44"
_DHCP_FLAGS: Final = PAYLOAD_OFFSET + 10
_DHCP_HARDWARE_ADDRESS: Final = PAYLOAD_OFFSET + 28
_BROADCAST_FLAG: Final = 0x80
_UDP_CHECKSUM: Final = 40
_ICMPV6_CHECKSUM: Final = _IPV6_OCTETS + 2
_OPTIONS_AT: Final = {
    icmpv6.ROUTER_SOLICITATION: 8, icmpv6.ROUTER_ADVERTISEMENT: 16, icmpv6.NEIGHBOR_SOLICITATION: 24,
    icmpv6.NEIGHBOR_ADVERTISEMENT: 24, icmpv6.REDIRECT: 40,
}  # fmt: skip
"""Where the options of neighbor discovery messages begin, by ICMPv6 type (RFC 4861, 4.1 to 4.5)."""


@final
@dataclass(slots=True)
class _Station:
    mac: Mac
    seen: Instant


@final
@dataclass(slots=True)
class MacTranslation:
    """Translates between the stations' own addresses on the inner side and *outside*, the only one on the outer side.

    Frames are untagged. ``drops`` counts by reason what does not pass.
    """

    outside: Mac
    drops: Counter[str] = field(default_factory=Counter)
    _stations: dict[bytes, _Station] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._stations)

    def outbound(self, frame: bytes, offload: bytes, now: Instant) -> bytes | None:
        """Translate a frame that leaves; None if it must not."""
        outside, source = self.outside, frame[6:12]
        kind, octets = frame[12:14], len(frame)
        head = frame[:6] + outside
        if kind == ETHERTYPE_IPV4 and octets >= _IPV4_OCTETS:
            self._learn(frame[26:30], source, now)
            if is_dhcp(frame, _DHCP_SERVER) and octets > _DHCP_FLAGS + 1:
                frame = _ask_for_broadcast(frame, offload)
        elif kind == ETHERTYPE_ARP and octets >= _ARP_OCTETS:
            self._learn(frame[28:32], source, now)
            return head + frame[12:22] + outside + frame[28:]
        elif kind == ETHERTYPE_IPV6 and octets >= _IPV6_OCTETS:
            self._learn(frame[22:38], source, now)
            if frame[20] == PROTOCOL_ICMPV6 and octets > _ICMPV6_CHECKSUM + 1 and frame[_IPV6_OCTETS] in _OPTIONS_AT:
                frame = _replace_link_layer(frame, offload, outside)
        elif kind == ETHERTYPE_RARP:
            self.drops["announcement"] += 1
            return None
        return head + frame[12:]

    def inbound(self, frame: bytes, now: Instant) -> bytes | None:
        """Translate a frame that has come; None if it is for no station."""
        outside = self.outside
        if frame[6:12] == outside:
            self.drops["echo"] += 1  # an access point repeats the broadcasts of its stations to all of them
            return None
        if frame[:6] != outside:
            return frame  # for a group, or the NIC hears everything
        kind, octets = frame[12:14], len(frame)
        if kind == ETHERTYPE_IPV4 and octets >= _IPV4_OCTETS:
            mac = self._find(frame[30:34], now)
            if mac is None and is_dhcp(frame, _DHCP_CLIENT) and octets >= _DHCP_HARDWARE_ADDRESS + 6:
                mac = frame[_DHCP_HARDWARE_ADDRESS : _DHCP_HARDWARE_ADDRESS + 6]  # a server that does not heed the flag
                mac = None if mac[0] & 1 else mac
        elif kind == ETHERTYPE_ARP and octets >= _ARP_OCTETS:
            mac = self._find(frame[38:42], now)
            if mac is not None:
                return mac + frame[6:32] + mac + frame[38:]
        elif kind == ETHERTYPE_IPV6 and octets >= _IPV6_OCTETS:
            mac = self._find(frame[38:54], now)
        else:
            mac = None
        if mac is None:
            self.drops["no-station"] += 1  # the machine's own, most likely
            return None
        return mac + frame[6:]

    def _learn(self, address: bytes, mac: bytes, now: Instant) -> None:
        station = self._stations.get(address)
        if station is not None and station.mac == mac and now - station.seen < _REFRESH:
            return
        if address in _NO_ADDRESSES or _is_group(address) or mac[0] & 1:
            return
        self._stations.pop(address, None)
        if len(self._stations) >= MOST_STATIONS:
            del self._stations[next(iter(self._stations))]  # in the order in which they last spoke
        self._stations[address] = _Station(mac, now)

    def _find(self, address: bytes, now: Instant) -> Mac | None:
        station = self._stations.get(address)
        if station is None:
            return None
        if now - station.seen > AGEING_TIME:
            del self._stations[address]
            return None
        return station.mac


def _is_group(address: bytes) -> bool:
    return ipv4.is_multicast(address) if len(address) == 4 else ipv6.is_multicast(address)


def _ask_for_broadcast(frame: bytes, offload: bytes) -> bytes:
    """Set the BROADCAST flag (RFC 2131, section 2): a unicast answer would be to an address that the air does not know."""
    flags = frame[_DHCP_FLAGS : _DHCP_FLAGS + 2]
    wanted = bytes((flags[0] | _BROADCAST_FLAG, flags[1]))
    frame = frame[:_DHCP_FLAGS] + wanted + frame[_DHCP_FLAGS + 2 :]
    return _mend(frame, offload, _UDP_CHECKSUM, delta(flags, wanted), udp=True)


def _replace_link_layer(frame: bytes, offload: bytes, outside: bytes) -> bytes:
    """Put *outside* into the link-layer address options (RFC 4861, 4.6.1) of a neighbor discovery message."""
    at = _IPV6_OCTETS + _OPTIONS_AT[frame[_IPV6_OCTETS]]
    for _ in range(MAX_OPTIONS):
        if at + 8 > len(frame) or frame[at + 1] == 0:
            break
        if frame[at] in (SOURCE_LINK_LAYER, TARGET_LINK_LAYER) and frame[at + 1] == 1:
            change = delta(frame[at + 2 : at + 8], outside)
            frame = _mend(frame[: at + 2] + outside + frame[at + 8 :], offload, _ICMPV6_CHECKSUM, change, udp=False)
        at += 8 * frame[at + 1]
    return frame


def _mend(frame: bytes, offload: bytes, at: int, change: int, *, udp: bool) -> bytes:
    """Apply a change to the checksum at *at*, unless it is none (RFC 768), or is still to be completed."""
    value = frame[at] << 8 | frame[at + 1]
    if offload[0] & NEEDS_CSUM or (udp and value == 0):
        return frame
    value = update(value, change)
    if udp:
        value = value or 0xFFFF
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]
