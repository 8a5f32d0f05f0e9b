"""``stream`` and ``dgram``: sockets that carry frames, as QEMU's network back ends of the same names have them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, final

from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

SUN_PATH: Final = 107
"""Octets that fit into the address of a Unix socket (108 with the zero at the end, unix(7))."""

_PLACE: Final = "a path, or ADDRESS:PORT; a path without / at its start lies in the lab's run directory"


class Stream(Strict, frozen=True, kw_only=True):
    """A stream socket with a length of four octets before each frame, as of QEMU's -netdev stream."""

    listen: Annotated[str | None, about(f"Where one peer at a time may connect: {_PLACE}.")] = None
    connect: Annotated[str | None, about("Where the peer listens; it is dialled again whenever it is gone.")] = None


class Dgram(Strict, frozen=True, kw_only=True):
    """A datagram socket, a frame in each datagram, as of QEMU's -netdev dgram."""

    local: Annotated[str | None, about(f"Where the peer sends to: {_PLACE}.")] = None
    remote: Annotated[str | None, about("Where the peer receives, written alike.")] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SocketPlace:
    """The address of a socket: a ``path`` of the file system, or an IP address and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec(AdapterSpec):
    """One end of a stream at ``place``: the listening or the dialling one."""

    kind: ClassVar[str] = "stream"
    place: SocketPlace
    listens: bool

    def describe(self) -> str:
        """Say who waits for whom, and where."""
        return f"{self.kind} {'at' if self.listens else 'to'} {self.place}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DgramSpec(AdapterSpec):
    """A datagram socket at ``local``, for a peer at ``remote``; both are of one family."""

    kind: ClassVar[str] = "dgram"
    local: SocketPlace
    remote: SocketPlace

    def describe(self) -> str:
        """Say where frames come in and go to."""
        return f"{self.kind} at {self.local} to {self.remote}"


def resolve_stream(model: Stream, around: Surroundings, path: Path) -> StreamSpec | None:
    """Read which end it is, and where."""
    listen, connect = _place(model.listen, around, (*path, "listen")), _place(model.connect, around, (*path, "connect"))
    if (model.listen is None) == (model.connect is None):
        around.error(path, "a stream has two ends; write either listen: or connect:")
        return None
    place = listen or connect
    return None if place is None else StreamSpec(place=place, listens=model.listen is not None)


def resolve_dgram(model: Dgram, around: Surroundings, path: Path) -> DgramSpec | None:
    """Read both ends."""
    local, remote = _place(model.local, around, (*path, "local")), _place(model.remote, around, (*path, "remote"))
    if model.local is None or model.remote is None:
        around.error(path, "datagrams need both ends; write local: and remote:")
    if local is None or remote is None:
        return None
    if bool(local.path) != bool(remote.path) or local == remote:
        around.error(path, f"{local} and {remote} cannot be the two ends: they are two paths, or two addresses with ports")
        return None
    return DgramSpec(local=local, remote=remote)


def _place(text: str | None, around: Surroundings, path: Path) -> SocketPlace | None:
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if colon and "/" not in text:
        try:
            address = ip_address(host.strip("[]"))
            if not (number := around.reader.port(port)):
                raise ValueError
        except ValueError:
            around.error(path, f"{text[:80]!r} is no place for a socket; write a path, or an address such as 127.0.0.1:5555")
            return None
        return SocketPlace(host=str(address), port=number)
    return read_path(text, around, path)


def read_path(text: str, around: Surroundings, path: Path) -> SocketPlace | None:
    """Read the path of a Unix socket."""
    if not text or "\0" in text or len(os.fsencode(text)) > SUN_PATH:
        around.error(path, f"{text[:40]!r} is no path of a socket; it has 1 to {SUN_PATH} octets")
        return None
    return SocketPlace(path=text)
