"""IEEE 802.1Q on the wire, octet for octet: Linux sends and receives raw frames at the ports of two switches.

Raw sockets in the guests see every frame that reaches them. Linux takes a received tag out of the frame and hands it over
beside it; ``Wire.read`` puts it back.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from live_labs import guest, live, needs, opened, until

import vnet
from vnet.runtime.sinks import MemorySink
from vnet.wire.pcapng import Reader

pytestmark = needs()

LAB = """
name: NAME
networks: {home: {vlan: 1}, office: {vlan: 16}, lab: {vlan: 20}, alone: {vlan: 30}}
switches: {core: {}, edge: {}}
links:
  - {between: [core, edge], trunk: [1, 16, 20]}
guests:
  t1: {kind: namespace, switch: core, nics: [{trunk: [16, 20], native: 1}]}
  t2: {kind: namespace, switch: edge, nics: [{trunk: [16, 20], native: 1, mtu: 9000}]}
  strict: {kind: namespace, switch: edge, nics: [{trunk: [16]}]}
  a1: {kind: namespace, switch: edge, nics: [home]}
  a16: {kind: namespace, switch: edge, nics: [office]}
  b16: {kind: namespace, switch: core, nics: [{network: office, mtu: 9000}]}
  b20: {kind: namespace, switch: core, nics: [lab]}
  b30: {kind: namespace, switch: core, nics: [alone]}
"""
ALL = bytes.fromhex("ffffffffffff")
GROUP = bytes.fromhex("01005e010203")
UNKNOWN = bytes.fromhex("0200000000ee")
KIND = bytes.fromhex("88b5")
"""EtherType for experiments (IEEE 802)."""
PAYLOAD = bytes(range(100))
MARKER = bytes.fromhex("88b6")
MARKERS = {"t1": 3, "t2": 3, "strict": 2, "a1": 2, "a16": 2, "b16": 2, "b20": 2, "b30": 0}
"""How many of the six that t1 and t2 send each guest sees."""

_SOL_PACKET, _PACKET_AUXDATA, _PACKET_OUTGOING = 263, 8, 4
_AUXDATA = struct.Struct("IIIHHHH")
_VLAN_VALID, _TPID_VALID = 1 << 4, 1 << 6


def tag(vid: int, pcp: int = 0, dei: int = 0, tpid: int = 0x8100) -> bytes:
    return struct.pack("!HH", tpid, pcp << 13 | dei << 12 | vid)


class Wire:
    """A raw socket at the interface of a guest."""

    def __init__(self, lab: vnet.Lab, name: str) -> None:
        self.name = name
        self.switch = lab.switches["core" if name in ("t1", "b16", "b20", "b30") else "edge"]
        self.port = next(port for port in self.switch.ports.values() if port.name == f"{name}:eth0")
        number = list(MARKERS).index(name) + 1
        self.mac = bytes.fromhex("0200000000") + bytes((number,))
        self.socket = opened(guest(lab, name), self._open)

    @staticmethod
    def _open() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        raw.bind(("eth0", 3))
        return raw

    async def send(self, frame: bytes) -> None:
        """Send, and wait until the lab has taken the frame."""
        self.switch.fold()
        before = self.port.rx_frames
        self.socket.send(frame)

        def arrived() -> bool:
            self.switch.fold()
            return self.port.rx_frames > before

        await until(arrived, f"{self.name} sent a frame")

    def read(self) -> list[bytes]:
        """Take all frames that are there."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = self.socket.recvmsg(65535, socket.CMSG_SPACE(_AUXDATA.size))
                if address[2] == _PACKET_OUTGOING:
                    continue
                status, _, _, _, _, tci, tpid = _AUXDATA.unpack(ancillary[0][2])
                if status & _VLAN_VALID:
                    tpid = tpid if status & _TPID_VALID else 0x8100
                    data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
                frames.append(data)
        return frames

    async def before(self, marker: bytes) -> list[bytes]:
        """Return what arrived before the last of the markers that this guest sees."""
        frames: list[bytes] = []

        def complete() -> bool:
            frames.extend(self.read())
            return sum(frame.endswith(marker) for frame in frames) == MARKERS[self.name]

        await until(complete, f"{self.name} sees the markers")
        return [frame for frame in frames if not frame.endswith(marker)]


