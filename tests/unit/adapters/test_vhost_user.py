"""vhost-user: a front-end made of Python, which keeps the rules and breaks them."""

from __future__ import annotations

import gc
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest
from bench import Bench, frame
from front_end import (
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    HIGH,
    HIGH_OCTETS,
    INDIRECT,
    LOW_OCTETS,
    NEXT,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    WRITE,
    FrontEnd,
)

from vnet.adapters.base import FRAMES_A_WAKE_UP
from vnet.adapters.registry import open_adapter
from vnet.adapters.vhost_rings import (
    CSUM,
    GUEST_CSUM,
    GUEST_TSO4,
    HOST_TSO4,
    MERGEABLE,
    VERSION_1,
    bits,
)
from vnet.adapters.vhost_session import ADDRESS, FEATURES, HEADER, OFFERED, PROTOCOL_FEATURES, STATE, U64
from vnet.adapters.vhost_user import VhostUserAdapter
from vnet.errors import HostError
from vnet.ports import NO_OFFLOAD
from vnet.topology.adapter_kinds.sockets import SocketPlace
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec
from vnet.units import SECOND
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import tcp_super

ALL = FEATURES
PLAIN = bits(MERGEABLE, VERSION_1, PROTOCOL_FEATURES)
NO_HEADER = bytes(10) + b"\0\0"


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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Rig:
    """An adapter on a bench, and what is plugged into it."""

    def __init__(self, directory: str) -> None:
        self.bench = Bench(directory)
        self.arrived: list[tuple[bytes, bytes]] = []
        self.bench.far.set_handler(lambda frame, offload: self.arrived.append((frame, offload)))
        self.front_ends: list[FrontEnd] = []
        spec = VhostUserSpec(place=SocketPlace(path="v"), listens=True)
        adapter = open_adapter(spec, self.bench.context)
        assert isinstance(adapter, VhostUserAdapter)
        self.adapter = adapter
        self.adapter.start()

    def connect(self, size: int = 256) -> FrontEnd:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.adapter.place))
        made = FrontEnd(connection, size)
        self.front_ends.append(made)
        self.bench.turn()
        return made

    def running(self, features: int = ALL, size: int = 256) -> FrontEnd:
        """Connect a front-end whose guest's driver is ready."""
        made = self.connect(size)
        made.setup(features)
        self.bench.turn(12)
        assert self.adapter.problem == ""
        made.given_back(0)
        for index in (0, 1):
            made.interrupts(index)
        return made

    def close(self) -> None:
        for each in self.front_ends:
            each.close()
        self.adapter.stop()
        self.adapter.close()


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vu") as made:
        yield made


@pytest.fixture
def rig(directory: str) -> Iterator[Rig]:
    made = Rig(directory)
    yield made
    made.close()


# -- frames


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


# -- a driver that breaks the rules


def bad_address(front: FrontEnd) -> None:
    front.describe(1, 0, 0x5000_0000, 100)
    front.put_up(1, 0)


def end_of_memory(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH + HIGH_OCTETS - 50, 100)
    front.put_up(1, 0)


def gap_between_regions(front: FrontEnd) -> None:
    front.describe(1, 0, LOW_OCTETS - 50, 100)
    front.put_up(1, 0)


def wrapped_address(front: FrontEnd) -> None:
    front.describe(1, 0, (1 << 64) - 50, 100)
    front.put_up(1, 0)


def huge_length(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH, 0xFFFF_FFFF)
    front.put_up(1, 0)


def loop(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH, 0, NEXT, 1)
    front.describe(1, 1, HIGH, 0, NEXT, 0)
    front.put_up(1, 0)


def loop_of_one(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH, 1000, NEXT, 0)
    front.put_up(1, 0)


def indirect(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH, 64, INDIRECT)
    front.put_up(1, 0)


def writable(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH, 64, WRITE)
    front.put_up(1, 0)


def next_outside(front: FrontEnd) -> None:
    front.describe(1, 0, HIGH, 64, NEXT, front.size)
    front.put_up(1, 0)


def head_outside(front: FrontEnd) -> None:
    front.put_up(1, front.size)


def too_many(front: FrontEnd) -> None:
    front.claim(1, front.size + 1)


