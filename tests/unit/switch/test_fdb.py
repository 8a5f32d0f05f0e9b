"""The filtering database by itself."""

from __future__ import annotations

from switch_bed import mac

from vnet.switch.fdb import Fdb, Learned


def learned(fdb: Fdb) -> dict[tuple[int, bytes], int]:
    return {(entry.vid, entry.mac): entry.port for entry in fdb}


def test_learning_tells_what_it_did() -> None:
    fdb = Fdb()
    assert fdb.learn(1, mac(1), 1, 0)[0] is Learned.NEW
    assert fdb.learn(1, mac(1), 1, 5)[0] is Learned.KNOWN
    assert fdb.learn(1, mac(1), 2, 6)[0] is Learned.MOVED
    fdb.add_static(1, mac(1), 3, 7)
    assert fdb.learn(1, mac(1), 2, 8)[0] is Learned.REFUSED
    assert learned(fdb) == {(1, mac(1)): 3}


def test_the_oldest_entry_of_the_fullest_port_gives_way() -> None:
    fdb = Fdb(size=4)
    for station, port in ((1, 1), (2, 2), (3, 2), (4, 2)):
        fdb.learn(1, mac(station), port, station)
    fdb.lookup(1, mac(2)).seen = 9  # type: ignore[union-attr]
    fdb.learn(1, mac(5), 1, 10)
    assert learned(fdb) == {(1, mac(1)): 1, (1, mac(2)): 2, (1, mac(4)): 2, (1, mac(5)): 1}
    assert (fdb.evicted, fdb.count) == (1, 4)


def test_static_entries_never_give_way() -> None:
    fdb = Fdb(size=2)
    for station in (1, 2, 3):
        fdb.add_static(1, mac(station), 1, 0)
    assert fdb.learn(1, mac(9), 2, 1) == (Learned.REFUSED, None, None)
    assert fdb.count == 3
    assert fdb.evicted == 0


def test_a_static_entry_makes_a_learned_one_give_way() -> None:
    fdb = Fdb(size=2)
    fdb.learn(1, mac(1), 1, 1)
    fdb.learn(1, mac(2), 1, 2)
    fdb.add_static(1, mac(9), 2, 3)
    assert learned(fdb) == {(1, mac(2)): 1, (1, mac(9)): 2}
    fdb.learn(1, mac(3), 1, 4)
    assert learned(fdb) == {(1, mac(3)): 1, (1, mac(9)): 2}


def test_a_database_of_no_size_learns_nothing() -> None:
    fdb = Fdb(size=0)
    assert fdb.learn(1, mac(1), 1, 0) == (Learned.REFUSED, None, None)
    assert fdb.next_deadline() is None
    assert fdb.expire(10**18) == []


def test_stations_that_wander_for_ever_leave_no_trail() -> None:
    fdb = Fdb()
    for step in range(20_000):
        fdb.learn(1, mac(step % 3), 1 + step // 3 % 2, step)
    assert fdb.count == 3
    assert sum(len(heap) for heap in fdb._heaps.values()) < 200


def test_the_deadline_is_never_late() -> None:
    fdb = Fdb(ageing=100)
    assert fdb.next_deadline() is None
    fdb.learn(1, mac(1), 1, 10)
    fdb.learn(2, mac(1), 2, 30)
    assert fdb.next_deadline() == 110
    fdb.lookup(1, mac(1)).seen = 50  # type: ignore[union-attr]
    assert fdb.expire(110) == []
    assert fdb.next_deadline() == 130
    assert [entry.vid for entry in fdb.expire(149)] == [2]
    assert fdb.expire(149) == []
    assert [entry.vid for entry in fdb.expire(150)] == [1]
    assert fdb.vlans == {}
