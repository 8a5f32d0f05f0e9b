"""What a segment does to a connection: RFC 9293, 3.10.7, with the checks of RFC 5961 and RFC 7323.

The order is the standard's: timestamps, sequence number, RST, SYN, ACK, (URG,) data, FIN. The urgent pointer is not heeded:
urgent data stays in its place in the stream, as RFC 6093 wants it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vnet.stack.tcp.prediction import take_predicted
from vnet.stack.tcp.states import MASK, RECEIVING, Segment, State, unwrap
from vnet.units import MILLISECOND
from vnet.wire.tcp import ACK, ECE, FIN, RST, SYN
from vnet.wire.tcp_options import TIMESTAMPS_OCTETS, TcpOptions, decode, peek_timestamps

if TYPE_CHECKING:
    from vnet.stack.tcp.connection import TcpConnection

_MAX_ECHO: Final = 10 * 60 * 1000
"""A round trip in ms that is not believed: the peer echoed what we never sent."""


def arrive(connection: TcpConnection, segment: Segment) -> None:
    """Take a segment in any state, and send what it calls for."""
    if take_predicted(connection, segment):
        return
    una = connection.sender.una
    if connection.state is State.SYN_SENT:
        _in_syn_sent(connection, segment)
    elif connection.state is not State.CLOSED:
        _in_others(connection, segment)
    connection.out.output(progressed=connection.sender.una > una)


def negotiate(connection: TcpConnection, options: TcpOptions) -> None:
    """Agree on what both ends can do, from the options of the peer's SYN."""
    sender, receiver = connection.sender, connection.receiver
    connection.peer_mss = options.mss or connection.lower.default_mss
    settings = connection.table.settings
    if options.window_scale is not None and settings.window_scaling:
        sender.scale = options.window_scale
        receiver.scale = max(1, receiver.capacity.bit_length() - 16)
    sender.sack = options.sack_permitted and settings.sack
    connection.stamps = connection.stamps and options.timestamps is not None
    if options.timestamps is not None:
        receiver.recent, receiver.recent_at = options.timestamps[0], connection.host.scheduler.now
    path = connection.out.path()
    room = path.mss if path is not None else connection.lower.default_mss
    stamps = TIMESTAMPS_OCTETS if connection.stamps else 0
    sender.start(connection.peer_mss - stamps, room - stamps)


def _in_syn_sent(connection: TcpConnection, segment: Segment) -> None:
    """RFC 9293, 3.10.7.3."""
    sender, receiver = connection.sender, connection.receiver
    flags = segment.flags
    acknowledgment = unwrap(segment.acknowledgment, sender.nxt)
    if flags & ACK and not sender.iss < acknowledgment <= sender.high:
        if not flags & RST:
            connection.table.reset(connection, segment.acknowledgment)
        return
    if flags & RST:
        if flags & ACK:
            connection.fail("refused")
        return
    if not flags & SYN:
        return
    receiver.start(segment.sequence)
    negotiate(connection, decode(segment.options))
    connection.ecn.take_syn(flags, is_first=False)
    if not flags & ACK:  # both opened at once
        connection.state = State.SYN_RECEIVED
        sender.open_window(receiver.irs, 0, segment.window)
        connection.out.send_syn()
        return
    sender.acknowledge(acknowledgment, connection.host.scheduler.now, None)
    sender.open_window(receiver.irs, acknowledgment, segment.window)
    connection.establish()
    receiver.urgent = True


def _in_others(connection: TcpConnection, segment: Segment) -> None:
    """RFC 9293, 3.10.7.4."""
    receiver = connection.receiver
    now = connection.host.scheduler.now
    flags, payload = segment.flags, segment.payload
    sequence = unwrap(segment.sequence, receiver.nxt)
    stamps = peek_timestamps(segment.options)
    options = None
    if stamps is None and segment.options:
        options = decode(segment.options)
        stamps = options.timestamps
    if connection.stamps and not flags & RST:
        if stamps is None:
            connection.host.drop("tcp-no-timestamp")  # RFC 7323, 3.2
            return
        if receiver.is_old(stamps[0], now):
            connection.host.drop("tcp-paws")
            connection.out.challenge()
            return
    length = len(payload) + bool(flags & SYN) + bool(flags & FIN)
    if flags & RST:
        _take_reset(connection, sequence)
        return
    if not receiver.is_acceptable(sequence, length):
        _refuse(connection, segment, sequence, length)
        return
    if flags & SYN:
        connection.out.challenge()  # RFC 5961, section 4
        return
    if not flags & ACK:
        return
    if connection.stamps and stamps is not None:
        receiver.take_stamp(unwrap(stamps[0], receiver.recent), sequence, now)
    if not _take_acknowledgment(connection, segment, sequence, stamps, options):
        return
    if payload and connection.ecn.take_data(flags, segment.is_marked):
        receiver.urgent = True  # the sooner the sender knows, the better
    if length and connection.state in RECEIVING:
        if connection.user_closed and payload and sequence + len(payload) > receiver.nxt:
            connection.table.reset(connection, connection.sender.nxt & MASK)  # RFC 2525, 2.17
            connection.fail("closed")
            return
        _take_data(connection, sequence, payload, bool(flags & FIN))
    elif length:
        receiver.urgent = True