@pytest.mark.parametrize(
    "wrong",
    [
        bad_address, end_of_memory, gap_between_regions, wrapped_address, huge_length, loop, loop_of_one, indirect, writable,
        next_outside, head_outside, too_many,
    ],
)  # fmt: skip
def test_a_broken_ring_ends_there_and_nowhere_else(rig: Rig, wrong: Callable[[FrontEnd], None]) -> None:
    front = rig.running()
    wrong(front)
    front.kick_ring()
    rig.bench.turn()
    assert not rig.arrived
    assert front.errors(1) == 1
    assert rig.adapter.problem.startswith("the driver broke its transmit ring: ")
    assert rig.bench.events[-1][0] == "driver-broken"
    assert not front.is_cut_off()
    front.kick_ring()
    rig.bench.turn()  # a reset of the guest, and all is well
    for index in (0, 1):
        front.say(GET_VRING_BASE, STATE.pack(index, 0))
        rig.bench.turn()
        front.reply()
    front.memory[:LOW_OCTETS] = bytes(LOW_OCTETS)
    front.available, front.used = [0, 0], [0, 0]
    front.setup(ALL)
    rig.bench.turn(12)
    assert rig.adapter.problem == ""
    front.transmit(NO_HEADER + frame(1))
    rig.bench.turn()
    assert rig.arrived == [(frame(1), NO_OFFLOAD)]


def test_buffers_to_receive_that_are_not_to_be_written(rig: Rig) -> None:
    front = rig.running()
    front.describe(0, 0, HIGH, 1500, 0)
    front.put_up(0, 0)
    rig.bench.send(frame(1))
    assert front.errors(0) == 1
    assert rig.adapter.problem.startswith("the driver broke its receive ring: ")
    rig.bench.send(frame(1))
    assert rig.adapter.drops == {"not-running": 1}


def test_chains_that_share_descriptors_cost_no_more_than_a_ring(rig: Rig) -> None:
    """Each of 256 chains is as long as the ring, and has no room: all of them would be 65536 steps."""
    front = rig.running()
    for at in range(front.size):
        front.describe(0, at, HIGH, 0, WRITE | (NEXT if at < front.size - 1 else 0), (at + 1) % front.size)
    for _ in range(front.size):
        front.put_up(0, 0)
    rig.bench.send(frame(1))
    assert "share descriptors" in rig.adapter.problem


# -- messages


def test_features_and_queues(rig: Rig) -> None:
    front = rig.connect()
    front.say(GET_FEATURES)
    rig.bench.turn()
    assert front.reply() == (GET_FEATURES, 5, U64.pack(FEATURES))
    front.say(GET_PROTOCOL_FEATURES)
    front.say(GET_QUEUE_NUM)
    rig.bench.turn()
    assert (front.number(), front.number()) == (OFFERED, 1)


def test_messages_in_pieces_and_several_at_once(rig: Rig) -> None:
    front = rig.connect()
    for octet in HEADER.pack(GET_FEATURES, 1, 0):
        front.write(bytes((octet,)))
        rig.bench.turn(1)
    assert front.number() == FEATURES
    message = HEADER.pack(SET_FEATURES, 1, 8) + U64.pack(PLAIN)
    for octet in message:
        front.write(bytes((octet,)))
        rig.bench.turn(1)
    front.write(3 * HEADER.pack(GET_QUEUE_NUM, 1, 0))
    rig.bench.turn()
    assert [front.number() for _ in range(3)] == [1, 1, 1]
    assert rig.adapter.details()["features"] == f"{PLAIN:#x}"


def test_acknowledgements(rig: Rig) -> None:
    front = rig.connect()
    front.need_reply = True
    front.say(SET_OWNER)
    rig.bench.turn()
    with pytest.raises(BlockingIOError):
        front.reply()  # not negotiated yet
    front.say(SET_PROTOCOL_FEATURES, U64.pack(OFFERED))
    rig.bench.turn()
    for request, payload, answer in (
        (SET_OWNER, b"", 0),
        (99, b"what", 1),
        (SET_FEATURES, U64.pack(1 << 28), 1),  # indirect descriptors
        (SET_FEATURES, b"short", 1),
        (SET_VRING_NUM, STATE.pack(2, 256), 1),
        (SET_MEM_TABLE, pack("<II", 1, 0) + bytes(32), 1),
        (SET_VRING_KICK, U64.pack(0 | 1 << 8), 1),  # polling
        (SET_VRING_KICK, U64.pack(0), 1),
        (SET_PROTOCOL_FEATURES, U64.pack(1 << 14), 1),
    ):
        front.say(request, payload)
        rig.bench.turn()
        assert front.number() == answer, request
    front.say(GET_FEATURES)
    rig.bench.turn()
    assert front.number() == FEATURES  # which is answer enough
    assert rig.adapter.drops == {"unknown-message": 1, "bad-message": 7}
    assert rig.adapter.is_connected


