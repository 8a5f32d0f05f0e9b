"""From a request's target to a file: nothing outside the folder is ever served, whatever the target or a symbolic link says.

Reading a file blocks the lab for that moment. It is done all the same, and not in a thread: when a thread is through is the
machine's matter, and a simulation has to come out the same each time.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import BinaryIO, Final, final
from urllib.parse import quote, unquote_to_bytes

INDEX: Final = "index.html"
MAX_LISTED: Final = 10_000
"""Entries of a folder that a listing shows."""

_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://[^/?]")
_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".htm": "text/html; charset=utf-8", ".txt": "text/plain; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json",
    ".xml": "application/xml", ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
    ".gif": "image/gif", ".ico": "image/x-icon", ".pdf": "application/pdf", ".gz": "application/gzip",
}  # fmt: skip
"""By the ending; not the module mimetypes, which asks the machine, and every machine says something else."""


@final
@dataclass(frozen=True, slots=True)
class Moved:
    """The target is a folder, and its name lacks the slash at the end."""

    location: str


@final
@dataclass(frozen=True, slots=True)
class Found:
    """Something to send: a file that is open, or the text of a listing."""

    media_type: str
    length: int
    file: BinaryIO | None = None
    text: bytes = b""

    def read(self, position: int, octets: int) -> bytes:
        """Read a piece."""
        if self.file is None:
            return self.text[position : position + octets]
        self.file.seek(position)
        return self.file.read(octets)

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def find(folder: Path, target: bytes) -> Found | Moved | None:
    """Find what a request's target names within *folder*; None if there is no such thing, or it is not to be had."""
    if _ABSOLUTE.match(target):  # as if to a proxy; a server has to take it (RFC 9112, 3.2.2)
        target = b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
    path = target.split(b"?", 1)[0]
    segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
    if segments[0] or any(segment in (b".", b"..") or b"/" in segment or b"\0" in segment for segment in segments):
        return None
    is_folder_name = not segments[-1]
    try:
        root = folder.resolve(strict=True)
        found = root.joinpath(*(os.fsdecode(segment) for segment in segments if segment)).resolve(strict=True)
        if not found.is_relative_to(root):
            return None
        if not found.is_dir():
            return None if is_folder_name else _open(found)
        if not is_folder_name:
            # two slashes at the start would name another host (RFC 3986, 4.2)
            return Moved("/" + path.decode("ascii", "replace").lstrip("/") + "/")
        index = (found / INDEX).resolve()
        if index.is_relative_to(root) and index.is_file():
            return _open(index)
        return _list(found)
    except (OSError, RuntimeError, ValueError):  # not there, not ours to read, a circle of links, a name that none can have
        return None


def _open(path: Path) -> Found | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep us waiting for a writer
    file = os.fdopen(descriptor, "rb")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        return None
    return Found(_TYPES.get(path.suffix.lower(), "application/octet-stream"), status.st_size, file)


def _list(folder: Path) -> Found:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())[:MAX_LISTED]
    # "./" in front, since a name with a colon would be taken for a scheme (RFC 3986, 4.2)
    lines = [
        f'<li><a href="./{quote(os.fsencode(name))}">{escape(os.fsencode(name).decode("utf-8", "replace"))}</a></li>'
        for name in names
    ]
    text = "<!DOCTYPE html>\n<title>Index</title>\n<ul>\n" + "\n".join(lines) + "\n</ul>\n"
    data = text.encode()
    return Found(_TYPES[".html"], len(data), text=data)


def parse_range(field: bytes, length: int) -> tuple[int, int] | None:
    """Read a Range of one part as (first, behind the last); (0, 0) if it is not in the file; None to ignore it.

    RFC 9110, 14.2: what is malformed, or in unknown units, is ignored; so may be several parts.
    """
    unit, _, spec = field.strip().partition(b"=")
    first, dash, last = (part.strip() for part in spec.partition(b"-"))
    if unit.strip().lower() != b"bytes" or not dash or not (first or last):
        return None
    if any(part and not (part.isdigit() and len(part) < 20) for part in (first, last)):
        return None
    if not first:  # the last so many octets
        return max(0, length - int(last)), length if int(last) else 0
    start, stop = int(first), int(last) + 1 if last else length
    if last and stop <= start:
        return None
    return (start, min(stop, length)) if start < length else (0, 0)