@contextlib.contextmanager
def wired(lab: vnet.Lab) -> Iterator[dict[str, Wire]]:
    with contextlib.ExitStack() as stack:
        wires = {name: Wire(lab, name) for name in MARKERS}
        for wire in wires.values():
            stack.callback(wire.socket.close)
        yield wires


async def send_and_see(wires: Mapping[str, Wire], sender: str, frame: bytes) -> dict[str, list[bytes]]:
    """Send one frame and return what everybody got: all that was there when markers came behind it in every VLAN."""
    await wires[sender].send(frame)
    marker = MARKER + secrets.token_bytes(46)
    for wire in (wires["t1"], wires["t2"]):
        for tags in (tag(16), tag(20), b""):
            await wire.send(ALL + wire.mac + tags + marker)
    seen = {name: await wire.before(marker) for name, wire in wires.items()}
    return {name: frames for name, frames in seen.items() if frames}


@dataclass(frozen=True)
class Case:
    """*tags* as the sender writes them, and as each guest that gets the frame sees them; *drop* is why nobody does."""

    name: str
    sender: str
    tags: bytes
    seen: Mapping[str, bytes]
    drop: str = ""


OFFICE = {"t1", "t2", "strict", "a16", "b16"}


def office(sender: str, tagged: bytes, untagged: bytes = b"") -> dict[str, bytes]:
    """Say what the members of VLAN 16 see: trunks the tag, access ports none."""
    return {name: untagged if name in ("a16", "b16") else tagged for name in OFFICE - {sender}}


CASES = [
    Case("untagged to the native VLAN", "t1", b"", {"t2": b"", "a1": b""}),
    Case("untagged from an access port", "a16", b"", office("a16", tag(16))),
    Case("tagged", "t1", tag(16), office("t1", tag(16))),
    Case("PCP and DEI are kept", "t1", tag(16, 5, 1), office("t1", tag(16, 5, 1))),
    Case("PCP 7", "t2", tag(20, 7), {"t1": tag(20, 7), "b20": b""}),
    Case("PCP 1, DEI", "strict", tag(16, 1, 1), office("strict", tag(16, 1, 1))),
    Case("priority-tagged to an access port", "a16", tag(0, 6, 1), office("a16", tag(16, 6, 1))),
    Case("priority-tagged to the native VLAN", "t1", tag(0, 3), {"t2": b"", "a1": b""}),
    Case("the native VLAN may be tagged, too", "t1", tag(1, 2), {"t2": b"", "a1": b""}),
    Case("two C-tags: the outer counts", "t1", tag(16, 4) + tag(20, 2), office("t1", tag(16, 4) + tag(20, 2), tag(20, 2))),
    Case("two C-tags in the native VLAN stay there", "t1", tag(1) + tag(20), {"t2": tag(20), "a1": tag(20)}),
    Case("an S-tag is no tag here", "t1", tag(16, tpid=0x88A8), dict.fromkeys(("t2", "a1"), tag(16, tpid=0x88A8))),
    Case("an S-tag within a C-tag", "t2", tag(20) + tag(99, tpid=0x88A8),
         {"t1": tag(20) + tag(99, tpid=0x88A8), "b20": tag(99, tpid=0x88A8)}),
    Case("tagged at an access port", "a16", tag(16), {}, "frame-type"),
    Case("another VLAN at an access port", "a16", tag(20), {}, "frame-type"),
    Case("untagged at a tagged-only port", "strict", b"", {}, "frame-type"),
    Case("priority-tagged at a tagged-only port", "strict", tag(0, 7), {}, "frame-type"),
    Case("VID 4095", "t1", tag(4095), {}, "reserved-vid"),
    Case("VID 4095, PCP and DEI set", "t2", tag(4095, 7, 1), {}, "reserved-vid"),
    Case("a VLAN that the port is not in", "t1", tag(30), {}, "ingress-filter"),
    Case("a VLAN that the trunk to the switch is not in", "b30", b"", {}, "no-egress"),
    Case("a VLAN of others at a trunk", "strict", tag(20), {}, "ingress-filter"),
]  # fmt: skip


