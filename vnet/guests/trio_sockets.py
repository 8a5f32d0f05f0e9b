"""``GuestSocket``: what ``trio.socket.socket`` gives a program that runs on an emulated guest.

It behaves as trio's own sockets do over Linux: the same methods, checkpoints, errors, and conflicts between tasks. Behind it
is a ``StreamSocket`` or a ``DatagramSocket``, which never waits; here a call that would have to is tried again whenever
something changed. Since nothing is taken before the call that returns it, cancelling loses no data.
"""

from __future__ import annotations

import errno
import operator
import socket
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, final, overload

import trio

from vnet.guests.socket_address import Address, SocketAddress
from vnet.guests.socket_datagram import DatagramSocket
from vnet.guests.socket_errors import os_error
from vnet.guests.socket_groups import GROUP_OPTIONS, GROUP_OPTIONS6
from vnet.guests.socket_options import ERROR, LINGER, LISTENING, ONLY_IPV6, SocketOptions
from vnet.guests.socket_stream import StreamSocket
from vnet.guests.socket_table import SocketTable
from vnet.guests.socket_waiter import Waiter

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

_TYPE_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_PROTOCOLS: Final = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}
Ancillary: TypeAlias = list[tuple[int, int, bytes]]
_ErrorType: TypeAlias = type[BaseException]  # within the class, ``type`` is the property


