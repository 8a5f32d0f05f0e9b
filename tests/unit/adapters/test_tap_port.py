"""TapPort over a socket that keeps frame boundaries, as a TAP device does; the device itself is tried in tests/system."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from vnet.adapters.base import FRAMES_A_WAKE_UP
from vnet.adapters.tap import TapPort
from vnet.ports import NO_OFFLOAD, Port, connect
from vnet.wire import virtio_net

CSUM = virtio_net.HEADER.pack(virtio_net.NEEDS_CSUM, 0, 0, 0, 34, 16)
SUPER = virtio_net.HEADER.pack(virtio_net.NEEDS_CSUM, virtio_net.GSO_TCPV4, 54, 1448, 34, 16)
VALID = virtio_net.HEADER.pack(virtio_net.DATA_VALID, 0, 0, 0, 0, 0)
FRAME = bytes(range(60))


class FakeDevice:
    def __init__(self, fd: int) -> None:
        self.fd, self.name = fd, "eth0"
        self.carrier: list[bool] = []
        self.broken = False

    def set_carrier(self, up: bool) -> None:
        if self.broken:
            raise OSError(errno.ENOTTY, "no such ioctl")
        self.carrier.append(up)


class FakePoller:
    def __init__(self) -> None:
        self.registered: dict[int, Callable[[], None]] = {}

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.registered[fd] = on_readable

    def unregister(self, fd: int) -> None:
        self.registered.pop(fd, None)

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        raise AssertionError("a TAP never waits to write")

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        raise AssertionError("a TAP never waits to write")


class Rig:
    def __init__(self) -> None:
        ours, self.linux = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ours = ours
        self.device = FakeDevice(ours.fileno())
        self.events: list[tuple[str, dict[str, object]]] = []
        self.tap = TapPort("pc:eth0", self.device, 1500, lambda kind, **fields: self.events.append((kind, fields)))
        self.seen: list[tuple[bytes, bytes]] = []
        self.peer = Port("switch:1", lambda frame, offload: self.seen.append((frame, offload)))
        connect(self.tap.port, self.peer)
        self.poller = FakePoller()
        self.tap.start(self.poller)

    def close(self) -> None:
        self._ours.close()
        self.linux.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.mark.parametrize(
    ("header", "expected"), [(NO_OFFLOAD, NO_OFFLOAD), (VALID, NO_OFFLOAD), (CSUM, CSUM), (SUPER, SUPER)]
)
def test_what_linux_sends_arrives_with_its_header(rig: Rig, header: bytes, expected: bytes) -> None:
    rig.linux.send(header + FRAME)
    rig.tap.on_readable()
    assert rig.seen == [(FRAME, expected)]
    assert rig.seen[0][1] is NO_OFFLOAD or expected is not NO_OFFLOAD  # so that `is` tells a plain frame


def test_a_wake_up_reads_one_frame_while_they_come_one_by_one(rig: Rig) -> None:
    for number in range(20):
        rig.linux.send(NO_OFFLOAD + bytes((number,)) * 20)
        rig.tap.on_readable()
        assert len(rig.seen) == number + 1
    rig.tap.on_readable()  # nothing more: no error


def test_a_burst_is_read_in_growing_portions_up_to_a_bound(rig: Rig) -> None:
    portions = []
    sent = 0
    for _ in range(60):
        while sent < len(rig.seen) + 2 * FRAMES_A_WAKE_UP:  # there is always more
            rig.linux.send(NO_OFFLOAD + sent.to_bytes(2, "big") * 10)
            sent += 1
        before = len(rig.seen)
        rig.tap.on_readable()
        portions.append(len(rig.seen) - before)
    assert portions == sorted(portions)
    assert portions[0] == 1 and portions[-1] == FRAMES_A_WAKE_UP
    while len(rig.seen) < sent:
        rig.tap.on_readable()
    assert [int.from_bytes(frame[:2], "big") for frame, _ in rig.seen] == list(range(sent))


def in_bursts(rig: Rig) -> None:
    """Let frames come without a pause until all that wait are read at a time."""
    for number in range(32):
        rig.linux.send(NO_OFFLOAD + bytes((number,)) * 20)
    while len(rig.seen) < 32:
        rig.tap.on_readable()
    rig.seen.clear()


def test_in_bursts_all_small_frames_are_read_before_the_first_is_passed_on(rig: Rig) -> None:
    in_bursts(rig)
    left_behind = []

    def look(frame: bytes, offload: bytes) -> None:
        rig.seen.append((frame, offload))
        try:
            left_behind.append(rig._ours.recv(1 << 17, socket.MSG_PEEK))
        except BlockingIOError:
            left_behind.append(b"")

    rig.peer.set_handler(look)
    frames = [bytes((number,)) * size for number, size in enumerate((60, 60, 60, 9000, 60, 60, 60, 60))]
    for frame in frames:
        rig.linux.send(NO_OFFLOAD + frame)
    rig.tap.on_readable()
    assert [frame for frame, _ in rig.seen] == frames
    next_one = NO_OFFLOAD + frames[4]
    assert left_behind == [next_one, next_one, next_one, next_one, b"", b"", b"", b""]  # the large one did not wait


def test_after_a_burst_frames_are_read_one_by_one_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    in_bursts(rig)
    reads = []
    monkeypatch.setattr(os, "read", lambda fd, octets, read=os.read: (reads.append(fd), read(fd, octets))[1])
    counts = []
    for _ in range(3):
        reads.clear()
        rig.linux.send(NO_OFFLOAD + FRAME)
        rig.tap.on_readable()
        counts.append(len(reads))
    assert counts == [2, 1, 1]  # the first is told that there is no more


@pytest.mark.parametrize("header", [NO_OFFLOAD, CSUM, SUPER])
def test_what_is_handed_over_reaches_linux_with_its_header(rig: Rig, header: bytes) -> None:
    rig.peer.send(FRAME, header)
    assert rig.linux.recv(70000) == header + FRAME
    assert not rig.tap.drops


def test_large_frames_pass_only_if_they_stand_for_small_ones(rig: Rig) -> None:
    big = bytes(30_000)
    rig.peer.send(big, SUPER)
    assert len(rig.linux.recv(70000)) == 30_010
    rig.peer.send(big, NO_OFFLOAD)
    rig.peer.send(big, CSUM)
    rig.peer.send(big, virtio_net.HEADER.pack(1, virtio_net.GSO_TCPV4, 54, 1501, 34, 16))
    assert rig.tap.drops == {"oversize": 3}
    rig.peer.send(bytes(1518), NO_OFFLOAD)  # a full frame and its tag
    assert len(rig.linux.recv(70000)) == 1528


def test_a_full_queue_drops_and_counts(rig: Rig) -> None:
    sent = 0
    while not rig.tap.drops:
        rig.peer.send(bytes(1500), NO_OFFLOAD)
        sent += 1
    rig.peer.send(bytes(1500), NO_OFFLOAD)
    assert rig.tap.drops == {"queue-full": 2}
    rig.linux.setblocking(False)
    received = 0
    with pytest.raises(BlockingIOError):
        while rig.linux.recv(70000):
            received += 1
    assert received == sent - 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EINVAL, "malformed"), (errno.EIO, "interface-down"), (errno.ENOBUFS, "no-buffers"), (errno.EPROTO, "eproto")],
)
def test_each_refusal_has_its_reason(rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    def refuse(fd: int, parts: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    monkeypatch.setattr(os, "writev", refuse)
    rig.peer.send(FRAME, NO_OFFLOAD)
    rig.peer.send(FRAME + bytes(1400 - len(FRAME)), NO_OFFLOAD)
    assert rig.tap.drops == {reason: 2} and rig.tap.port.carrier


@pytest.mark.parametrize("side", ["read", "write"])
def test_a_device_that_vanished_is_left_and_reported_once(rig: Rig, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    def gone(*_: object) -> int:
        raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr(os, "read", gone)
    monkeypatch.setattr(os, "write", gone)
    monkeypatch.setattr(os, "writev", gone)
    if side == "read":
        rig.tap.on_readable()
    else:
        rig.peer.send(FRAME, NO_OFFLOAD)
    rig.peer.send(FRAME, NO_OFFLOAD)
    assert rig.poller.registered == {} and not rig.tap.port.carrier
    assert rig.events == [("device-gone", {"port": "pc:eth0", "device": "eth0"})]
    rig.tap.stop()


def test_a_frame_that_the_header_cannot_describe_does_not_end_the_port(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "read", refuse)
    rig.tap.on_readable()
    assert rig.tap.drops == {"unreadable": 1} and rig.poller.registered and rig.tap.port.carrier


def test_linux_sees_the_cable(rig: Rig) -> None:
    told: list[bool] = []
    rig.tap.on_carrier = told.append
    rig.tap.port.set_carrier(False)
    rig.tap.port.set_carrier(True)
    assert rig.device.carrier == [False, True] == told
    rig.device.broken = True
    rig.tap.port.set_carrier(False)  # an old kernel: the port works all the same
    assert rig.tap.drops == {"carrier": 1}


def test_a_stopped_port_reads_nothing_and_counts_what_it_gets(rig: Rig) -> None:
    rig.tap.stop()
    assert rig.poller.registered == {}
    rig.peer.send(FRAME, NO_OFFLOAD)
    assert sum(rig.tap.drops.values()) == 1 and rig.events == []
    rig.tap.stop()