@pytest.mark.parametrize(
    "octets",
    [
        HEADER.pack(GET_FEATURES, 0, 0),  # of no version
        HEADER.pack(GET_FEATURES, 1, 513),
        HEADER.pack(GET_FEATURES, 1, 0xFFFF_FFFF),
        HEADER.pack(SET_FEATURES, 1, 8) + U64.pack(1 << 63),
        HEADER.pack(SET_FEATURES, 1, 4) + bytes(4),
        HEADER.pack(SET_MEM_TABLE, 1, 8) + pack("<II", 0, 0),
        HEADER.pack(SET_MEM_TABLE, 1, 8) + pack("<II", 9, 0),
        HEADER.pack(SET_VRING_ADDR, 1, 8) + bytes(8),
        HEADER.pack(SET_VRING_ADDR, 1, 40) + ADDRESS.pack(7, 0, 0, 0, 0, 0),
        HEADER.pack(GET_VRING_BASE, 1, 8) + STATE.pack(2, 0),
    ],
)
def test_a_message_that_cannot_be_ends_the_connection(rig: Rig, octets: bytes) -> None:
    front = rig.connect()
    front.write(octets)
    rig.bench.turn()
    assert front.is_cut_off()
    assert rig.adapter.drops == {"bad-message": 1}
    assert not rig.adapter.is_connected
    rig.running()


def test_an_unknown_request_is_ignored(rig: Rig) -> None:
    front = rig.connect()
    front.say(77, b"x" * 40)
    front.say(GET_QUEUE_NUM)
    rig.bench.turn()
    assert front.number() == 1
    assert rig.adapter.drops == {"unknown-message": 1}


def test_rings_that_cannot_be(rig: Rig) -> None:
    front = rig.connect()
    front.say(SET_PROTOCOL_FEATURES, U64.pack(OFFERED))
    front.share()
    rig.bench.turn()
    front.need_reply = True
    for size, table, available, used in (
        (0, 0, 0x1000, 0x2000),
        (3, 0, 0x1000, 0x2000),
        (2048, 0, 0x8000, 0xA000),
        (256, 8, 0x1000, 0x2000),
        (256, 0, 0x1001, 0x2000),
        (256, 0, 0x1000, 0x2002),
        (256, LOW_OCTETS - 16, 0x1000, 0x2000),
        (256, 0, LOW_OCTETS - 2, 0x2000),
        (256, 0, 0x1000, LOW_OCTETS - 4),
        (256, -USER, 0x1000, 0x2000),
    ):
        front.say(SET_VRING_NUM, STATE.pack(0, size))
        front.say(SET_VRING_ADDR, ADDRESS.pack(0, 0, USER + table, USER + used, USER + available, 0))
        rig.bench.turn()
        assert (front.number(), front.number()) == (0, 0)
        front.say(SET_VRING_KICK, U64.pack(0), front.kick[0])
        rig.bench.turn()
        assert front.number() == 1
    assert not rig.adapter._session.device.is_running  # type: ignore[union-attr]


def test_memory_that_may_shrink_is_not_taken(rig: Rig) -> None:
    """A file that cannot be sealed would end the lab by SIGBUS once it is truncated; one that can be is sealed."""
    front = rig.connect()
    front.say(SET_PROTOCOL_FEATURES, U64.pack(OFFERED))
    rig.bench.turn()
    front.need_reply = True
    table = pack("<II", 1, 0) + pack("<QQQQ", 0, 0x1000, USER, 0)
    sealed = os.memfd_create("sealed")  # F_SEAL_SEAL: no seal can be added
    os.ftruncate(sealed, 0x1000)
    with tempfile.TemporaryFile() as plain, open("/dev/null") as null:
        plain.truncate(0x1000)
        for fd in (sealed, plain.fileno(), null.fileno(), front.kick[0]):
            front.say(SET_MEM_TABLE, table, fd)
            rig.bench.turn()
            assert front.number() == 1
    os.close(sealed)
    for size, offset in ((0, 0), (LOW_OCTETS + HIGH_OCTETS + 1, 0), (1 << 63, 0), (0x1000, 1 << 63), (1 << 63, 1 << 63)):
        front.say(SET_MEM_TABLE, pack("<II", 1, 0) + pack("<QQQQ", 0, size, USER, offset), front.fd)
        rig.bench.turn()
        assert front.number() == 1
    front.share()
    rig.bench.turn()
    assert front.number() == 0
    with pytest.raises(PermissionError):
        os.ftruncate(front.fd, 0)


