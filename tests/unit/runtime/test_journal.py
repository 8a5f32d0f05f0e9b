from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnet.adapters.resources import (
    DirectoryResource,
    FileId,
    FileResource,
    LinkResource,
    NamespaceResource,
    ProcessResource,
    Resource,
)
from vnet.errors import HostError
from vnet.runtime import journal as journal_module
from vnet.runtime.client import sweep_dead
from vnet.runtime.journal import Journal, begin, finish, read_journal, sweep
from vnet.runtime.places import LabLock, place_of

FILE = FileResource("/nowhere/control.sock", FileId(1, 2, 3))
NAMESPACE = NamespaceResource("/run/netns/no-such-lab-pc", 4711, FileId(4, 5, 6))
PROCESS = ProcessResource(2**22 + 1, 99)  # above pid_max: it cannot run

INTERFACE = LinkResource("vmt-nowhere", 4711)

resources = st.sampled_from([FILE, NAMESPACE, PROCESS, INTERFACE, ProcessResource(2**22 + 2, 1)])


@pytest.fixture
def lock(tmp_path: Path) -> LabLock:
    return place_of("lab", tmp_path).acquire()


def write(path: Path, *resources: Resource) -> Journal:
    journal = Journal(path, "token")
    for resource in resources:
        journal.add(resource)
    return journal


def test_what_is_written_down_and_not_struck_off_is_left(tmp_path: Path) -> None:
    journal = write(tmp_path / "journal", FILE, NAMESPACE, PROCESS)
    journal.done(NAMESPACE)
    left = read_journal(journal.path)
    assert left.token == "token" and left.resources == [FILE, PROCESS]
    journal.close()


def test_a_missing_journal_says_nothing(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "nothing").resources == []


