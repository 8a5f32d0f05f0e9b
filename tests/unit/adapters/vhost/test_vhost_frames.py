"""Frames between the fabric and a guest whose driver keeps the rules of vhost-user."""

from __future__ import annotations

import random
from struct import pack

import pytest

from tests.unit.adapters.bench import frame
from tests.unit.adapters.front_end import LOW_OCTETS, SET_VRING_ENABLE
from tests.unit.adapters.vhost.conftest import NO_HEADER, PLAIN, Rig
from vnet.adapters.base import FRAMES_A_WAKE_UP
from vnet.adapters.vhost_rings import GUEST_CSUM, VERSION_1, bits
from vnet.adapters.vhost_session import PROTOCOL_FEATURES, STATE
from vnet.ports import NO_OFFLOAD
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import tcp_super


def super_frame(octets: int) -> tuple[bytes, bytes]:
    """Make a TCP segment that stands for many, and its header."""
    from vnet.wire.checksum import ones_sum

    tcp = pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 512, 0, 0)
    total = 20 + len(tcp) + octets
    ip = bytearray(pack(">BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"))
    ip[10:12] = (~ones_sum(bytes(ip)) & 0xFFFF).to_bytes(2, "big")
    pseudo = ones_sum(bytes(ip[12:20]) + b"\0\6" + (len(tcp) + octets).to_bytes(2, "big"))
    tcp = tcp[:16] + pseudo.to_bytes(2, "big") + tcp[18:]
    body = random.Random(octets).randbytes(octets)
    return bytes.fromhex("020000000001 020000000002 0800") + bytes(ip) + tcp + body, tcp_super(54, 1448)


@pytest.mark.parametrize("size", [2, 64, 256, 1024])
def test_frames_pass_both_ways_round_the_ring_many_times(rig: Rig, size: int) -> None:
    front = rig.running(size=size)
    for number in range(2 * size + 3):
        front.transmit(NO_HEADER + frame(number))
        rig.bench.turn(1)
        assert front.given_back(1) == [(number % size, 0)]
        front.offer(1)
        rig.bench.send(frame(number))
        rig.bench.turn(1)
        assert front.received() == [bytes(10) + b"\1\0" + frame(number)]
    assert [each for each, _ in rig.arrived] == [frame(number) for number in range(2 * size + 3)]
    assert not rig.adapter.drops


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_super_frame_of_the_guest_passes_whole(rig: Rig, parts: int) -> None:
    front = rig.running()
    big, header = super_frame(60_000 if parts == 5 else 1400)
    front.transmit(header + b"\0\0" + big, parts)
    rig.bench.turn()
    assert rig.arrived == [(big, header)]
    assert front.given_back(1) == [(0, 0)]
    assert front.interrupts(1) == 1


def test_a_header_in_pieces(rig: Rig) -> None:
    front = rig.running()
    front.transmit(NO_HEADER + frame(1)[:14], 9)
    rig.bench.turn()
    assert rig.arrived == [(frame(1)[:14], NO_OFFLOAD)]


def test_a_super_frame_is_merged_from_buffers(rig: Rig) -> None:
    front = rig.running()
    front.offer(100)
    big, header = super_frame(60_000)
    rig.bench.send(big, header)
    rig.bench.turn()
    (got,) = front.received()
    assert got == header + (40).to_bytes(2, "little") + big
    assert front.interrupts(0) == 1


def test_without_offloads_the_guest_gets_plain_frames(rig: Rig) -> None:
    front = rig.running(PLAIN)
    front.offer(100)
    big, header = super_frame(60_000)
    rig.bench.send(big, header)
    rig.bench.turn()
    assert [each[12:] for each in front.received()] == complete(big, header)
    assert front.interrupts(0) == 1  # one for all of them


def test_checksums_without_segmentation(rig: Rig) -> None:
    front = rig.running(PLAIN | bits(GUEST_CSUM))
    front.offer(100)
    big, header = super_frame(1000)
    pending = b"\1\0" + header[2:4] + b"\0\0" + header[6:]
    rig.bench.send(big, pending)
    rig.bench.send(big, header)
    rig.bench.turn()
    whole, cut = front.received()
    assert whole[:12] == pending + b"\1\0"
    assert [cut[12:]] == complete(big, header)


def test_a_driver_that_merges_nothing(rig: Rig) -> None:
    front = rig.running(bits(VERSION_1, PROTOCOL_FEATURES))
    front.offer(3, 600)
    rig.bench.send(frame(1, 588))
    rig.bench.send(frame(2, 589))
    rig.bench.send(frame(3))
    rig.bench.turn()
    assert [each[12:] for each in front.received()] == [frame(1, 588), frame(3)]
    assert rig.adapter.drops == {"no-buffers": 1}


