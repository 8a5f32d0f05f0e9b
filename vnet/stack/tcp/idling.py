"""The slow timer of a connection: keep-alive (RFC 9293, 3.8.4), FIN-WAIT-2 that nobody waits in, TIME-WAIT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.stack.tcp.states import State
from vnet.units import SECOND, Duration
from vnet.wire.tcp import ACK, RST

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.tcp.connection import TcpConnection

TIME_WAIT: Final[Duration] = 60 * SECOND
"""2 MSL. RFC 9293 has 4 min; Linux has 60 s, which is more than a lab's longest path keeps a segment."""
FIN_WAIT_2_PATIENCE: Final[Duration] = 60 * SECOND
"""How long a connection that nobody uses any more waits for the peer's FIN, as in Linux."""
KEEP_ALIVE_INTERVAL: Final[Duration] = 75 * SECOND
KEEP_ALIVE_PROBES: Final = 9
"""Between probes that find no answer, and how many of those end a connection; both as in Linux and BSD."""


@final
class Idling:
    """The timer of one connection; ``keep_alive`` is how long its peer may be silent, None for ever."""

    __slots__ = ("_alarm", "_connection", "_unanswered", "keep_alive")

    def __init__(self, connection: TcpConnection) -> None:
        self._connection = connection
        self._alarm: Alarm | None = None
        self._unanswered = 0
        self.keep_alive: Duration | None = None

    def heard(self) -> None:
        """Note that the peer is there."""
        self._unanswered = 0

    def arm(self) -> None:
        """Set the slow alarm as state and user want it."""
        connection = self._connection
        if connection.state is State.TIME_WAIT:
            wait: Duration | None = TIME_WAIT
        elif connection.state is State.FIN_WAIT_2 and connection.user_closed:
            wait = FIN_WAIT_2_PATIENCE
        elif self.keep_alive is not None and connection.synchronized and connection.state is not State.CLOSED:
            wait = self.keep_alive if not self._unanswered else min(KEEP_ALIVE_INTERVAL, self.keep_alive)
        else:
            wait = None
        if self._alarm is None:
            if wait is None:
                return
            self._alarm = connection.host.scheduler.alarm(self._expire)
        self._alarm.set(None if wait is None else connection.host.scheduler.now + wait)

    def _expire(self) -> None:
        connection = self._connection
        now = connection.host.scheduler.now
        if connection.state is State.TIME_WAIT:
            connection.enter(State.CLOSED)
        elif connection.state is State.FIN_WAIT_2 and connection.user_closed:
            connection.fail("timed out")
        elif self.keep_alive is not None and not self._unanswered and now - connection.heard_at < self.keep_alive:
            if self._alarm is not None:
                self._alarm.set(connection.heard_at + self.keep_alive)
        elif self._unanswered >= KEEP_ALIVE_PROBES:
            connection.out.transmit(connection.sender.nxt, RST | ACK)
            connection.fail("timed out")
        else:
            self._unanswered += 1
            if not connection.sender.is_outstanding:
                connection.out.transmit(connection.sender.una - 1, ACK)
            self.arm()
        connection.tell()
