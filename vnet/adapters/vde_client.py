"""The lab plugs into a vde_switch, as vde_plug does.

Whoever is at the other end may be stopped, slow, or this very lab: nothing here waits for it in the lab's thread. A port is
asked for, the answer is a matter of the poller, and an alarm ends the patience.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter
from pathlib import Path
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, AdapterContext
from vnet.adapters.resources import FileResource
from vnet.adapters.vde_wire import (
    ADDRESS,
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
from vnet.units import MILLISECOND, SECOND, Duration
from vnet.wire.ethernet import MIN_FRAME

RETRY: Final[Duration] = 1 * SECOND
"""How often to look whether a switch that went away is there again."""
PATIENCE: Final[Duration] = 3 * SECOND
"""How long a switch may take to give a port; the lab goes on meanwhile."""
MOMENT: Final[Duration] = 200 * MILLISECOND
"""How long opening waits; a vde_switch takes less than one."""


@final
class VdeClient:
    """The lab's end of a cable into a vde_switch; the cable is plugged in again when the switch comes back."""

    def __init__(self, spec: VdeSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self._spec = spec
        self._context = context
        self._alarm: Alarm = context.scheduler.alarm(self._expire)
        self._stream: socket.socket | None = None
        self._data: socket.socket | None = None
        self._file: FileResource | None = None
        self._answer = b""
        self._is_plugged = False
        self._was_lost = False
        self._problem = ""
        try:
            self._ask()
            self._wait_briefly()
        except OSError as error:
            self.close()
            raise HostError(f"no vde_switch at {spec.directory}: {error.strerror or error}") from error
        context.port.set_handler(self._out)

    def _ask(self) -> None:
        """Ask the switch for a port, without waiting for the answer; raise OSError if nobody is there.

        The datagram socket is a new one each time: a switch that ends removes those of its clients.
        """
        self._answer = b""
        self._problem = f"the vde_switch at {self._spec.directory} has not answered yet"
        self._stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        control = Path(self._spec.directory)
        self._stream.connect(str(control / "ctl" if control.is_dir() else control))
        number = self._context.streams("socket").below(1 << 32)
        self._data, self._file = datagrams(f"{self._context.directory}/vde-{number:08x}", self._context)
        path = self._file.path.encode()
        request = REQUEST.pack(MAGIC, VERSION, NEW_PORT | self._spec.port << 8, socket.AF_UNIX, path)
        self._stream.sendall(request + f"vnet {self._context.port.name}".encode()[:120])

    def _wait_briefly(self) -> None:
        """Give a switch the moment in which they all answer, so that the network is up when it is open.

        This is another thread than the lab's. A switch that is slower, or is the same lab, answers when the lab runs.
        """
        assert self._stream is not None, "it was asked"
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        if poll.poll(MOMENT * 1000 / SECOND):
            self._read_answer()

    def _read_answer(self) -> None:
        """Take what came of the answer, and plug in when it is whole."""
        assert self._stream is not None and self._data is not None, "it was asked"
        try:
            octets = self._stream.recv(ADDRESS.size - len(self._answer))
        except BlockingIOError:
            return
        if not octets:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the switch gave no port")
        self._answer += octets
        if len(self._answer) == ADDRESS.size:
            self._data.connect(path_in(self._answer))
            self._is_plugged = True
            self._problem = ""

    @property
    def problem(self) -> str:
        """The switch may have gone, or not have answered yet."""
        return self._problem

    def start(self) -> None:
        """Begin to pass frames, or to wait for the answer."""
        if self._is_plugged:
            self._watch()
        else:
            self._context.set_carrier(False)
            self._wait()

    def _watch(self) -> None:
        assert self._stream is not None and self._data is not None, "it is plugged in"
        self._context.poller.register(self._data.fileno(), self._in)
        self._context.poller.register(self._stream.fileno(), self._ended)

    def _wait(self) -> None:
        assert self._stream is not None, "it was asked"
        self._context.poller.register(self._stream.fileno(), self._answered)
        self._alarm.set(self._context.scheduler.now + PATIENCE)

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
        self._is_plugged = False

    def details(self) -> dict[str, object]:
        """Tell which switch."""
        return {"switch": self._spec.directory}

    def _answered(self) -> None:
        """Hear from the switch that was asked for a port."""
        try:
            self._read_answer()
        except OSError:
            self._try_later("gave no port")
            return
        if self._is_plugged:
            self.stop()
            self._watch()
            if self._was_lost:
                self._was_lost = False
                self._context.report("adapter-back", switch=self._spec.directory)
            self._context.set_carrier(True)

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
        self._context.set_carrier(False)
        self._try_later("is gone")

    def _try_later(self, why: str) -> None:
        """Let go of a switch that is of no use, and look again in a while; only the first time is told."""
        self.stop()
        self.close()
        self._problem = f"the vde_switch at {self._spec.directory} {why}"
        if not self._was_lost:
            self._was_lost = True
            self._context.report("adapter-lost", problem=self._problem)
        self._alarm.set(self._context.scheduler.now + RETRY)

    def _expire(self) -> None:
        """Give up on a switch that does not answer, or ask again."""
        if self._stream is not None:
            self._try_later("does not answer")
            return
        try:
            self._ask()
        except OSError:
            self._try_later("is gone")
        else:
            self._wait()

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
        if self._data is None or not self._is_plugged:
            self.drops["no-switch"] += 1
            return
        frames = [frame] if offload == NO_OFFLOAD and len(frame) <= LARGEST else plain_frames(frame, offload, self.drops)
        try:
            for each in frames:
                self._data.send(each)
        except OSError as error:
            self.drops[REASONS.get(error.errno or 0, "not-sent")] += 1
