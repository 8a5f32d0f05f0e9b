"""Guests that are virtual machines: QEMU as a child of the lab, without root.

Each NIC is a ``-netdev stream`` that QEMU listens with and we dial (``adapters.qemu_stream``), so that either side may
let go and come back. QMP and the serial console are socket pairs that QEMU inherits: no paths, nothing that others could
open, and nothing said before we listened. The machine stands still until its NICs are connected and carriers are right.

States are those of VS-82 as far as they last: a machine is stopped, starting, running, paused or failed. Saving and
restoring leave it as it was. What ends by itself with status 0 was turned off from inside; everything else has failed,
and the event that says so has the last lines of the console.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Final, final

import trio

from vnet.adapters.base import AdapterContext
from vnet.adapters.qemu_stream import StreamAdapter
from vnet.errors import HostError, LabError, NoAnswer, UsageError
from vnet.guests.base import Address, InterfaceState
from vnet.guests.console import Console
from vnet.guests.opaque import OpaqueGuest
from vnet.guests.process import LabProcesses
from vnet.guests.qemu_command import Lines, MachineNic, command_line, netdev_id
from vnet.guests.qemu_process import TOLD_LINES, QemuProcess, describe_end
from vnet.guests.qmp import Qmp, QmpError
from vnet.ports import Port, Report
from vnet.topology.adapter_kinds.sockets import SocketPlace, StreamSpec
from vnet.topology.machines import ResolvedMachine
from vnet.topology.resolved import ResolvedInterface

START_TIMEOUT: Final = 30.0
SAVE_TIMEOUT: Final = 120.0
POLL_LEASE: Final = 0.05
_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


@final
class MachineState(Enum):
    """What a machine does."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"

    @property
    def is_alive(self) -> bool:
        """Tell whether there is a QEMU that can be told what to do."""
        return self in (MachineState.RUNNING, MachineState.PAUSED)


