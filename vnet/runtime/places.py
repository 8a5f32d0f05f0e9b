"""Where a running lab keeps what others need to find it: lock, control socket, journal, log.

::

    RUN/LAB/lock          held with flock while the lab runs; also survives that its process number is given out anew
    RUN/LAB/pid           the process number, for people
    RUN/LAB/control.sock  commands
    RUN/LAB/journal       what the lab made on the host (runtime.journal)
    RUN/LAB/log           of a lab that runs detached

RUN is $VNET_RUN_DIR, else /run/vnet for root, else $XDG_RUNTIME_DIR/vnet, else /tmp/vnet-UID. It belongs to one user and
nobody else may enter it, because who reaches the control socket rules the lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from vnet.adapters.resources import start_time
from vnet.errors import HostError, UsageError

SUN_PATH: Final = 107
"""Octets that fit into the address of a Unix socket (108 with the zero at the end, unix(7))."""
ORPHANED_LOCK: Final = 1.0
"""Seconds to wait for a lock whose holder is dead."""
NAMELESS_LOCK: Final = 0.1
"""Seconds to wait for a lock whose holder has not said who he is: he starts, or only looks whether the lab runs."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def run_root(environment: Mapping[str, str] | None = None) -> Path:
    """Name the directory of all labs of this user; it need not exist."""
    environment = os.environ if environment is None else environment
    if explicit := environment.get("VNET_RUN_DIR"):
        return Path(explicit)
    if os.geteuid() == 0:
        return Path("/run/vnet")
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "vnet"
    return Path(f"/tmp/vnet-{os.geteuid()}")


def _private_directory(path: Path) -> None:
    """Make sure that *path* is a directory of ours into which nobody else may look; raise HostError if it cannot be.

    In /tmp anybody may have put something there first: a link, or a directory of his own.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise HostError(f"cannot make the run directory {path}: {error.strerror}; set VNET_RUN_DIR to another") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise HostError(f"{path} is not a directory of yours: remove it, or set VNET_RUN_DIR to another place")
    if status.st_mode & 0o077:
        path.chmod(0o700)


@final
@dataclass(frozen=True, slots=True)
class LabPlace:
    """The files of one lab; making the value touches nothing."""

    name: str
    directory: Path

    @property
    def lock(self) -> Path:
        """Held with flock while the lab runs."""
        return self.directory / "lock"

    @property
    def pid(self) -> Path:
        """Holds the process number as text."""
        return self.directory / "pid"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.directory / "control.sock"

    @property
    def journal(self) -> Path:
        """What the lab made on the host."""
        return self.directory / "journal"

    @property
    def log(self) -> Path:
        """Output of a detached lab."""
        return self.directory / "log"

    def is_running(self) -> bool:
        """Tell whether a process holds the lock."""
        try:
            fd = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return not self._try_lock(fd)
        finally:
            os.close(fd)

    def _try_lock(self, fd: int) -> bool:
        """Take the lock of the file; wait a moment for one that no lab holds for long.

        A child of a killed lab has its parent's descriptors, and so the lock, from fork to exec. Who asks whether the lab
        runs (``is_running``) has it for an instant.
        """
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = self.read_pid()
                if pid is not None and start_time(pid) is not None:
                    return False
                if time.monotonic() - began > (NAMELESS_LOCK if pid is None else ORPHANED_LOCK):
                    return False
                time.sleep(0.01)
            else:
                return True

    def read_pid(self) -> int | None:
        """Read the process number of the lab; None if there is none."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.pid.read_text())
        return None

    def acquire(self) -> LabLock:
        """Take the lab for this process; raise UsageError if it runs already.

        Whoever holds the lock may sweep what an earlier run left, and only he.
        """
        _private_directory(self.directory.parent)
        while True:
            _private_directory(self.directory)
            fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if not self._try_lock(fd):
                os.close(fd)
                pid = self.read_pid()
                raise UsageError(
                    f"lab {self.name} is running already{f' (process {pid})' if pid else ''}: vnet down {self.name} ends it"
                )
            # Who held it before may have removed the file while we waited: then we hold a lock that nobody sees.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), self.lock.stat()):
                    self.pid.unlink(missing_ok=True)  # of a lab that was killed: the number may be somebody else's by now
                    return LabLock(self, fd)
            os.close(fd)


@final
class LabLock:
    """The lock of a lab, held until ``release`` or the death of the process."""

    __slots__ = ("_fd", "place")

    def __init__(self, place: LabPlace, fd: int) -> None:
        self.place = place
        self._fd = fd

    def write_pid(self, pid: int | None = None) -> None:
        """Write the process number down."""
        self.place.pid.write_text(f"{os.getpid() if pid is None else pid}\n")

    def release(self, *, keep: bool = False) -> None:
        """Remove the lab's directory, unless *keep* (there is something left to sweep), and let go; again does nothing."""
        if self._fd < 0:
            return
        if keep:
            self.place.pid.unlink(missing_ok=True)
        else:
            # The lock file goes first: who comes now makes a new one in a new directory, or sees that his is gone.
            self.place.lock.unlink(missing_ok=True)
            shutil.rmtree(self.place.directory, ignore_errors=True)
        os.close(self._fd)
        self._fd = -1


def place_of(name: str, root: Path | None = None) -> LabPlace:
    """Name the place of a lab; raise UsageError for a name that is no file name or makes the socket's path too long."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a lab: letters, digits, '-', '_' and '.', at most 63, first a letter or digit"
        )
    place = LabPlace(name, (root or run_root()) / name)
    if len(os.fsencode(place.control)) > SUN_PATH:
        raise UsageError(
            f"the path of the control socket, {place.control}, is longer than {SUN_PATH} octets: "
            "give the lab a shorter name, or set VNET_RUN_DIR to a shorter path"
        )
    return place


def all_labs(root: Path | None = None) -> list[LabPlace]:
    """List the labs that have a place, whether they run or were killed, by name."""
    root = root or run_root()
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [LabPlace(name, root / name) for name in names if _NAME.fullmatch(name)]
