"""What a vhost-user front-end says, well or badly, and what is answered."""

from __future__ import annotations

import gc
import os
import random
import tempfile
from pathlib import Path
from struct import pack

import pytest

from tests.unit.adapters.bench import frame
from tests.unit.adapters.front_end import (
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    HIGH_OCTETS,
    LOW_OCTETS,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_CALL,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
)
from tests.unit.adapters.vhost.conftest import NO_HEADER, PLAIN, Rig, descriptors
from vnet.adapters.vhost_rings import CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MERGEABLE, VERSION_1, bits
from vnet.adapters.vhost_session import ADDRESS, FEATURES, HEADER, OFFERED, STATE, U64


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
    session = rig.adapter._session
    assert session is not None and not session.device.is_running


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


def test_the_offloads_are_those_that_linux_knows() -> None:
    assert FEATURES & bits(CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4) == bits(CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4)
    assert not FEATURES & bits(28, 29, 34), "neither indirect descriptors, nor event indices, nor packed rings"
