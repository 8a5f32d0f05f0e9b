import itertools

import pytest

from vnet.services.firewall.conntrack import Connection, ConnectionTable, Timeouts, turned
from vnet.services.firewall.tcp_state import ENDED, LASTING, TRANSITIONS, Segment, TcpState, segment_kind
from vnet.units import MINUTE, SECOND

TCP, UDP, ICMP = 6, 17, 1
FIN, SYN, RST, ACK = 1, 2, 4, 16


def tuple_(host: int = 1, port: int = 1000, server: int = 9, server_port: int = 80) -> bytes:
    return bytes((10, 0, 0, host, 192, 0, 2, server)) + port.to_bytes(2, "big") + server_port.to_bytes(2, "big")


class Table:
    """A table with the record of what ended."""

    def __init__(self, **bounds: int) -> None:
        self.ended: list[Connection] = []
        self.table = ConnectionTable(Timeouts(), self.ended.append, **bounds)

    def open(self, now: int = 0, protocol: int = UDP, **fields: int) -> Connection:
        original = tuple_(**fields)
        connection = self.table.open(now, protocol, original, turned(original), "inside", "outside")
        assert isinstance(connection, Connection), connection
        return connection


def test_both_tuples_find_the_connection():
    table = Table()
    connection = table.open()
    assert table.table.find(1, UDP, tuple_()) is connection.original
    assert table.table.find(1, UDP, turned(tuple_())) is connection.reply
    assert table.table.find(1, TCP, tuple_()) is None
    assert (connection.original.ingress, connection.original.egress) == ("inside", "outside")
    assert (connection.reply.ingress, connection.reply.egress) == ("outside", "inside")


@pytest.mark.parametrize(
    ("protocol", "timeout"), [(UDP, 300 * SECOND), (ICMP, 60 * SECOND), (TCP, 4 * MINUTE), (47, 600 * SECOND)]
)
def test_a_connection_ends_at_its_very_nanosecond(protocol: int, timeout: int):
    table = Table()
    connection = table.open(now=7, protocol=protocol)
    assert table.table.next_deadline() == 7 + timeout
    table.table.expire(7 + timeout - 1)
    assert table.table.find(7 + timeout - 1, protocol, tuple_()) is connection.original
    table.table.expire(7 + timeout)
    assert table.ended == [connection]
    assert len(table.table) == 0
    assert table.table.next_deadline() is None


def test_a_packet_at_the_deadline_comes_too_late_even_before_the_alarm():
    table = Table()
    table.open(now=0)
    assert table.table.find(300 * SECOND, UDP, tuple_()) is None
    assert len(table.ended) == 1


def test_traffic_in_either_direction_moves_the_deadline():
    table = Table()
    connection = table.open(now=0)
    table.table.pass_packet(100 * SECOND, connection.reply)
    table.table.expire(300 * SECOND)
    assert table.table.next_deadline() == 400 * SECOND
    table.table.pass_packet(399 * SECOND, connection.original)
    table.table.expire(400 * SECOND)
    assert not table.ended
    table.table.expire(699 * SECOND)
    assert table.ended == [connection]


def open_tcp(table: Table, now: int = 0, **fields: int) -> Connection:
    connection = table.open(now, TCP, **fields)
    for direction, flags in ((connection.original, SYN), (connection.reply, SYN | ACK), (connection.original, ACK)):
        table.table.pass_packet(now, direction, flags)
    assert connection.tcp is TcpState.ESTABLISHED
    return connection


def test_an_established_connection_lasts_and_a_closed_one_does_not():
    table = Table()
    connection = open_tcp(table)
    assert connection.deadline == 124 * MINUTE
    table.table.pass_packet(MINUTE, connection.original, FIN | ACK)
    assert connection.tcp is TcpState.ORIGINATOR_CLOSED
    assert connection.deadline == 125 * MINUTE
    table.table.pass_packet(2 * MINUTE, connection.reply, FIN | ACK)
    assert connection.tcp is TcpState.CLOSED
    table.table.pass_packet(3 * MINUTE, connection.original, ACK)  # does not keep what has ended
    assert table.table.next_deadline() == 4 * MINUTE  # where the opening connection would have ended
    table.table.expire(4 * MINUTE)
    table.table.expire(6 * MINUTE - 1)
    assert not table.ended
    table.table.expire(6 * MINUTE)
    assert table.ended == [connection]


def test_a_reset_ends_and_only_its_sender_takes_it_back():
    table = Table()
    connection = open_tcp(table)
    table.table.pass_packet(0, connection.reply, RST)
    table.table.pass_packet(1, connection.original, ACK)
    assert connection.tcp is TcpState.RESET_BY_RESPONDER
    assert connection.deadline == 4 * MINUTE
    table.table.pass_packet(2, connection.reply, ACK)
    assert connection.tcp is TcpState.ESTABLISHED
    assert connection.deadline == 2 + 124 * MINUTE


