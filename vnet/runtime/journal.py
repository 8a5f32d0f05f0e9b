"""The journal of what a lab made on the host, and the sweep after a lab that was killed.

Each resource is written down, with its identity, before anybody can see it, and struck off when it is gone. A line is one
JSON value written by one system call to a file opened for appending: a lab killed at any instant leaves whole lines and
perhaps part of a last one. The first line names the boot of the machine and the token that all processes of this run carry.

The sweep reads the lines, removes what is still exactly what was recorded, and may be killed itself at any point: it strikes
nothing off, and removing twice does no harm. Only who holds the lab's lock may sweep.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, final

from vnet.adapters.resources import (
    DirectoryResource,
    FileId,
    FileResource,
    LinkResource,
    NamespaceResource,
    ProcessResource,
    Resource,
    end_all_with_token,
)
from vnet.runtime.places import LabLock, LabPlace

_KINDS: Final = {
    NamespaceResource: "namespace", FileResource: "file", DirectoryResource: "directory", LinkResource: "interface",
    ProcessResource: "process",
}  # fmt: skip
_MOST_STRUCK_OFF: Final = 1000
"""Lines that say that something is gone, after which the journal is written anew."""


def boot_id() -> str:
    """Name this boot of the machine: process numbers and namespaces of another one mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@final
class Journal:
    """The ``Ledger`` of a running lab; *token* names the run."""

    __slots__ = ("_fd", "_lock", "_present", "_struck_off", "path", "token")

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self.token = token
        self._lock = threading.Lock()  # ways out are opened in other threads
        self._present: list[Resource] = []
        self._struck_off = 0
        self._fd = _create(path)
        self._write(self._head())

    def add(self, resource: Resource) -> None:
        """Write down that this may exist from now on."""
        with self._lock:
            self._present.append(resource)
            self._write(_line("add", resource))

    def done(self, resource: Resource) -> None:
        """Write down that it is gone."""
        with self._lock:
            if resource in self._present:
                self._present.remove(resource)
            self._write(_line("done", resource))
            self._struck_off += 1
            if self._struck_off > _MOST_STRUCK_OFF:
                self._write_anew()

    def close(self) -> None:
        """Close the file and leave it where it is."""
        os.close(self._fd)

    def _head(self) -> bytes:
        return _encode({"boot": boot_id(), "token": self.token})

    def _write(self, line: bytes) -> None:
        os.write(self._fd, line)

    def _write_anew(self) -> None:
        """Leave out what is gone, in a file that takes the place of the old one at one instant."""
        self._struck_off = 0
        path = self.path.with_suffix(".new")
        fd = _create(path)
        try:
            whole = self._head() + b"".join(_line("add", each) for each in self._present)
            if os.write(fd, whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.replace(path, self.path)
        except OSError:  # the old one is as good, only longer
            os.close(fd)
            path.unlink(missing_ok=True)
            return
        os.close(self._fd)
        self._fd = fd


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _line(verb: str, resource: Resource) -> bytes:
    return _encode({verb: _KINDS[type(resource)], **asdict(resource)})


def _encode(entry: dict[str, object]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


@final
@dataclass(slots=True)
class Leftovers:
    """What a journal says may still be there, in the order in which it was made."""

    token: str = ""
    resources: list[Resource] = field(default_factory=list)


def read_journal(path: Path) -> Leftovers:
    """Read what is written down and not struck off; a torn last line was never acted upon, so it is passed over."""
    left = Leftovers()
    same_boot = True
    for entry in _entries(path):
        with contextlib.suppress(KeyError, TypeError):
            if "boot" in entry:
                same_boot = entry["boot"] == boot_id()
                left = Leftovers(str(entry["token"]) if same_boot else "")
            elif "add" in entry:
                left.resources.append(_resource(entry, "add"))
            elif "done" in entry and (resource := _resource(entry, "done")) in left.resources:
                left.resources.remove(resource)
    if not same_boot:  # cookies and process numbers are counted anew; what can be left is files
        files = (each for each in left.resources if isinstance(each, NamespaceResource | FileResource))
        directories = [each for each in left.resources if isinstance(each, DirectoryResource)]
        left.resources = [*directories, *(FileResource(each.path, each.file) for each in files)]
    return left


def _entries(path: Path) -> Iterator[dict[str, object]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


def _resource(entry: dict[str, object], verb: str) -> Resource:
    """Build the resource that a line describes; raise KeyError or TypeError for a line that is not ours."""
    kind = entry[verb]
    if kind == "process":
        return ProcessResource(_number(entry["pid"]), _number(entry["started"]))
    if kind == "interface":
        return LinkResource(str(entry["name"]), _number(entry["cookie"]))
    if kind == "directory":
        return DirectoryResource(str(entry["path"]), _number(entry["device"]), _number(entry["inode"]))
    file = entry["file"]
    if not isinstance(file, dict):
        raise TypeError("file")
    identity = FileId(_number(file["device"]), _number(file["inode"]), _number(file["modified_ns"]))
    if kind == "namespace":
        return NamespaceResource(str(entry["path"]), _number(entry["cookie"]), identity)
    if kind == "file":
        return FileResource(str(entry["path"]), identity)
    raise KeyError(kind)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("not a number")
    return value


def sweep(lock: LabLock) -> list[str]:
    """Remove what an earlier run of the lab left behind; say in words what was removed. *lock* shows that it is dead."""
    left = read_journal(lock.place.journal)
    swept = []
    # Processes first: they hold the namespaces, and what they would still do there is of no use to anybody.
    ended = end_all_with_token(left.token) if left.token else []
    ended += [resource for resource in left.resources if isinstance(resource, ProcessResource) and resource.remove()]
    swept += [describe(process) for process in ended]
    for resource in reversed(left.resources):
        if not isinstance(resource, ProcessResource) and resource.remove():
            swept.append(describe(resource))
    with contextlib.suppress(OSError):
        lock.place.control.unlink()
    return swept


def begin(lock: LabLock, token: str) -> tuple[Journal, list[str]]:
    """Sweep after an earlier run, then start the journal of this one; return it and what was swept.

    What could not be removed is written down again, for the run after this one.
    """
    swept = sweep(lock)
    left = remaining(lock.place)
    journal = Journal(lock.place.journal, token)
    for resource in left:
        journal.add(resource)
    return journal, swept


def finish(lock: LabLock, journal: Journal) -> list[str]:
    """End a run: remove the lab's files and let go, but leave the journal if something else could not be removed.

    Return in words what is left, for the next run to sweep.
    """
    journal.close()
    left = remaining(lock.place)
    lock.release(keep=bool(left))
    return [describe(resource) for resource in left]


def remaining(place: LabPlace) -> list[Resource]:
    """List what a lab's journal has and the host still has too."""
    return [resource for resource in read_journal(place.journal).resources if resource.exists()]


def describe(resource: Resource) -> str:
    """Name a resource for people."""
    if isinstance(resource, ProcessResource):
        return f"process {resource.pid}"
    if isinstance(resource, LinkResource):
        return f"interface {resource.name}"
    return f"{_KINDS[type(resource)]} {resource.path}"
