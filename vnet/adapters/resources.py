"""What a live lab leaves on the host if it dies, each with an identity that nothing else can have.

A journal of these values (``runtime.journal``) is enough to clean up after a lab that was killed. ``remove`` looks at
the identity first and touches nothing that is not exactly what was recorded, so that a namespace, a process or a file that
took over the name is safe. It may be called again at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, final

from vnet.adapters import _linux
from vnet.adapters.netlink import Netlink, delete_link
from vnet.adapters.netns import cookie, cookie_of

LAB_TOKEN: Final = "VNET_LAB_TOKEN"
"""Environment variable of every process that a lab starts: a random text that names this run of the lab."""
TERMINATION_GRACE: Final = 1.0
"""Seconds between SIGTERM and SIGKILL for processes that are left over."""
TERMINATION_ROUNDS: Final = 5
"""A process that starts others faster than that is beyond us."""


@final
@dataclass(frozen=True, slots=True)
class FileId:
    """Three numbers that together belong to one file, even where the inode of a removed one is used again."""

    device: int
    inode: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileId:
        """Take the identity from a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_mtime_ns)


@final
@dataclass(frozen=True, slots=True)
class NamespaceResource:
    """A network namespace, by the cookie that the kernel gave it, mounted on the file *path*, which has its own identity."""

    path: str
    cookie: int
    file: FileId

    def exists(self) -> bool:
        """Tell whether the namespace, or only its file, is still there."""
        return cookie_of(self.path) == self.cookie or FileResource(self.path, self.file).exists()

    def remove(self) -> bool:
        """Unmount the namespace and remove its file; tell whether anything was there."""
        removed = False
        with contextlib.suppress(OSError):
            if cookie_of(self.path) == self.cookie:
                _linux.unmount(self.path)
                removed = True
        # Only now does the path lead to the file below the mount, if it is still that file.
        return FileResource(self.path, self.file).remove() or removed


@final
@dataclass(frozen=True, slots=True)
class FileResource:
    """A file that does not change once it is there: a socket, or what a namespace is mounted on."""

    path: str
    file: FileId

    @classmethod
    def of(cls, path: str) -> FileResource:
        """Identify a file that was just made."""
        return cls(path, FileId.of(os.lstat(path)))

    def exists(self) -> bool:
        """Tell whether this very file is still there."""
        try:
            return FileId.of(os.lstat(self.path)) == self.file
        except OSError:
            return False

    def remove(self) -> bool:
        """Remove it; tell whether it was there."""
        with contextlib.suppress(OSError):
            if self.exists():
                os.unlink(self.path)
                return True
        return False


@final
@dataclass(frozen=True, slots=True)
class DirectoryResource:
    """A directory that was made for sockets; what others put into it is not ours, so it goes only when it is empty."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> DirectoryResource:
        """Identify a directory that was just made."""
        status = os.lstat(path)
        return cls(path, status.st_dev, status.st_ino)

    def exists(self) -> bool:
        """Tell whether this very directory is still there, and empty."""
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            return (status.st_dev, status.st_ino) == (self.device, self.inode) and not os.listdir(self.path)
        return False

    def remove(self) -> bool:
        """Remove it if it is empty; tell whether it was there."""
        with contextlib.suppress(OSError):
            if self.exists():
                os.rmdir(self.path)
                return True
        return False


@final
@dataclass(frozen=True, slots=True)
class LinkResource:
    """An interface that outlives who made it, in the network namespace with this cookie, by a name that is given only once.

    The name has random octets: whoever writes it down before the interface is there cannot know its index.
    """

    name: str
    cookie: int

    def exists(self) -> bool:
        """Tell whether it is there, which only somebody in its namespace can."""
        return self._index() is not None

    def remove(self) -> bool:
        """Delete it; tell whether it was there."""
        index = self._index()
        if index is None:
            return False
        try:
            with contextlib.closing(Netlink()) as netlink:
                netlink.run([delete_link(index)])
        except OSError:
            return False
        return True

    def _index(self) -> int | None:
        with contextlib.suppress(OSError):
            if cookie() == self.cookie:
                return socket.if_nametoindex(self.name)
        return None


@final
@dataclass(frozen=True, slots=True)
class ProcessResource:
    """A process, by its number and the clock tick at which it started."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessResource:
        """Identify a process that runs; raise ProcessLookupError if it does not."""
        started = start_time(pid)
        if started is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return cls(pid, started)

    def exists(self) -> bool:
        """Tell whether this very process still runs."""
        return start_time(self.pid) == self.started

    def remove(self) -> bool:
        """End the process: SIGTERM, then SIGKILL; tell whether it ran."""
        return end_processes([self])


Resource: TypeAlias = NamespaceResource | FileResource | DirectoryResource | LinkResource | ProcessResource


class Ledger(Protocol):
    """Where resources are written down: before they come to be, or before anybody could see them."""

    def add(self, resource: Resource) -> None:
        """Write down that this may exist from now on."""

    def done(self, resource: Resource) -> None:
        """Write down that it is gone."""


@final
class NoLedger:
    """For guests outside a lab: nothing is written down."""

    def add(self, resource: Resource) -> None:
        """Forget it."""

    def done(self, resource: Resource) -> None:
        """Forget it."""


def start_time(pid: int) -> int | None:
    """Read the clock tick (since boot) at which a process started; None if it does not run, zombies included."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the command in parentheses and may hold any octet; what follows is plain.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def processes_with_token(token: str) -> list[ProcessResource]:
    """Find the processes that carry a lab's token in their environment, whatever they have become since.

    The launcher of such a process has the token among its arguments until it becomes what it launches.
    """
    in_environment, in_arguments = f"{LAB_TOKEN}={token}".encode(), token.encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if in_environment in _texts(f"/proc/{entry}/environ") or in_arguments in _texts(f"/proc/{entry}/cmdline"):
                    found.append(ProcessResource.of(int(entry)))
    return found


def end_all_with_token(token: str) -> list[ProcessResource]:
    """End them, and those that they started meanwhile; return which."""
    ended: list[ProcessResource] = []
    for _ in range(TERMINATION_ROUNDS):
        found = processes_with_token(token)
        if not found:
            break
        end_processes(found)
        ended += [process for process in found if process not in ended]
    return ended


def _texts(path: str) -> list[bytes]:
    with open(path, "rb") as file:
        return file.read().split(b"\0")


def end_processes(processes: list[ProcessResource], grace: float = TERMINATION_GRACE) -> bool:
    """End processes, SIGTERM first and SIGKILL after *grace* s; wait until they are gone; tell whether any ran.

    Signals go through a pidfd that was opened before the start time was compared, so that a number given out anew cannot
    be hit.
    """
    handles = []
    for process in processes:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(process.pid)
            if process.exists():
                handles.append((fd, process))
            else:
                os.close(fd)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        for fd, _ in handles:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, number)
        deadline = time.monotonic() + seconds
        while any(process.exists() for _, process in handles) and time.monotonic() < deadline:
            time.sleep(0.01)
    for fd, _ in handles:
        os.close(fd)
    return bool(handles)
