"""Network namespaces that ``ip netns`` shows: made, entered, identified and removed without a process.

A namespace is kept alive by a bind mount on a file in /run/netns. Only threads enter namespaces here, and a thread that has
been in one is thrown away: the rest of the process never notices.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from vnet.adapters import _linux
from vnet.errors import HostError

NETNS_DIRECTORY: Final = "/run/netns"
_T = TypeVar("_T")


def in_thread(function: Callable[[], _T]) -> _T:
    """Run *function* in a thread that is not used for anything else, and wait; what it raises is raised here."""
    result: list[_T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="vnet-namespace", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def inside(fd: int, function: Callable[[], _T]) -> _T:
    """Run *function* in a thread of its own in the namespace behind *fd*, and wait for it.

    Sockets and descriptors that it makes belong to that namespace wherever they are used afterwards.
    """

    def enter() -> _T:
        _linux.setns(fd, _linux.CLONE_NEWNET)
        return function()

    return in_thread(enter)


def cookie() -> int:
    """Read the cookie of the calling thread's network namespace: it is never given to another one.

    Kernels before 5.14 have none; there it is the inode number, which is unique among the namespaces of one instant.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        try:
            octets = any_socket.getsockopt(socket.SOL_SOCKET, _linux.SO_NETNS_COOKIE, 8)
        except OSError:
            return os.stat("/proc/thread-self/ns/net").st_ino
    return int.from_bytes(octets, sys.byteorder)


def cookie_of(path: str) -> int | None:
    """Read the cookie of the namespace mounted on *path*; None if there is no namespace."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return inside(fd, cookie)
    except OSError:
        return None  # a plain file: setns refuses it
    finally:
        os.close(fd)


def prepare_directory() -> None:
    """Make /run/netns a shared mount of its own, as ``ip netns`` does at its first use.

    Shared, so that a namespace removed here vanishes from the mount namespaces of others too, and is really freed.
    """
    try:
        os.makedirs(NETNS_DIRECTORY, mode=0o755, exist_ok=True)
        try:
            _linux.mount("", NETNS_DIRECTORY, "none", _linux.MS_SHARED | _linux.MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _linux.mount(NETNS_DIRECTORY, NETNS_DIRECTORY, "none", _linux.MS_BIND | _linux.MS_REC)
            _linux.mount("", NETNS_DIRECTORY, "none", _linux.MS_SHARED | _linux.MS_REC)
    except PermissionError as error:
        raise HostError("network namespaces need root (CAP_SYS_ADMIN)") from error
    except OSError as error:
        raise HostError(f"cannot prepare {NETNS_DIRECTORY}: {error.strerror}") from error


def make_placeholder(path: str, before: Callable[[os.stat_result], None]) -> None:
    """Make the empty file that a namespace is mounted on; raise FileExistsError if there is something at *path*.

    *before* is told the file's identity before the file has a name, so that no death in between leaves a file that nobody
    wrote down. A file system without nameless files (old overlayfs) is told right after.
    """
    try:
        fd = os.open(NETNS_DIRECTORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o400)
        nameless = True
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o400)
        nameless = False
    try:
        if nameless and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", path)
        before(os.fstat(fd))
        if nameless:
            # src_dir_fd has no effect on an absolute path, but makes Python call linkat, which can follow the link in /proc
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)


def path_of(name: str) -> str:
    """Name the file of a namespace."""
    return f"{NETNS_DIRECTORY}/{name}"


def exists(name: str) -> bool:
    """Tell whether ``ip netns`` would show this name."""
    return os.path.lexists(path_of(name))
