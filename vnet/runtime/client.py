"""The other end of the control socket: how the command line speaks with a running lab. Plain blocking calls."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from vnet.errors import HostError, LabError, NetworkError, UsageError, VnetError
from vnet.runtime.journal import describe, read_journal, remaining, sweep
from vnet.runtime.places import LabPlace, all_labs, place_of

MAX_LINE: Final = 256 * 2**20
"""A longer answer is taken for a fault of the lab."""
PIECE: Final = 1 << 20
MAX_REPLY: Final = 1 << 16
CONNECT_TIMEOUT: Final = 10.0
ANSWER_TIMEOUT: Final = 5.0
"""Seconds for the answer to a question that every lab answers at once."""
GRACE: Final = 30.0
"""Seconds that a lab has to end by itself before it is told by signal."""
_POLL: Final = 0.02

_ERRORS: Final[Mapping[str, type[VnetError]]] = {"usage": UsageError, "host": HostError, "network": NetworkError}


def running_labs(root: Path | None = None) -> list[str]:
    """Name the labs that run."""
    return [place.name for place in all_labs(root) if place.is_running()]


def find_lab(name: str, root: Path | None = None) -> LabPlace:
    """Find a running lab; raise UsageError with the nearest name, or all there are."""
    running = running_labs(root)
    if name in running:
        return place_of(name, root)
    if any(place.name == name for place in all_labs(root)):
        raise UsageError(f"lab {name!r} is dead: it was killed; vnet down {name} removes what it left")
    near = difflib.get_close_matches(name, running, 1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif running:
        hint = f"running are: {', '.join(running)}"
    else:
        hint = "none is running; vnet up FILE starts one"
        if os.geteuid() != 0:
            hint += ", and sudo shows those of root"
    raise UsageError(f"no lab {name!r} is running; {hint}")


@contextmanager
def _connected(place: LabPlace, timeout: float | None = None) -> Iterator[socket.socket]:
    """Connect to a lab, which has *timeout* seconds for each piece of its answer; raise LabError if it does not listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_TIMEOUT)
        try:
            connection.connect(os.fspath(place.control))
        except OSError as error:
            reason = error.strerror or error
            raise LabError(
                f"lab {place.name} takes no commands ({reason}): it is starting or ending, or run by a program"
            ) from error
        connection.settimeout(timeout)
        yield connection


def _request(connection: socket.socket, command: str, arguments: Mapping[str, object]) -> None:
    connection.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")


def call(
    place: LabPlace,
    command: str,
    arguments: Mapping[str, object] | None = None,
    on_progress: Callable[[object], None] = lambda data: None,
    timeout: float | None = None,
) -> object:
    """Have a lab carry out a command and return its data; raise what the lab says went wrong.

    Raise LabError if there is nothing of the answer for *timeout* seconds.
    """
    with _connected(place, timeout) as connection:
        _request(connection, command, arguments or {})
        with connection.makefile("rb") as lines:
            while True:
                try:
                    line = lines.readline(MAX_LINE)
                except ConnectionError:
                    line = b""
                except TimeoutError as error:
                    raise LabError(f"lab {place.name} does not answer") from error
                message = _decode(place, line)
                if "progress" in message:
                    on_progress(message["progress"])
                    continue
                return _data(message)


@contextmanager
def hold(place: LabPlace, command: str, arguments: Mapping[str, object]) -> Iterator[object]:
    """Have a lab begin what lasts as long as the block, and give what it says about it; raise what it says went wrong."""
    with _connected(place) as connection:
        _request(connection, command, arguments)
        with connection.makefile("rb") as lines:
            message = _decode(place, lines.readline(MAX_LINE))
            yield message["progress"] if "progress" in message else _data(message)


@contextmanager
def open_console(place: LabPlace, guest: str, only_print: bool) -> Iterator[socket.socket]:
    """Give a connection to a machine's console, octets both ways; with *only_print* it ends after what was said."""
    with _connected(place) as connection:
        _request(connection, "console", {"guest": guest, "print": only_print})
        line = b""
        while not line.endswith(b"\n") and len(line) < MAX_REPLY:  # what follows is the machine's
            octet = connection.recv(1)
            if not octet:
                break
            line += octet
        _data(_decode(place, line))
        yield connection


@final
class RemoteCapture:
    """A capture that a lab sends: the names of its ports, and the octets of the file as they come."""

    def __init__(self, connection: socket.socket, stream: io.BufferedReader, ports: Sequence[str]) -> None:
        self.ports = ports
        self._connection = connection
        self._stream = stream

    def pieces(self) -> Iterator[bytes]:
        """Yield the octets until the capture ends."""
        with contextlib.suppress(ConnectionError):
            while piece := self._stream.read1(PIECE):
                yield piece

    def finish(self) -> None:
        """Want no more frames; ``pieces`` then yields what is under way and the end of the file.

        A signal handler may call it.
        """
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)


@contextmanager
def open_capture(place: LabPlace, arguments: Mapping[str, object]) -> Iterator[RemoteCapture]:
    """Begin a capture, which ends with the block at the latest."""
    with _connected(place) as connection:
        _request(connection, "capture", arguments)
        with connection.makefile("rb") as stream:
            data = _data(_decode(place, stream.readline(MAX_LINE)))
            ports = data.get("ports") if isinstance(data, dict) else None
            yield RemoteCapture(connection, stream, [str(port) for port in ports] if isinstance(ports, list) else [])


def _decode(place: LabPlace, line: bytes) -> dict[str, object]:
    if not line.endswith(b"\n"):
        raise LabError(f"lab {place.name} ended before it answered")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise LabError(f"lab {place.name} answered what is no answer")
    return message


def _data(message: Mapping[str, object]) -> object:
    if message.get("ok") is True:
        return message.get("data")
    raise _ERRORS.get(str(message.get("kind")), LabError)(str(message.get("error")))


def end_lab(place: LabPlace, grace: float = GRACE) -> None:
    """End a running lab and wait until it is gone; raise LabError if it does not go.

    A lab that does not listen, or not answer, gets SIGTERM as soon as its process is known from its lock's directory.
    """
    deadline = time.monotonic() + grace
    try:
        call(place, "down", timeout=ANSWER_TIMEOUT)
        is_told = True
    except LabError:
        is_told = False
    while place.is_running():
        is_told = is_told or _terminate(place)
        if time.monotonic() > deadline:
            raise LabError(f"lab {place.name} (process {place.read_pid()}) does not end; kill -9 it, then vnet down again")
        time.sleep(_POLL)


def _terminate(place: LabPlace) -> bool:
    """Send SIGTERM to the process of a running lab; return False if it has not written down which that is."""
    pid = place.read_pid()
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    return True


def sweep_dead(place: LabPlace) -> list[str]:
    """Remove what a lab that was killed left behind; return what that was, in words.

    Raise HostError if something is still there; then its journal is too.
    """
    lock = place.acquire()
    try:
        swept = sweep(lock)
        left = remaining(place)
    except BaseException:
        lock.release(keep=True)
        raise
    lock.release(keep=bool(left))
    if left:
        raise HostError(f"lab {place.name} left what cannot be removed: {', '.join(map(describe, left))}")
    return swept


def left_behind(place: LabPlace) -> int:
    """Count what a dead lab's journal says may still be there."""
    return len(read_journal(place.journal).resources)
