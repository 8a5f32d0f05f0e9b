"""The lab plugs into a vde_switch, as vde_plug does."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from pathlib import Path
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, AdapterContext
from vnet.adapters.resources import FileResource
from vnet.adapters.vde_wire import (
    ADDRESS,
    CONNECT_SECONDS,
    LARGEST,
    MAGIC,
    NEW_PORT,
    REASONS,
    REQUEST,
    VERSION,
    datagrams,
    path_in,
    plain_frames,
    remove_file,
)
from vnet.errors import HostError
from vnet.ports import NO_OFFLOAD, Alarm
from vnet.topology.adapter_kinds.vde import VdeSpec
from vnet.units import SECOND, Duration
from vnet.wire.ethernet import MIN_FRAME

RETRY: Final[Duration] = 1 * SECOND
"""How often to look whether a switch that went away is there again."""


@final
class VdeClient:
    """The lab's end of a cable into a vde_switch; the cable is plugged in again when the switch comes back."""

    def __init__(self, spec: VdeSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self._spec = spec
        self._context = context
        self._alarm: Alarm = context.scheduler.alarm(self._retry)
        self._stream: socket.socket | None = None
        self._data: socket.socket | None = None
        self._file: FileResource | None = None
        self._problem = ""
        try:
            self._connect()
        except OSError as error:
            raise HostError(f"no vde_switch at {spec.directory}: {error.strerror or error}") from error
        context.port.set_handler(self._out)

    def _connect(self) -> None:
        """Ask the switch for a port; blocks for as long as the switch takes to answer.

        The datagram socket is a new one each time: a switch that ends removes those of its clients.
        """
        number = self._context.streams("socket").below(1 << 32)
        data, file = datagrams(f"{self._context.directory}/vde-{number:08x}", self._context)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            stream.settimeout(CONNECT_SECONDS)
            control = Path(self._spec.directory)
            stream.connect(str(control / "ctl" if control.is_dir() else control))
            request = REQUEST.pack(MAGIC, VERSION, NEW_PORT | self._spec.port << 8, socket.AF_UNIX, file.path.encode())
            stream.sendall(request + f"vnet {self._context.port.name}".encode()[:120])
            answer = stream.recv(ADDRESS.size, socket.MSG_WAITALL)
            if len(answer) < ADDRESS.size:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "the switch gave no port")
            data.connect(path_in(answer))
            stream.setblocking(False)
        except OSError:
            stream.close()
            data.close()
            remove_file(file, self._context)
            raise
        self._stream, self._data, self._file = stream, data, file
        self._problem = ""

    @property
    def problem(self) -> str:
        """The switch may have gone."""
        return self._problem

    def start(self) -> None:
        """Begin to pass frames."""
        if self._stream is not None and self._data is not None:
            self._context.poller.register(self._data.fileno(), self._in)
            self._context.poller.register(self._stream.fileno(), self._ended)

    def stop(self) -> None:
        """Stop passing frames."""
        self._alarm.set(None)
        for each in (self._data, self._stream):
            if each is not None:
                self._context.poller.unregister(each.fileno())

    def close(self) -> None:
        """Leave the switch."""
        for each in (self._data, self._stream):
            if each is not None:
                each.close()
        if self._file is not None:
            remove_file(self._file, self._context)
        self._stream = self._data = self._file = None

    def details(self) -> dict[str, object]:
        """Tell which switch."""
        return {"switch": self._spec.directory}

    def _ended(self) -> None:
        """Hear of the end of the stream, which is the end of the port: the switch has gone."""
        assert self._stream is not None, "it is registered"
        try:
            if self._stream.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.stop()
        self.close()
        self._problem = f"the vde_switch at {self._spec.directory} is gone"
        self._context.report("adapter-lost", problem=self._problem)
        self._context.set_carrier(False)
        self._alarm.set(self._context.scheduler.now + RETRY)

    def _retry(self) -> None:
        try:
            self._connect()
        except OSError:
            self._alarm.set(self._context.scheduler.now + RETRY)
            return
        self.start()
        self._context.report("adapter-back", switch=self._spec.directory)
        self._context.set_carrier(True)

    def _in(self) -> None:
        assert self._data is not None, "it is registered"
        send, receive = self._context.port.send, self._data.recv
        try:
            for _ in range(FRAMES_A_WAKE_UP):
                frame = receive(65_536)
                if MIN_FRAME <= len(frame) <= LARGEST:
                    send(frame, NO_OFFLOAD)
                else:
                    self.drops["malformed"] += 1
        except BlockingIOError:
            return
        except OSError:
            self.drops["not-received"] += 1

    def _out(self, frame: bytes, offload: bytes) -> None:
        if self._data is None:
            self.drops["no-switch"] += 1
            return
        frames = [frame] if offload == NO_OFFLOAD and len(frame) <= LARGEST else plain_frames(frame, offload, self.drops)
        try:
            for each in frames:
                self._data.send(each)
        except OSError as error:
            self.drops[REASONS.get(error.errno or 0, "not-sent")] += 1
