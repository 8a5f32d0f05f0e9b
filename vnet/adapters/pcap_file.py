"""Capture files as the far side of a network: one is replayed into it, what leaves by here is recorded.

The frames of a file keep their distances in time, divided by the speed; the first comes at ``start``. It needs no more than
the timeline, and so works in simulated labs.
"""

from __future__ import annotations

import os
from collections import Counter
from io import BufferedWriter
from typing import Final, final

from vnet.adapters.base import AdapterContext
from vnet.errors import HostError, WireError
from vnet.ports import NO_OFFLOAD
from vnet.topology.adapter_kinds.pcap import PcapSpec
from vnet.units import Instant
from vnet.wire import pcap, pcapng
from vnet.wire.ethernet import MAX_FRAME, MIN_FRAME
from vnet.wire.segmentation import complete

LARGEST_FILE: Final = 256 << 20
"""Octets; a file to replay is held in memory."""


@final
class PcapAdapter:
    """A file to replay, one to record, or both; raise HostError for one that cannot be used."""

    def __init__(self, spec: PcapSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self._spec = spec
        self._context = context
        self._frames = _read(spec.replay, spec.speed) if spec.replay is not None else []
        self._next = 0
        self._began: Instant = 0
        self._alarm = context.scheduler.alarm(self._replay)
        self._file: BufferedWriter | None = None
        self._writer = pcapng.Writer()
        if spec.record is not None:
            try:
                self._file = open(spec.record, "wb")  # noqa: SIM115 - closed by close
            except OSError as error:
                raise HostError(f"cannot write {spec.record}: {error.strerror}") from error
            self._file.write(self._writer.header() + self._writer.interface(context.port.name))
        context.port.set_handler(self._out)

    @property
    def problem(self) -> str:
        """A file is always there."""
        return ""

    def start(self) -> None:
        """Begin to replay."""
        self._began = self._context.scheduler.now + self._spec.start
        self._arm()

    def stop(self) -> None:
        """Stop replaying."""
        self._alarm.set(None)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

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
            frame = self._frames[self._next][1]
            self._next += 1
            if MIN_FRAME <= len(frame) <= MAX_FRAME:
                self._write(frame, pcapng.Direction.INBOUND)
                self._context.port.send(frame, NO_OFFLOAD)
            else:
                self.drops["unusable"] += 1
        self._arm()

    def _out(self, frame: bytes, offload: bytes) -> None:
        if self._file is None:
            return
        try:
            frames = complete(frame, offload)
        except WireError:
            self.drops["malformed"] += 1
            return
        for each in frames:
            self._write(each, pcapng.Direction.OUTBOUND)

    def _write(self, frame: bytes, direction: pcapng.Direction) -> None:
        if self._file is None:
            return
        try:
            self._file.write(self._writer.packet(0, self._context.scheduler.now, frame, direction))
        except OSError:
            self.drops["not-recorded"] += 1  # the disk is full


def _read(path: str, speed: float) -> list[tuple[Instant, bytes]]:
    """Read a capture file: each frame, with how long after the first it is due; in order of time."""
    try:
        if os.path.getsize(path) > LARGEST_FILE:
            raise HostError(f"cannot replay {path}: it is larger than {LARGEST_FILE >> 20} MiB")
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE)
        if pcap.is_pcap(data):
            capture = pcap.read(data)
            if capture.linktype != pcap.LINKTYPE_ETHERNET:
                raise HostError(f"cannot replay {path}: it has no Ethernet frames")
            timed = [(record.instant, record.frame) for record in capture.records]
        else:
            packets = pcapng.read(data)
            timed = [(each.instant, each.frame) for each in packets if each.interface.linktype == pcap.LINKTYPE_ETHERNET]
    except OSError as error:
        raise HostError(f"cannot replay {path}: {error.strerror}") from error
    except WireError as error:
        raise HostError(f"cannot replay {path}: {error}") from error
    timed.sort(key=lambda each: each[0])
    return [(int((instant - timed[0][0]) / speed), frame) for instant, frame in timed]
