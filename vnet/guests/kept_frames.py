"""Frames for a machine that stands still, and what was about to leave it: kept up to a bound, then dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from vnet.adapters.sockets import QUEUE_OCTETS
from vnet.ports import Port, Scheduler

_Frame = tuple[bytes, bytes]


@final
class KeptFrames:
    """The frames of one port while its node stands still; *drop* is told for each that has no place.

    Either way has room for as much as the socket of a machine that reads nothing (``adapters.sockets.QUEUE_OCTETS``).
    """

    __slots__ = ("_drop", "_is_lossy", "_port", "_received", "_room", "_sent", "_way_out")

    def __init__(self, port: Port, drop: Callable[[str], None]) -> None:
        self._port = port
        self._drop = drop
        self._is_lossy = False
        self._received: list[_Frame] = []
        self._sent: list[_Frame] = []
        self._room = QUEUE_OCTETS
        self._way_out = QUEUE_OCTETS
        port.keep(self._receive, self._send)

    def lose(self) -> None:
        """Keep nothing more of what arrives: there is no machine any more to wait for it."""
        self._is_lossy = True

    def deliver(self, scheduler: Scheduler) -> None:
        """Pass frames on again, first those that were kept, in their order."""
        receive, send = self._port.let_go()
        for frame, offload in self._received:
            scheduler.soon(receive, frame, offload)
        for frame, offload in self._sent:
            send(frame, offload)

    def discard(self) -> None:
        """Pass frames on again, and forget those that were kept."""
        self._port.let_go()

    def _receive(self, frame: bytes, offload: bytes) -> None:
        if self._is_lossy:
            self._drop("machine-saved")
        elif len(frame) > self._room:
            self._drop("machine-paused")
        else:
            self._room -= len(frame)
            self._received.append((frame, offload))

    def _send(self, frame: bytes, offload: bytes) -> None:
        if len(frame) > self._way_out:
            self._drop("machine-paused")
        else:
            self._way_out -= len(frame)
            self._sent.append((frame, offload))