def _take_reset(connection: TcpConnection, sequence: int) -> None:
    """RFC 5961, section 3: only the very next number resets; others in the window are challenged."""
    receiver = connection.receiver
    if connection.state is State.TIME_WAIT:
        return  # it answers an old duplicate, and must not end the wait for others (RFC 1337, section 3)
    if sequence == receiver.nxt:
        connection.fail("refused" if connection.state is State.SYN_RECEIVED and connection.listener is None else "reset")
    elif receiver.nxt < sequence < receiver.edge:
        connection.out.challenge()


def _refuse(connection: TcpConnection, segment: Segment, sequence: int, length: int) -> None:
    """Answer a segment outside the window: the peer may have missed our acknowledgment."""
    flags = segment.flags
    if connection.state is State.SYN_RECEIVED and flags & SYN and not flags & ACK and sequence == connection.receiver.irs:
        connection.ecn.take_syn(flags, is_first=connection.listener is not None)
        connection.out.send_syn()
        return
    if connection.state is State.SYN_RECEIVED and flags & ACK and flags & SYN and sequence == connection.receiver.irs:
        # the peer's SYN came again, this time with an acknowledgment: both opened at once
        _take_acknowledgment(connection, segment, sequence + 1, None, None)
        connection.out.challenge()
        return
    if flags & ACK and not flags & SYN and sequence == connection.receiver.edge:
        # 3.10.7.4 has valid acknowledgments taken while the window is shut; here without timestamp and SACK blocks
        _take_acknowledgment(connection, segment, sequence, None, None)
        if connection.state is State.CLOSED:
            return
    if connection.state is State.TIME_WAIT and flags & FIN:
        connection.idling.arm()
    if length:
        connection.out.acknowledge()
    else:
        connection.out.challenge()


def _take_acknowledgment(
    connection: TcpConnection, segment: Segment, sequence: int, stamps: tuple[int, int] | None, options: TcpOptions | None
) -> bool:
    """Take the ACK field and the window; tell whether the rest of the segment counts."""
    sender = connection.sender
    now = connection.host.scheduler.now
    acknowledgment = unwrap(segment.acknowledgment, sender.una)
    if connection.state is State.SYN_RECEIVED:
        if not sender.una < acknowledgment <= sender.high:
            connection.table.reset(connection, segment.acknowledgment)
            return False
        sender.acknowledge(acknowledgment, now, None)
        shift = 0 if segment.flags & SYN else sender.scale
        sender.open_window(sequence, acknowledgment, segment.window << shift)
        connection.establish()
        return True
    if acknowledgment > sender.high or acknowledgment < sender.una - max(sender.max_window, 1):
        connection.out.challenge()  # RFC 5961, section 5
        return False
    progressed = acknowledgment > sender.una
    marked = connection.ecn.agreed and bool(segment.flags & ECE)
    if marked:
        sender.experience(acknowledgment, now)
    if progressed:
        echoed = None
        if connection.stamps and stamps is not None and stamps[1]:
            elapsed = (connection.out.stamp() - stamps[1]) & MASK
            echoed = elapsed * MILLISECOND if elapsed <= _MAX_ECHO else None
        sender.acknowledge(acknowledgment, now, echoed, may_grow=not marked)
        connection.out.progress()
        connection.changed = True
        _fin_acknowledged(connection)
    news = False
    if sender.sack and options is not None:
        for left, right in options.sack:
            news |= sender.take_sack(unwrap(left, sender.una), unwrap(right, sender.una))
    shut = sender.window == 0
    window = segment.window << sender.scale
    may_repeat = acknowledgment == sender.una and not progressed and sender.is_outstanding
    if acknowledgment >= sender.una:
        resized = sender.offer(sequence, acknowledgment, window)
        if shut and sender.window:
            sender.rto.relent()
        if sender.window == 0 and not connection.user_closed:
            # The peer may keep its window shut for ever if it answers (RFC 9293, MUST-36), but not once nobody is left to
            # end the connection: RFC 6429 lets a host give that up, and Linux does, or such peers would use up the table.
            connection.out.progress()
        # RFC 6675, section 2: what names new octets; RFC 5681: what has nothing new at all
        if may_repeat and (news if sender.sack else not (resized or segment.payload or segment.flags & FIN)):
            sender.duplicate()
    sender.detect_loss(now)
    return connection.state is not State.CLOSED


def _fin_acknowledged(connection: TcpConnection) -> None:
    """Move on if the peer has our FIN."""
    if not connection.sender.is_fin_acknowledged:
        return
    if connection.state is State.FIN_WAIT_1:
        connection.enter(State.FIN_WAIT_2)
    elif connection.state is State.CLOSING:
        connection.enter(State.TIME_WAIT)
    elif connection.state is State.LAST_ACK:
        connection.enter(State.CLOSED)


def _take_data(connection: TcpConnection, sequence: int, payload: bytes, fin: bool) -> None:
    receiver = connection.receiver
    before = receiver.nxt
    if not receiver.accept(sequence, payload, fin):
        connection.host.drop("tcp-reassembly-full")
    connection.changed |= receiver.nxt != before
    if receiver.ended:
        if connection.state is State.ESTABLISHED:
            connection.enter(State.CLOSE_WAIT)
        elif connection.state is State.FIN_WAIT_1:
            connection.enter(State.CLOSING)
        elif connection.state is State.FIN_WAIT_2:
            connection.enter(State.TIME_WAIT)
