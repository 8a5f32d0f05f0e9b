"""Bindings in SQLite: both clocks, restarts, kills, and files that are no state files."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from dhcp_bed import Bed, config

from vnet.errors import HostError
from vnet.fabric.timeline import Timeline
from vnet.runtime import state as module
from vnet.runtime.state import open_store
from vnet.services.dhcp.binding import Binding, BindingState, NoStore
from vnet.units import HOUR, SECOND

SMALL = config("10.0.0.0/24", "10.0.0.10", "10.0.0.99", "10.0.0.2", "10.0.0.1")
WALL = 1_700_000_000 * SECOND


def binding(last=10, expires_at=HOUR, state=BindingState.BOUND, since=0):
    return Binding(bytes((10, 0, 0, last)), b"\1id" + bytes((last,)), b"\x02\0\0\0\0\1", state, expires_at, since, "web")


@pytest.fixture
def wall(monkeypatch):
    """A wall clock that stands still unless told otherwise."""
    now = [WALL]
    monkeypatch.setattr(module.time, "time_ns", lambda: now[0])
    return now


def run(directory, live, timeline=None, changes=(), network="lan", lab="lab", until=None):
    """Run a lab: load, record, let time pass; return what was loaded."""
    timeline = timeline or Timeline()
    with open_store(directory, lab, timeline, live=live) as state:
        store = state.for_network(network)
        loaded = list(store.load())
        if changes:
            store.record(changes)
        if until is not None:
            timeline.now = until
    return loaded


@pytest.mark.parametrize("live", [True, False])
def test_bindings_come_back_as_they_were(tmp_path, wall, live):
    kept = [
        binding(10),
        binding(11, state=BindingState.RELEASED),
        binding(12, state=BindingState.DECLINED, since=None)._replace(client=b"", hostname=""),
    ]
    assert run(tmp_path / "deep" / "state", live, changes=kept) == []
    assert run(tmp_path / "deep" / "state", live) == kept


def test_later_changes_win_and_free_forgets(tmp_path, wall):
    changes = [binding(10), binding(11), binding(10, 2 * HOUR), binding(11, state=BindingState.FREE)]
    run(tmp_path, True, changes=changes)
    assert run(tmp_path, True) == [binding(10, 2 * HOUR)]


def test_networks_and_labs_do_not_mix(tmp_path, wall):
    run(tmp_path, True, changes=[binding(10)])
    assert run(tmp_path, True, network="dmz") == [] and run(tmp_path, True, lab="../other/lab") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["..%2Fother%2Flab.sqlite", "lab.sqlite"]


def test_a_live_lease_runs_on_while_the_lab_is_down(tmp_path, wall):
    run(tmp_path, True, changes=[binding(10)], until=10 * SECOND)
    wall[0] += 40 * 60 * SECOND
    assert run(tmp_path, True) == [binding(10, 20 * 60 * SECOND, since=-40 * 60 * SECOND)]
    wall[0] += HOUR
    assert run(tmp_path, True)[0].expires_at < 0


def test_a_simulated_lease_stands_still_while_the_lab_is_down(tmp_path, wall):
    run(tmp_path, False, changes=[binding(10)], until=HOUR // 2)
    wall[0] += 1000 * HOUR
    assert run(tmp_path, False, until=HOUR // 4) == [binding(10, HOUR // 2, since=-HOUR // 2)]
    assert run(tmp_path, False) == [binding(10, HOUR // 4, since=-HOUR * 3 // 4)]


def test_a_file_of_the_other_clock_is_moved_over(tmp_path, wall):
    run(tmp_path, False, changes=[binding(10)], until=HOUR // 2)
    assert run(tmp_path, True, until=HOUR // 4) == [binding(10, HOUR // 2, since=-HOUR // 2)]
    assert run(tmp_path, False) == [binding(10, HOUR // 4, since=-HOUR * 3 // 4)]


def test_a_timeline_that_does_not_begin_at_zero(tmp_path, wall):
    run(tmp_path, True, Timeline(5 * SECOND), changes=[binding(10, 8 * SECOND, since=5 * SECOND)])
    assert run(tmp_path, True, Timeline(1 * SECOND)) == [binding(10, 4 * SECOND, since=SECOND)]


def test_without_a_directory_nothing_is_kept():
    with open_store(None, "lab", Timeline(), live=True) as state:
        store = state.for_network("lan")
        store.record([binding()])
        assert isinstance(store, NoStore) and store.load() == ()


def test_a_second_lab_on_the_same_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.0)
    with open_store(tmp_path, "lab", Timeline(), live=True) as state:
        state.for_network("lan").record([binding()])
        with pytest.raises(HostError, match="another lab of this name"), open_store(tmp_path, "lab", Timeline(), live=True):
            pass
        state.for_network("lan").record([binding(11)])


def test_what_is_no_state_file_is_refused(tmp_path):
    (tmp_path / "lab.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(HostError, match="not a database"):
        run(tmp_path, True)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be made"):
        run(tmp_path / "file" / "state", True)


def test_state_of_another_version_is_refused(tmp_path):
    run(tmp_path, True)
    connection = sqlite3.connect(tmp_path / "lab.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HostError, match="version 99"):
        run(tmp_path, True)


@pytest.mark.parametrize(
    "row", ["(1, 'x', x'', x'', 2, 0, 0, '')", "(1, 1, x'', x'', 77, 0, 0, '')", "(1, -1, x'', x'', 2, 0, 0, '')"]
)
def test_rows_that_make_no_sense_are_refused(tmp_path, row):
    run(tmp_path, True)
    connection = sqlite3.connect(tmp_path / "lab.sqlite", isolation_level=None)
    connection.execute(f"INSERT INTO binding VALUES {row}")
    connection.close()
    with pytest.raises(HostError, match="cannot be read"):
        run(tmp_path, True)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("meta", "last_seen", "x'ff'"), ("meta", "last_seen", "'soon'"), ("meta", "last_seen", "9e18"),
        ("meta", "last_seen", "9223372036854775807"), ("binding", "expires_at", "x'ff'"), ("binding", "since", "'then'"),
        ("binding", "client", "5"), ("binding", "mac", "'text'"), ("binding", "hostname", "x'ff'"),
        ("binding", "state", "'bound'"), ("binding", "address", "-1"), ("binding", "address", "x'0a000001'"),
    ],
)  # fmt: skip
def test_values_of_the_wrong_type_are_refused(tmp_path, table, column, value):
    """SQLite keeps what it is given: a column says nothing of what is in it."""
    run(tmp_path, live=False, changes=[binding()])
    connection = sqlite3.connect(tmp_path / "lab.sqlite")
    connection.execute(f"UPDATE {table} SET {column} = {value}")
    connection.commit()
    connection.close()
    for live in (False, True) if table == "meta" else (False,):
        with pytest.raises(HostError, match=r"cannot be (opened|read): .*remove it"):
            run(tmp_path, live=live)


def test_a_failed_write_changes_nothing_and_says_so(tmp_path, wall):
    with open_store(tmp_path, "lab", Timeline(), live=True) as state:
        store = state.for_network("lan")
        store.record([binding(10)])
        with pytest.raises(HostError, match="cannot be written"):
            store.record([binding(11), binding(12)._replace(hostname=None)])
        store.record([binding(13)])
    assert [each.address[3] for each in run(tmp_path, True)] == [10, 13]


CHILD = """
import os, signal, sys
from vnet.fabric.timeline import Timeline
from vnet.runtime.state import open_store
from vnet.services.dhcp.binding import Binding, BindingState
with open_store(sys.argv[1], "lab", Timeline(), live=True) as state:
    store = state.for_network("lan")
    for n in range(50):
        store.record([Binding(bytes((10, 0, 0, n)), b"id%d" % n, b"", BindingState.BOUND, 10**15, 0)])
    print("recorded", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_recorded_survives_a_kill(tmp_path):
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert child.stdout == "recorded\n" and child.returncode == -signal.SIGKILL, child.stderr
    assert len(run(tmp_path, True)) == 50 and os.listdir(tmp_path) == ["lab.sqlite"]


@pytest.mark.parametrize("live", [True, False])
def test_a_lab_that_restarts_gives_its_clients_the_same_addresses(tmp_path, wall, live):
    def lab(names):
        bed = Bed()
        with open_store(tmp_path, "lab", bed.timeline, live=live) as state:
            bed.server(SMALL, state.for_network("lan"))
            clients = {name: bed.client(name, mac=name.encode().ljust(6, b"\2")) for name in names}
            bed.run()
            leases = {name: str(client.lease.address.ip) for name, client in clients.items()}
        wall[0] += bed.now
        return leases

    first = lab(["\2c", "\2a", "\2b"])
    assert len(set(first.values())) == 3
    wall[0] += 100 * HOUR
    assert lab(["\2a", "\2b", "\2c"]) == first
