"""The lab as a vde_switch: vde_plug, QEMU and others plug into it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import Counter
from functools import partial
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, AdapterContext
from vnet.adapters.peers import LearnedPeers
from vnet.adapters.resources import DirectoryResource, FileResource
from vnet.adapters.sockets import remove_stale
from vnet.adapters.vde_wire import (
    ADDRESS,
    LARGEST,
    REASONS,
    datagrams,
    plain_frames,
    remove_file,
    wanted_by,
)
from vnet.errors import HostError, WireError
from vnet.ports import NO_OFFLOAD, Alarm
from vnet.topology.adapter_kinds.vde import VdeSpec
from vnet.units import SECOND, Duration, Instant
from vnet.wire.ethernet import MIN_FRAME

MOST_CLIENTS: Final = 64
PATIENCE: Final[Duration] = 5 * SECOND
"""How long who has connected may take to ask for a port."""
PAUSE: Final[Duration] = 1 * SECOND
"""How long nobody is let in when the process has no descriptors left."""
NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@final
class _Client:
    """Who has plugged into the lab: the stream that holds the port, our datagram socket of that port, its file."""

    def __init__(self, stream: socket.socket, data: socket.socket, file: FileResource, peer: str) -> None:
        self.stream = stream
        self.data = data
        self.file = file
        self.peer = peer


@final
class VdeServer:
    """The lab as a switch: every client is heard by the network and by the other clients, as on a bridge of its own."""

    def __init__(self, spec: VdeSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self._spec = spec
        self._context = context
        self._clients: dict[int, _Client] = {}
        self._waiting: dict[int, tuple[socket.socket, Instant]] = {}
        self._patience: Alarm = context.scheduler.alarm(self._lose_patience)
        self._pause: Alarm = context.scheduler.alarm(self._listen)
        self._learned = LearnedPeers[int](context.scheduler)
        self._next = 1
        self._directory: DirectoryResource | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(spec.directory, 0o700)
                self._directory = DirectoryResource.of(spec.directory)
                context.ledger.add(self._directory)
            path = f"{spec.directory}/ctl"
            remove_stale(path, socket.SOCK_STREAM)
            self._listener.bind(path)
            self._file = FileResource.of(path)
            context.ledger.add(self._file)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            self._remove_directory()
            raise HostError(f"cannot be a vde switch at {spec.directory}: {error.strerror or error}") from error
        context.port.set_handler(self._out)

    @property
    def problem(self) -> str:
        """It listens as long as it is there."""
        return ""

    def start(self) -> None:
        """Begin to take clients."""
        self._listen()

    def _listen(self) -> None:
        self._context.poller.register(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Take no more, and stop passing frames."""
        self._patience.set(None)
        self._pause.set(None)
        self._context.poller.unregister(self._listener.fileno())
        for stream, _ in self._waiting.values():
            self._context.poller.unregister(stream.fileno())
        for client in self._clients.values():
            self._context.poller.unregister(client.stream.fileno())
            self._context.poller.unregister(client.data.fileno())

    def close(self) -> None:
        """Unplug everybody and remove the sockets."""
        for stream, _ in self._waiting.values():
            stream.close()
        self._waiting.clear()
        for client in self._clients.values():
            self._give_back(client)
        self._clients.clear()
        self._listener.close()
        remove_file(self._file, self._context)
        self._remove_directory()

    def _remove_directory(self) -> None:
        if self._directory is not None:
            self._directory.remove()
            self._context.ledger.done(self._directory)
            self._directory = None

    def details(self) -> dict[str, object]:
        """Tell who is plugged in."""
        return {"directory": self._spec.directory, "clients": len(self._clients)}

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError as error:
            if error.errno in NO_ROOM:  # it would wake us for ever
                self.drops["no-descriptors"] += 1
                self._context.poller.unregister(self._listener.fileno())
                self._pause.set(self._context.scheduler.now + PAUSE)
            return
        stream.setblocking(False)
        if len(self._waiting) + len(self._clients) >= MOST_CLIENTS:
            self.drops["too-many-clients"] += 1
            stream.close()
            return
        deadline = self._context.scheduler.now + PATIENCE
        self._waiting[stream.fileno()] = stream, deadline
        self._context.poller.register(stream.fileno(), partial(self._greet, stream))
        if len(self._waiting) == 1:
            self._patience.set(deadline)

    def _lose_patience(self) -> None:
        """Send those away who have not said in time what they want; they are in the order in which they came."""
        for number, (stream, deadline) in list(self._waiting.items()):
            if deadline > self._context.scheduler.now:
                self._patience.set(deadline)
                return
            self.drops["silent"] += 1
            self._context.poller.unregister(number)
            del self._waiting[number]
            stream.close()

    def _greet(self, stream: socket.socket) -> None:
        """Read a request, and give its sender a port."""
        try:
            request = stream.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            request = b""
        self._context.poller.unregister(stream.fileno())
        del self._waiting[stream.fileno()]
        number = self._next
        self._next += 1
        try:
            peer = wanted_by(request)
            path = f"{self._spec.directory}/{number:03d}.port"
            data, file = datagrams(path, self._context)
        except (OSError, WireError):
            self.drops["bad-request"] += 1
            stream.close()
            return
        client = _Client(stream, data, file, peer)
        try:
            if self._is_ours(peer, file):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "a client that is the switch itself")
            data.connect(peer)
            stream.send(ADDRESS.pack(socket.AF_UNIX, path.encode()))
        except OSError:
            self.drops["bad-request"] += 1
            self._give_back(client)
            return
        self._clients[number] = client
        self._context.poller.register(stream.fileno(), partial(self._ended, number))
        self._context.poller.register(data.fileno(), partial(self._in, number))

    def _is_ours(self, path: str, own: FileResource) -> bool:
        """Tell whether a client gave a port of this switch for its own socket: every broadcast would come in again."""
        status = os.stat(path)
        files = [own.file, *(client.file.file for client in self._clients.values())]
        return any((file.device, file.inode) == (status.st_dev, status.st_ino) for file in files)

    def _ended(self, number: int) -> None:
        client = self._clients[number]
        try:
            if client.stream.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._context.poller.unregister(client.stream.fileno())
        self._context.poller.unregister(client.data.fileno())
        del self._clients[number]
        self._learned.forget(number)
        self._give_back(client)

    def _give_back(self, client: _Client) -> None:
        client.stream.close()
        client.data.close()
        remove_file(client.file, self._context)

    def _in(self, number: int) -> None:
        client = self._clients[number]
        try:
            for _ in range(FRAMES_A_WAKE_UP):
                frame = client.data.recv(65_536)
                if not MIN_FRAME <= len(frame) <= LARGEST:
                    self.drops["malformed"] += 1
                    continue
                self._learned.learn(frame[6:12], number)
                known = self._learned.find(frame[:6])
                if known is None:
                    self._context.port.send(frame, NO_OFFLOAD)
                if known is None or known != number:
                    self._send([frame], known, but=number)
        except BlockingIOError:
            return
        except OSError:
            self.drops["not-received"] += 1

    def _out(self, frame: bytes, offload: bytes) -> None:
        frames = [frame] if offload == NO_OFFLOAD and len(frame) <= LARGEST else plain_frames(frame, offload, self.drops)
        self._send(frames, self._learned.find(frame[:6]))

    def _send(self, frames: list[bytes], to: int | None, but: int = 0) -> None:
        for number, client in self._clients.items():
            if number == but or (to is not None and number != to):
                continue
            try:
                for frame in frames:
                    client.data.send(frame)
            except OSError as error:
                self.drops[REASONS.get(error.errno or 0, "not-sent")] += 1
