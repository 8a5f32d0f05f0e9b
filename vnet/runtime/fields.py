"""What a capture filter looks at in a frame, read once: tags, EtherType, addresses, protocol and ports."""

from __future__ import annotations

from typing import Final, final

IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD
_TAGS: Final = (b"\x81\x00", b"\x88\xa8")
_IPV6_EXTENSIONS: Final = (0, 43, 60)
_IPV6_FRAGMENT: Final = 44


@final
class Fields:
    """The fields of one frame of at least 14 octets; what is not there is -1, or empty.

    *source* and *destination* are the packed addresses of IPv4, IPv6 or ARP. The ports of a later fragment are not known.
    """

    __slots__ = (
        "destination",
        "destination_port",
        "ethertype",
        "frame",
        "payload",
        "protocol",
        "source",
        "source_port",
        "vids",
    )

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.source = self.destination = b""
        self.protocol = self.source_port = self.destination_port = -1
        position = 12
        vids: list[int] = []
        while frame[position : position + 2] in _TAGS and len(frame) >= position + 6:
            vids.append((frame[position + 2] << 8 | frame[position + 3]) & 0xFFF)
            position += 4
        self.vids = tuple(vids)
        self.ethertype = frame[position] << 8 | frame[position + 1]
        self.payload = payload = frame[position + 2 :]
        if self.ethertype == IPV4:
            self._ipv4(payload)
        elif self.ethertype == IPV6:
            self._ipv6(payload)
        elif self.ethertype == ARP and payload[:6] == b"\x00\x01\x08\x00\x06\x04" and len(payload) >= 28:
            self.source, self.destination = payload[14:18], payload[24:28]

    def _ipv4(self, packet: bytes) -> None:
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        self.source, self.destination, self.protocol = packet[12:16], packet[16:20], packet[9]
        if not (packet[6] & 0x1F or packet[7]):
            self._ports(packet[(packet[0] & 15) * 4 : packet[2] << 8 | packet[3]])

    def _ipv6(self, packet: bytes) -> None:
        if len(packet) < 40 or packet[0] >> 4 != 6:
            return
        self.source, self.destination = packet[8:24], packet[24:40]
        kind, data = packet[6], packet[40 : 40 + (packet[4] << 8 | packet[5])]
        while kind in _IPV6_EXTENSIONS and len(data) >= 8:
            kind, data = data[0], data[8 + 8 * data[1] :]
        if kind == _IPV6_FRAGMENT and len(data) >= 8:
            later = data[2] << 8 | data[3] & 0xF8
            kind, data = data[0], b"" if later else data[8:]
        self.protocol = kind
        self._ports(data)

    def _ports(self, segment: bytes) -> None:
        if self.protocol in (6, 17) and len(segment) >= 4:
            self.source_port = segment[0] << 8 | segment[1]
            self.destination_port = segment[2] << 8 | segment[3]
