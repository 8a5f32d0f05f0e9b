"""Where a Linux guest's interfaces live: a network namespace, and what can be made inside it.

``RootSpace`` is entered by threads, which needs root. ``HeldSpace`` has a process that went there (``_holder.py``), as an
ordinary user may in a user namespace of his own, and asks it. Either may be a new namespace or that of a running process.
Whoever made the user namespace has all rights over it from outside, so what was made inside is used from here.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar, final

from vnet.adapters import _linux, netns
from vnet.adapters.resources import Ledger, ProcessResource
from vnet.adapters.tap import TapDevice
from vnet.errors import HostError

T = TypeVar("T")

HOLDER: Final = str(Path(__file__).with_name("_holder.py"))
_PATIENCE: Final = 20.0
"""Seconds for a holder to answer; it takes 20 ms."""
_LONGEST_REPLY: Final = 65_536
_GONE: Final = "the process that holds the namespace has ended; start the lab anew"


class Space(Protocol):
    """A network namespace; what it makes belongs to it wherever it is used. Each raises OSError. All of it blocks."""

    def tap(self, name: str) -> TapDevice:
        """Make a TAP device inside; raise HostError if it cannot be."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket inside."""

    def index(self, name: str) -> int:
        """Return the index of an interface inside."""

    def read(self, path: str) -> str:
        """Read a setting, such as one below /proc/sys/net."""

    def write(self, path: str, text: str) -> None:
        """Write a setting."""

    def entry(self) -> list[str]:
        """Give the options by which ``_enter.py`` gets there, and nowhere else."""

    def watched(self) -> list[tuple[int, str]]:
        """List descriptors that become readable when a process ends, and what is to be said then."""

    def close(self) -> None:
        """Leave it; a new one that nobody else is in is gone."""


