"""A seeded source of frames for everything vnet speaks: right ones, nearly right ones, and noise.

``FrameSource.draw`` gives (frame, offload). About a third are right to the last bit, so that the tables fill and the fast
paths are taken; the rest are right ones with a few mutations, half of them with their checksums made right again so that
the damage gets past the first check (``damage``); a few are noise. The builders here and in ``packets`` share nothing with
vnet's codecs but the checksum, and know nothing of what vnet makes of a frame.

A frame is built once and drawn many times in many mutations: building costs ten times as much as mutating.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import pack
from typing import Final, final

from damage import OFFLOAD, Damage
from draws import GROUP_MACS, ODD_ADDRESSES, Dice, Drawn, Ends, Place
from packets import (
    ARP,
    BROADCAST,
    C_TAG,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    S_TAG,
    TCP,
    UDP,
    icmp,
    ip_offset,
    ipv4,
    summed,
    udp,
    v6_of,
)

from vnet.ports import NO_OFFLOAD
from vnet.wire.checksum import ones_sum

CORPUS: Final = 4096
"""Built frames kept for further use; a new one takes the place of an old one."""
FRESH: Final = 0.15
"""Share of the draws that build a frame."""
PORTS: Final = (0, 1, 7, 22, 25, 53, 67, 68, 80, 443, 5000, 5001, 8080, 33434, 49152, 65535)
_ICMP_KINDS: Final = (0, 3, 3, 3, 4, 5, 8, 8, 8, 11, 11, 12, 13, 14, 17, 30, 255)
_DHCP_CODES: Final = (1, 3, 6, 12, 15, 44, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 66, 67, 81, 82, 116, 121, 255, 0)


@final
class FrameSource(Dice):
    """Draws frames; the same seed and place give the same frames. ``kinds`` counts what was built, by builder."""

    def __init__(self, seed: int, place: Place) -> None:
        super().__init__(random.Random(seed))
        self.place = place
        self.kinds: dict[str, int] = {}
        self._corpus: list[Drawn] = []
        self._next = 0
        self._damage = Damage(self.random, place, self._corpus)
        self._builders: tuple[Callable[[], Drawn], ...] = (
            *[self._arp] * 3, *[self._udp] * 4, *[self._tcp] * 4, *[self._icmp] * 3, *[self._icmp_error] * 3,
            *[self._dhcp] * 5, *[self._fragments] * 2, self._other_ip, *[self._ipv6] * 2, *[self._llc] * 2, self._lldp,
            self._ethertype, self._runt, self._jumbo, *[self._super] * 3, self._noise,
        )  # fmt: skip

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self) -> Drawn:
        """Draw one frame with its offload header."""
        uniform = self._uniform
        if len(self._corpus) < 64 or uniform() < FRESH:
            frame, offload = self._build()
        else:
            frame, offload = self._corpus[int(uniform() * len(self._corpus))]
        if uniform() < 0.35:
            return frame, offload
        return self._damage.mutated(frame, offload)

    def _build(self) -> Drawn:
        builder = self._builders[int(self._uniform() * len(self._builders))]
        name = builder.__name__.strip("_")
        self.kinds[name] = self.kinds.get(name, 0) + 1
        frame, offload = builder()
        if offload is NO_OFFLOAD and self._uniform() < 0.3:
            frame = self._tagged(frame)
        drawn = frame, offload
        if len(self._corpus) < CORPUS:
            self._corpus.append(drawn)
        else:
            self._corpus[self._next] = drawn
            self._next = (self._next + 1) % CORPUS
        return drawn

    # -- Ethernet ------------------------------------------------------------------------------------------------------

    def _ends(self) -> Ends:
        """Draw the ends of a frame: mostly of two who know each other."""
        stations, uniform = self.place.stations, self._uniform
        if self.place.talks and uniform() < 0.5:
            return self.one(self.place.talks)
        mac, address = stations[int(uniform() * len(stations))]
        peer_mac, peer = stations[int(uniform() * len(stations))]
        chance = uniform()
        if chance < 0.15:  # through somebody, to somewhere else
            peer = self.one(self.place.addresses if chance < 0.1 else ODD_ADDRESSES)
        elif chance < 0.25:
            peer_mac = self.one(GROUP_MACS)
        elif chance < 0.3:
            peer_mac, peer = BROADCAST, b"\xff\xff\xff\xff"
        elif chance < 0.35:
            mac = b"\x02" + self._octets(5)
        elif chance < 0.38:
            address = self.one(ODD_ADDRESSES)
        return peer_mac, mac, address, peer

    def _tagged(self, frame: bytes) -> bytes:
        vids = self.place.vids
        for tpid in self.one(((C_TAG,), (C_TAG,), (C_TAG,), (C_TAG, C_TAG), (C_TAG, S_TAG), (S_TAG,))):
            vid = self.one((self.one(vids), self.one(vids), self.one(vids), 0, 1, 4095, 4094, self._bits(12)))
            frame = frame[:12] + tpid + pack("!H", self.one((0, 0, self._bits(4))) << 12 | vid) + frame[12:]
        return frame[: self.one((13, 14, 15, 16, 17, 18))] if self._uniform() < 0.03 else frame

    def _noise(self) -> Drawn:
        frame = self._octets(self.one((self.below(64), self.below(1600), self.below(10_000))))
        return frame, self._octets(10) if self._uniform() < 0.2 else NO_OFFLOAD

    def _runt(self) -> Drawn:
        destination, source, _, _ = self._ends()
        return (destination + source + self.one((IPV4, ARP, C_TAG, S_TAG, b"\0\0")) + b"\0")[: self.below(16)], NO_OFFLOAD

    def _jumbo(self) -> Drawn:
        destination, source, address, peer = self._ends()
        payload = bytes(self.one((1486, 1501, 8000, 8985, 9000, 9199, 9203, 20_000, 65_000)))
        packet = ipv4(address, peer, UDP, udp(address, peer, 5000, 7, payload), ident=self._bits(16))
        return destination + source + IPV4 + packet, NO_OFFLOAD

    def _ethertype(self) -> Drawn:
        destination, source, _, _ = self._ends()
        kind = self.one((b"\x88\x63", b"\x88\x64", b"\x88\x8e", b"\x88\x09", b"\x90\x00", b"\xff\xff", self._octets(2)))
        return destination + source + kind + self._octets(self.below(100)), NO_OFFLOAD

    def _llc(self) -> Drawn:
        """IEEE 802.3 with a length: STP and RSTP, IPX, SNAP; some lie about the length."""
        _, source, _, _ = self._ends()
        body = self.one((
            b"\x42\x42\x03\0\0\0\0\0\x80\0" + source + bytes(4) + b"\x80\0" + source + b"\x80\x01\0\0\x14\0\x02\0\x0f\0",
            b"\x42\x42\x03\0\0\x02\x02\x3c" + bytes(12) + source + bytes(12) + b"\0",
            b"\x42\x42\x03\0\0\0\x80", b"\xe0\xe0\x03" + self._octets(30), b"\xaa\xaa\x03\0\0\0\x08\x00" + self._octets(30),
        ))  # fmt: skip
        length = self.one((len(body), len(body), len(body), 0, 1500, 1535))
        return self.one(GROUP_MACS) + source + pack("!H", length) + body, NO_OFFLOAD

    def _lldp(self) -> Drawn:
        _, source, _, _ = self._ends()
        tlvs = b"\x02\x07\x04" + source + b"\x04\x03\x05\x65\x30\x06\x02\0\x78" + self._octets(self.below(20)) + b"\0\0"
        return b"\x01\x80\xc2\0\0\x0e" + source + b"\x88\xcc" + tlvs, NO_OFFLOAD

    def _arp(self) -> Drawn:
        destination, source, address, peer = self._ends()
        operation = self.one((1, 1, 1, 2, 2, 0, 3, 8))
        sender = self.one((address, address, address, bytes(4), peer, self._octets(4)))
        hardware = self.one((source, source, source, destination, self._octets(6), bytes(6)))
        target = self.one((peer, peer, peer, address, self.one(self.place.addresses)))
        head = self.one((b"\0\x01\x08\0\x06\x04",) * 6 + (b"\0\x01\x08\0\x06\x10", b"\0\x06\x08\0\x06\x04", self._octets(6)))
        packet = head + pack("!H", operation) + hardware + sender + self.one((bytes(6), destination)) + target
        to = self.one((BROADCAST, BROADCAST, destination))
        return to + source + ARP + packet + bytes(self.one((0, 18))), NO_OFFLOAD

    # -- IPv4 ----------------------------------------------------------------------------------------------------------

    def _packet(self, protocol: int, body: bytes, ends: Ends) -> bytes:
        destination, source, address, peer = ends
        options = b""
        if self._uniform() < 0.1:
            options = self.one((
                b"\x01\x01\x01\0", b"\x94\x04\0\0", b"\x07\x0b\x04" + bytes(9), b"\x83\x07\x04" + peer + b"\0",
                b"\x44\x08\x05\0" + bytes(4), self._octets(4 * self.below(11)),
            ))  # fmt: skip
        ttl = self.one((64, 64, 64, 64, 128, 255, 0, 1, 2))
        word = self.one((0, 0, 0, 0x4000, 0x4000, 0x8000))
        packet = ipv4(address, peer, protocol, body, ttl=ttl, ident=self._bits(16), word=word, options=options)
        return destination + source + IPV4 + packet

    def _udp(self) -> Drawn:
        ends = self._ends()
        payload = self._octets(self.one((0, 1, 17, self.below(300), self.below(1472))))
        datagram = udp(ends[2], ends[3], self.one(PORTS), self.one(PORTS), payload, summed_=self._uniform() > 0.1)
        return self._packet(UDP, datagram, ends), NO_OFFLOAD

    def _tcp(self) -> Drawn:
        ends = self._ends()
        options = self.one(
            (b"", b"", b"\x02\x04\x05\xb4", b"\x01\x01\x08\x0a" + self._octets(8), self._octets(4 * self.below(11)))
        )
        flags = self.one((2, 2, 2, 18, 16, 16, 17, 4, 20, 24, 1, 0, 63, self._bits(8)))
        payload = self._octets(self.one((0, 0, 1, self.below(600))))
        return self._packet(TCP, self._segment(ends, flags, options, payload), ends), NO_OFFLOAD

    def _segment(self, ends: Ends, flags: int, options: bytes, payload: bytes) -> bytes:
        head = pack("!HHIIBBHHH", self.one(PORTS), self.one(PORTS), self._bits(32), self._bits(32),
                    (20 + len(options)) << 2, flags, 65535, 0, 0)  # fmt: skip
        return summed(head + options + payload, 16, ends[2], ends[3], TCP)

    def _icmp(self) -> Drawn:
        ends = self._ends()
        kind = self.one(_ICMP_KINDS)
        message = pack("!BBHI", kind, self.one((0, 0, 0, 1, 3, 4, 13)), 0, self._bits(32)) + self._octets(self.below(120))
        return self._packet(ICMP, icmp(message), ends), NO_OFFLOAD

    def _icmp_error(self) -> Drawn:
        """An error with a packet in it that may have been sent: of a frame built before, if there is one."""
        ends = self._ends()
        quoted = self._corpus[self.below(len(self._corpus))][0] if self._corpus else b""
        at = ip_offset(quoted)
        if at is None or self._uniform() < 0.3:
            back = ends[1], ends[0], ends[3], ends[2]
            body = self.one(
                (udp(back[2], back[3], self.one(PORTS), self.one(PORTS), b"x"), self._segment(back, 2, b"", b""))
            )
            packet = ipv4(back[2], back[3], UDP, body)
        else:
            packet = bytes(quoted[at:])
            if len(packet) >= 20 and self._uniform() < 0.7:
                ends = ends[0], ends[1], packet[16:20], packet[12:16]
        head = pack(
            "!BBHI", self.one((3, 3, 3, 4, 5, 11, 11, 12)), self.below(16), 0, self.one((0, 0, 68, 576, self._bits(32)))
        )
        return self._packet(ICMP, icmp(head + packet[: self.one((28, 28, 64, 128, 548, self.below(60)))]), ends), NO_OFFLOAD

    def _fragments(self) -> Drawn:
        """One fragment of a datagram; the identifications are few, so that they meet."""
        destination, source, address, peer = self._ends()
        protocol = self.one((UDP, UDP, TCP, ICMP, 99))
        offset = self.one((0, 0, 0, 1, 2, 3, 64, 185, 370, 8191, self._bits(13)))
        more = self.one((0x2000, 0x2000, 0))
        size = self.one((8, 16, 24, 512, 1480, self.below(100)))
        body = (udp(address, peer, 5000, 7, bytes(1472)) if protocol == UDP else self._octets(1480))[:size]
        packet = ipv4(address, peer, protocol, body, ident=self.below(3), word=more | offset)
        return destination + source + IPV4 + packet, NO_OFFLOAD

    def _other_ip(self) -> Drawn:
        ends = self._ends()
        return self._packet(
            self.one((0, 2, 4, 41, 47, 50, 88, 89, 112, 132, 255)), self._octets(self.below(80)), ends
        ), NO_OFFLOAD

    # -- DHCP ----------------------------------------------------------------------------------------------------------

    def _dhcp(self) -> Drawn:
        """Any message of RFC 2131, from clients that are there and from ones that are not; options may be broken."""
        destination, source, address, peer = self._ends()
        kind = self.one((1, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 13, 0))
        to_client = kind in (2, 5, 6)
        op = self.one((2 if to_client else 1,) * 9 + (self._bits(8),))
        chaddr = self.one((source, source, destination, self._octets(6))) + bytes(10)
        zero = bytes(4)
        ciaddr = self.one((zero, zero, address, peer))
        message = pack(
            "!4BIHH4s4s4s4s16s64s128s4s", op, 1, self.one((6,) * 12 + (0, 16, 255)), self.one((0, 0, 1, 17)), self._bits(32),
            self._bits(4), self.one((0, 0x8000)), ciaddr, self.one((zero, peer)), zero,
            self.one((zero, zero, zero, address, self._octets(4))), chaddr, b"", b"", b"\x63\x82\x53\x63",
        )  # fmt: skip
        options = [b"\x35\x01" + bytes((kind,))]
        for _ in range(self.below(6)):
            options.append(self._dhcp_option(address, peer))
        if self._uniform() < 0.1:
            self.random.shuffle(options)
        message += b"".join(options) + self.one((b"\xff", b"\xff", b"\xff" + bytes(60), b"", b"\x0c\xff"))
        ports = (67, 68) if to_client else (68, 67)
        if self._uniform() < 0.7:
            destination, address, peer = self.one((
                (BROADCAST, zero, b"\xff\xff\xff\xff"), (BROADCAST, zero, b"\xff\xff\xff\xff"), (destination, address, peer),
            ))  # fmt: skip
        packet = ipv4(address, peer, UDP, udp(address, peer, *ports, message), ttl=self.one((64, 128, 16)))
        return destination + source + IPV4 + packet, NO_OFFLOAD

    def _dhcp_option(self, address: bytes, peer: bytes) -> bytes:
        code = self.one(_DHCP_CODES)
        if code in (0, 255):
            return bytes((code,))
        if code in (50, 54) and self._uniform() < 0.8:
            return bytes((code, 4)) + self.one((address, peer, self.one(self.place.addresses)))
        value = {
            52: self.one((b"\1", b"\2", b"\3", b"\4")), 55: bytes((1, 3, 6, 15, 44, 51, 54, 58, 59)),
            61: b"\1" + self._octets(6),
            57: pack("!H", self.one((0, 300, 576, 1500, 65535))), 12: b"pc\xff\0name", 121: self._octets(self.below(20)),
        }.get(code)  # fmt: skip
        if value is None or self._uniform() < 0.2:
            value = self._octets(self.below(self.one((2, 5, 12, 256))))
        length = self.one((len(value),) * 12 + (0, 255, (len(value) + 1) & 255))
        return bytes((code, length)) + value

    # -- IPv6 and super-frames -----------------------------------------------------------------------------------------

    def _ipv6(self) -> Drawn:
        destination, source, _, _ = self._ends()
        address, peer = v6_of(source), v6_of(destination)
        nd = pack("!BBHI", self.one((133, 134, 135, 136, 128, 129, 1, 2)), 0, 0, 0) + peer + b"\1\1" + source
        body, protocol = self.one((
            (summed(nd, 2, address, peer, ICMPV6), ICMPV6), (udp(address, peer, 546, 547, self._octets(40)), UDP),
            (b"\x3a\0\0\0\0\0\0\0" + nd, 0), (b"\x11\0\0\1\0\0\0\7" + self._octets(30), 44), (self._octets(20), 59),
        ))  # fmt: skip
        length = self.one((len(body),) * 6 + (0, 65535))
        head = pack("!IHBB", 0x60000000, length, protocol, self.one((255, 64, 1))) + address + peer
        return self.one((destination, GROUP_MACS[3])) + source + IPV6 + head + body, NO_OFFLOAD

    def _super(self) -> Drawn:
        """A super-frame as Linux sends it: TSO for IPv4 and IPv6, USO; its checksum field holds the pseudo-header's sum."""
        destination, source, address, peer = self._ends()
        payload = bytes(self.one((0, 1, 1448, 1449, 3000, 14_480, 60_000)))
        size = self.one((1448, 1448, 1400, 536, 100))
        kind = self.below(3)
        tags = self.one((b"", b"", b"", C_TAG + pack("!H", self.one(self.place.vids))))
        network = 14 + len(tags)
        if kind == 1:
            address, peer = v6_of(source), v6_of(destination)
        start = network + (40 if kind == 1 else 20)
        if kind == 2:
            length = 8 + len(payload)
            pseudo = (ones_sum(address + peer) + UDP + length) % 0xFFFF
            body = pack("!HHHH", self.one(PORTS), self.one(PORTS), length, pseudo) + payload
            offload = OFFLOAD.pack(1, 5, start + 8, size, start, 6)
        else:
            pseudo = (ones_sum(address + peer) + TCP + 20 + len(payload)) % 0xFFFF
            flags = self.one((16, 24, 2, 17, 0x90))
            body = pack("!HHIIBBHHH", self.one(PORTS), self.one(PORTS), 1, 1, 0x50, flags, 65535, pseudo, 0) + payload
            offload = OFFLOAD.pack(1, (1, 4)[kind] | self.one((0, 0, 0x80)), start + 20, size, start, 16)
        if kind == 1:
            packet = pack("!IHBB", 0x60000000, len(body), TCP, 64) + address + peer + body
        else:
            packet = ipv4(address, peer, UDP if kind == 2 else TCP, body, ident=self._bits(16), word=0x4000)
        if self._uniform() < 0.2:  # a plain frame whose checksum is pending
            offload = OFFLOAD.pack(1, 0, 0, 0, start, 6 if kind == 2 else 16)
        return destination + source + tags + (IPV6 if kind == 1 else IPV4) + packet, offload
