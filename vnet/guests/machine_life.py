"""The life of a virtual machine, whatever it is made of: its states, the moves between them, and what may be asked when.

A machine of QEMU (``guests.qemu``) and the emulated host that stands in for one (``guests.stand_in``) have each a ``Life``;
what a move takes is theirs to do, whether it may be made is decided here. The states are those of VS-82 with its numbers.
Two of that list do not happen: vnet merges no drives (9) and deletes no machines (10). A machine that failed is its Invalid
(0): what ends by itself other than by being turned off from inside.

A machine is saved in two ways. ``save`` without a name is that of VS-82: the machine's memory and devices are put away and
all else is given back, until ``restore`` or ``start`` goes on from there. With a name the state is kept beside a machine
that goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Protocol, final

import trio

from vnet.errors import UsageError
from vnet.ports import Port
from vnet.topology.machines import ResolvedMachine

_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


@final
class MachineState(Enum):
    """What a machine does."""

    STOPPED = "stopped"
    SAVED = "saved"
    STARTING = "starting"
    RESTORING = "restoring"
    RUNNING = "running"
    PAUSED = "paused"
    SAVING = "saving"
    STOPPING = "stopping"
    FAILED = "failed"

    @property
    def code(self) -> int:
        """The number of VS-82."""
        return _CODES[self]

    @property
    def is_alive(self) -> bool:
        """Tell whether the machine runs, or would if it were not paused."""
        return self in (MachineState.RUNNING, MachineState.PAUSED)

    @property
    def is_off(self) -> bool:
        """Tell whether there is nothing of it that could run."""
        return self in OFF

    @property
    def has_power(self) -> bool:
        """Tell whether its NICs have a link (VS-82): while it runs or is paused, and on the way there and from there."""
        return not self.is_off and self is not MachineState.SAVED


_CODES: Final[Mapping[MachineState, int]] = {
    MachineState.FAILED: 0,
    MachineState.STOPPED: 1,
    MachineState.SAVED: 2,
    MachineState.STARTING: 3,
    MachineState.RESTORING: 4,
    MachineState.RUNNING: 5,
    MachineState.PAUSED: 6,
    MachineState.SAVING: 7,
    MachineState.STOPPING: 8,
}
OFF: Final = (MachineState.STOPPED, MachineState.FAILED)


@final
class Move(Enum):
    """What is asked of a machine, and what comes of it."""

    START = "start"
    STOP = "stop"
    SHUT_DOWN = "shut down"
    PAUSE = "pause"
    RESUME = "resume"
    RESET = "reset"
    SAVE = "save"
    KEEP = "save under a name"
    RESTORE = "restore"
    GO_BACK = "restore by name"
    HAS_STARTED = "has started"
    IS_SAVED = "is saved"
    RUNS_ON = "runs on"
    STANDS = "stands"
    ENDED = "ended"
    FAILED = "failed"


_S, _M = MachineState, Move
TRANSITIONS: Final[Mapping[tuple[MachineState, Move], MachineState]] = {
    (_S.STOPPED, _M.START): _S.STARTING,
    (_S.FAILED, _M.START): _S.STARTING,
    (_S.SAVED, _M.START): _S.RESTORING,  # VS-82: starting what is saved restores it
    (_S.SAVED, _M.RESTORE): _S.RESTORING,
    (_S.SAVED, _M.STOP): _S.STOPPING,  # what was saved is discarded
    (_S.STARTING, _M.HAS_STARTED): _S.RUNNING,
    (_S.STARTING, _M.STOP): _S.STARTING,  # whoever starts it sees it fail
    (_S.STARTING, _M.FAILED): _S.FAILED,
    (_S.RESTORING, _M.HAS_STARTED): _S.RUNNING,
    (_S.RESTORING, _M.STOP): _S.RESTORING,
    (_S.RESTORING, _M.IS_SAVED): _S.SAVED,  # it could not be restored, and may be again
    (_S.RUNNING, _M.PAUSE): _S.PAUSED,
    (_S.RUNNING, _M.STANDS): _S.PAUSED,
    (_S.RUNNING, _M.RESET): _S.RUNNING,
    (_S.RUNNING, _M.SHUT_DOWN): _S.RUNNING,  # what runs inside decides
    (_S.RUNNING, _M.KEEP): _S.RUNNING,
    (_S.RUNNING, _M.GO_BACK): _S.RUNNING,
    (_S.PAUSED, _M.RESUME): _S.RUNNING,
    (_S.PAUSED, _M.RUNS_ON): _S.RUNNING,
    (_S.PAUSED, _M.RESET): _S.PAUSED,
    (_S.PAUSED, _M.KEEP): _S.PAUSED,
    (_S.PAUSED, _M.GO_BACK): _S.PAUSED,
    (_S.SAVING, _M.IS_SAVED): _S.SAVED,
    (_S.SAVING, _M.RUNS_ON): _S.RUNNING,  # it could not be saved
    (_S.SAVING, _M.STANDS): _S.PAUSED,
    **{(each, _M.SAVE): _S.SAVING for each in (_S.RUNNING, _S.PAUSED)},
    **{(each, _M.STOP): _S.STOPPING for each in (_S.RUNNING, _S.PAUSED, _S.SAVING, _S.STOPPING)},
    **{(each, _M.STOP): each for each in OFF},  # turning off what is off changes nothing
    **{(each, _M.ENDED): _S.STOPPED for each in (_S.RUNNING, _S.PAUSED, _S.SAVING, _S.STOPPING)},
    **{(each, _M.FAILED): _S.FAILED for each in (_S.RUNNING, _S.PAUSED, _S.SAVING, _S.STOPPING)},
}
"""All moves there are; every other pair of state and move is refused."""
ASKED: Final = frozenset({
    _M.START, _M.STOP, _M.SHUT_DOWN, _M.PAUSE, _M.RESUME, _M.RESET, _M.SAVE, _M.KEEP, _M.RESTORE, _M.GO_BACK,
})  # fmt: skip
"""What users ask for; the rest comes of it."""
_WORDS: Final = {_M.KEEP: "save", _M.GO_BACK: "restore"}


@final
class Life:
    """How one machine stands. ``error`` says why it failed; ``on_change`` is told each state that it comes to."""

    __slots__ = ("_changed", "error", "name", "on_change", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = MachineState.STOPPED
        self.error = ""
        self.on_change: Callable[[MachineState], None] | None = None
        self._changed = trio.Event()

    def check(self, move: Move) -> None:
        """Raise UsageError if the machine is not in a state in which this may be asked."""
        if (self.state, move) not in TRANSITIONS:
            wanted = " or ".join(state.value for state in MachineState if (state, move) in TRANSITIONS)
            verb = _WORDS.get(move, move.value)
            raise UsageError(f"cannot {verb} {self.name}: it is {self.state.value}, and must be {wanted}")

    def move(self, move: Move, error: str = "") -> None:
        """Make a move, and wake those who wait for it; raise UsageError if it is none of this state."""
        self.check(move)
        self.state = TRANSITIONS[self.state, move]
        self.error = error
        if self.on_change is not None:
            self.on_change(self.state)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait(self, *states: str) -> None:
        """Wait until the machine is in one of these states, by their words."""
        await trio.lowlevel.checkpoint()
        while self.state.value not in states:
            await self._changed.wait()


class VirtualMachine(Protocol):
    """What can be done to a machine: one of QEMU, or its stand-in. Each call raises UsageError in a state that has no such
    move, and LabError if it cannot be done."""

    @property
    def name(self) -> str:
        """As the topology names it."""

    @property
    def machine(self) -> ResolvedMachine:
        """What the topology says of it."""

    @property
    def state(self) -> MachineState:
        """How it stands."""

    @property
    def life(self) -> Life:
        """Its states and moves."""

    @property
    def ports(self) -> Sequence[Port]:
        """Its ends of its cables."""

    @property
    def error(self) -> str:
        """Why it failed; empty if it has not."""

    @property
    def pid(self) -> int | None:
        """The process that it runs in; None if that is none of its own."""

    async def start(self) -> None:
        """Turn it on, or go on with what was saved."""

    async def stop(self) -> None:
        """Turn it off as by its switch; what was saved is discarded. Does nothing if it is off."""

    async def shutdown(self, timeout: float = 60.0) -> None:
        """Press its power button, and wait until it is off; raise NoAnswer after *timeout* seconds."""

    async def pause(self) -> None:
        """Have it stand still."""

    async def resume(self) -> None:
        """Have it go on."""

    async def reset(self) -> None:
        """Press its reset button."""

    async def save(self, tag: str | None = None) -> None:
        """Put its state away and give back what it uses; with a name, keep its state as it is now beside it."""

    async def restore(self, tag: str | None = None) -> None:
        """Go on with what was put away, or go back to what was kept under a name."""

    async def wait_started(self) -> None:
        """Wait until it has been started the first time."""

    async def wait_state(self, *states: str) -> None:
        """Wait until it is in one of these states."""


def checked_tag(tag: str) -> str:
    """Pass a name for a saved state; it becomes part of a command line of QEMU's monitor."""
    if not _TAG.fullmatch(tag):
        raise UsageError(f"{tag[:80]!r} cannot be the name of a saved state; use up to 63 letters, digits, -, _ and .")
    return tag
