"""Lookups of an emulated host: ``Lookup`` bound to its UDP, its TCP and the timeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.stack.resolver import PORT, Ask, AskStream, Done, Effect, Lookup, ResolverSettings, State
from vnet.stack.resolver_answer import Outcome, Result
from vnet.stack.tcp import TcpConnection
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.stack.udp import UdpSocket

if TYPE_CHECKING:
    from vnet.stack.host import Host

_LENGTH_OCTETS: Final = 2
OnResult = Callable[[Result], None]


@final
class HostLookup:
    """One lookup of a host; *on_result* is called once, unless it is cancelled, and never from within ``start``."""

    __slots__ = (
        "_alarm", "_buffer", "_connection", "_host", "_lookup", "_on_result", "_request", "_server", "_socket",
        "_turn",
    )  # fmt: skip

    def __init__(
        self, host: Host, name: str, kinds: tuple[int, ...], settings: ResolverSettings, on_result: OnResult
    ) -> None:
        self._host = host
        self._lookup = Lookup(name, kinds, settings, host.stream("dns"))
        self._on_result = on_result
        self._alarm = host.scheduler.alarm(self._expire)
        self._server = b""
        self._turn = 0  # counts the ways that were opened
        self._socket: UdpSocket | None = None
        self._connection: TcpConnection | None = None
        self._request = b""
        self._buffer = bytearray()

    def start(self) -> None:
        """Begin."""
        self._host.scheduler.soon(self._begin)

    def cancel(self) -> None:
        """Forget it: nobody waits any more."""
        self._close()
        self._turn += 1
        self._alarm.set(None)
        self._lookup.cancel()

    def abort(self) -> None:
        """End it as one that nobody answers, because the host goes down."""
        if self._lookup.state is not State.DONE:
            self.cancel()
            self._on_result(Result(outcome=Outcome.AGAIN, told=(f"{self._host.name} went down",)))

    def _begin(self) -> None:
        if self._lookup.state is State.IDLE:
            self._apply(self._lookup.start(self._now))

    @property
    def _now(self) -> int:
        return self._host.scheduler.now

    def _expire(self) -> None:
        self._apply(self._lookup.expire(self._now))

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._close()
            self._turn += 1
            match effect:
                case Ask(server, messages):
                    self._server = server
                    self._ask(server, messages)
                case AskStream(server, messages):
                    self._server = server
                    self._ask_stream(server, messages)
                case Done(result):
                    self._on_result(result)
        self._alarm.set(self._lookup.next_deadline())

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._connection is not None:
            self._connection.on_change = None
            self._connection.close()
            self._connection = None
        self._buffer.clear()

    def _later(self, reason: str) -> None:
        """Give up on the server once the present call is over."""
        self._host.scheduler.soon(self._failed, self._turn, reason)

    def _failed(self, turn: int, reason: str) -> None:
        if turn == self._turn:  # else another server is being asked by now
            self._apply(self._lookup.failed(self._now, reason))

    # -- UDP

    def _ask(self, server: bytes, messages: tuple[bytes, ...]) -> None:
        try:
            self._socket = socket = self._host.udp_bind(on_datagram=self._datagram, both=True)
        except UsageError as error:
            self._later(str(error))
            return
        socket.on_error = self._error
        for message in messages:
            if socket is not self._socket:
                return  # a server next door answered within the call
            problem = socket.send_to(message, (server, PORT))
            if problem is not None:
                self._later(problem)
                return

    def _datagram(self, payload: bytes, source: TransportAddress) -> None:
        server, port = source
        if port == PORT:
            self._apply(self._lookup.receive(self._now, server, payload))

    def _error(self, destination: TransportAddress, error: IcmpError) -> None:
        """Take any ICMP error, and that no neighbor answers: glibc has Linux tell them all (ip(7), IP_RECVERR)."""
        if destination == (self._server, PORT):
            self._apply(self._lookup.failed(self._now, error.text))

    # -- TCP

    def _ask_stream(self, server: bytes, messages: tuple[bytes, ...]) -> None:
        self._request = b"".join(len(message).to_bytes(_LENGTH_OCTETS, "big") + message for message in messages)
        try:
            self._connection = connection = self._host.tcp.connect(server, PORT)
        except UsageError as error:
            self._later(str(error))
            return
        connection.on_change = lambda: self._changed(connection)

    def _changed(self, connection: TcpConnection) -> None:
        """Send the questions, take what came: never more than one message is kept."""
        if connection is not self._connection:
            return
        if connection.is_established and self._request:
            self._request = self._request[connection.send(self._request) :]
        while connection is self._connection and (data := connection.receive(0x10000)):
            self._buffer += data
            while connection is self._connection and (message := self._message()) is not None:
                self._apply(self._lookup.receive(self._now, self._server, message))
        if connection is self._connection and (connection.error is not None or connection.at_end):
            self._failed(self._turn, f"TCP: {connection.error or 'closed before it answered'}")

    def _message(self) -> bytes | None:
        """Take the first whole message from what came."""
        buffer = self._buffer
        end = _LENGTH_OCTETS + int.from_bytes(buffer[:_LENGTH_OCTETS], "big")
        if len(buffer) < end:
            return None
        message = bytes(buffer[_LENGTH_OCTETS:end])
        del buffer[:end]
        return message
