"""Guests that are virtual machines: QEMU as a child of the lab, without root.

Each NIC is a ``-netdev stream`` that QEMU listens with and we dial (``adapters.qemu_stream``), so that either side may
let go and come back. QMP and the serial console are socket pairs that QEMU inherits: no paths, nothing that others could
open, and nothing said before we listened. The machine stands still until its NICs are connected and carriers are right.

States and moves are those of ``machine_life``. What is saved without a name is a snapshot that QEMU ends after, and the next
one begins with. What ends by itself with status 0 was turned off from inside; everything else has failed, and the event that
says so has the last lines of the console.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Final, final

import trio

from vnet.adapters.base import AdapterContext
from vnet.adapters.qemu_stream import StreamAdapter
from vnet.errors import LabError, NoAnswer, UsageError
from vnet.guests.console import Console
from vnet.guests.machine_life import OFF, Life, MachineState, Move, checked_tag
from vnet.guests.opaque import OpaqueGuest
from vnet.guests.process import LabProcesses
from vnet.guests.qemu_command import Lines, MachineNic, command_line
from vnet.guests.qemu_links import ShownLinks
from vnet.guests.qemu_process import TOLD_LINES, QemuProcess, describe_end
from vnet.guests.qmp import Qmp, QmpError
from vnet.ports import Port, Report
from vnet.topology.adapter_kinds.sockets import SocketPlace, StreamSpec
from vnet.topology.machines import ResolvedMachine
from vnet.topology.resolved import ResolvedInterface

START_TIMEOUT: Final = 30.0
SAVE_TIMEOUT: Final = 120.0
PUT_AWAY: Final = "vnet-saved"
"""What QEMU calls the state that was saved without a name."""
_NOTHING_DONE: Final = "does not exist"
"""In what QEMU says of a saved state that there is not."""


@final
class QemuGuest(OpaqueGuest):
    """A virtual machine with its *interfaces*; ``start`` runs it, in the nursery that ``serve`` was given.

    *index* tells its sockets in *directory* from those of others. *make_context* gives what an adapter is opened with.
    """

    kind: Final = "qemu"

    def __init__(
        self,
        name: str,
        lab: str,
        machine: ResolvedMachine,
        interfaces: tuple[ResolvedInterface, ...],
        *,
        index: int,
        directory: str,
        processes: LabProcesses,
        report: Report,
        make_context: Callable[[Port], AdapterContext],
    ) -> None:
        super().__init__(name, interfaces, tuple(Port(f"{name}:{nic.name}", _nowhere) for nic in interfaces))
        self.machine = machine
        self.console = Console(name)
        self.life = Life(name)
        self._title = f"{lab}.{name}"
        self._processes = processes
        self._report = report
        self._state_file = os.path.join(directory, f"v{index}.qcow2")
        self._nics = tuple(
            MachineNic(
                name=nic.name, mac=nic.mac, model=nic.model or "virtio", mtu=nic.mtu,
                path=os.path.join(directory, f"v{index}.n{number}"),
            )
            for number, nic in enumerate(interfaces)
        )  # fmt: skip
        self.adapters = tuple(
            StreamAdapter(StreamSpec(place=SocketPlace(path=nic.path), listens=False), make_context(port))
            for nic, port in zip(self._nics, self._ports, strict=True)
        )
        self._links = ShownLinks(self._ports, self._carrier_changed)
        self._nursery: trio.Nursery | None = None
        self._process: QemuProcess | None = None
        self._is_wanted = False
        self._is_put_away = False
        self._is_busy = False
        self._first_start = trio.Event()

    def __repr__(self) -> str:
        return f"<QemuGuest {self.name}: {self.state.value}>"

    # -- life

    def serve(self, nursery: trio.Nursery) -> None:
        """Take the nursery that the machine's tasks run in."""
        self._nursery = nursery

    @property
    def state(self) -> MachineState:
        """How the machine stands."""
        return self.life.state

    async def start(self) -> None:
        """Start the machine, or go on with what was saved; return when it runs.

        Raise LabError with what QEMU says if it does not come up; what was saved stays so then.
        """
        await self._start(Move.START)

    async def _start(self, move: Move) -> None:
        self.life.check(move)
        nursery = self._nursery
        if nursery is None:
            raise UsageError(f"the lab of {self.name} does not run")
        self.life.move(move)
        restoring = self.state is MachineState.RESTORING
        self._is_wanted, self._is_put_away = True, False
        process: QemuProcess | None = None
        try:
            with trio.fail_after(START_TIMEOUT + (SAVE_TIMEOUT if restoring or self._keeps_state else 0)):
                process = self._process = await self._launch(nursery)
                await process.qmp.negotiate()
                for adapter in self.adapters:
                    adapter.start()
                self._links.began()
                restoring = restoring or await self._was_put_away(process.qmp)
                if restoring:
                    await process.qmp.monitor(f"loadvm {PUT_AWAY}", SAVE_TIMEOUT)
                    await process.qmp.monitor(f"delvm {PUT_AWAY}", SAVE_TIMEOUT)  # or a later lab would go back to it
                    self._links.came_back()
                await self._links.show(process.qmp)
                await process.qmp.execute("cont")
        except (LabError, OSError, trio.TooSlowError) as error:
            if process is not None:
                await process.end()
            reason = (process.said if process is not None else "") or str(error) or "QEMU does not answer"
            self._fail(f"did not start: {reason}")
            raise LabError(f"{self.name} did not start: {reason}") from error
        finally:
            self._first_start.set()
        self.life.move(Move.HAS_STARTED)
        self._report("vm-restored" if restoring else "vm-started", pid=process.pid)
        if process.ended.is_set():
            self._on_end(process.status)  # it did so already

    @property
    def _keeps_state(self) -> bool:
        """Tell whether what the lab saves as it ends is there in the next one (VS-84)."""
        return self.machine.stop_action == "save" and self.machine.disk is not None

    async def _was_put_away(self, qmp: Qmp) -> bool:
        """Tell, as it starts the first time, whether an earlier lab has saved it on its own disk."""
        if self._first_start.is_set() or not self._keeps_state:
            return False
        told = await qmp.execute("human-monitor-command", {"command-line": "info snapshots"})
        return isinstance(told, str) and PUT_AWAY in told.partition("partial")[0]

    async def wait_started(self) -> None:
        """Wait until the machine has been started the first time; raise LabError if it failed to."""
        await self._first_start.wait()
        if self.state is MachineState.FAILED:
            raise LabError(f"{self.name} {self.error}")

    async def wait_state(self, *states: str) -> None:
        """Wait until the machine is in one of these states, by their words."""
        await self.life.wait(*states)

    async def _launch(self, nursery: trio.Nursery) -> QemuProcess:
        def command(lines: Lines) -> list[str]:
            return command_line(self._title, self.machine, self._nics, lines)

        return await QemuProcess.launch(
            nursery, self._processes, self._state_file, command, self.console, self._on_event, self._on_end
        )

    def _on_end(self, status: int) -> None:
        process, self._process = self._process, None
        for adapter in self.adapters:
            adapter.stop()
        if self.state in (MachineState.STARTING, MachineState.RESTORING):
            return  # who starts it says what went wrong
        if self.state is MachineState.SAVING and self._is_put_away:
            self.life.move(Move.IS_SAVED)
            self._report("vm-saved")
        elif not self._is_wanted or status == 0:
            self.life.move(Move.ENDED)
            self._report("vm-stopped", by="guest" if self._is_wanted else "lab")
        else:
            self._fail(describe_end(status), process.said if process is not None else "")

    def _fail(self, how: str, said: str = "") -> None:
        self.life.move(*((Move.IS_SAVED,) if self.state is MachineState.RESTORING else (Move.FAILED, how)))
        self._report("vm-failed", error=how, console=" / ".join(self.console.last_lines(TOLD_LINES)), qemu=said)

    async def stop(self) -> None:
        """Turn the machine off as by its switch: QEMU quits, or is ended; what was saved is discarded.

        Does nothing if it is off.
        """
        was_saved = self.state is MachineState.SAVED
        self.life.move(Move.STOP, self.error)
        self._is_wanted = False
        if self._process is not None:
            await self._process.end()
        elif was_saved and self._keeps_state and self._nursery is not None:
            await self._discard(self._nursery)
        elif was_saved:
            self.life.move(Move.ENDED)
            self._report("vm-stopped", by="lab")

    async def _discard(self, nursery: trio.Nursery) -> None:
        """Take what was saved off the machine's own disk, where it would outlive the lab; nothing of it runs for that."""
        process = self._process = await self._launch(nursery)
        try:
            await process.qmp.negotiate()
            await process.qmp.monitor(f"delvm {PUT_AWAY}", SAVE_TIMEOUT)
        except QmpError as error:
            raise LabError(f"{self.name}: cannot discard what was saved: {error}") from error
        finally:
            await process.end()

    async def shutdown(self, timeout: float = 60.0) -> None:
        """Press the power button (ACPI) and wait until the machine is off; raise NoAnswer after *timeout* seconds."""
        self.life.check(Move.SHUT_DOWN)
        await self.execute("system_powerdown")
        with trio.move_on_after(timeout):
            await self.wait_state(*(state.value for state in OFF))
            return
        raise NoAnswer(f"{self.name} did not heed its power button within {timeout:g} s")

    async def pause(self) -> None:
        """Hold the machine's CPUs. Frames for it wait in a bounded queue, then are dropped."""
        self.life.check(Move.PAUSE)
        await self.execute("stop")
        if self.state is MachineState.RUNNING:  # its own event may have been faster
            self.life.move(Move.PAUSE)

    async def resume(self) -> None:
        """Let a paused machine go on."""
        self.life.check(Move.RESUME)
        await self.execute("cont")
        if self.state is MachineState.PAUSED:
            self.life.move(Move.RESUME)

    async def reset(self) -> None:
        """Press the reset button."""
        self.life.check(Move.RESET)
        await self.execute("system_reset")
        self._report("vm-reset", by="lab")

    async def save(self, tag: str | None = None) -> None:
        """Save the machine's memory and devices, and end QEMU, until ``restore`` or ``start``.

        With a name, save them beside the machine as it goes on, with its qcow2 disks; that lasts as long as the lab, or as
        the machine's own disk.
        """
        if tag is None:
            with trio.CancelScope(shield=True):  # half a save would leave it neither here nor there
                await self._put_away()
            return
        await self._snapshot(Move.KEEP, f"savevm {checked_tag(tag)}")
        self._report("vm-saved", tag=tag)

    async def restore(self, tag: str | None = None) -> None:
        """Go on with what was saved without a name; with one, go back to it: a machine that is paused stays so."""
        if tag is None:
            await self._start(Move.RESTORE)
            return
        await self._snapshot(Move.GO_BACK, f"loadvm {checked_tag(tag)}")
        self._links.came_back()
        self._carrier_changed()
        self._report("vm-restored", tag=tag)

    async def _put_away(self) -> None:
        self.life.check(Move.SAVE)
        self._check_idle()
        process, was_running = self._process, self.state is MachineState.RUNNING
        self.life.move(Move.SAVE)
        try:
            if was_running:
                await self.execute("stop")
            await self._alive().monitor(f"savevm {PUT_AWAY}", SAVE_TIMEOUT)
        except (QmpError, LabError) as error:
            if self.state is MachineState.SAVING:
                if was_running:
                    await self.execute("cont")
                self.life.move(Move.RUNS_ON if was_running else Move.STANDS)
            raise LabError(f"{self.name}: cannot save it: {error}") from error
        self._is_put_away = True
        if process is not None:
            await process.end()

    def _check_idle(self) -> None:
        if self._is_busy:
            raise UsageError(f"{self.name} is being saved or restored")

    async def _snapshot(self, move: Move, line: str) -> None:
        self.life.check(move)
        self._check_idle()
        was_running, self._is_busy = self.state is MachineState.RUNNING, True
        qmp = self._alive()
        try:
            await qmp.monitor(line, SAVE_TIMEOUT)
        except QmpError as error:
            if _NOTHING_DONE in str(error) and was_running:
                await self.execute("cont")  # loadvm has stopped it all the same
            verb = "save" if move is Move.KEEP else "restore"
            raise LabError(f"{self.name}: cannot {verb} it: {error}") from error
        finally:
            self._is_busy = False
            with contextlib.suppress(QmpError):  # what half a restore left stands still, and is said to
                status = await qmp.execute("query-status")
                if self.state.is_alive and isinstance(status, dict):
                    self._follow(running=status.get("running") is True)

    def _follow(self, *, running: bool) -> bool:
        """Take note of whether the CPUs run; tell whether that is news."""
        is_news = self.state.is_alive and running != (self.state is MachineState.RUNNING)
        if is_news:
            self.life.move(Move.RUNS_ON if running else Move.STANDS)
        return is_news

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Have QEMU carry out any QMP command, and return its answer; raise LabError with what QEMU says."""
        try:
            return await self._alive().execute(command, arguments)
        except QmpError as error:
            raise LabError(f"{self.name}: {error}") from error

    def _alive(self) -> Qmp:
        if self._process is None:
            raise UsageError(f"{self.name} does not run")
        return self._process.qmp

    def _on_event(self, event: str, data: Mapping[str, object]) -> None:
        """Take note of what happens in the machine, unless we are the cause."""
        if event in ("STOP", "RESUME"):
            if not self._is_busy and self._follow(running=event == "RESUME"):
                self._report("vm-paused" if event == "STOP" else "vm-resumed")
        elif event == "RESET" and data.get("guest") is True:
            self._report("vm-reset", by="guest")
        elif event == "GUEST_PANICKED":
            self._report("vm-panicked", console=" / ".join(self.console.last_lines(TOLD_LINES)))

    # -- cables

    def _carrier_changed(self) -> None:
        process = self._process
        if self.state.is_alive and self._nursery is not None and process is not None:
            self._links.show_later(self._nursery, process.qmp)

    # -- what a guest offers

    @property
    def pid(self) -> int | None:
        """The process number of QEMU; None if it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def error(self) -> str:
        """Why the machine failed; empty if it has not."""
        return self.life.error


def _nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for an adapter that is not there yet."""
