"""Virtual Distributed Ethernet: what its two sides say to each other, and what both are made of.

The switch listens on the stream socket ``DIRECTORY/ctl``. Who plugs in binds a datagram socket of its own, connects to
``ctl`` and sends a request with that socket's address; the switch answers with the address of the datagram socket of the
port. Frames are datagrams between the two, and the port lasts as long as the stream (vde2, ``vdecommon.h``). Numbers are in
the byte order of the machine.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from struct import Struct
from typing import Final

from vnet.adapters.base import AdapterContext, cut_up
from vnet.adapters.resources import FileResource
from vnet.errors import WireError

MAGIC: Final = 0xFEEDFACE
VERSION: Final = 3
NEW_PORT: Final = 0
"""The request to be plugged in; the port wanted stands in the upper bits of the same number."""
REQUEST: Final = Struct("=IIiH108s")
"""Magic, version, request, and the sockaddr_un of the datagram socket; a description of any length follows."""
ADDRESS: Final = Struct("=H108s")
BUFFER_OCTETS: Final = 1 << 20
LARGEST: Final = 9216 + 4
"""The longest frame, with a tag."""
REASONS: Final = {errno.EAGAIN: "queue-full", errno.ENOBUFS: "no-buffers", errno.EMSGSIZE: "oversize"}


def datagrams(path: str, context: AdapterContext) -> tuple[socket.socket, FileResource]:
    """Bind a datagram socket to a new file, which is written down."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            made.setsockopt(socket.SOL_SOCKET, option, BUFFER_OCTETS)
        made.bind(path)
        resource = FileResource.of(path)
        context.ledger.add(resource)
    except OSError:
        made.close()
        raise
    return made, resource


def remove_file(resource: FileResource, context: AdapterContext) -> None:
    """Remove the file of a socket."""
    resource.remove()
    context.ledger.done(resource)


def plain_frames(frame: bytes, offload: bytes, drops: Counter[str]) -> list[bytes]:
    """Cut a super-frame; what cannot be sent is counted."""
    frames = cut_up(frame, offload, drops)
    if frames and len(frames[0]) > LARGEST:
        drops["oversize"] += 1
        return []
    return frames


def path_in(address: bytes) -> str:
    """Read the path of a sockaddr_un."""
    family, path = ADDRESS.unpack_from(address)
    text: str = path.split(b"\0", 1)[0].decode(errors="surrogateescape")
    if family != socket.AF_UNIX or not text.startswith("/"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the switch gave no port")
    return text


def wanted_by(request: bytes) -> str:
    """Read where a client wants its frames; raise WireError for what is no request for a port."""
    if len(request) < REQUEST.size:
        raise WireError("a request that is too short")
    magic, version, kind, family, path = REQUEST.unpack_from(request)
    if magic != MAGIC or version != VERSION or kind & 0xFF != NEW_PORT or family != socket.AF_UNIX:
        raise WireError("not a request for a port")
    text: str = path.split(b"\0", 1)[0].decode(errors="surrogateescape")
    if not text:
        raise WireError("no socket to send to")
    return text
