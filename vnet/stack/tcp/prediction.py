"""Header prediction: the segment of which a transfer consists is taken by a few comparisons (Van Jacobson, 1990).

What a receiver gets is nearly always the data that is next, from a peer that has nothing else to say. Such a segment has the
same effects here as by ``arrival``'s steps; all others are left to those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vnet.stack.tcp.states import MASK, Segment, State, unwrap
from vnet.wire.tcp import ACK, PSH
from vnet.wire.tcp_options import peek_timestamps

if TYPE_CHECKING:
    from vnet.stack.tcp.connection import TcpConnection


def take_predicted(connection: TcpConnection, segment: Segment) -> bool:
    """Take the data that is next on an established connection with nothing to send; False for any other segment.

    Data that was sent and is not acknowledged changes nothing: this segment acknowledges nothing, and is no duplicate
    acknowledgment, since it has data. It may fill a gap, but not the one before a FIN.
    """
    receiver, sender = connection.receiver, connection.sender
    payload = segment.payload
    if (
        connection.state is not State.ESTABLISHED
        or segment.flags & ~PSH != ACK
        or not payload
        or segment.sequence != receiver.nxt & MASK
        or len(payload) > receiver.edge - receiver.nxt
        or segment.acknowledgment != sender.una & MASK
        or sender.is_pending
        or not (sender.window and segment.window)
        or receiver.fin is not None
        or connection.ecn.agreed
    ):
        return False
    now = connection.host.scheduler.now
    if connection.stamps:
        stamps = peek_timestamps(segment.options)
        if stamps is None or (value := unwrap(stamps[0], receiver.recent)) < receiver.recent:
            return False
        receiver.take_stamp(value, receiver.nxt, now)
    elif segment.options:
        return False
    sender.offer(receiver.nxt, sender.una, segment.window << sender.scale)
    receiver.accept(receiver.nxt, payload, False)
    connection.changed = True
    connection.out.acknowledge_due(now)
    return True