def test_what_is_no_eventfd_is_not_taken(rig: Rig) -> None:
    front = rig.connect()
    front.say(SET_PROTOCOL_FEATURES, U64.pack(OFFERED))
    rig.bench.turn()
    front.need_reply = True
    reading, writing = os.pipe()
    for request in (SET_VRING_KICK, SET_VRING_CALL):
        for fd in (reading, writing, front.fd, front.socket.fileno()):
            front.say(request, U64.pack(0), fd)
            rig.bench.turn()
            assert front.number() == 1
    os.close(reading)
    os.close(writing)


def test_a_ring_stops_and_goes_on_where_it_was(rig: Rig) -> None:
    front = rig.running()
    for number in range(5):
        front.transmit(NO_HEADER + frame(number))
    rig.bench.turn()
    front.say(GET_VRING_BASE, STATE.pack(1, 0))
    rig.bench.turn()
    assert front.reply() == (GET_VRING_BASE, 5, STATE.pack(1, 5))
    front.transmit(NO_HEADER + frame(5), kick=False)
    rig.bench.turn()
    assert len(rig.arrived) == 5
    front.set_ring(1)
    front.say(8 + 2, STATE.pack(1, 5))
    front.start_ring(1)
    rig.bench.turn(8)
    assert len(rig.arrived) == 6, "what was put up meanwhile is taken without a kick"


def test_memory_changes_while_rings_run(rig: Rig) -> None:
    front = rig.running()
    front.offer(10)
    for number in range(5):
        front.share()
        rig.bench.turn()
        front.transmit(NO_HEADER + frame(number))
        rig.bench.send(frame(number))
        rig.bench.turn()
    assert len(rig.arrived) == 5
    assert len(front.received()) == 5
    maps = Path("/proc/self/maps").read_text()
    assert maps.count("memfd:guest") == 3, "ours, and two regions"
    front.say(SET_MEM_TABLE, pack("<II", 1, 0) + pack("<QQQQ", 0x900000, 0x1000, USER + 0x900000, 0), front.fd)
    rig.bench.turn()
    assert "no memory" in rig.adapter.problem
    rig.bench.send(frame(1))


def test_enabled_from_the_start_without_protocol_features(rig: Rig) -> None:
    front = rig.connect()
    front.say(SET_FEATURES, U64.pack(bits(MERGEABLE, VERSION_1)))
    front.share()
    for index in (0, 1):
        front.set_ring(index)
        front.start_ring(index)
    rig.bench.turn(8)
    front.transmit(NO_HEADER + frame(1))
    rig.bench.turn()
    assert len(rig.arrived) == 1


@pytest.mark.parametrize("seed", range(40))
def test_messages_of_chance(rig: Rig, seed: int) -> None:
    """Anything may be said, with any descriptors, and frames pass meanwhile; the adapter is there for the next one."""
    chance = random.Random(seed)
    before = descriptors()
    front = rig.running()
    front.say(SET_PROTOCOL_FEATURES, U64.pack(OFFERED))
    front.need_reply = seed % 4 != 0
    sizes = {SET_MEM_TABLE: 40, SET_VRING_ADDR: 40}
    for _ in range(60):
        request = chance.choice((*range(1, 20), SET_MEM_TABLE, SET_VRING_KICK, SET_VRING_ADDR))
        payload = bytearray(chance.randbytes(chance.choice((0, sizes.get(request, 8), sizes.get(request, 8)))))
        if len(payload) > 8 and chance.random() < 0.8:
            payload[:8] = pack("<II", chance.randrange(3), 0)
        elif payload and chance.random() < 0.8:
            payload[:4] = pack("<I", chance.randrange(3))
            payload[4:] = bytes(len(payload) - 4)
        fds = chance.choices((front.fd, *front.kick, *front.call), k=chance.choice((0, 0, 1, 1, 2)))
        try:
            front.say(request, bytes(payload), *fds)
            front.offer(1)
            front.transmit(NO_HEADER + frame(1))
        except OSError:
            break  # it had enough of us
        rig.bench.send(frame(2))
        rig.bench.turn(2)
    front.close()
    rig.bench.turn()
    assert not rig.adapter.is_connected
    gc.collect()
    assert descriptors() == before
    rig.running()


