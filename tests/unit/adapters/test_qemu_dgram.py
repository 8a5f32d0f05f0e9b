"""Frames over datagram sockets: bounds, and peers that come, go and do not read."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.adapters.bench import Bench, frame
from vnet.adapters.qemu_dgram import DgramAdapter
from vnet.adapters.sockets import LAST_RETRY, QUEUE_OCTETS
from vnet.errors import HostError
from vnet.topology.adapter_kinds.sockets import DgramSpec, SocketPlace


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path))


@pytest.fixture
def adapter(bench: Bench) -> Iterator[DgramAdapter]:
    made = DgramAdapter(DgramSpec(local=SocketPlace(path="us"), remote=SocketPlace(path="them")), bench.context)
    made.start()
    yield made
    made.stop()


def peer_of(bench: Bench) -> socket.socket:
    """Be the peer as QEMU is: bound, not connected."""
    path = os.path.join(bench.directory, "them")
    Path(path).unlink(missing_ok=True)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(path)
    peer.settimeout(5)
    return peer


def test_frames_pass_both_ways_and_again_after_the_peer_came_back(bench: Bench, adapter: DgramAdapter) -> None:
    bench.send(frame(0))
    assert adapter.drops == {"not-connected": 1} and adapter.problem.startswith("nobody is at ")
    for number in (1, 2, 3):
        with peer_of(bench) as peer:
            peer.sendto(frame(number), os.path.join(bench.directory, "us"))  # it can be the first to speak
            bench.send(frame(99))  # after a restart, this finds out
            bench.pass_time(LAST_RETRY)
            assert adapter.problem == ""
            bench.send(frame(10 + number))
            bench.turn()
            got = peer.recv(2000)
            assert got in (frame(10 + number), frame(99))
    assert bench.arrived == [frame(1), frame(2), frame(3)]


def test_a_peer_that_does_not_read_costs_a_bounded_queue_and_nothing_else(bench: Bench, adapter: DgramAdapter) -> None:
    with peer_of(bench) as peer:
        bench.pass_time(LAST_RETRY)
        sent = 1000
        for number in range(sent):
            bench.send(frame(number, 1514))
            bench.turn(1)
        queued = adapter.details()["queued_octets"]
        assert isinstance(queued, int) and QUEUE_OCTETS - 1514 <= queued <= QUEUE_OCTETS
        for number in range(sent - adapter.drops["queue-full"]):
            assert peer.recv(2000) == frame(number, 1514)
            bench.turn(1)
        assert adapter.details()["queued_octets"] == 0 and not bench.writers
        bench.send(frame(5))
        assert peer.recv(2000) == frame(5)


def test_a_peer_that_dies_with_a_full_queue(bench: Bench, adapter: DgramAdapter) -> None:
    with peer_of(bench):
        bench.pass_time(LAST_RETRY)
        for number in range(100):
            bench.send(frame(number))
    bench.turn()
    assert adapter.details()["queued_octets"] == 0
    with peer_of(bench) as peer:
        bench.pass_time(LAST_RETRY)
        bench.send(frame(7))
        assert peer.recv(2000) == frame(7)


def test_no_frames(bench: Bench, adapter: DgramAdapter) -> None:
    with peer_of(bench) as peer:
        for octets in (0, 13):
            peer.sendto(bytes(octets), os.path.join(bench.directory, "us"))
        peer.sendto(frame(1), os.path.join(bench.directory, "us"))
        bench.turn()
    assert bench.arrived == [frame(1)] and adapter.drops == {"runt": 2}
    bench.pass_time(LAST_RETRY)


def test_udp_hears_its_peer_only(bench: Bench) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as peer, socket.socket(type=socket.SOCK_DGRAM) as other:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            local = probe.getsockname()
        spec = DgramSpec(
            local=SocketPlace(host="127.0.0.1", port=local[1]),
            remote=SocketPlace(host="127.0.0.1", port=peer.getsockname()[1]),
        )
        adapter = DgramAdapter(spec, bench.context)
        adapter.start()
        other.sendto(frame(1), local)
        peer.sendto(frame(2), local)
        bench.turn()
        assert bench.arrived == [frame(2)]
        bench.send(frame(3, 9000))
        assert peer.recv(10_000) == frame(3, 9000)
        bench.send(frame(4, 65_536))
        assert adapter.drops == {"unsendable": 1}
        peer.close()
        for number in range(5):  # ICMP says that nobody is there; the port goes on
            bench.send(frame(number))
            bench.turn()
        assert adapter.problem == "" and adapter.drops["refused"] > 0
        adapter.stop()
        adapter.stop()
    assert not bench.readers


def test_a_place_that_is_taken(bench: Bench, adapter: DgramAdapter) -> None:
    with pytest.raises(HostError, match="Address already in use"):
        DgramAdapter(DgramSpec(local=SocketPlace(path="us"), remote=SocketPlace(path="x")), bench.context)
