"""Front-ends of vhost-user that come, go, and die at work, and what is left of them."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import pytest

from tests.unit.adapters.bench import Bench, frame
from tests.unit.adapters.front_end import GET_FEATURES, SET_MEM_TABLE, SET_OWNER, FrontEnd
from tests.unit.adapters.vhost.conftest import ALL, NO_HEADER, Rig, descriptors
from vnet.adapters.registry import open_adapter
from vnet.adapters.vhost_session import HEADER
from vnet.errors import HostError
from vnet.topology.adapter_kinds.sockets import SocketPlace
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec
from vnet.units import SECOND


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