@given(st.lists(st.tuples(st.booleans(), resources), max_size=8), st.integers(0, 2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_journal_cut_anywhere_is_a_prefix_of_it(tmp_path: Path, steps: list[tuple[bool, Resource]], octets: int) -> None:
    """Killed while it writes, a lab leaves a torn last line: every whole line before it counts."""
    journal = Journal(tmp_path / "journal", "token")
    states: list[list[Resource]] = [[]]
    for adds, resource in steps:
        (journal.add if adds else journal.done)(resource)
        after = list(states[-1])
        if adds:
            after.append(resource)
        elif resource in after:
            after.remove(resource)
        states.append(after)
    journal.close()
    whole = journal.path.read_bytes()
    assert read_journal(journal.path).resources == states[-1]
    cut = whole[: min(octets, len(whole))]
    journal.path.write_bytes(cut)
    # a line without its line feed is whole too; one that lacks more is no JSON
    lines = sum(1 for line in whole.split(b"\n")[:-1] if line) if cut == whole else cut.count(b"\n")
    candidates = [states[max(0, lines - 1)]] + ([states[lines]] if lines < len(states) else [])
    assert read_journal(journal.path).resources in candidates


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_rubbish_is_passed_over(tmp_path: Path, rubbish: bytes) -> None:
    journal = write(tmp_path / "journal", FILE)
    with journal.path.open("ab") as file:
        file.write(rubbish + b"\n")
    journal.done(FILE)
    journal.add(PROCESS)
    journal.close()
    assert read_journal(journal.path).resources == [PROCESS]


@pytest.mark.parametrize(
    "line",
    [
        '{"add":"namespace","path":"/x"}',
        '{"add":"process","pid":"1","started":2}',
        '{"add":"dragon","file":{"device":1,"inode":2,"modified_ns":3}}',
        '{"add":"file","path":"/x","file":[1,2,3]}',
        '{"add":["list"]}',
        "[1]",
        "{}",
    ],
)
def test_lines_that_are_not_ours_are_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "journal").write_text(line + "\n")
    assert read_journal(tmp_path / "journal").resources == []


def test_after_a_reboot_only_files_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = write(tmp_path / "journal", FILE, NAMESPACE, PROCESS)
    journal.close()
    monkeypatch.setattr(journal_module, "boot_id", lambda: "another boot")
    left = read_journal(journal.path)
    assert left.token == ""
    assert left.resources == [FILE, FileResource(NAMESPACE.path, NAMESPACE.file)]


def test_a_sweep_removes_what_is_still_the_same_and_says_so(lock: LabLock, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.touch()
    theirs.touch()
    journal = write(
        lock.place.journal,
        FileResource(str(ours), FileId.of(ours.stat())),
        FileResource(str(theirs), FileId(1, 2, 3)),
        PROCESS,
        NAMESPACE,
    )
    journal.close()
    lock.place.control.touch()
    assert sweep(lock) == [f"file {ours}"]
    assert not ours.exists() and theirs.exists() and not lock.place.control.exists()
    assert sweep(lock) == []


def test_a_run_begins_with_a_sweep_and_an_empty_journal(lock: LabLock, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.touch()
    write(lock.place.journal, FileResource(str(ours), FileId.of(ours.stat()))).close()
    journal, swept = begin(lock, "new")
    assert swept == [f"file {ours}"]
    assert read_journal(journal.path).token == "new" and read_journal(journal.path).resources == []
    journal.close()


def test_a_run_that_ends_well_leaves_no_directory(lock: LabLock) -> None:
    journal = write(lock.place.journal, FILE, NAMESPACE, PROCESS)  # all of them gone, though not struck off
    assert finish(lock, journal) == []
    assert not lock.place.directory.exists()


def test_what_could_not_be_removed_is_left_to_the_next_run(lock: LabLock, tmp_path: Path) -> None:
    stays = tmp_path / "stays"
    stays.touch()
    resource = FileResource(str(stays), FileId.of(stays.stat()))
    assert finish(lock, write(lock.place.journal, FILE, resource)) == [f"file {stays}"]
    assert lock.place.journal.exists() and not lock.place.is_running()
    again = lock.place.acquire()
    assert sweep(again) == [f"file {stays}"]
    again.release()


def test_what_cannot_be_removed_stays_written_down(lock: LabLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "left"
    left.touch()
    resource = FileResource(str(left), FileId.of(left.lstat()))
    write(lock.place.journal, resource).close()
    monkeypatch.setattr(FileResource, "remove", lambda self: False)
    for token in ("second", "third"):
        journal, swept = begin(lock, token)
        assert swept == [] and read_journal(journal.path).resources == [resource]
        journal.close()
    lock.release(keep=True)
    with pytest.raises(HostError, match=f"cannot be removed: file {left}"):
        sweep_dead(lock.place)
    monkeypatch.undo()
    assert sweep_dead(lock.place) == [f"file {left}"] and not lock.place.directory.exists()


def test_a_journal_does_not_grow_with_what_is_gone(tmp_path: Path) -> None:
    """What comes and goes for days leaves no trace; what stays is still there, and so is the token."""
    journal = write(tmp_path / "journal", FILE, NAMESPACE)
    journal.done(NAMESPACE)
    sizes = set()
    for number in range(5000):
        each = ProcessResource(2**22 + 1, number)
        journal.add(each)
        journal.done(each)
        sizes.add(journal.path.stat().st_size)
    journal.add(PROCESS)
    journal.close()
    left = read_journal(journal.path)
    assert left.token == "token" and left.resources == [FILE, PROCESS]
    assert max(sizes) < 200_000 and [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_a_directory_that_a_dead_lab_made_goes_when_it_is_empty(lock: LabLock, tmp_path: Path) -> None:
    """After the sockets in it; one that others use by now stays and is not the lab's any more."""
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
    made = [DirectoryResource.of(str(tmp_path / name)) for name in ("empty", "used")]
    socket = tmp_path / "empty" / "ctl"
    socket.touch()
    (tmp_path / "used" / "of-somebody").touch()
    write(lock.place.journal, *made, FileResource(str(socket), FileId.of(socket.lstat()))).close()
    journal, swept = begin(lock, "next")
    assert swept == [f"file {socket}", f"directory {tmp_path / 'empty'}"]
    assert (tmp_path / "used").exists() and finish(lock, journal) == []
