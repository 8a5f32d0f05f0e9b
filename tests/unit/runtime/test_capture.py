"""Captures: hooks that come and go, offload completion, slow readers, several captures of one port."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import dpkt
import pytest
import trio
import trio.testing

from vnet.errors import UsageError
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Port, connect
from vnet.runtime.capture import Captures, choose_ports
from vnet.runtime.filter import compile_filter
from vnet.runtime.sinks import FileSink, MemorySink, QueueSink
from vnet.wire import pcapng
from vnet.wire.pcapng import Direction
from vnet.wire.virtio_net import GSO_TCPV4, NEEDS_CSUM, Offload, encode

FRAME = bytes.fromhex("525400000002 525400000001 88b5") + b"payload"
IN, OUT = Direction.INBOUND, Direction.OUTBOUND


class Wire:
    """Two nodes, a cable, a clock, and what each node received."""

    def __init__(self) -> None:
        self.clock = Timeline()
        self.got_a: list[bytes] = []
        self.got_b: list[bytes] = []
        self.a = Port("a:eth0", lambda frame, offload: self.got_a.append(frame))
        self.b = Port("b:eth0", lambda frame, offload: self.got_b.append(frame))
        connect(self.a, self.b)
        self.captures = Captures(self.clock, {"a:eth0": self.a, "b:eth0": self.b})


def seen(sink: MemorySink) -> list[tuple[str, int, Direction, bytes]]:
    return [(p.interface.name, p.instant, p.direction, p.frame) for p in pcapng.read(sink.octets())]


def test_both_ends_see_a_frame_each_in_its_direction() -> None:
    wire, sink = Wire(), MemorySink()
    wire.captures.start(sink)
    wire.clock.now = 5
    wire.a.send(FRAME, NO_OFFLOAD)
    wire.clock.now = 6
    wire.b.send(FRAME[:-1], NO_OFFLOAD)
    assert seen(sink) == [
        ("a:eth0", 5, OUT, FRAME),
        ("b:eth0", 5, IN, FRAME),
        ("b:eth0", 6, OUT, FRAME[:-1]),
        ("a:eth0", 6, IN, FRAME[:-1]),
    ]
    assert (wire.got_a, wire.got_b) == ([FRAME[:-1]], [FRAME])


def test_a_port_without_captures_has_its_plain_handlers() -> None:
    wire = Wire()
    plain = (wire.a.send, wire.a.receive, wire.b.send, wire.b.receive)
    first = wire.captures.start(MemorySink())
    second = wire.captures.start(MemorySink(), ["a"])
    assert wire.a.send is not plain[0]
    first.finish()
    second.finish()
    assert (wire.a.send, wire.a.receive, wire.b.send, wire.b.receive) == plain


def test_several_captures_of_one_port_come_and_go() -> None:
    wire, one, two = Wire(), MemorySink(), MemorySink()
    first = wire.captures.start(one, ["a:eth0"])
    wire.a.send(b"1" * 14, NO_OFFLOAD)
    second = wire.captures.start(two, ["a:*", "b"])
    wire.a.send(b"2" * 14, NO_OFFLOAD)
    first.finish()
    wire.a.send(b"3" * 14, NO_OFFLOAD)
    second.finish()
    wire.a.send(b"4" * 14, NO_OFFLOAD)
    assert [frame[:1] for *_, frame in seen(one)] == [b"1", b"2"]
    assert [frame[:1] for *_, frame in seen(two)] == [b"2", b"2", b"3", b"3"]
    assert len(wire.got_b) == 4
    assert wire.captures.running == ()


def test_count_ends_the_capture_in_the_middle_of_a_frame() -> None:
    wire, sink = Wire(), MemorySink()
    capture = wire.captures.start(sink, count=3)
    for _ in range(5):
        wire.a.send(FRAME, NO_OFFLOAD)
    assert (capture.finished, capture.recorded, len(seen(sink)), len(wire.got_b)) == (True, 3, 3, 5)


def test_filter() -> None:
    wire, sink = Wire(), MemorySink()
    wire.captures.start(sink, ["b"], compile_filter("len > 20"))
    wire.a.send(FRAME, NO_OFFLOAD)
    wire.a.send(FRAME[:20], NO_OFFLOAD)
    assert [frame for *_, frame in seen(sink)] == [FRAME]


def super_frame(octets: int) -> tuple[bytes, bytes]:
    """A TCP segment with the header of TSO at MSS 100: its checksum field holds the pseudo-header sum."""
    tcp = dpkt.tcp.TCP(sport=1000, dport=80, seq=1, flags=dpkt.tcp.TH_ACK, data=bytes(octets))
    ip = dpkt.ip.IP(src=bytes((10, 0, 0, 1)), dst=bytes((10, 0, 0, 2)), p=6, data=b"")
    ip.len = 40 + octets
    header = bytearray(bytes(tcp))
    pseudo = sum(int.from_bytes(word, "big") for word in (b"\x0a\0", b"\0\1", b"\x0a\0", b"\0\2")) + 6 + 20 + octets
    header[16:18] = (pseudo % 0xFFFF).to_bytes(2, "big")
    frame = FRAME[:12] + b"\x08\x00" + bytes(ip)[:20] + bytes(header)
    return frame, encode(Offload(NEEDS_CSUM, GSO_TCPV4, 54, 100, 34, 16))


def test_super_frames_are_recorded_as_they_would_stand_on_a_wire() -> None:
    wire, sink = Wire(), MemorySink()
    wire.captures.start(sink, ["b"])
    frame, offload = super_frame(250)
    wire.a.send(frame, offload)
    frames = [frame for *_, frame in seen(sink)]
    assert [len(frame) for frame in frames] == [154, 154, 104]
    assert wire.got_b == [frame]
    for recorded in frames:
        ip = dpkt.ip.IP(recorded[14:])
        assert dpkt.dpkt.in_cksum(recorded[14:34]) == 0
        pseudo = ip.src + ip.dst + b"\0\x06" + (ip.len - 20).to_bytes(2, "big")
        assert dpkt.dpkt.in_cksum(pseudo + recorded[34:]) == 0


def test_an_offload_header_that_lies_is_recorded_as_it_is() -> None:
    wire, sink = Wire(), MemorySink()
    wire.captures.start(sink, ["b"])
    wire.a.send(FRAME, b"\xff" * 10)
    assert [frame for *_, frame in seen(sink)] == [FRAME] == wire.got_b


def test_dpkt_reads_the_file(tmp_path: Path) -> None:
    wire, path = Wire(), tmp_path / "out.pcapng"
    wire.captures.start(FileSink(path))
    wire.clock.now = 1_500_000_000
    wire.a.send(FRAME, NO_OFFLOAD)
    wire.captures.close()
    assert list(dpkt.pcapng.Reader(io.BytesIO(path.read_bytes()))) == [(1.5, FRAME), (1.5, FRAME)]


def test_a_running_capture_can_be_looked_at(tmp_path: Path) -> None:
    wire, path = Wire(), tmp_path / "out.pcapng"
    wire.captures.start(FileSink(path), ["b"])
    wire.a.send(FRAME, NO_OFFLOAD)
    assert pcapng.read(path.read_bytes()) == []
    wire.captures.flush()
    assert len(pcapng.read(path.read_bytes())) == 1
    wire.captures.close()


def test_the_same_frames_give_the_same_file() -> None:
    files = []
    for _ in range(2):
        wire, sink = Wire(), MemorySink()
        wire.captures.start(sink)
        wire.a.send(FRAME, NO_OFFLOAD)
        wire.captures.close()
        files.append(sink.octets())
    assert files[0] == files[1]


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write the capture .*out\.pcapng: No such file or directory"):
        FileSink(tmp_path / "missing" / "out.pcapng")


class FullDisk:
    """A sink that fails at its third packet, as a full disk does."""

    def __init__(self) -> None:
        self.packets = 0

    def keep(self, block: bytes) -> None:
        if self.packets:
            raise OSError(28, "No space left on device")

    def packet(self, block: bytes) -> bool:
        self.packets += 1
        if self.packets == 3:
            raise OSError(28, "No space left on device")
        return True

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_full_disk_ends_the_capture_and_not_the_lab() -> None:
    wire = Wire()
    capture = wire.captures.start(FullDisk(), ["b"])
    for _ in range(5):
        wire.a.send(FRAME, NO_OFFLOAD)
    assert (capture.finished, capture.failure, capture.recorded) == (True, "No space left on device", 2)
    assert len(wire.got_b) == 5


def test_a_slow_reader_loses_frames_and_is_told_how_many() -> None:
    wire, sink = Wire(), QueueSink(limit=700)
    capture = wire.captures.start(sink, ["b"])
    for _ in range(20):
        wire.a.send(FRAME, NO_OFFLOAD)
    assert 0 < capture.recorded < 20
    assert capture.dropped == 20 - capture.recorded
    first = sink.take()
    wire.a.send(FRAME, NO_OFFLOAD)
    capture.finish()
    data = first + sink.take()
    assert len(pcapng.read(data)) == capture.recorded
    assert capture.dropped.to_bytes(8, "little") in data[-60:]
    assert len(wire.got_b) == 21


def test_a_reader_waits_for_data_and_sees_the_end() -> None:
    async def main() -> None:
        wire, sink, pieces = Wire(), QueueSink(), list[bytes]()
        capture = wire.captures.start(sink)

        async def read() -> None:
            while data := await sink.wait_data():
                pieces.append(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            wire.a.send(FRAME, NO_OFFLOAD)
            await trio.testing.wait_all_tasks_blocked()
            capture.finish()
        assert len(pieces) == 3
        assert len(pcapng.read(b"".join(pieces))) == 2

    trio.run(main)


def test_memory_keeps_the_newest() -> None:
    wire, sink = Wire(), MemorySink(limit=200)
    wire.captures.start(sink, ["b"])
    for number in range(9):
        wire.a.send(FRAME + bytes((number,)), NO_OFFLOAD)
    assert [frame[-1] for *_, frame in seen(sink)] == [7, 8]
    assert sink.forgotten == 7


def test_choosing_ports() -> None:
    ports = {
        name: Port(name, lambda frame, offload: None) for name in ("web:eth0", "web:eth1", "core:1", "core:12", "pc:eth0")
    }

    links = {"core-pc": "core:12", "up": "core:1", "web:eth0": "core:1"}

    def names(*patterns: str) -> list[str]:
        return [port.name for port in choose_ports(ports, patterns, links=links)]

    assert names("core-pc") == ["core:12"] and names("up", "web:eth0") == ["web:eth0", "core:1"]
    assert names("core-*") == ["core:12"]
    with pytest.raises(UsageError, match="no port is called 'core-cp'; did you mean 'core-pc'"):
        names("core-cp")

    assert names("web") == ["web:eth0", "web:eth1"]
    assert names("*:eth0") == ["web:eth0", "pc:eth0"]
    assert names("core:1") == ["core:1"]
    assert names("pc:eth0", "core:*", "pc") == ["core:1", "core:12", "pc:eth0"]
    with pytest.raises(UsageError, match="no port is called 'wbe'; did you mean 'web'"):
        names("wbe")
    with pytest.raises(UsageError, match="no port is called 'web:eth9'; did you mean 'web:eth[01]'"):
        names("web:eth9")
    with pytest.raises(UsageError, match="no port is called 'zzz'; there are: web:eth0, web:eth1"):
        names("zzz")


def test_the_usual_ports_are_taken_when_none_are_named() -> None:
    wire = Wire()
    captures = Captures(wire.clock, wire.captures.ports, cables=lambda: {"a-b": "a:eth0"})
    assert [port.name for port in captures.start(MemorySink()).ports] == ["a:eth0"]


def tshark(path: Path, *fields: str) -> list[list[str]]:
    options = [option for field in fields for option in ("-e", field)]
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    command = ["tshark", "-n", "-r", str(path), *checks, "-T", "fields", *options]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [line.split("\t") for line in output.splitlines()]


@pytest.mark.real
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_understands_the_file(tmp_path: Path) -> None:
    wire, path = Wire(), tmp_path / "out.pcapng"
    wire.captures.start(FileSink(path))
    wire.clock.now = 1_500_000_001
    wire.a.send(FRAME, NO_OFFLOAD)
    wire.a.send(*super_frame(250))
    wire.captures.close()
    rows = tshark(path, "frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch", "frame.len")
    directions = {"a:eth0": "2", "b:eth0": "1"}
    assert [(row[0], int(row[3])) for row in rows] == [
        (name, length) for lengths in ((21,), (154, 154, 104)) for name in ("a:eth0", "b:eth0") for length in lengths
    ]
    assert all(int(row[1], 0) == int(directions[row[0]]) for row in rows)
    assert {row[2] for row in rows} == {"1.500000001"}
    statuses = tshark(path, "tcp.checksum.status", "ip.checksum.status", "_ws.malformed")
    assert statuses[2:] == [["1", "1", ""]] * 6
