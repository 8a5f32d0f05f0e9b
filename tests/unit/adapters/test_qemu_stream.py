"""Frames over a stream socket: framing, super-frames, bounds, and peers that come and go."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.adapters.bench import Bench, frame
from vnet.adapters.qemu_stream import FrameStream, StreamAdapter
from vnet.adapters.sockets import LAST_RETRY, MAX_FRAME, QUEUE_OCTETS
from vnet.errors import HostError
from vnet.topology.adapter_kinds.sockets import SocketPlace, StreamSpec
from vnet.units import SECOND


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path))


@pytest.fixture
def adapter(bench: Bench) -> Iterator[StreamAdapter]:
    made = StreamAdapter(StreamSpec(place=SocketPlace(path="a.sock"), listens=True), bench.context)
    made.start()
    yield made
    made.stop()


def dial(bench: Bench, name: str = "a.sock") -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(5)
    peer.connect(os.path.join(bench.directory, name))
    bench.turn()
    return peer


def framed(*frames: bytes) -> bytes:
    return b"".join(pack(">I", len(each)) + each for each in frames)


def test_frames_pass_both_ways(bench: Bench, adapter: StreamAdapter) -> None:
    assert "nobody has connected" in adapter.problem
    with dial(bench) as peer:
        assert adapter.problem == ""
        peer.sendall(framed(frame(1), frame(2, 1514), frame(3, 9014)))
        bench.turn()
        assert bench.arrived == [frame(1), frame(2, 1514), frame(3, 9014)]
        bench.send(frame(4))
        bench.send(frame(5, 1514))
        bench.turn()
        assert peer.recv(100_000) == framed(frame(4), frame(5, 1514)), "one write for both"
    assert oct(os.stat(os.path.join(bench.directory, "a.sock")).st_mode)[-3:] == "600"


@given(cuts=st.lists(st.integers(1, 400), max_size=40), sizes=st.lists(st.integers(18, 300), min_size=1, max_size=8))
def test_frames_survive_any_cut(cuts: list[int], sizes: list[int]) -> None:
    bench = Bench("/")
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        stream = FrameStream(ours, bench, bench.timeline, bench.port, Counter(), lambda reason: None)
        stream.start()
        frames = [frame(number, size) for number, size in enumerate(sizes)]
        data = framed(*frames)
        for cut in [*cuts, len(data)]:
            peer.sendall(data[:cut])
            data = data[cut:]
            bench.turn(1)
        stream.close()
    assert bench.arrived == frames


@given(pieces=st.lists(st.binary(max_size=400), max_size=20))
def test_any_octets_are_frames_or_the_end(pieces: list[bytes]) -> None:
    bench, reasons = Bench("/"), []
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        stream = FrameStream(ours, bench, bench.timeline, bench.port, Counter(), reasons.append)
        stream.start()
        for piece in pieces:
            if not reasons:
                peer.sendall(piece)
                bench.turn(1)
        if not reasons:
            peer.shutdown(socket.SHUT_WR)
            while not reasons:
                bench.turn(1)
    assert len(reasons) == 1 and not bench.readers and all(14 <= len(each) <= MAX_FRAME for each in bench.arrived)


def test_a_super_frame_is_cut_up(bench: Bench, adapter: StreamAdapter) -> None:
    ip = bytes.fromhex("4500 0000 0001 0000 40 06 0000 0a000001 0a000002".replace(" ", ""))
    tcp = bytes.fromhex("0050 1234 00000001 00000002 5018 ffff 0000 0000".replace(" ", ""))
    payload = bytes(range(256)) * 20
    whole = bytes.fromhex("020000000001 020000000002 0800") + ip + tcp + payload
    offload = pack("<BBHHHH", 1, 1, 54, 1460, 34, 16)
    with dial(bench) as peer:
        bench.send(whole, offload)
        bench.send(whole[:30], offload)
        bench.turn()
        data, cut = peer.recv(100_000), []
        while data:
            octets = int.from_bytes(data[:4], "big")
            cut.append(data[4 : 4 + octets])
            data = data[4 + octets :]
    assert b"".join(each[54:] for each in cut) == payload and max(map(len, cut)) == 1514
    assert adapter.drops == {"malformed": 1}


def test_a_peer_that_does_not_read_costs_a_bounded_queue_and_nothing_else(bench: Bench, adapter: StreamAdapter) -> None:
    with dial(bench) as peer:
        sent = 2000
        for number in range(sent):
            bench.send(frame(number, 1514))
            bench.turn(1)
        stream = adapter.details()
        assert isinstance(stream["queued_octets"], int) and 0 < stream["queued_octets"] <= QUEUE_OCTETS
        assert 0 < adapter.drops["queue-full"] < sent
        got = b""
        while len(got) < (sent - adapter.drops["queue-full"]) * 1518:
            got += peer.recv(1 << 20)
            bench.turn(1)
        assert got[:1518] == framed(frame(0, 1514)) and adapter.details()["queued_octets"] == 0
        bench.send(frame(7))
        bench.turn()
        assert peer.recv(100) == framed(frame(7))
        assert not bench.writers


def test_an_impossible_length_ends_the_connection_and_not_the_port(bench: Bench, adapter: StreamAdapter) -> None:
    with dial(bench) as peer:
        peer.sendall(framed(frame(1)) + pack(">I", MAX_FRAME + 1) + bytes(100))
        bench.turn()
        with pytest.raises(ConnectionError):
            while peer.recv(100) or peer.sendall(b"x") is None:
                pass
    assert bench.arrived == [frame(1)] and not adapter.is_connected
    assert bench.events[-1][0] == "peer-gone" and bench.events[-1][1]["reason"] == f"a frame of {MAX_FRAME + 1} octets"
    with dial(bench) as peer:
        peer.sendall(framed(b"short", b"") + framed(frame(2)))
        bench.turn()
    assert bench.arrived[1:] == [frame(2)] and adapter.drops["runt"] == 2


def test_one_peer_at_a_time(bench: Bench, adapter: StreamAdapter) -> None:
    with dial(bench) as first:
        with dial(bench) as second:
            assert second.recv(1) == b"" and adapter.drops["turned-away"] == 1
        first.sendall(framed(frame(1)))
        bench.turn()
    bench.turn()
    with dial(bench) as third:
        third.sendall(framed(frame(2)))
        bench.turn()
    assert bench.arrived == [frame(1), frame(2)]


def test_what_is_sent_to_nobody_is_counted(bench: Bench, adapter: StreamAdapter) -> None:
    bench.send(frame(1))
    assert adapter.drops == {"not-connected": 1}


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_dialling_end_comes_back_as_often_as_the_peer_does(bench: Bench, tmp_path: Path, kind: str) -> None:
    place = SocketPlace(path="peer") if kind == "unix" else SocketPlace(host="127.0.0.1", port=free_port())
    adapter = StreamAdapter(StreamSpec(place=place, listens=False), bench.context)
    adapter.start()
    bench.turn()
    assert "cannot be reached" in adapter.problem
    for number in range(3):
        with listening(place, tmp_path) as listener:
            for _ in range(200):
                bench.pass_time(LAST_RETRY)
                if adapter.is_connected:
                    break
            peer, _ = listener.accept()
            with peer:
                peer.sendall(framed(frame(number)))
                while len(bench.arrived) <= number:
                    bench.turn()
        while adapter.is_connected:
            bench.turn()
        (tmp_path / "peer").unlink(missing_ok=True)
    adapter.stop()
    assert bench.arrived == [frame(0), frame(1), frame(2)] and not bench.readers
    bench.pass_time(60 * SECOND)
    assert not bench.readers, "it is not dialled again after the end"


def listening(place: SocketPlace, directory: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX if place.path else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(str(directory / place.path) if place.path else (place.host, place.port))
    made.listen()
    made.settimeout(5)
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_places_that_cannot_be_had(bench: Bench, tmp_path: Path) -> None:
    def opened(path: str) -> StreamAdapter:
        return StreamAdapter(StreamSpec(place=SocketPlace(path=path), listens=True), bench.context)

    (tmp_path / "file").write_text("mine")
    with pytest.raises(HostError, match="there is a file of that name"):
        opened("file")
    with pytest.raises(HostError, match="No such file or directory"):
        opened("nowhere/a.sock")
    with pytest.raises(HostError, match="is longer than 107 octets"):
        opened("x" * 107)
    first = opened("b.sock")
    with pytest.raises(HostError, match="Address already in use"):
        opened("b.sock")
    os.link(tmp_path / "b.sock", tmp_path / "left.sock")
    first.stop()
    first.stop()
    assert not (tmp_path / "b.sock").exists()
    again = opened("left.sock")  # a socket that nobody has open is one that a dead lab left
    again.stop()
    assert (tmp_path / "file").read_text() == "mine"


def test_two_hundred_times_up_and_down_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    def turn(number: int) -> None:
        listens = StreamAdapter(StreamSpec(place=SocketPlace(path="x.sock"), listens=True), bench.context)
        listens.start()
        dials = StreamAdapter(StreamSpec(place=SocketPlace(path="x.sock"), listens=False), Bench(str(tmp_path)).context)
        if number % 2:
            dials.start()
        bench.turn()
        assert listens.is_connected == bool(number % 2)
        for each in (listens, dials) if number % 3 else (dials, listens):
            each.stop()

    turn(1)
    before = sorted(os.listdir("/proc/self/fd"))
    for number in range(200):
        turn(number)
    assert sorted(os.listdir("/proc/self/fd")) == before and not bench.readers and not os.listdir(tmp_path)