@pytest.mark.trio
@pytest.mark.parametrize("destination", [ALL, GROUP, UNKNOWN], ids=["broadcast", "group", "unknown"])
async def test_every_case_octet_for_octet(destination: bytes) -> None:
    """Frames that are flooded reach the members of their VLAN, in the form that is due to each, and nobody else."""
    async with live(LAB) as lab:
        with wired(lab) as wires:
            for case in CASES:
                head = destination + wires[case.sender].mac
                port = wires[case.sender].port
                dropped = dict(port.drops)
                seen = await send_and_see(wires, case.sender, head + case.tags + KIND + PAYLOAD)
                assert seen == {name: [head + tags + KIND + PAYLOAD] for name, tags in case.seen.items()}, case.name
                new_drops = {reason for reason, count in port.drops.items() if count != dropped.get(reason, 0)}
                assert new_drops == ({case.drop} if case.drop else set()), case.name


@pytest.mark.trio
@pytest.mark.parametrize("octets", [14, 15, 16, 60, 1514, 9014])
async def test_frames_keep_their_length(octets: int) -> None:
    """Nothing is padded or cut, from the bare header to the largest; a tag adds four octets and takes none."""
    async with live(LAB) as lab:
        with wired(lab) as wires:
            plain = (ALL + wires["b16"].mac + KIND + PAYLOAD * 100)[:octets]
            tagged = plain[:12] + tag(16) + plain[12:]
            seen = await send_and_see(wires, "b16", plain)
            if octets <= 1514:  # the MTU of a16
                assert seen["a16"] == [plain]
            if octets >= 16:  # what is shorter, Linux does not take with a tag
                assert seen["t2"] == [tagged]
            assert (await send_and_see(wires, "t2", tagged))["b16"] == [plain]


@pytest.mark.trio
async def test_the_trunk_between_the_switches_carries_the_tag() -> None:
    async with live(LAB) as lab:
        with wired(lab) as wires:
            capture = lab.captures.start(sink := MemorySink(), ["edge:core"])
            for sender, tags in (("a16", tag(0, 6, 1)), ("t1", b""), ("b20", b"")):
                await send_and_see(wires, sender, ALL + wires[sender].mac + tags + KIND + PAYLOAD)
            capture.finish()
            frames = [packet.frame for packet in Reader().feed(sink.octets())]
            assert [frame[12:] for frame in frames if MARKER not in frame[12:18]] == [
                tags + KIND + PAYLOAD for tags in (tag(16, 6, 1), tag(1), tag(20))
            ]


@pytest.mark.trio
async def test_link_local_protocols_stay_on_their_link() -> None:
    """01-80-C2-00-00-00 to -0F are not forwarded (8.6.3), tagged or not; -10 is."""
    async with live(LAB) as lab:
        with wired(lab) as wires:
            for last in range(0x11):
                reserved = bytes.fromhex("0180c20000") + bytes((last,))
                frame = reserved + wires["a16"].mac + KIND + PAYLOAD
                seen = await send_and_see(wires, "a16", frame)
                assert bool(seen) == (last == 0x10), reserved.hex(":")
            assert wires["a16"].port.drops == {"reserved-address": 16}


@pytest.mark.trio
async def test_a_station_that_moves_is_found_at_its_new_port() -> None:
    """In its VLAN alone: learning is per VLAN."""
    mover = bytes.fromhex("020000001234")
    async with live(LAB) as lab:
        with wired(lab) as wires:
            to_mover = mover + wires["t1"].mac + tag(16, 3) + KIND + PAYLOAD
            plain = to_mover[:12] + KIND + PAYLOAD
            for place in ("a16", "b16", "a16"):
                await send_and_see(wires, place, ALL + mover + KIND + PAYLOAD)
                assert await send_and_see(wires, "t1", to_mover) == {place: [plain]}
                in_another = mover + wires["t1"].mac + tag(20) + KIND + PAYLOAD
                assert set(await send_and_see(wires, "t1", in_another)) == {"t2", "b20"}, "unknown in VLAN 20: flooded"