def test_an_old_driver_has_a_header_of_ten_octets(rig: Rig) -> None:
    front = rig.running(bits(PROTOCOL_FEATURES))
    front.offer(1)
    rig.bench.send(frame(1))
    front.transmit(bytes(10) + frame(2))
    rig.bench.turn()
    assert front.given_back(0) == [(0, 70)]
    assert front.memory[LOW_OCTETS : LOW_OCTETS + 70] == bytes(10) + frame(1)
    assert rig.arrived == [(frame(2), NO_OFFLOAD)]


def test_no_buffers_is_a_drop_and_nobody_waits(rig: Rig) -> None:
    front = rig.running()
    rig.bench.send(frame(1))
    front.offer(2)
    big, header = super_frame(20_000)
    rig.bench.send(big, header)
    rig.bench.send(frame(2))
    rig.bench.turn()
    assert rig.adapter.drops == {"no-buffers": 2}
    assert [each[12:] for each in front.received()] == [frame(2)]


def test_a_wake_up_takes_so_many_frames_and_comes_again(rig: Rig) -> None:
    front = rig.running()
    for number in range(2 * FRAMES_A_WAKE_UP + 1):
        front.transmit(NO_HEADER + frame(number), kick=False)
    front.kick_ring()
    rig.bench.turn(1)
    assert len(rig.arrived) == FRAMES_A_WAKE_UP
    assert not front.notifications_wanted(1)
    rig.bench.turn(3)
    assert len(rig.arrived) == 2 * FRAMES_A_WAKE_UP + 1
    assert front.notifications_wanted(1)
    front.transmit(NO_HEADER + frame(9), kick=False)
    rig.bench.turn()
    assert len(rig.arrived) == 2 * FRAMES_A_WAKE_UP + 1, "nobody told us"


def test_what_comes_while_frames_are_taken_needs_no_kick(rig: Rig) -> None:
    front = rig.running()

    def answer(received: bytes, offload: bytes) -> None:
        rig.arrived.append((received, offload))
        assert not front.notifications_wanted(1)
        if len(rig.arrived) < 10:
            front.transmit(NO_HEADER + frame(len(rig.arrived)), kick=False)

    rig.bench.far.set_handler(answer)
    front.transmit(NO_HEADER + frame(0))
    rig.bench.turn(2)
    assert len(rig.arrived) == 10


def test_no_interrupt_where_none_is_wanted(rig: Rig) -> None:
    front = rig.running()
    front.offer(1)
    for index in (0, 1):
        front.forbid_interrupts(index, True)
    rig.bench.send(frame(1))
    front.transmit(NO_HEADER + frame(2))
    rig.bench.turn()
    assert len(front.received()) == len(front.given_back(1)) == 1
    assert not front.interrupts(0)
    assert not front.interrupts(1)


def test_a_disabled_ring_discards_and_is_given_nothing(rig: Rig) -> None:
    front = rig.running()
    front.offer(1)
    for index in (0, 1):
        front.say(SET_VRING_ENABLE, STATE.pack(index, 0))
    front.transmit(NO_HEADER + frame(1))
    rig.bench.turn()
    rig.bench.send(frame(2))
    rig.bench.turn()
    assert front.given_back(1)
    assert not rig.arrived
    assert not front.received()
    assert rig.adapter.drops == {"not-running": 1}


@pytest.mark.parametrize(
    ("header", "octets"),
    [
        (NO_HEADER, 13),
        (NO_HEADER[:5], 0),
        (NO_HEADER, 65_600),
        (b"\1\0\0\0\0\0\x3c\0\0\0\0\0", 60),  # a checksum field that is not in the frame
        (b"\1\1\0\0\0\0\x22\0\x10\0\0\0", 60),  # cut at nothing
        (b"\1\5\0\0\1\0\x22\0\x10\0\0\0", 60),  # UDP super-frames were not negotiated
        (b"\0\1\0\0\1\0\x22\0\x10\0\0\0", 60),  # segments without checksum
        (b"\1\x83\0\0\1\0\x22\0\x10\0\0\0", 60),
    ],
)
def test_frames_that_cannot_be(rig: Rig, header: bytes, octets: int) -> None:
    front = rig.running()
    data = header + bytes(octets)
    front.transmit(data, 5 if len(data) > 1600 else 1)
    rig.bench.turn()
    front.transmit(NO_HEADER + frame(1))
    rig.bench.turn()
    assert rig.adapter.drops == {"malformed": 1}
    assert rig.arrived == [(frame(1), NO_OFFLOAD)]


def test_segmentation_that_was_not_negotiated(rig: Rig) -> None:
    front = rig.running(PLAIN)
    big, header = super_frame(1400)
    front.transmit(header + b"\0\0" + big)
    rig.bench.turn()
    assert rig.adapter.drops == {"malformed": 1}
