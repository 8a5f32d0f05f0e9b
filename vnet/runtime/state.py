"""What outlives a lab: its DHCP bindings, in one SQLite file for each lab under ``--state DIR``.

**Time.** Machines know the lab clock only, which starts anew with each run. The file therefore holds instants on a clock
that goes on between runs, and this module converts. A live lab's is the wall clock: leases run on while the lab is down. A
simulated lab's is the sum of its runs: the next one begins at the instant at which the last one ended, so that a lease lasts
through two runs of a day as it does through one of two days, whatever time it is. A file that was written in the one kind of
time and is opened in the other is moved over: every lease keeps what it had left.

**Durability.** A server's bindings of one instant are one transaction (``DhcpServerNode``), committed before the replies are
sent. The journal is a write-ahead log with ``synchronous = NORMAL``: committed bindings survive the death of the process at
any point; after a power failure the last commits may be missing, the file is whole. With ``sync=True`` each commit waits for
the disk, and survives that too.

While a lab runs, its file is locked: nobody else can write it or even look at it. Ask the lab.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final
from urllib.parse import quote

from vnet.errors import HostError
from vnet.ports import Scheduler
from vnet.services.dhcp.binding import Binding, BindingState, BindingStore, NoStore
from vnet.units import Instant

VERSION: Final = 1
"""Of the tables below, in ``PRAGMA user_version``."""
WALL_CLOCK: Final = "wall"
LAB_CLOCK: Final = "lab"
LOCK_TIMEOUT: Final = 1.0
"""Seconds to wait for another process that is about to let the file go."""

_SCHEMA: Final = """
CREATE TABLE meta (clock TEXT NOT NULL, last_seen INTEGER NOT NULL);
CREATE TABLE network (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE binding (
    network INTEGER NOT NULL REFERENCES network (id),
    address INTEGER NOT NULL,
    client BLOB NOT NULL,
    mac BLOB NOT NULL,
    state INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    since INTEGER,
    hostname TEXT NOT NULL,
    PRIMARY KEY (network, address)
) WITHOUT ROWID;
"""
_MOST: Final = 1 << 62
_STATES: Final = {state.value: state for state in BindingState}
_UPSERT: Final = "INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM binding WHERE network = ? AND address = ?"
_SELECT: Final = (
    "SELECT address, client, mac, state, expires_at, since, hostname FROM binding WHERE network = ? ORDER BY address"
)


@final
class LabState:
    """One lab's open state file; made by ``open_store``."""

    __slots__ = ("_connection", "_epoch", "_path", "_scheduler", "_simulated")

    def __init__(self, path: Path, scheduler: Scheduler, *, live: bool, sync: bool = False) -> None:
        self._path = path
        self._scheduler = scheduler
        self._simulated = not live
        try:
            self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None)
        except sqlite3.Error as error:
            raise self._failed("opened", error) from error
        try:
            self._prepare(sync)
            self._epoch = self._begin(WALL_CLOCK if live else LAB_CLOCK)
        except (sqlite3.Error, TypeError) as error:
            self._connection.close()
            raise self._failed("opened", error) from error
        except BaseException:
            self._connection.close()
            raise

    def for_network(self, network: str) -> BindingStore:
        """Return the store of one network's DHCP server."""
        try:
            self._connection.execute("INSERT OR IGNORE INTO network (name) VALUES (?)", (network,))
            row = self._connection.execute("SELECT id FROM network WHERE name = ?", (network,)).fetchone()
        except sqlite3.Error as error:
            raise self._failed("read", error) from error
        return NetworkBindings(self, row[0])

    def load(self, network: int) -> list[Binding]:
        """Read the bindings of one network, on this run's lab clock."""
        epoch = self._epoch
        try:
            return [
                Binding(
                    _instant(address).to_bytes(4, "big"), client, mac, _STATES[state], _instant(expires_at) - epoch,
                    None if since is None else _instant(since) - epoch, hostname,
                )
                for address, client, mac, state, expires_at, since, hostname in self._connection.execute(_SELECT, (network,))
                if _is_text(client, mac, hostname)
            ]  # fmt: skip
        except (sqlite3.Error, LookupError, TypeError, OverflowError) as error:
            raise self._failed("read", error) from error

    def record(self, network: int, changes: Sequence[Binding]) -> None:
        """Write the changes in one transaction."""
        epoch, connection = self._epoch, self._connection
        latest = {change.address: change for change in changes}
        rows, freed = [], []
        for address, client, mac, state, expires_at, since, hostname in latest.values():
            number = int.from_bytes(address, "big")
            if state is BindingState.FREE:
                freed.append((network, number))
                continue
            began = None if since is None else since + epoch
            rows.append((network, number, client, mac, state.value, expires_at + epoch, began, hostname))
        try:
            connection.execute("BEGIN")
            if freed:
                connection.executemany(_DELETE, freed)
            connection.executemany(_UPSERT, rows)
            if self._simulated:
                self._note_time()
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._failed("written", error) from error

    def close(self) -> None:
        """Note the time and let the file go."""
        try:
            self._note_time()
            self._connection.close()
        except sqlite3.Error as error:
            raise self._failed("closed", error) from error

    def _prepare(self, sync: bool) -> None:
        execute = self._connection.execute
        # exclusive: the index of the log then needs no shared memory, and a second lab on the file is found out at once
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise HostError(f"{self._path} has state of version {version}, this is for version {VERSION}: remove it")

    def _begin(self, clock: str) -> Instant:
        """Find out what this run's lab clock counts from, and move the bindings over if they were on the other clock."""
        execute = self._connection.execute
        row = execute("SELECT clock, last_seen FROM meta").fetchone()
        old_clock, last_seen = (row[0], _instant(row[1])) if row is not None else (clock, 0)
        if clock == WALL_CLOCK:
            present = time.time_ns()
        else:
            present = last_seen if old_clock == LAB_CLOCK else 0
        execute("BEGIN")
        if old_clock != clock:
            shift = present - last_seen
            execute("UPDATE binding SET expires_at = expires_at + ?, since = since + ?", (shift, shift))
        execute("DELETE FROM meta")
        execute("INSERT INTO meta VALUES (?, ?)", (clock, present))
        execute("COMMIT")
        return present - self._scheduler.now

    def _note_time(self) -> None:
        self._connection.execute("UPDATE meta SET last_seen = ?", (self._epoch + self._scheduler.now,))

    def _failed(self, done: str, error: Exception) -> HostError:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return HostError(f"{self._path} is in use: another lab of this name runs with the same state directory")
        hint = "; remove it to start without leases" if done in ("opened", "read") else ""
        return HostError(f"{self._path} cannot be {done}: {error}{hint}")