_NOTHING_DONE: Final = "does not exist"
"""In what QEMU says of a saved state that there is not."""
_OFF: Final = (MachineState.STOPPED, MachineState.FAILED)


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
        self.name = name
        self.machine = machine
        self.console = Console(name)
        self.state = MachineState.STOPPED
        self.find_lease: Callable[[bytes], IPv4Address | None] = lambda mac: None
        """Tells the address that a DHCP server of the lab has leased to a MAC address."""
        self._title = f"{lab}.{name}"
        self._interfaces = interfaces
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
        self._ports = tuple(Port(f"{name}:{nic.name}", _nowhere) for nic in interfaces)
        self.adapters = tuple(
            StreamAdapter(StreamSpec(place=SocketPlace(path=nic.path), listens=False), make_context(port))
            for nic, port in zip(self._nics, self._ports, strict=True)
        )
        for port in self._ports:
            port.on_carrier = lambda up: self._carrier_changed()
        self._links_shown = [True] * len(interfaces)
        self._is_showing_links = False
        self._nursery: trio.Nursery | None = None
        self._process: QemuProcess | None = None
        self._error_text = ""
        self._is_wanted = False
        self._is_busy = False
        self._first_start = trio.Event()
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<QemuGuest {self.name}: {self.state.value}>"

    # -- life

    def serve(self, nursery: trio.Nursery) -> None:
        """Take the nursery that the machine's tasks run in."""
        self._nursery = nursery

    async def start(self) -> None:
        """Start the machine; return when it runs. Raise LabError with what QEMU says if it does not come up."""
        self._require("start", *_OFF)
        nursery = self._nursery
        if nursery is None:
            raise UsageError(f"the lab of {self.name} does not run")
        self._error_text = ""
        self._set(MachineState.STARTING)
        self._is_wanted = True
        process: QemuProcess | None = None
        try:
            with trio.fail_after(START_TIMEOUT):
                process = self._process = await self._launch(nursery)
                await process.qmp.negotiate()
                for adapter in self.adapters:
                    adapter.start()
                self._links_shown = [True] * len(self._ports)
                await self._show_links(process.qmp)
                await process.qmp.execute("cont")
        except (LabError, OSError, trio.TooSlowError) as error:
            if process is not None:
                await process.end()
            reason = (process.said if process is not None else "") or str(error) or "QEMU does not answer"
            self._fail(f"did not start: {reason}")
            raise LabError(f"{self.name} did not start: {reason}") from error
        finally:
            self._first_start.set()
        if self.state is MachineState.STARTING:  # it may have ended already
            self._set(MachineState.RUNNING)
        self._report("vm-started", pid=process.pid)

    async def wait_started(self) -> None:
        """Wait until the machine has been started the first time; raise LabError if it failed to."""
        await self._first_start.wait()
        if self.state is MachineState.FAILED:
            raise LabError(f"{self.name} {self._error_text}")

    async def wait_state(self, *states: str) -> None:
        """Wait until the machine is in one of these states, by their words."""
        while self.state.value not in states:
            await self._changed.wait()

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
        if self.state is MachineState.STARTING:
            return  # who starts it says what went wrong
        if not self._is_wanted or status == 0:
            self._set(MachineState.STOPPED)
            self._report("vm-stopped", by="guest" if self._is_wanted else "lab")
        else:
            self._fail(describe_end(status), process.said if process is not None else "")

    def _fail(self, how: str, said: str = "") -> None:
        self._error_text = how
        self._set(MachineState.FAILED)
        self._report("vm-failed", error=how, console=" / ".join(self.console.last_lines(TOLD_LINES)), qemu=said)

    async def stop(self) -> None:
        """Turn the machine off as by its switch: QEMU quits, or is ended. Does nothing if it does not run."""
        if self.state in _OFF:
            return
        self._is_wanted = False
        if self._process is not None:
            await self._process.end()

    async def shutdown(self, timeout: float = 60.0) -> None:
        """Press the power button (ACPI) and wait until the machine is off; raise NoAnswer after *timeout* seconds."""
        self._require("shut down", MachineState.RUNNING)
        await self.execute("system_powerdown")
        with trio.move_on_after(timeout):
            await self.wait_state(*(state.value for state in _OFF))
            return
        raise NoAnswer(f"{self.name} did not heed its power button within {timeout:g} s")

    async def pause(self) -> None:
        """Hold the machine's CPUs. Frames for it wait in a bounded queue, then are dropped."""
        self._require("pause", MachineState.RUNNING)
        await self.execute("stop")
        self._set(MachineState.PAUSED)

    async def resume(self) -> None:
        """Let a paused machine go on."""
        self._require("resume", MachineState.PAUSED)
        await self.execute("cont")
        self._set(MachineState.RUNNING)

    async def reset(self) -> None:
        """Press the reset button."""
        self._require("reset", MachineState.RUNNING, MachineState.PAUSED)
        await self.execute("system_reset")
        self._report("vm-reset", by="lab")

    async def save(self, tag: str) -> None:
        """Save memory, devices and qcow2 disks under a name; it lasts as long as the lab, or as the machine's own disk."""
        await self._snapshot("save", f"savevm {_checked(tag)}")
        self._report("vm-saved", tag=tag)

    async def restore(self, tag: str) -> None:
        """Go back to what was saved under a name; the machine runs on if it runs, and stays paused if it is."""
        await self._snapshot("restore", f"loadvm {_checked(tag)}")
        self._links_shown = [not port.carrier for port in self._ports]  # the carriers came back as they were: show them all
        self._carrier_changed()
        self._report("vm-restored", tag=tag)

    async def _snapshot(self, verb: str, line: str) -> None:
        self._require(verb, MachineState.RUNNING, MachineState.PAUSED)
        if self._is_busy:
            raise UsageError(f"{self.name} is being saved or restored")
        was_running, self._is_busy = self.state is MachineState.RUNNING, True
        qmp = self._alive()
        try:
            await qmp.monitor(line, SAVE_TIMEOUT)
        except QmpError as error:
            if _NOTHING_DONE in str(error) and was_running:
                await self.execute("cont")  # loadvm has stopped it all the same
            raise LabError(f"{self.name}: cannot {verb} it: {error}") from error
        finally:
            self._is_busy = False
            with contextlib.suppress(QmpError):  # what half a restore left stands still, and is said to
                status = await qmp.execute("query-status")
                if self.state.is_alive and isinstance(status, dict):
                    self._set(MachineState.RUNNING if status.get("running") else MachineState.PAUSED)

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

    def _require(self, verb: str, *states: MachineState) -> None:
        if self.state not in states:
            wanted = " or ".join(state.value for state in states)
            raise UsageError(f"cannot {verb} {self.name}: it is {self.state.value}, and must be {wanted}")

    def _set(self, state: MachineState) -> None:
        self.state = state
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _on_event(self, event: str, data: Mapping[str, object]) -> None:
        """Take note of what happens in the machine, unless we are the cause."""
        if event == "STOP" and self.state is MachineState.RUNNING and not self._is_busy:
            self._set(MachineState.PAUSED)
            self._report("vm-paused")
        elif event == "RESUME" and self.state is MachineState.PAUSED and not self._is_busy:
            self._set(MachineState.RUNNING)
            self._report("vm-resumed")
        elif event == "RESET" and data.get("guest") is True:
            self._report("vm-reset", by="guest")
        elif event == "GUEST_PANICKED":
            self._report("vm-panicked", console=" / ".join(self.console.last_lines(TOLD_LINES)))

    # -- cables

    def _carrier_changed(self) -> None:
        """Show the guest a cable that was plugged or unplugged; several changes become one."""
        process = self._process
        if self.state.is_alive and not self._is_showing_links and self._nursery is not None and process is not None:
            self._is_showing_links = True
            self._nursery.start_soon(self._show_links_later, process.qmp)

    async def _show_links_later(self, qmp: Qmp) -> None:
        try:
            await self._show_links(qmp)
        except QmpError:
            pass  # it ends
        finally:
            self._is_showing_links = False

    async def _show_links(self, qmp: Qmp) -> None:
        while True:
            wrong = [n for n, port in enumerate(self._ports) if port.carrier != self._links_shown[n]]
            if not wrong:
                return
            number, up = wrong[0], self._ports[wrong[0]].carrier
            await qmp.execute("set_link", {"name": netdev_id(number), "up": up})
            self._links_shown[number] = up

    # -- what a guest offers

    @property
    def pid(self) -> int | None:
        """The process number of QEMU; None if it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def error(self) -> str:
        """Why the machine failed; empty if it has not."""
        return self._error_text if self.state is MachineState.FAILED else ""

    @property
    def ports(self) -> tuple[Port, ...]:
        """The machine's ends of its cables."""
        return self._ports

    @property
    def address(self) -> Address | None:
        """The first address that the topology says it has, or a DHCP server of the lab has leased to it."""
        every = [address for state in self.interfaces() for address in state.addresses]
        return next((each.ip for each in sorted(every, key=lambda each: each.version)), None)

    def interfaces(self) -> tuple[InterfaceState, ...]:
        """Describe the NICs; what addresses they really have, only the machine knows."""
        return tuple(
            InterfaceState(
                nic.name, nic.mac, self._addresses(nic), nic.gateway, up=port.carrier,
                dhcp="" if nic.dhcp is None else "bound" if self.find_lease(nic.mac) else "waiting",
            )
            for nic, port in zip(self._interfaces, self._ports, strict=True)
        )  # fmt: skip

    def _addresses(self, nic: ResolvedInterface) -> tuple[IPv4Interface | IPv6Interface, ...]:
        lease = self.find_lease(nic.mac) if nic.dhcp is not None else None
        return nic.addresses if lease is None else (*nic.addresses, IPv4Interface(lease))

    async def dhcp(self, timeout: float = 30.0) -> IPv4Address:
        """Wait until each NIC with ``dhcp: true`` has a lease from the lab (any NIC, if none says so); return the first."""
        stated = [nic for nic in self._interfaces if nic.dhcp is not None]
        with trio.move_on_after(timeout):
            while True:
                leases = [self.find_lease(nic.mac) for nic in stated or self._interfaces]
                found = [lease for lease in leases if lease is not None]
                if found and (not stated or len(found) == len(leases)):
                    return found[0]
                await trio.sleep(POLL_LEASE)
        raise NoAnswer(f"{self.name} got no address by DHCP within {timeout:g} s")


def check_files(name: str, machine: ResolvedMachine) -> None:
    """Raise HostError for a file of a machine that is not there, before anything is made."""
    for key, path in machine.files:
        if not os.path.isfile(path):
            raise HostError(f"guest {name}: there is no {key} {path}")


def _checked(tag: str) -> str:
    """Pass a name for a saved state; it becomes part of a command line of the monitor."""
    if not _TAG.fullmatch(tag):
        raise UsageError(f"{tag[:80]!r} cannot be the name of a saved state; use up to 63 letters, digits, -, _ and .")
    return tag


def _nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for an adapter that is not there yet."""
