"""The emulated host that stands in for a virtual machine, where no QEMU runs: with the same life as the machine has.

Its host runs by a clock of its own (``fabric.machine_clock``). Paused, that clock is held: no timer goes off, its ports keep
frames (``kept_frames``), and its programs' time stands still (``program_time``), so that all goes on later as if nothing had
been. Saved, it is the same without the frames that arrive meanwhile. Reset, or turned off, the host is replaced by a blank
one and its programs are cut off without a word to anybody, as by a power switch; then all of it starts anew. It boots in no
time: what a machine does until its system runs is not modelled.

What cannot be is to go back in time, because the programs are Python's. So a state that was saved under a name can be
restored only as long as the machine has not run since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar, TypeVarTuple, final

import trio

from vnet.errors import LabError, UsageError
from vnet.fabric.machine_clock import MachineClock
from vnet.fabric.timeline import Timeline
from vnet.guests.base import HasAddress, PingReply, ProbeReply, Target, Verdict
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.kept_frames import KeptFrames
from vnet.guests.machine_life import Life, MachineState, Move, checked_tag
from vnet.guests.program_time import ProgramTime
from vnet.ports import Report, Scheduler
from vnet.stack.host import Host
from vnet.stack.tcp.states import State
from vnet.topology.machines import ResolvedMachine

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MOST_KEPT: Final = 64
"""States that a machine keeps by name."""
CLOSING_TIME: Final = 5.0
"""Seconds that connections which were closed get to end before the power is off."""
_POLL: Final = 0.05
_CLOSING: Final = (State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK)


class Housing(Protocol):
    """Where the guest's hosts come from: ``runtime.boots``."""

    def stop(self, guest: EmulatedGuest) -> None:
        """Put a blank host, off the cable, in the place of the guest's."""

    def boot(self, guest: EmulatedGuest) -> None:
        """Give the guest's blank host its cables and what the topology says."""


class Programs(Protocol):
    """The programs that the topology has the machine run: ``runtime.programs``."""

    def start(self) -> None:
        """Start them, anew if they have run before."""

    async def wait_listening(self) -> None:
        """Wait until the servers among them listen."""

    def cut(self) -> None:
        """End them where they are."""

    async def end(self) -> None:
        """Have them end, and wait until they have."""


