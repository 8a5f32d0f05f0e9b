"""A connection: what its user calls, what it sends, and its timers. Segments that arrive are ``arrival``'s.

::

    user ---> TcpConnection <--- arrival.arrive <--- TcpTable.receive
                | sender, receiver    (numbers, buffers, what to send next)
                v
              Path.send               (headers, super-frames)

``out`` is the way out with its timers, ``idling`` the slow timer. ``on_change`` is called at the end of the event that
changed something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from vnet.errors import UsageError
from vnet.stack.tcp.arrival import arrive
from vnet.stack.tcp.ecn import EcnState
from vnet.stack.tcp.idling import Idling
from vnet.stack.tcp.receiver import Receiver
from vnet.stack.tcp.sender import Sender
from vnet.stack.tcp.states import SENDING, Segment, State
from vnet.stack.tcp.transmission import Transmission
from vnet.stack.transport import TransportAddress
from vnet.units import Duration, Instant
from vnet.wire.tcp import ACK, RST

if TYPE_CHECKING:
    from vnet.stack.interface import Interface
    from vnet.stack.tcp.listener import TcpListener
    from vnet.stack.tcp.path import LowerLevel
    from vnet.stack.tcp.tables import TcpTable


@final
class TcpConnection:
    """A connection of a host; made by ``TcpTable.connect`` or taken from a ``TcpListener``.

    ``state`` is that of RFC 9293, ``error`` None or why the connection failed, in words ("refused", "reset", "timed out",
    "no route", ...). ``on_change`` is called, never from within the user's own call, when something a user may wait for has
    changed: it is established, data or the end of the stream came, there is room to send, it failed or closed. ``no_delay``
    turns Nagle's algorithm off. ``lower`` is the IP version, ``scope`` the interface on whose link a link-local peer is.
    """

    __slots__ = (
        "_busy", "changed", "ecn", "error", "heard_at", "host", "idling", "key", "listener", "local", "lower", "on_change",
        "out", "peer_mss", "receiver", "remote", "scope", "sender", "stamps", "state", "synchronized", "table",
        "user_closed",
    )  # fmt: skip

    def __init__(
        self,
        table: TcpTable,
        lower: LowerLevel,
        key: bytes,
        local: TransportAddress,
        remote: TransportAddress,
        scope: Interface | None,
    ) -> None:
        host, settings = table.host, table.settings
        self.table = table
        self.host = host
        self.lower = lower
        self.key = key
        self.local = local
        self.remote = remote
        self.scope = scope
        self.state = State.CLOSED
        self.error: str | None = None
        self.on_change: Callable[[], None] | None = None
        self.listener: TcpListener | None = None
        self.synchronized = False
        self.user_closed = False
        self.changed = False
        self.stamps = settings.timestamps
        self.ecn = EcnState(settings.ecn)
        self.peer_mss = lower.default_mss
        iss, stamp_offset = table.initial_numbers(key)
        self.out = Transmission(self, stamp_offset)
        path = self.out.path()
        mss = path.mss if path is not None else lower.default_mss
        self.sender = Sender(iss, mss, settings.congestion(mss), settings.send_buffer)
        announced_mss = path.announced_mss if path is not None else lower.default_mss
        self.receiver = Receiver(announced_mss, settings.receive_buffer)
        self.receiver.coalesced = settings.coalesced
        self.heard_at: Instant = host.scheduler.now
        self.idling = Idling(self)
        self._busy = False

    def __repr__(self) -> str:
        return f"<TcpConnection {self.key.hex()} {self.state.value}>"

    # What the user asks and does

    @property
    def is_established(self) -> bool:
        """Tell whether both ends were synchronized at least once, and the connection has not failed."""
        return self.synchronized and self.error is None

    @property
    def available(self) -> int:
        """Count the octets that ``receive`` would return."""
        return len(self.receiver.ready)

    @property
    def at_end(self) -> bool:
        """Tell whether the peer sent its FIN and all data before it was taken."""
        return self.receiver.ended and not self.receiver.ready

    @property
    def room(self) -> int:
        """Count the octets that ``send`` takes now: 0 when the buffer is full or nothing can be sent any more."""
        if self.state not in SENDING or self.sender.fin:
            return 0
        return max(0, self.sender.capacity - len(self.sender.data))

    @property
    def unsent(self) -> int:
        """Count the octets that ``send`` took and the peer has not acknowledged."""
        return len(self.sender.data)

    @property
    def no_delay(self) -> bool:
        """Whether small segments are sent at once, without Nagle's algorithm (RFC 9293, 3.7.4)."""
        return self.sender.no_delay

    @no_delay.setter
    def no_delay(self, value: bool) -> None:
        self.sender.no_delay = value
        self._output_for_user()

    @property
    def keep_alive(self) -> Duration | None:
        """How long the peer may be silent before it is asked whether it is still there; None: for ever (RFC 9293, 3.8.4)."""
        return self.idling.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: Duration | None) -> None:
        if value is not None and value <= 0:
            raise UsageError("the time before a keep-alive is more than 0")
        self.idling.keep_alive = value
        self.idling.heard()
        self.idling.arm()

    def send(self, data: bytes, *, more: bool = False) -> int:
        """Queue octets and return how many were taken: 0 if the buffer is full or the connection failed.

        With *more*, another call follows at once, and sends them. Raise UsageError after ``shutdown`` or ``close``.
        """
        if self.error is not None:
            return 0
        if self.sender.fin or self.user_closed:
            raise UsageError("the connection was shut down for sending")
        room = self.room
        taken = len(data) if len(data) <= room else room
        if taken:
            self.sender.data.append(data if taken == len(data) else memoryview(data)[:taken])
            if not more:
                self._output_for_user()
        return taken

    def receive(self, limit: int) -> bytes:
        """Take up to *limit* octets; none if there are none now."""
        data = self.receiver.take(limit)
        if data:
            self._update_window()
        return data

    def pieces(self, limit: int) -> list[bytes | memoryview]:
        """Look at what ``receive`` would return, without a copy: to be passed on at once, and then ``consume``d."""
        return self.receiver.ready.pieces(limit)

    def consume(self, count: int) -> None:
        """Take *count* octets that ``pieces`` gave."""
        if count:
            self.receiver.ready.drop(count)
            self._update_window()

    def _update_window(self) -> None:
        """Tell the peer of the room that there is, if it should hear of it now."""
        if self.synchronized and self.state is not State.CLOSED and self.receiver.is_update_due():
            self.receiver.urgent = True
            self._output_for_user()

    def shutdown(self) -> None:
        """Send a FIN behind what is queued; receiving goes on. Again, or on a connection that is over, it does nothing."""
        if self.sender.fin or self.state not in SENDING:
            return
        self.sender.fin = True
        if self.state is State.ESTABLISHED:
            self.state = State.FIN_WAIT_1
        elif self.state is State.CLOSE_WAIT:
            self.state = State.LAST_ACK
        self._output_for_user()

    def close(self) -> None:
        """Be done: send what is queued, then a FIN. Data that was not taken, or still comes, is answered with a reset.

        RFC 9293, 3.10.4; RFC 2525, 2.17.
        """
        if self.user_closed:
            return
        if self.state is State.SYN_SENT:
            self.enter(State.CLOSED)
        elif self.receiver.ready and self.state not in (State.CLOSED, State.TIME_WAIT):
            self.abort()
        else:
            self.shutdown()
        self.user_closed = True
        self.idling.arm()
        self._tell_later()

    def abort(self) -> None:
        """Reset the connection and forget everything."""
        self.user_closed = True
        if self.state is State.CLOSED:
            return
        if self.state not in (State.SYN_SENT, State.TIME_WAIT):
            self.out.transmit(self.sender.nxt, RST | ACK)
        self.fail("aborted")
        self._tell_later()

    # Beginning and end

    def open(self, problem: str | None) -> None:
        """Send a SYN, or fail for the *problem* that there is."""
        self.state = State.SYN_SENT
        problem = problem or self.out.send_syn()
        if problem is not None:
            self.fail(problem)
            self._tell_later()

    def enter(self, state: State) -> None:
        """Go to another state, and do what it asks for."""
        self.state = state
        self.changed = True
        if state is State.CLOSED or state is State.TIME_WAIT:
            self.out.stop()
        if state is State.CLOSED:
            self.table.remove(self)
            if self.listener is not None:
                self.listener.forget(self)
                self.listener = None
        elif state is State.TIME_WAIT:
            self.table.wait(self)
        self.idling.arm()

    def establish(self) -> None:
        """Go to ESTABLISHED, or beyond if the user has shut down already."""
        self.synchronized = True
        self.enter(State.FIN_WAIT_1 if self.sender.fin else State.ESTABLISHED)

    def fail(self, reason: str) -> None:
        """End the connection for a *reason*: all that was queued is gone.

        What arrived in order may still be taken, though RFC 9293, 3.10.7.4 has a reset flush it: so Linux and BSD do, and
        an answer that a peer sent before it reset is not lost to a race.
        """
        self.error = reason
        self.sender.data.clear()
        self.receiver.forget(all_of_it=self.user_closed)
        self.enter(State.CLOSED)

    def _output_for_user(self) -> None:
        """Send from within a user's call."""
        if not self._busy:
            self._busy = True
            self.out.output()
            self._busy = False

    # Events

    def arrive(self, segment: Segment) -> None:
        """Take a segment."""
        if self._busy:  # a neighbor that answers within the call: see Nesting
            self.host.scheduler.soon(self.arrive, segment)
            return
        self._busy = True
        self.heard_at = self.host.scheduler.now
        self.idling.heard()
        arrive(self, segment)
        self._busy = False
        self.tell()

    def tell(self) -> None:
        """Call the user if something changed."""
        if self.changed:
            self.changed = False
            listener = self.listener
            if listener is not None and self.synchronized:
                self.listener = None
                listener.established(self)
            if self.on_change is not None:
                self.on_change()

    def _tell_later(self) -> None:
        if self.changed:
            self.host.scheduler.soon(self.tell)
