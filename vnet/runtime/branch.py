"""Branches of a simulated lab: "what if this happened now" as one line of a test, and snapshots to come back to.

A branch is a copy of the whole process, made by fork(2): every table, timer and random stream of the lab is in it as it is
at that instant, and so are the tasks that run beside the caller. The copy carries out one async function, hands back what
that returned, and is gone; here no time has passed, and the next branch, or the lab itself, goes on from the same instant.
Copying the lab's objects in place would be no safer, since handlers are closures, and slower, since memory is shared
until it is written to.

A snapshot is a branch that waits: each ``run`` makes a copy of the copy. What it is to carry out was not there when it was
made, so it is handed over by name: a function of a module, with arguments that can be pickled.

A task beside the caller may branch as well while a branch goes on: then there is a branch in the branch, and the caller's
function goes on in that, too, as all tasks do. So tasks that branch at one instant do it in each other's branches: each of
n does so 2 ** (n - 1) times. A copy ends with the process that it is a copy of.

What a process shares with its copies is not part of the lab: threads stay behind, and a file that the branch's function
writes is written. Captures into files do not follow the branch, nor do the files that ways out record; those in memory do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Final, NoReturn, ParamSpec, TypeVar, cast, final

import trio

from vnet.errors import LabError, UsageError
from vnet.runtime.clock import current_simulation
from vnet.runtime.usage import called_as, check_arguments, check_waitable

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

T = TypeVar("T")
P = ParamSpec("P")

MOST_SNAPSHOTS: Final = 64
"""Open at a time in one lab: each is a process."""
_BRANCH: Final = "await lab.branch(function, ...), where the function is async and takes the lab first"
_RUN: Final = "await kept.run(function, ...), where the function is async and takes the lab first"
MOST_DEEP: Final = 16
"""Branches within branches: tasks that branch at one instant do so in each other's branches as well."""
_PR_SET_PDEATHSIG: Final = 1
_LENGTH: Final = 8
_open: Final[list[Snapshot]] = []
"""Those of all labs of this process: a copy inherits what it holds of each, and lets go of it."""


_ancestors: Final[list[int]] = []
"""The processes that this one is a copy of, the first one first."""