@final
class StandIn(EmulatedGuest):
    """An emulated guest with the life of a *machine*, which the runtime gives ``housing`` and ``program_runner``.

    *settle* waits until every task has come to where it waits, so that none is in the middle of something when it is paused.
    """

    __slots__ = (
        "_first_start", "_kept", "_report", "_saved", "_settle", "_timeline", "housing", "life", "machine",
        "program_runner", "program_time",
    )  # fmt: skip

    def __init__(
        self, host: Host, machine: ResolvedMachine, timeline: Timeline, settle: Callable[[], Awaitable[None]], report: Report
    ) -> None:
        super().__init__(host)
        self.machine = machine
        self.life = Life(host.name)
        self.program_time = ProgramTime()
        self.program_runner: Programs | None = None
        self.housing: Housing | None = None
        self._timeline = timeline
        self._settle = settle
        self._report = report
        self._kept: tuple[KeptFrames, ...] = ()
        self._saved: dict[str, tuple[object, ...]] = {}
        self._first_start = trio.Event()

    # -- life

    @property
    def state(self) -> MachineState:
        """How the machine stands."""
        return self.life.state

    @property
    def error(self) -> str:
        """Why the machine failed; empty if it has not."""
        return self.life.error

    @property
    def pid(self) -> None:
        """Nothing: it is no process."""

    def boot(self, *, has_host: bool = False) -> None:
        """Turn the machine on, from within an event too; one that *has_host* was given cables and addresses already."""
        self.life.move(Move.START)
        if not has_host and self.housing is not None:
            self.housing.boot(self)
        self.life.move(Move.HAS_STARTED)
        self._first_start.set()
        self._report("vm-started")
        self._start_programs()

    def boot_if_off(self) -> None:
        """Do so unless somebody was faster."""
        if self.state.is_off:
            self.boot()

    def fail(self, how: str) -> None:
        """Crash: everything stops, and nobody is told. Raise UsageError if the machine does not run."""
        if not self.state.is_alive:
            raise UsageError(f"{self.name} is {self.state.value}: only a machine that runs can crash")
        self._cut()
        self.life.move(Move.FAILED, how)
        self._report("vm-failed", error=how, console="", qemu="")

    async def start(self) -> None:
        """Turn the machine on, or go on with what was saved; return when its servers listen."""
        await trio.lowlevel.checkpoint()
        self.life.check(Move.START)
        if self.state is MachineState.SAVED:
            self._go_on(Move.START)
        else:
            self.boot()
            await self._wait_listening()

    async def stop(self) -> None:
        """Turn the machine off as by its switch; what was saved is discarded. Does nothing if it is off."""
        await trio.lowlevel.checkpoint()
        is_off = self.state.is_off
        self.life.move(Move.STOP, self.error)
        if not is_off:
            self._turn_off("lab")

    async def shutdown(self, timeout: float = 60.0) -> None:
        """Press the power button: programs end, their connections are closed, and the machine is off.

        Nothing heeds it later than after *timeout* seconds.
        """
        await trio.lowlevel.checkpoint()
        self.life.check(Move.SHUT_DOWN)
        self.life.move(Move.SHUT_DOWN)
        with trio.move_on_after(timeout):
            if self.program_runner is not None:
                await self.program_runner.end()
            with trio.move_on_after(CLOSING_TIME):
                while any(each.state in _CLOSING for each in self.host.tcp.connections):  # noqa: ASYNC110 - nobody is told
                    await trio.sleep(_POLL)
        if self.state.is_alive:
            self._turn_off("guest")

    async def pause(self) -> None:
        """Have the machine stand still, timers and programs too. Frames for it wait in a bounded queue, then are dropped."""
        await trio.lowlevel.checkpoint()
        self.life.move(Move.PAUSE)
        self._report("vm-paused")
        await self._hold()

    async def resume(self) -> None:
        """Let a paused machine go on where it was."""
        await trio.lowlevel.checkpoint()
        self.life.move(Move.RESUME)
        self._report("vm-resumed")
        self._release()

    async def reset(self) -> None:
        """Press the reset button: connections, leases and neighbors are forgotten, and its programs start anew."""
        await trio.lowlevel.checkpoint()
        self.life.move(Move.RESET)
        self._cut()
        if self.housing is not None:
            self.housing.boot(self)
        self._report("vm-reset", by="lab")
        self._start_programs()
        if self.state is MachineState.PAUSED:
            await self._hold()
        else:
            await self._wait_listening()

    async def save(self, tag: str | None = None) -> None:
        """Save the machine, which is gone then until ``restore`` or ``start``: what arrives for it is lost.

        With a name, note its state as it is now beside a machine that goes on.
        """
        await trio.lowlevel.checkpoint()
        if tag is not None:
            self.life.move(Move.KEEP)
            if checked_tag(tag) not in self._saved and len(self._saved) >= MOST_KEPT:
                raise UsageError(f"{self.name} keeps {MOST_KEPT} states already; save one of those names again")
            self._saved[tag] = self._moment()
            self._report("vm-saved", tag=tag)
            return
        self.life.move(Move.SAVE)
        await self._hold()
        if self.state is MachineState.SAVING:
            for each in self._kept:
                each.lose()
            self.life.move(Move.IS_SAVED)
            self._report("vm-saved")

    async def restore(self, tag: str | None = None) -> None:
        """Go on with what was saved without a name; with one, go back to it.

        Raise LabError if the machine has run since, because a stand-in cannot go back, or if there is no such state.
        """
        await trio.lowlevel.checkpoint()
        if tag is None:
            self._go_on(Move.RESTORE)
            return
        self.life.move(Move.GO_BACK)
        moment = self._saved.get(checked_tag(tag))
        if moment is None:
            raise LabError(f"{self.name}: cannot restore it: Snapshot '{tag}' does not exist")
        if moment != self._moment():
            raise LabError(
                f"{self.name}: cannot restore it: it has run since {tag!r} was saved, and an emulated host cannot go back; "
                "save it without a name, or take lab.snapshot() of the whole lab"
            )
        self._report("vm-restored", tag=tag)

    async def wait_started(self) -> None:
        """Wait until the machine has been started the first time, and its servers listen."""
        await self._first_start.wait()
        await self._wait_listening()

    async def wait_state(self, *states: str) -> None:
        """Wait until the machine is in one of these states, by their words."""
        await self.life.wait(*states)

    # -- what that takes

    @property
    def clock(self) -> MachineClock:
        """The machine's time."""
        clock = self.host.scheduler
        assert isinstance(clock, MachineClock), "its hosts are made so"
        return clock

    async def _hold(self) -> None:
        self.clock.hold()
        if not self._kept:
            self._kept = tuple(KeptFrames(port, self.host.drop) for port in self.host.nics.values())
        with trio.CancelScope(shield=True):  # or it would stand still by half
            await self._settle()
        if self.clock.is_held:  # nobody was faster
            self.program_time.hold()

    def _release(self) -> None:
        self.clock.release()
        kept, self._kept = self._kept, ()
        for each in kept:
            each.deliver(self.clock)
        self.program_time.release()

    def _go_on(self, move: Move) -> None:
        self.life.move(move)
        self._release()
        self.life.move(Move.HAS_STARTED)
        self._report("vm-restored")

    def _cut(self) -> None:
        """End all that the machine does; the order is such that nobody hears of it."""
        if self.program_runner is not None:
            self.program_runner.cut()
        kept, self._kept = self._kept, ()
        for each in kept:
            each.discard()
        clock = self.clock
        if self.housing is not None:
            self.housing.stop(self)
        clock.retire()
        self.program_time.release()

    def _turn_off(self, by: str) -> None:
        self._cut()
        self.life.move(Move.ENDED)
        self._report("vm-stopped", by=by)

    def _start_programs(self) -> None:
        if self.program_runner is not None:
            self.program_runner.start()

    async def _wait_listening(self) -> None:
        if self.program_runner is not None:
            await self.program_runner.wait_listening()

    def _moment(self) -> tuple[object, ...]:
        """Tell how far the machine has come: equal as long as nothing has happened in it."""
        return self.clock, self.clock.now, self.clock.ran, self.host.delivered

    # -- what a guest offers

    @property
    def _waits_by(self) -> Scheduler:
        return self._timeline

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run ``await function(*args)`` as a program of this guest, whose sleeps and time-outs stand still with it."""
        with self.program_time.track():
            return await super().run(function, *args)

    async def ping(
        self, target: Target | HasAddress, count: int = 1, timeout: float = 1.0, size: int = 56, ttl: int = 64
    ) -> PingReply:
        """Do as any guest; a machine that does not run sends nothing."""
        if self._runs:
            return await super().ping(target, count, timeout, size, ttl)
        await trio.lowlevel.checkpoint()
        return PingReply(False, error=self._why_not, sent=0)

    async def tcp_probe(self, target: Target | HasAddress, port: int, timeout: float = 1.0) -> ProbeReply:
        """Do as any guest; a machine that does not run sends nothing."""
        if self._runs:
            return await super().tcp_probe(target, port, timeout)
        await trio.lowlevel.checkpoint()
        return ProbeReply(Verdict.SILENT, error=self._why_not)

    async def udp_probe(
        self, target: Target | HasAddress, port: int, payload: bytes = b"vnet", timeout: float = 1.0
    ) -> ProbeReply:
        """Do as any guest; a machine that does not run sends nothing."""
        if self._runs:
            return await super().udp_probe(target, port, payload, timeout)
        await trio.lowlevel.checkpoint()
        return ProbeReply(Verdict.SILENT, error=self._why_not)

    @property
    def _runs(self) -> bool:
        return self.state is MachineState.RUNNING

    @property
    def _why_not(self) -> str:
        return f"{self.name} is {self.state.value}"