def test_ports_used_again_reopen_the_connection():
    table = Table()
    connection = open_tcp(table)
    table.table.pass_packet(0, connection.original, FIN)
    table.table.pass_packet(0, connection.reply, FIN)
    table.table.pass_packet(MINUTE, connection.original, SYN)
    assert connection.tcp is TcpState.OPENING
    assert not connection.answered
    table.table.expire(5 * MINUTE)
    assert table.ended == [connection]


def test_every_state_and_segment_has_a_meaning():
    for state, segment in itertools.product(TcpState, Segment):
        after = TRANSITIONS.get((state, segment), state)
        if segment in (Segment.ORIGINATOR_RST, Segment.RESPONDER_RST):
            assert after in ENDED
        if state in ENDED:
            assert after in ENDED or segment is Segment.ORIGINATOR_SYN or segment.name.endswith("DATA")
        if state in LASTING and segment.name.endswith(("DATA", "SYN")):
            assert after is state
    assert segment_kind(RST | SYN | FIN, True) is Segment.ORIGINATOR_RST
    assert segment_kind(SYN | FIN, False) is Segment.RESPONDER_SYN


def test_a_full_table_gives_up_the_ended_then_the_unanswered_then_refuses():
    table = Table(max_connections=3)
    answered, unanswered, ended = table.open(port=1), table.open(port=2), open_tcp(table, port=3)
    table.table.pass_packet(0, answered.reply)
    table.table.pass_packet(0, ended.original, RST)
    table.open(port=4)
    assert table.ended == [ended]
    newest = table.open(port=5)
    assert table.ended[1:] == [unanswered]
    table.table.pass_packet(0, newest.reply)
    fourth = table.table.find(0, UDP, tuple_(port=4))
    assert fourth is not None
    table.table.pass_packet(0, fourth.connection.reply)
    assert table.table.open(0, UDP, tuple_(port=6), turned(tuple_(port=6)), "a", "b") == "table-full"
    assert len(table.table) == 3
    assert table.table.evicted == 2


def test_one_host_cannot_take_the_table():
    table = Table(max_per_host=2)
    first = open_tcp(table, port=1)
    table.open(port=2)
    assert table.table.open(0, UDP, tuple_(port=3), turned(tuple_(port=3)), "a", "b") == "host-limit"
    table.open(host=2, port=3)
    table.table.pass_packet(0, first.original, RST)  # what has ended no longer counts
    table.open(port=3)


def test_a_tuple_belongs_to_one_connection():
    table = Table()
    table.open()
    assert table.table.open(0, UDP, turned(tuple_()), tuple_(), "a", "b") == "tuple-in-use"
    same = bytes((10, 0, 0, 1, 10, 0, 0, 1, 0, 7, 0, 7))
    assert table.table.open(0, UDP, same, turned(same), "a", "b") == "tuple-in-use"


def test_the_heap_stays_within_the_table():
    table = Table(max_connections=10)
    for port in range(20_000):
        table.open(now=port, port=port)
    assert len(table.table) == 10
    assert len(table.table._heap) <= 2 * 10 + 1025
    table.table.clear()
    assert len(table.ended) == 20_000
    assert not table.table._hosts


def test_random_traffic_leaves_nothing_behind():
    from vnet.fabric.rng import RandomStreams

    draw = RandomStreams(5).stream("test", "conntrack")
    table = Table(max_connections=20, max_per_host=12)
    now = 0
    for _ in range(5_000):
        now += draw.below(20 * SECOND)
        protocol = (TCP, UDP)[draw.below(2)]
        key = tuple_(host=draw.below(3), port=draw.below(20))
        direction = table.table.find(now, protocol, (key, turned(key))[draw.below(2)])
        if direction is None:
            table.table.open(now, protocol, key, turned(key), "a", "b")
        else:
            table.table.pass_packet(now, direction, draw.below(32))
        table.table.expire(now)
        live = [connection for connection in table.table if connection.tcp not in ENDED]
        assert sum(table.table._hosts.values()) == len(live)
        assert all(connection.deadline > now for connection in table.table)
    table.table.expire(now + 200 * MINUTE)
    assert len(table.table) == 0
    assert not table.table._hosts
    assert not table.table._ended
    assert not table.table._unanswered


def test_a_flood_of_forged_syns_leaves_nothing_that_lasts():
    """The forged sources never acknowledge the answers, so each half-open connection gives way to the next real one."""
    table = Table(max_connections=10)
    established = [open_tcp(table, port=port) for port in range(5)]
    for port in range(100, 150):
        forged = table.open(now=1, protocol=TCP, port=port)
        table.table.pass_packet(1, forged.original, SYN)
        table.table.pass_packet(1, forged.reply, SYN | ACK)
        assert forged.deadline == 1 + 4 * MINUTE
    assert all(connection.deadline > 0 for connection in established)
    assert len(table.table) == 10
    open_tcp(table, now=2, port=200)