@final
class GuestSocket(trio.socket.SocketType):
    """A TCP or UDP socket over IPv4, IPv6 or both on the stack of an emulated guest.

    There is no file behind it: ``fileno`` is a number that no system call knows, ``detach`` and ``dup`` are refused.
    Raise OSError for what is not there: EAFNOSUPPORT for other families than AF_INET and AF_INET6, EPROTONOSUPPORT for
    other types.
    """

    def __init__(
        self, table: SocketTable, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0
    ) -> None:
        super().__init__()
        kind = type & ~_TYPE_FLAGS
        who = f"guest {table.host.name}"
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise os_error(errno.EAFNOSUPPORT, f"{who} has IPv4 and IPv6 sockets, none of {_name_of_family(family)}")
        if kind not in _PROTOCOLS or proto not in (0, _PROTOCOLS[socket.SocketKind(kind)]):
            raise os_error(errno.EPROTONOSUPPORT, f"{who} has TCP and UDP sockets only")
        self._table = table
        self._type = socket.SocketKind(kind)
        self._proto = proto
        self._number = table.opened(self.close)
        self._options = SocketOptions(kind, family)
        self._reader, self._writer = Waiter("reading"), Waiter("writing")
        maker = StreamSocket if kind == socket.SOCK_STREAM else DatagramSocket
        self._half: StreamSocket | DatagramSocket = maker(table, self._changed, self._options)
        self._did_shutdown_write = False

    def __repr__(self) -> str:
        where = "" if self._number == -1 else f" {self.getsockname()}"
        return f"<GuestSocket of {self._table.host.name} {self._type.name}{where}>"

    # -- what it is

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AddressFamily(self._options.family)

    @property
    def type(self) -> socket.SocketKind:
        """SOCK_STREAM or SOCK_DGRAM."""
        return self._type

    @property
    def proto(self) -> int:
        """The protocol as it was given."""
        return self._proto

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802 - trio's name
        """Whether the sending direction was shut down."""
        return self._did_shutdown_write

    @property
    def _sock(self) -> GuestSocket:
        """What anyio takes for the socket below, to ask it for names and options."""
        return self

    def fileno(self) -> int:
        """Return the socket's number, -1 once it is closed."""
        return self._number

    def getsockname(self) -> Address:
        """Return this end's address."""
        return self._open().local()

    def getpeername(self) -> Address:
        """Return the peer's address."""
        return self._open().remote()

    def get_inheritable(self) -> bool:
        """Tell that no child process gets it."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """Refuse what cannot be."""
        if inheritable:
            raise os_error(errno.EOPNOTSUPP)

    def detach(self) -> int:
        """Refuse: there is no file to give away."""
        raise os_error(errno.EOPNOTSUPP, "a guest's socket has no file")

    def dup(self) -> GuestSocket:
        """Refuse, likewise."""
        raise os_error(errno.EOPNOTSUPP, "a guest's socket has no file")

    # -- options

    @overload
    def getsockopt(self, level: int, optname: int) -> int: ...

    @overload
    def getsockopt(self, level: int, optname: int, buflen: int) -> bytes: ...

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> int | bytes:
        """Return an option, as octets if *buflen* says how many."""
        half, option = self._open(), (level, optname)
        if option in (ERROR, LISTENING):
            value = half.take_error() if option == ERROR else int(half.is_listening)
            return value if buflen is None else value.to_bytes(4, "little")[:buflen]
        if option == LINGER and buflen is None:
            return int(self._options.linger is not None)
        return self._options[option] if buflen is None else self._options.encoded(option, buflen)

    @overload
    def setsockopt(self, level: int, optname: int, value: int | Buffer) -> None: ...

    @overload
    def setsockopt(self, level: int, optname: int, value: None, optlen: int) -> None: ...

    def setsockopt(self, level: int, optname: int, value: int | Buffer | None, optlen: int | None = None) -> None:
        """Set an option."""
        half = self._open()
        if (value is None) != (optlen is not None):
            raise TypeError("either value or optlen must be None")
        if value is None:
            raise os_error(errno.EINVAL)
        if isinstance(half, DatagramSocket) and (
            (level, optname) in GROUP_OPTIONS or ((level, optname) in GROUP_OPTIONS6 and self.family == socket.AF_INET6)
        ):
            half.set_group_option((level, optname), value)
            return
        if (level, optname) == ONLY_IPV6 and half.is_bound:
            raise os_error(errno.EINVAL)
        self._options.set((level, optname), value)
        half.option_changed((level, optname))

    # -- opening and closing

    async def bind(self, address: object) -> None:
        """Choose this end's address."""
        target = await self._resolve(address, local=True)
        await trio.lowlevel.checkpoint()
        self._open().bind(target)

    def listen(self, backlog: int = 128) -> None:
        """Take connections from now on."""
        self._open().listen(backlog)

    async def accept(self) -> tuple[GuestSocket, Address]:
        """Wait for a connection; return its socket and the peer's address."""
        return await self._try(self._reader, self._accept)

    def _accept(self) -> tuple[GuestSocket, Address]:
        half = self._open()
        if isinstance(half, DatagramSocket):
            raise os_error(errno.EOPNOTSUPP)
        connection = half.accept()
        accepted = GuestSocket(self._table, self.family)
        accepted._options = self._options.copy()
        accepted._half = StreamSocket(self._table, accepted._changed, accepted._options)
        accepted._half.adopt(connection)
        return accepted, accepted._half.peer_of(connection)

    async def _resolve(self, address: object, *, local: bool = False) -> SocketAddress:
        return await self._table.resolve(address, local=local, family=self.family, only_ipv6=self._options.is_only_ipv6)

    async def connect(self, address: object) -> None:
        """Connect to a peer; if this is cancelled the socket is closed, as trio does."""
        try:
            target = await self._resolve(address)
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                self._open().connect(target)
            except BlockingIOError:
                while self._open().is_connecting:
                    await self._wait(self._writer)
            finally:
                await trio.lowlevel.cancel_shielded_checkpoint()
        except trio.Cancelled:
            self.close()
            raise
        number = self._open().take_error()
        if number:
            raise os_error(number, f"Error connecting to {address!r}")

    def shutdown(self, flag: int) -> None:
        """End one direction or both."""
        self._open().shutdown(flag)
        if flag != socket.SHUT_RD:
            self._did_shutdown_write = True

    def close(self) -> None:
        """Close it; tasks that wait for it get ClosedResourceError. Closing again is no error."""
        if self._number != -1:
            self._table.closed(self._number)
            self._number = -1
            self._half.close()
            self._reader.wake()
            self._writer.wake()

    def __enter__(self) -> GuestSocket:
        return self

    def __exit__(self, kind: _ErrorType | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # -- receiving

    def is_readable(self) -> bool:
        """Tell whether receiving or accepting would not wait."""
        return self._open().is_readable

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Receive up to *buflen* octets; none at the end of a stream."""
        return (await self._receive(buflen, flags))[0]

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Address | None]:
        """Receive, and tell from whom: None on a stream."""
        return await self._receive(bufsize, flags)

    async def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer; return how many octets."""
        return (await self.recvfrom_into(buffer, nbytes, flags))[0]

    async def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Address | None]:
        """Receive into a buffer; return how many octets, and from whom."""
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if nbytes > len(view):
                raise ValueError("nbytes is greater than the length of the buffer")
            data, source = await self._receive(nbytes or len(view), flags)
            view[: len(data)] = data
        return len(data), source

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, Ancillary, int, Address | None]:
        """Receive; there is no ancillary data, and the flags have no MSG_TRUNC."""
        data, source = await self._receive(bufsize, flags)
        return data, [], 0, source

    async def recvmsg_into(
        self, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, Ancillary, int, Address | None]:
        """Receive into several buffers, one after the other."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data, source = await self._receive(sum(len(view) for view in views), flags)
        start = 0
        for view in views:
            part = data[start : start + len(view)]
            view[: len(part)] = part
            start += len(part)
        return len(data), [], 0, source

    async def _receive(self, limit: int, flags: int) -> tuple[bytes, Address | None]:
        if operator.index(limit) < 0:
            raise ValueError("negative buffersize in recv")
        return await self._try(self._reader, lambda: self._open().receive(limit, flags))

    # -- sending

    async def wait_writable(self) -> None:
        """Wait until sending would not wait."""
        self._open()
        await trio.lowlevel.checkpoint()
        while not self._open_or_gone().is_writable:
            await self._wait(self._writer)

    async def send(self, bytes: Buffer, flags: int = 0, /) -> int:
        """Send as much as there is room for, at least one octet; return how much."""
        with memoryview(bytes) as whole, whole.cast("B") as view:
            return await self._try(self._writer, lambda: self._open().send(view, flags))

    @overload
    async def sendto(self, data: Buffer, address: tuple[object, ...] | str | Buffer, /) -> int: ...

    @overload
    async def sendto(self, data: Buffer, flags: int, address: tuple[object, ...] | str | Buffer, /) -> int: ...

    async def sendto(self, data: Buffer, *rest: object) -> int:
        """Send a datagram to an address."""
        if not 1 <= len(rest) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(rest) + 1} given)")
        flags = rest[0] if len(rest) == 2 else 0
        if not isinstance(flags, int):
            raise TypeError(f"flags must be a number, not {flags!r}")
        target = await self._resolve(rest[-1])
        with memoryview(data) as whole, whole.cast("B") as view:
            return await self._try(self._writer, lambda: self._open().send_to(view, flags, target))

    async def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: object = None,
        /,
    ) -> int:
        """Send several buffers as one; ancillary data is refused."""
        if list(ancdata):
            raise os_error(errno.EOPNOTSUPP)
        data = b"".join(bytes(memoryview(buffer)) for buffer in buffers)
        if address is None:
            return await self.send(data, flags)
        target = await self._resolve(address)
        return await self._try(self._writer, lambda: self._open().send_to(memoryview(data), flags, target))

    # -- waiting

    async def _try(self, waiter: Waiter, call: Callable[[], T]) -> T:
        """Call, and again after each change while it would block; a checkpoint in every case, as trio's sockets have it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            result = call()
        except BlockingIOError:
            pass
        except BaseException:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return result
        while True:
            await self._wait(waiter)
            try:
                return call()
            except BlockingIOError:
                continue

    async def _wait(self, waiter: Waiter) -> None:
        await waiter.wait()
        self._open_or_gone()

    def _changed(self) -> None:
        """Wake whoever may go on."""
        if self._reader.is_waiting and self._half.is_readable:
            self._reader.wake()
        if self._writer.is_waiting and self._half.is_writable:
            self._writer.wake()

    def _open(self) -> StreamSocket | DatagramSocket:
        """Return the half behind an open socket; raise OSError (EBADF)."""
        if self._number == -1:
            raise os_error(errno.EBADF)
        return self._half

    def _open_or_gone(self) -> StreamSocket | DatagramSocket:
        """Do the same for a task that waited meanwhile."""
        if self._number == -1:
            raise trio.ClosedResourceError("another task closed this socket")
        return self._half


def _name_of_family(family: int) -> str:
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return f"family {family}"