async def branch(lab: Lab, function: Callable[Concatenate[Lab, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Carry out ``await function(lab, ...)`` in a copy of the lab and return, or raise, what it did there.

    Raise UsageError for a live lab, one with a state file, or a result that cannot be pickled; LabError if the branch ended
    before its function did.
    """
    _check(lab)
    check_waitable(function, _BRANCH)
    check_arguments(function, _BRANCH, lab, *args, **kwargs)
    await trio.lowlevel.checkpoint()
    ours, theirs = socket.socketpair()
    pid = _fork()
    if pid == 0:
        ours.close()
        await _be_branch(lab, theirs, lambda: function(lab, *args, **kwargs))
    theirs.close()
    try:
        with ours:
            data = _receive(ours)
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # whoever interrupts us does not want to wait for it
        raise
    finally:
        _reap(pid)
    return cast("T", _answer(data))


async def snapshot(lab: Lab) -> Snapshot:
    """Keep the lab as it is now; raise UsageError for a live lab, one with a state file, or too many snapshots."""
    _check(lab)
    if len(lab.snapshots) >= MOST_SNAPSHOTS:
        raise UsageError(f"lab {lab.name} has {MOST_SNAPSHOTS} snapshots; close those that are not needed")
    await trio.lowlevel.checkpoint()
    ours, theirs = socket.socketpair()
    pid = _fork()
    if pid == 0:
        ours.close()
        await _wait_for_work(lab, theirs)
    theirs.close()
    made = Snapshot(lab, pid, ours)
    lab.snapshots.append(made)
    _open.append(made)
    return made


@final
class Snapshot:
    """A lab as it was at ``instant`` (seconds on its clock); also a context manager. Closed with its lab at the latest."""

    def __init__(self, lab: Lab, pid: int, connection: socket.socket) -> None:
        self.instant = lab.now
        self._lab = lab
        self._pid = pid
        self._connection: socket.socket | None = connection

    @called_as(_RUN)
    async def run(self, function: Callable[Concatenate[Lab, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry out ``await function(lab, ...)`` in a copy of the lab as it was then, and return, or raise, what it did.

        *function* belongs to a module, and the arguments can be pickled; else, or if the snapshot is closed, UsageError.
        An exception from a signal handler while this waits, Ctrl-C for one, ends the copy and closes the snapshot.
        """
        await trio.lowlevel.checkpoint()
        if self._connection is None:
            raise UsageError("the snapshot is closed")
        check_waitable(function, _RUN)
        check_arguments(function, _RUN, self._lab, *args, **kwargs)
        try:
            work = pickle.dumps((function, args, kwargs))
        except Exception as error:
            raise UsageError(
                f"{getattr(function, '__qualname__', function)} cannot be handed to a snapshot, which was made before it: "
                f"use a function of a module, and arguments that can be pickled ({error})"
            ) from error
        try:
            _send(self._connection, work)
            data = _receive(self._connection)
        except ConnectionError:
            data = b""
        except BaseException:
            self.close()  # the next to ask would get this answer
            raise
        if not data:
            self.close()
            raise LabError("the snapshot died: its process was ended from outside")
        return cast("T", _answer(data))

    def close(self) -> None:
        """Let it go; twice is as good as once."""
        if self._connection is not None:
            with contextlib.suppress(OSError):  # its process is gone
                self._connection.shutdown(socket.SHUT_RDWR)  # closing says nothing while others have it open, by a fork
            self.leave()
            _reap(self._pid)

    def leave(self) -> None:
        """Give up a copy of somebody else's snapshot: whose process it is closes it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._lab.snapshots.remove(self)
            _open.remove(self)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check(lab: Lab) -> None:
    if lab.live:
        raise UsageError("only a simulated lab can be branched: what a live lab has of the machine cannot be copied")
    if lab.has_state_file:
        raise UsageError("a lab with a state file cannot be branched: two branches would write one file")


def _fork() -> int:
    """Copy the process; the copy ends when this one does, however that ends. Raise UsageError if it is too deep a copy."""
    if len(_ancestors) >= MOST_DEEP:
        raise UsageError(f"this is a branch in a branch, {MOST_DEEP} deep already")
    for stream in (sys.stdout, sys.stderr):  # or what waits in their buffers would be printed twice
        if stream is not None:
            stream.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _ancestors.append(parent)
        with contextlib.suppress(AttributeError):  # prctl(2) is Linux's
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before we could say so
            os._exit(0)
    return pid


def _reap(pid: int) -> None:
    """Wait for a copy, which ends at once or is being waited for anyway: in virtual time nobody is kept waiting."""
    os.waitpid(pid, 0)


# -- in the copy, which never returns to what its original was doing


async def _be_branch(lab: Lab, connection: socket.socket, work: Callable[[], Awaitable[object]]) -> NoReturn:
    """Do the work, answer, and vanish.

    Meanwhile a task beside this one may make a branch of its own: in that copy of the copy the work goes on as well, for
    whoever looks at what it does, but there is nobody to answer.
    """
    process = os.getpid()
    try:
        _settle_in(lab)
        _answer_if_given_up(connection)
        answer = await _outcome(work)
        if os.getpid() == process:
            _send(connection, answer)
    finally:
        if os.getpid() == process:
            _vanish()
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
    raise AssertionError("nobody wakes it")


async def _wait_for_work(lab: Lab, connection: socket.socket) -> NoReturn:
    """Be a snapshot: copy oneself for each piece of work that comes."""
    try:
        _settle_in(lab)
        while work := _receive(connection):
            ours, theirs = socket.socketpair()
            pid = _fork()
            if pid == 0:
                ours.close()
                await _be_branch(lab, theirs, partial(_unpacked, lab, work))
            theirs.close()
            try:
                with ours:
                    _wait_for_answer(ours, connection)
                    data = _receive(ours)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                raise
            finally:
                _reap(pid)
            _send(connection, data or pickle.dumps((False, LabError("the branch died"), "")))  # not a word, however it ended
    finally:
        _vanish()


def _wait_for_answer(worker: socket.socket, owner: socket.socket) -> None:
    """Wait until the copy at work has something to say; raise ConnectionAbortedError if who asked for it has gone."""
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    poll.register(owner, select.POLLRDHUP)
    if any(number == owner.fileno() for number, _ in poll.poll()):
        raise ConnectionAbortedError("nobody waits for the answer")


def _settle_in(lab: Lab) -> None:
    for other in tuple(_open):
        other.leave()
    lab.captures.leave_files()
    lab.networks.leave_files()


def _answer_if_given_up(connection: socket.socket) -> None:
    """Have the copy answer and vanish too when its run is given up: ``simulate`` would return here as well."""
    simulation = current_simulation()

    def answer(failure: Exception) -> None:
        try:
            _send(connection, _packed_error(failure))
        finally:
            _vanish()

    if simulation is not None:
        simulation.on_given_up = answer


def _unpacked(lab: Lab, work: bytes) -> Awaitable[object]:
    function, args, kwargs = pickle.loads(work)
    made: Awaitable[object] = function(lab, *args, **kwargs)
    return made


async def _outcome(work: Callable[[], Awaitable[object]]) -> bytes:
    """Do the work; describe how it ended as (went well, value or error, traceback)."""
    try:
        waiting = work()
        if not isinstance(waiting, Awaitable):
            raise UsageError(f"the function of a branch is async; this one returned {waiting!r}")
        value = await waiting
    except trio.Cancelled:
        simulation = current_simulation()
        error = simulation.failure if simulation is not None else None
        return _packed_error(error or LabError("the branch was cancelled before its function ended"))
    except BaseException as error:
        return _packed_error(error)
    try:
        return pickle.dumps((True, value, ""))
    except Exception as error:
        return _packed_error(UsageError(f"what the branch returned cannot be handed back: {_said(error)}"))


def _packed_error(error: BaseException) -> bytes:
    trace = traceback.TracebackException.from_exception(error)
    try:
        made = pickle.loads(pickle.dumps(error))  # some exceptions can be pickled, and not made again
    except Exception:
        made = None
    if not isinstance(made, BaseException):
        error = LabError(f"{type(error).__name__}: {_said(error)}")
    elif hasattr(made, "__notes__"):
        # The tracebacks of branches further in travel with the error: shown here as well, each level would double them.
        trace.__notes__ = None
    return pickle.dumps((False, error, "".join(trace.format())))


def _said(error: BaseException) -> str:
    """Write what an exception says: one of the user's own may fail even there."""
    try:
        return str(error)
    except Exception:
        return "(it cannot be shown)"


def _vanish() -> NoReturn:
    """End the copy without a word: what is to be closed or printed at the end is the original's."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


# -- between the two


def _answer(data: bytes) -> object:
    if not data:
        raise LabError("the branch died")
    try:
        went_well, value, trace = pickle.loads(data)
    except Exception as error:
        raise UsageError(f"what the branch returned cannot be made again here: {_said(error)}") from error
    if went_well:
        return value
    if trace:
        value.add_note(f"in a branch of the lab:\n{trace}")
    raise value


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)


def _receive(connection: socket.socket) -> bytes:
    """Read one message; none if the other end is gone."""
    length = int.from_bytes(_exactly(connection, _LENGTH), "big")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, octets: int) -> bytes:
    data = bytearray()
    while len(data) < octets:
        piece = connection.recv(min(octets - len(data), 1 << 20))
        if not piece:
            return b""
        data += piece
    return bytes(data)