def _instant(value: object) -> int:
    """Pass a whole number that an instant or an address can be; SQLite keeps whatever was put into a column."""
    if not isinstance(value, int) or abs(value) > _MOST:
        raise TypeError(f"{str(value)[:40]!r} stands where a whole number should")
    return value


def _is_text(client: object, mac: object, hostname: object) -> bool:
    """Tell that these columns hold what they should; raise TypeError if not."""
    if not isinstance(client, bytes) or not isinstance(mac, bytes) or not isinstance(hostname, str):
        raise TypeError("a client, MAC address or host name is of the wrong type")
    return True


@final
class NetworkBindings:
    """The ``BindingStore`` of one network."""

    __slots__ = ("_network", "_state")

    def __init__(self, state: LabState, network: int) -> None:
        self._state = state
        self._network = network

    def load(self) -> Sequence[Binding]:
        """Read what was recorded."""
        return self._state.load(self._network)

    def record(self, changes: Sequence[Binding]) -> None:
        """Commit the changes; raise HostError if that is not possible."""
        self._state.record(self._network, changes)


@final
class NoState:
    """What a lab without ``--state`` has: stores that keep nothing."""

    __slots__ = ()

    def for_network(self, network: str) -> BindingStore:
        """Return a store that forgets."""
        return NoStore()


@contextmanager
def open_store(
    directory: str | Path | None, lab: str, scheduler: Scheduler, *, live: bool, sync: bool = False
) -> Iterator[LabState | NoState]:
    """Open the state file of *lab* in *directory*, which is made if need be; None keeps nothing.

    *live* says which clock leases run on. Raise HostError if the file cannot be used.
    """
    if directory is None:
        yield NoState()
        return
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"state directory {folder} cannot be made: {error.strerror}") from error
    state = LabState(folder / f"{quote(lab, safe='')}.sqlite", scheduler, live=live, sync=sync)
    try:
        yield state
    finally:
        state.close()
