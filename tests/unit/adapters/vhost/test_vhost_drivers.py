"""Guests whose drivers break the rules of their rings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.adapters.bench import frame
from tests.unit.adapters.front_end import GET_VRING_BASE, HIGH, HIGH_OCTETS, INDIRECT, LOW_OCTETS, NEXT, WRITE, FrontEnd
from tests.unit.adapters.vhost.conftest import ALL, NO_HEADER, Rig
from vnet.adapters.vhost_session import STATE
from vnet.ports import NO_OFFLOAD


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
