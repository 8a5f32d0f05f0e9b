"""What a connection sends, and when: segments with its acknowledgments and windows, and what is sent again (RFC 9293, 3.8).

Two alarms: one for retransmission and for probes of a window that is shut, one for delayed acknowledgments. ``output`` is
called after whatever may have made something sendable: a segment that came, a call of the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.stack.tcp.ecn import ECT
from vnet.stack.tcp.path import Path
from vnet.stack.tcp.path_mtu import BLACK_HOLE_TIMEOUTS
from vnet.stack.tcp.receiver import DELAYED_ACK
from vnet.stack.tcp.states import MASK, State
from vnet.units import MILLISECOND, MINUTE, SECOND, Duration, Instant
from vnet.wire.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN
from vnet.wire.tcp_options import TIMESTAMPS_OCTETS, TcpOptions, stamped

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.tcp.connection import TcpConnection

SYN_PATIENCE: Final[Duration] = 3 * MINUTE
"""R2 for a SYN (RFC 9293, MUST-23)."""
PATIENCE: Final[Duration] = 5 * MINUTE
"""How long data may go unacknowledged: the default user timeout of RFC 9293, 3.9.1; R2 is to be at least 100 s.

Once the user has closed the connection, also how long a peer may keep its window shut, though it answers the probes.
"""
CHALLENGES: Final = 10
CHALLENGE_WINDOW: Final[Duration] = 5 * SECOND
"""At most so many acknowledgments of segments that cannot be ours, for each connection (RFC 5961, section 7)."""

_OPENING: Final = frozenset({State.SYN_SENT, State.SYN_RECEIVED})


@final
class Transmission:
    """The way out of one connection."""

    __slots__ = (
        "_acking", "_acks_soon", "_challenged_at", "_challenges", "_connection", "_host", "_path", "_progress_at",
        "_retransmission", "_stamp_offset", "_timeouts",
    )  # fmt: skip

    def __init__(self, connection: TcpConnection, stamp_offset: int) -> None:
        self._connection = connection
        self._host = connection.host
        self._path: Path | None = None
        self._stamp_offset = stamp_offset
        self._progress_at: Instant = self._host.scheduler.now
        self._timeouts = 0  # in a row
        self._challenged_at: Instant = 0
        self._challenges = 0
        self._retransmission: Alarm = self._host.scheduler.alarm(self._expire)
        self._acking: Alarm | None = None
        self._acks_soon = False

    def stop(self) -> None:
        """Send nothing more by itself."""
        self._retransmission.set(None)
        if self._acking is not None:
            self._acking.set(None)

    def path(self) -> Path | None:
        """Find the way to the peer; None without a route."""
        if self._path is None:
            connection = self._connection
            self._path = connection.lower.path(connection.local, connection.remote, connection.scope)
            if connection.synchronized:
                self.resize()
        return self._path

    def too_large(self, mtu: int) -> None:
        """Take "fragmentation needed" (RFC 1191, 4 and 5) or "packet too big" (RFC 8201): send again in what fits."""
        path = self.path()
        connection = self._connection
        if path is not None and connection.lower.learn(connection.remote[0], mtu, path.mtu):
            self.forget_path()
            self.path()
            self.output()

    def forget_path(self) -> None:
        """Look the route up again when it is needed."""
        self._path = None

    def resize(self) -> None:
        """Fit segments to the path."""
        if self._path is not None:
            mss = min(self._connection.peer_mss, self._path.mss) - (TIMESTAMPS_OCTETS if self._connection.stamps else 0)
            if mss < self._connection.sender.mss:
                self._connection.sender.shrink(mss)

    def stamp(self) -> int:
        """Return TSval: milliseconds, from a number that differs from connection to connection (RFC 7323, 5.4)."""
        return (self._host.scheduler.now // MILLISECOND + self._stamp_offset) & MASK

    def send_syn(self) -> str | None:
        """Send our SYN, or SYN and ACK; return why it could not be sent."""
        path, receiver, sender = self.path(), self._connection.receiver, self._connection.sender
        if path is None:
            return "no route"
        answering = self._connection.state is State.SYN_RECEIVED
        settings = self._connection.table.settings
        scaling = receiver.scale > 0 if answering else settings.window_scaling
        options = TcpOptions(
            mss=receiver.mss, window_scale=max(1, receiver.capacity.bit_length() - 16) if scaling else None,
            sack_permitted=sender.sack if answering else settings.sack,
            timestamps=(self.stamp(), receiver.recent if answering else 0) if self._connection.stamps else None,
        ).encode()  # fmt: skip
        flags = self._connection.ecn.syn_flags(SYN | ACK if answering else SYN)
        if sender.nxt == sender.iss:
            self._progress_at = self._host.scheduler.now
        sender.sent(sender.iss, 1, self._host.scheduler.now)
        self._arm_retransmission(restart=True)
        return path.send(sender.iss & MASK, receiver.nxt & MASK, flags, receiver.first_window, options, b"", 0)

    def transmit(self, sequence: int, flags: int, payload: bytes = b"", ecn: int = 0) -> None:
        """Send a segment with an acknowledgment of all that arrived; *ecn* is the ECN field of its IP header."""
        path = self.path()
        receiver = self._connection.receiver
        window = receiver.offer()
        if path is None:
            return  # the timers go on: a route may come
        options = b""
        if self._connection.sender.sack and not payload and receiver.has_gap:
            stamps = (self.stamp(), receiver.recent & MASK) if self._connection.stamps else None
            options = TcpOptions(timestamps=stamps, sack=receiver.sack_blocks()).encode()
        elif self._connection.stamps:
            options = stamped(self.stamp(), receiver.recent & MASK)
        if self._connection.ecn.echoing and not flags & RST:
            flags |= ECE
        mss = self._connection.sender.mss
        path.send(sequence & MASK, receiver.nxt & MASK, flags, window, options, payload, mss, ecn)

    def acknowledge(self) -> None:
        """Send an acknowledgment now."""
        self.transmit(self._connection.sender.nxt, ACK)

    def challenge(self) -> None:
        """Acknowledge a segment that cannot be the peer's, or is old, unless that was done often (RFC 5961, section 7)."""
        now = self._host.scheduler.now
        if now - self._challenged_at >= CHALLENGE_WINDOW:
            self._challenged_at, self._challenges = now, 0
        if self._challenges < CHALLENGES:
            self._challenges += 1
            self.acknowledge()
        else:
            self._host.drop("tcp-challenge-limit")

    def output(self, progressed: bool = False) -> None:
        """Send all that may be sent now, data first; *progressed* tells that something new was acknowledged."""
        if self._connection.state is State.CLOSED or self._connection.state in _OPENING:
            return
        receiver, sender = self._connection.receiver, self._connection.sender
        if receiver.urgent and receiver.has_gap:
            self.acknowledge()  # by itself: beside data there is no room for SACK blocks
        now = self._host.scheduler.now
        was_outstanding = sender.is_outstanding
        while (found := sender.next_range()) is not None:
            self._send_range(*found, now)
        self.acknowledge_due(now)
        self._arm_retransmission(restart=progressed or (sender.is_outstanding and not was_outstanding))

    def acknowledge_due(self, now: Instant) -> None:
        """Acknowledge what arrived: now, with more that comes at this instant, or a while later if nothing else does."""
        receiver = self._connection.receiver
        if receiver.urgent or receiver.due >= (2 * receiver.coalesced or 2):
            self.acknowledge()
        elif receiver.due >= 2:
            if not self._acks_soon:
                self._acks_soon = True
                self._host.scheduler.soon(self._acknowledge_soon)
        elif receiver.due:
            if self._acking is None:
                self._acking = self._host.scheduler.alarm(self._acknowledge_late)
            if self._acking.deadline is None:
                self._acking.set(now + DELAYED_ACK)

    def _send_range(self, start: int, count: int, now: Instant) -> None:
        sender = self._connection.sender
        if not sender.is_outstanding:
            self._progress_at = now
            if sender.rto.smoothed is not None and now - self._connection.heard_at > sender.rto.value:
                sender.congestion.restart(sender.mss)
        stop, end = start + count, sender.end
        flags = ACK
        if stop >= end:
            flags = FIN | PSH | ACK if stop > end else PSH | ACK
        payload = sender.octets(start, count)
        ecn = 0
        if self._connection.ecn.agreed and payload and start >= sender.nxt:  # never what is sent again (RFC 3168, 6.1.5)
            ecn = ECT
            if sender.cwr:
                sender.cwr, flags = False, flags | CWR
        sender.sent(start, count, now)
        self.transmit(start, flags, payload, ecn)

    def progress(self) -> None:
        """Note that the peer is there and takes what it can."""
        self._timeouts = 0
        self._progress_at = self._host.scheduler.now

    def _acknowledge_soon(self) -> None:
        self._acks_soon = False
        if self._connection.state is not State.CLOSED:
            self._acknowledge_late()

    def _acknowledge_late(self) -> None:
        if self._connection.receiver.due:
            self.acknowledge()

    def _arm_retransmission(self, *, restart: bool) -> None:
        alarm = self._retransmission
        if not (self._connection.sender.is_outstanding or self._connection.sender.is_pending):
            if alarm.deadline is not None:
                alarm.set(None)
        elif restart or alarm.deadline is None:
            if not (restart or self._connection.sender.is_outstanding or self._connection.user_closed):
                # a shut window: patience begins
                self._progress_at = self._host.scheduler.now
            patience = SYN_PATIENCE if self._connection.state in _OPENING else PATIENCE
            alarm.set(min(self._host.scheduler.now + self._connection.sender.rto.value, self._progress_at + patience))

    def _expire(self) -> None:
        """Send again what found no answer, probe a window that is shut, or give up (RFC 9293, 3.8.3 and 3.8.6.1)."""
        sender, now = self._connection.sender, self._host.scheduler.now
        opening = self._connection.state in _OPENING
        if now - self._progress_at >= (SYN_PATIENCE if opening else PATIENCE):
            self._connection.fail("timed out")
            self._connection.tell()
            return
        if opening:
            sender.rto.back_off()
            self._connection.ecn.fall_back()
            self.send_syn()
            self._arm_retransmission(restart=True)  # though there may be no route just now
            return
        if sender.is_outstanding:
            self._timeouts += 1
            lower = self._connection.lower
            if self._timeouts == BLACK_HOLE_TIMEOUTS and sender.mss + lower.headers > lower.black_hole_mtu:
                self.too_large(lower.black_hole_mtu)
            sender.time_out()
            self.output()
        else:
            sender.rto.back_off()
            usable = sender.una + sender.window - sender.nxt
            if usable > 0:  # too little to be worth a segment, but nothing else moves
                self._send_range(sender.nxt, min(usable, sender.mss, len(sender.data)), now)
            else:
                sender.high = max(sender.high, sender.nxt + 1)
                self.transmit(sender.nxt, ACK, sender.octets(sender.nxt, 1))
        self._arm_retransmission(restart=True)
