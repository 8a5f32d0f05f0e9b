"""Capture files as the far side of a network: one is replayed into it, what leaves by here is recorded.

The frames of a file keep their distances in time, divided by the speed; the first comes at ``start``. It needs no more than
the timeline, and so works in simulated labs.

A file to record is opened as it is, and begun anew with the first frame or ``start``: what is in it outlives an adapter that
does not come to that, and an adapter that records into the file until then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from io import BufferedWriter
from typing import Final, TypeAlias, final

from vnet.adapters.base import AdapterContext, cut_up
from vnet.errors import HostError, WireError
from vnet.ports import NO_OFFLOAD
from vnet.topology.adapter_kinds.pcap import PcapSpec
from vnet.units import Instant
from vnet.wire import pcap, pcapng
from vnet.wire.ethernet import MAX_FRAME, MIN_FRAME

LARGEST_FILE: Final = 256 << 20
"""Octets; a file to replay is held in memory."""

FCS_OCTETS: Final = 4
_Frame: TypeAlias = "tuple[Instant, bytes, bool]"
"""How long after the first one it is due, its octets without FCS, and whether the file has all of them."""


@final
class PcapAdapter:
    """A file to replay, one to record, or both; raise HostError for one that cannot be used."""

    def __init__(self, spec: PcapSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self._spec = spec
        self._context = context
        self._frames: list[_Frame] = _read(spec.replay, spec.speed) if spec.replay is not None else []
        self._next = 0
        self._began: Instant = 0
        self._alarm = context.scheduler.alarm(self._replay)
        self._file: BufferedWriter | None = None
        self._writer = pcapng.Writer()
        self._has_begun = False
        if spec.record is not None:
            try:
                self._file = open(_open(spec.record, os.O_WRONLY | os.O_CREAT), "wb")  # noqa: SIM115 - closed by stop
            except OSError as error:
                raise HostError(f"cannot write {spec.record}: {error.strerror}") from error
        context.port.set_handler(self._out)

    @property
    def problem(self) -> str:
        """A file is always there."""
        return ""

    def start(self) -> None:
        """Begin to replay, and to record."""
        if self._file is not None:
            self._begin(self._file)
        self._began = self._context.scheduler.now + self._spec.start
        self._arm()

    def stop(self) -> None:
        """Stop replaying, and complete the file; what the disk has no room for is counted."""
        self._alarm.set(None)
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                self.drops["not-recorded"] += 1
            self._file = None

    def close(self) -> None:
        """Do nothing: all is given back."""

    def leave_file(self) -> None:
        """Write nothing of what is recorded any more, not even what waits in the buffer: the file is somebody else's."""
        if self._file is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._file.fileno(), inheritable=False)
            os.close(nowhere)

    def details(self) -> dict[str, object]:
        """Tell how far the file has been replayed."""
        return {"replayed": self._next, "frames": len(self._frames)}

    def _arm(self) -> None:
        if self._next < len(self._frames):
            self._alarm.set(self._began + self._frames[self._next][0])

    def _replay(self) -> None:
        """Let in what is due."""
        now = self._context.scheduler.now
        while self._next < len(self._frames) and self._began + self._frames[self._next][0] <= now:
            _, frame, is_whole = self._frames[self._next]
            self._next += 1
            if not is_whole:
                self.drops["cut"] += 1
            elif MIN_FRAME <= len(frame) <= MAX_FRAME:
                self._write(frame, pcapng.Direction.INBOUND)
                self._context.port.send(frame, NO_OFFLOAD)
            else:
                self.drops["unusable"] += 1
        self._arm()

    def _out(self, frame: bytes, offload: bytes) -> None:
        if self._file is None:
            return
        for each in cut_up(frame, offload, self.drops):
            self._write(each, pcapng.Direction.OUTBOUND)

    def _write(self, frame: bytes, direction: pcapng.Direction) -> None:
        if self._file is None:
            return
        self._begin(self._file)
        try:
            self._file.write(self._writer.packet(0, self._context.scheduler.now, frame, direction))
        except OSError:
            self.drops["not-recorded"] += 1  # the disk is full

    def _begin(self, file: BufferedWriter) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        try:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.truncate(0)
            file.write(self._writer.header() + self._writer.interface(self._context.port.name))
        except OSError:
            self.drops["not-recorded"] += 1


def _open(path: str, flags: int) -> int:
    """Open a file without waiting, as a pipe would have us do; raise OSError, or HostError for what is no file."""
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise HostError(f"cannot use {path}: it is no file") from error
        raise
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and flags & os.O_WRONLY)):  # /dev/null is as good as a file
        os.close(fd)
        raise HostError(
            f"cannot use {path}: it is no file" if not stat.S_ISDIR(mode) else f"cannot use {path}: it is a directory"
        )
    return fd


def _read(path: str, speed: float) -> list[_Frame]:
    """Read a capture file: its frames in order of time."""
    try:
        with open(_open(path, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise HostError(f"cannot replay {path}: it is larger than {LARGEST_FILE >> 20} MiB")
            data = file.read(LARGEST_FILE)
        if pcap.is_pcap(data):
            capture = pcap.read(data)
            if capture.linktype != pcap.LINKTYPE_ETHERNET:
                raise HostError(f"cannot replay {path}: it has no Ethernet frames")
            fcs = FCS_OCTETS if capture.has_fcs else 0
            timed = [(each.instant, each.frame, each.length, fcs) for each in capture.records]
        else:
            packets = pcapng.read(data)
            timed = [
                (each.instant, each.frame, each.length, each.fcs_octets)
                for each in packets
                if each.interface.linktype == pcap.LINKTYPE_ETHERNET
            ]
    except OSError as error:
        raise HostError(f"cannot replay {path}: {error.strerror}") from error
    except WireError as error:
        raise HostError(f"cannot replay {path}: {error}") from error
    timed.sort(key=lambda each: each[0])
    return [
        (int((instant - timed[0][0]) / speed), frame[: max(length - fcs, 0)], len(frame) >= length - fcs)
        for instant, frame, length, fcs in timed
    ]