# -- coming and going


def test_one_front_end_at_a_time(rig: Rig) -> None:
    rig.bench.send(frame(1))
    assert rig.adapter.drops == {"not-connected": 1}
    assert rig.adapter.problem.startswith("nobody has connected to ")
    first = rig.connect()
    assert rig.adapter.problem == "the guest has no driver at work"
    second = rig.connect()
    assert second.is_cut_off()
    first.close()
    rig.bench.turn()
    third = rig.running()
    assert not third.is_cut_off()
    assert [kind for kind, _ in rig.bench.events] == ["peer-connected", "peer-gone", "peer-connected"]


def test_nothing_is_left_of_front_ends_that_die_at_work(rig: Rig) -> None:
    rig.running().close()
    rig.bench.turn()
    gc.collect()
    before = descriptors()
    readers = set(rig.bench.readers)
    for number in range(50):
        front = rig.connect()
        front.setup(ALL)
        rig.bench.turn(number % 12)
        front.offer(5)
        front.transmit(NO_HEADER + frame(1), kick=number % 2 == 0)
        if number % 3:
            front.share()
            front.write(HEADER.pack(SET_MEM_TABLE, 1, 72)[: number % 13], front.fd, front.fd)
        rig.bench.turn(number % 3)
        rig.bench.send(frame(2))
        front.close()
        rig.bench.turn(12)
    assert descriptors() == before
    assert set(rig.bench.readers) == readers
    assert "memfd:guest" not in Path("/proc/self/maps").read_text()


def test_nine_descriptors_are_too_many(rig: Rig) -> None:
    before = descriptors()
    front = rig.connect()
    made = descriptors()
    front.write(HEADER.pack(GET_FEATURES, 1, 0), *[front.fd] * 9)
    rig.bench.turn()
    assert front.is_cut_off()
    assert descriptors() == made - 1
    front.close()
    assert descriptors() == before


def test_descriptors_that_nobody_asked_for_are_closed(rig: Rig) -> None:
    front = rig.connect()
    before = descriptors()
    for request in (GET_FEATURES, SET_OWNER, 99):
        front.write(HEADER.pack(request, 1, 0), *[front.fd] * 8)
    rig.bench.turn()
    assert descriptors() == before


def test_a_front_end_that_does_not_read_is_cut_off(rig: Rig) -> None:
    front = rig.connect()
    for _ in range(10_000):
        try:
            front.say(GET_FEATURES)
        except (BlockingIOError, BrokenPipeError):
            break
    for _ in range(2000):
        rig.bench.turn(1)
        if not rig.adapter.is_connected:
            break
        try:
            front.write(50 * HEADER.pack(GET_FEATURES, 1, 0))
        except BlockingIOError:
            continue
    assert not rig.adapter.is_connected


def test_the_lab_dials_and_dials_again(directory: str) -> None:
    bench = Bench(directory)
    adapter = open_adapter(VhostUserSpec(place=SocketPlace(path="q"), listens=False), bench.context)
    adapter.start()
    assert adapter.problem == f"{directory}/q cannot be reached"
    bench.pass_time(10 * SECOND)
    for _ in range(3):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{directory}/q")
        listener.listen()
        bench.pass_time(2 * SECOND)
        front = FrontEnd(listener.accept()[0])
        listener.close()
        os.unlink(f"{directory}/q")
        front.setup(ALL)
        bench.turn(12)
        front.transmit(NO_HEADER + frame(1))
        bench.turn()
        front.close()
        bench.turn()
    assert len(bench.arrived) == 3
    adapter.stop()
    adapter.stop()
    adapter.close()
    assert not bench.readers
    bench.pass_time(10 * SECOND)


def test_a_socket_that_somebody_has_is_an_error(rig: Rig, directory: str) -> None:
    with pytest.raises(HostError, match="cannot make a socket"):
        open_adapter(VhostUserSpec(place=SocketPlace(path="v"), listens=True), Bench(directory).context)


def test_the_offloads_are_those_that_linux_knows() -> None:
    assert FEATURES & bits(CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4) == bits(CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4)
    assert not FEATURES & bits(28, 29, 34), "neither indirect descriptors, nor event indices, nor packed rings"