@final
class RootSpace:
    """The namespace behind a descriptor, which the object then owns; *path* leads others there, as long as it is the same.

    *name* is the one that ``ip netns`` shows; *watch* is a descriptor of the process whose namespace it is, and its number.
    """

    def __init__(self, fd: int, path: str, name: str = "", watch: tuple[int, int] | None = None) -> None:
        self.path = path
        self._fd = fd
        self._name = name
        self._watch = watch
        self._inside: int | None = None

    @classmethod
    def here(cls, path: str) -> RootSpace:
        """Take the namespace of the calling thread, which need not change its own until ``leave``."""
        space = cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), path, os.path.basename(path))
        space._inside = threading.get_ident()
        return space

    @classmethod
    def of_process(cls, pid: int) -> RootSpace:
        """Take that of a running process; raise HostError if there is none, or it may not be looked into."""
        path = f"/proc/{pid}/ns/net"
        process = _open_process(pid)
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, watch=(process, pid))
        except OSError as error:
            os.close(process)
            raise HostError(f"cannot join process {pid}: {error.strerror}") from error

    def leave(self) -> None:
        """Say that the thread that made it is about to be thrown away."""
        self._inside = None

    def tap(self, name: str) -> TapDevice:
        """Make a TAP device inside."""
        return self._do(lambda: TapDevice(name))

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket inside."""
        return self._do(lambda: socket.socket(family, kind, protocol))

    def index(self, name: str) -> int:
        """Return the index of an interface inside."""
        return self._do(lambda: socket.if_nametoindex(name))

    def read(self, path: str) -> str:
        """Read a setting."""
        return self._do(Path(path).read_text)

    def write(self, path: str, text: str) -> None:
        """Write a setting."""
        self._do(lambda: Path(path).write_text(text))

    def entry(self) -> list[str]:
        """Lead to the very namespace that is held here; the path serves those who cannot look into this process.

        A path alone is not enough: a process number is given out anew, and /run/netns may be another one for who asks.
        """
        status = os.fstat(self._fd)
        entry = ["--net", f"/proc/{os.getpid()}/fd/{self._fd}", "--or", self.path, "--identity", _identity(status)]
        return entry + (["--name", self._name] if self._name else [])

    def watched(self) -> list[tuple[int, str]]:
        """Watch the process whose namespace it is."""
        return [] if self._watch is None else [(self._watch[0], _ended(self._watch[1]))]

    def close(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._watch is not None:
            os.close(self._watch[0])
            self._watch = None

    def _do(self, function: Callable[[], T]) -> T:
        if self._inside == threading.get_ident():
            return function()
        return netns.inside(self._fd, function)


@final
class HeldSpace:
    """The namespaces of a holder, which is written down in *ledger*; a new one's, or those of process *pid*.

    Making the object starts the holder, ``wait`` waits until it is there: several start at the same time.
    """

    def __init__(self, ledger: Ledger, pid: int | None = None) -> None:
        self._ledger = ledger
        self._joined = pid
        self._identity = ""
        self._watched = [] if pid is None else [(_open_process(pid), _ended(pid))]
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE)
        argv = [sys.executable, "-IS", HOLDER, str(theirs.fileno()), *([] if pid is None else [str(pid)])]
        with theirs:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._watched.append((os.pidfd_open(self._process.pid), _GONE))
        self._resource = ProcessResource.of(self._process.pid)
        ledger.add(self._resource)

    def wait(self) -> None:
        """Wait until the namespaces are there; raise HostError if they cannot be."""
        try:
            self._identity = str(self._reply()[0])
        except OSError as error:
            self.close()
            if self._joined is not None:
                raise HostError(f"cannot join process {self._joined}: {error.strerror}") from error
            raise HostError(
                f"namespace guests need root, or user namespaces, which this machine refuses ({error.strerror}): "
                "run with sudo, or give --emulate or --simulate; vnet doctor tells more"
            ) from error

    def tap(self, name: str) -> TapDevice:
        """Make a TAP device inside."""
        try:
            taken, fd = self._ask({"tap": name, "offloads": [_linux.ALL_OFFLOADS, _linux.BASIC_OFFLOADS]})
        except OSError as error:
            if error.errno == errno.EACCES:
                raise HostError(
                    "/dev/net/tun may not be opened by this user: run as root, chmod 666 /dev/net/tun, or give --emulate"
                ) from error
            raise HostError(f"cannot make TAP device {name}: {error.strerror}") from error
        return TapDevice.opened(name, fd, taken if isinstance(taken, int) else 0)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket inside."""
        return socket.socket(fileno=self._ask({"socket": [int(family), int(kind), protocol]})[1])

    def index(self, name: str) -> int:
        """Return the index of an interface inside."""
        value = self._ask({"index": name})[0]
        assert isinstance(value, int), "so says the holder"
        return value

    def read(self, path: str) -> str:
        """Read a setting."""
        return str(self._ask({"read": path})[0])

    def write(self, path: str, text: str) -> None:
        """Write a setting."""
        self._ask({"write": path, "text": text})

    def entry(self) -> list[str]:
        """Lead there by the holder."""
        return ["--pid", str(self._process.pid), "--identity", self._identity]

    def watched(self) -> list[tuple[int, str]]:
        """Watch the holder, and the process whose namespaces it joined."""
        return list(self._watched)

    def close(self) -> None:
        """End the holder, which ends by itself when nobody can ask it any more."""
        self._control.close()
        for fd, _ in self._watched:
            os.close(fd)
        self._watched.clear()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ledger.done(self._resource)

    def _ask(self, request: dict[str, object]) -> tuple[object, int]:
        with self._lock:
            try:
                self._control.send(json.dumps(request).encode())
                return self._reply()
            except (BrokenPipeError, ConnectionResetError) as error:
                raise HostError(_GONE) from error

    def _reply(self) -> tuple[object, int]:
        try:
            octets, fds, _, _ = socket.recv_fds(self._control, _LONGEST_REPLY, 1)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the holder of the namespace does not answer") from None
        if not octets:
            raise OSError(errno.EPIPE, "the holder of the namespace has ended")
        reply = json.loads(octets)
        if "errno" in reply:
            raise OSError(reply["errno"], reply["error"])
        return reply.get("value"), fds[0] if fds else -1


def _open_process(pid: int) -> int:
    """Open a process, so that its end is seen; raise HostError if there is none."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise HostError(f"cannot join process {pid}: {error.strerror}") from error


def _ended(pid: int) -> str:
    return f"process {pid} has ended; its namespace is there as long as the lab"


def _identity(status: os.stat_result) -> str:
    """Name a namespace by what stat tells: as long as somebody holds it nothing else has these numbers."""
    return f"{status.st_dev}:{status.st_ino}"
