"""The bounded filtering database against a list that is searched from end to end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from switch_bed import mac

from vnet.switch.fdb import Fdb, Learned

AGEING = 50


class Naive:
    """Entries as a plain list of [vid, mac, port, seen, static], oldest note last wins by position."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: list[list] = []

    def find(self, vid: int, address: bytes) -> list | None:
        return next((entry for entry in self.entries if entry[:2] == [vid, address]), None)

    def make_room(self) -> bool:
        dynamic = [entry for entry in self.entries if not entry[4]]
        if not dynamic:
            return False
        ports = sorted({entry[2] for entry in dynamic})
        fullest = max(ports, key=lambda port: (sum(entry[2] == port for entry in dynamic), -port))
        oldest = min(entry[3] for entry in dynamic if entry[2] == fullest)
        candidates = [entry for entry in dynamic if entry[2] == fullest and entry[3] == oldest]
        assert len(candidates) == 1, "the test gives every entry an instant of its own"
        self.entries.remove(candidates[0])
        return True

    def learn(self, vid: int, address: bytes, port: int, now: int) -> Learned:
        entry = self.find(vid, address)
        if entry is not None and entry[2] == port:
            entry[3] = now
            return Learned.KNOWN
        if entry is not None and entry[4]:
            return Learned.REFUSED
        if entry is not None:
            self.entries.remove(entry)
        elif len(self.entries) >= self.size and not self.make_room():
            return Learned.REFUSED
        self.entries.append([vid, address, port, now, False])
        return Learned.NEW if entry is None else Learned.MOVED

    def add_static(self, vid: int, address: bytes, port: int, now: int) -> None:
        entry = self.find(vid, address)
        if entry is not None:
            self.entries.remove(entry)
        elif len(self.entries) >= self.size:
            self.make_room()
        self.entries.append([vid, address, port, now, True])


vids, stations, ports = st.integers(1, 2), st.integers(0, 11).map(mac), st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("learn"), vids, stations, ports),
    st.tuples(st.just("learn"), vids, stations, ports),
    st.tuples(st.just("learn"), vids, stations, ports),
    st.tuples(st.just("refresh"), vids, stations),
    st.tuples(st.just("static"), vids, stations, ports),
    st.tuples(st.just("remove"), vids, stations),
    st.tuples(st.just("flush"), st.none() | ports, st.none() | vids),
    st.tuples(st.just("expire"), st.integers(0, 40)),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 8), st.lists(steps, max_size=80))
def test_the_database_agrees_with_a_list(size: int, script: list[tuple]) -> None:
    fdb, naive = Fdb(size, AGEING), Naive(size)
    now = 0
    for kind, *arguments in script:
        now += 1
        match kind:
            case "learn":
                before = {(vid, address): port for vid, address, port, *_ in naive.entries}
                result, entry, gone = fdb.learn(*arguments, now)
                assert result is naive.learn(*arguments, now)
                assert (entry is None) == (result is Learned.REFUSED)
                if entry is not None:
                    assert [entry.vid, entry.mac, entry.port] == arguments
                after = {(vid, address): port for vid, address, port, *_ in naive.entries}
                lost = [(*key, port) for key, port in before.items() if after.get(key) != port]
                assert lost == ([] if gone is None else [(gone.vid, gone.mac, gone.port)])
            case "refresh":
                known, entry = naive.find(*arguments), fdb.lookup(*arguments)
                assert (known is None) == (entry is None)
                if known is not None and entry is not None:
                    known[3] = entry.seen = now
            case "static":
                fdb.add_static(*arguments, now)
                naive.add_static(*arguments, now)
            case "remove":
                known = naive.find(*arguments)
                assert fdb.remove(*arguments) == (known is not None)
                if known is not None:
                    naive.entries.remove(known)
            case "flush":
                port, vid = arguments
                doomed = [e for e in naive.entries if not e[4] and port in (None, e[2]) and vid in (None, e[0])]
                assert fdb.flush(port, vid) == len(doomed)
                naive.entries = [entry for entry in naive.entries if entry not in doomed]
            case "expire":
                now += arguments[0]
                old = [entry for entry in naive.entries if not entry[4] and entry[3] + AGEING <= now]
                deadline = fdb.next_deadline()
                assert not old or (deadline is not None and deadline <= now)
                assert sorted((e.vid, e.mac) for e in fdb.expire(now)) == sorted((e[0], e[1]) for e in old)
                naive.entries = [entry for entry in naive.entries if entry not in old]
        assert sorted([e.vid, e.mac, e.port, e.seen, e.static] for e in fdb) == sorted(naive.entries)
        assert fdb.count == len(naive.entries)
        assert fdb.count <= max(size, sum(entry.static for entry in fdb))
