"""``vnet set LAB GUEST pause`` and the like: what can be done to a virtual machine, or its stand-in, while the lab runs."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vnet.errors import LabError, UsageError
from vnet.guests.base import Guest
from vnet.guests.machine_life import MachineState, VirtualMachine
from vnet.guests.qemu import QemuGuest
from vnet.guests.stand_in import StandIn

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

_VERBS: Final[Mapping[str, Callable[[VirtualMachine], Awaitable[None]]]] = {
    "start": lambda machine: machine.start(),
    "stop": lambda machine: machine.stop(),
    "shutdown": lambda machine: machine.shutdown(),
    "reset": lambda machine: machine.reset(),
    "pause": lambda machine: machine.pause(),
    "resume": lambda machine: machine.resume(),
    "save": lambda machine: machine.save(),
    "restore": lambda machine: machine.restore(),
}
_NAMED: Final[Mapping[str, Callable[[VirtualMachine, str], Awaitable[None]]]] = {
    "save": lambda machine, tag: machine.save(tag),
    "restore": lambda machine, tag: machine.restore(tag),
}


STOP_PATIENCE: Final = 20.0
"""Seconds that a machine gets to heed its power button when its lab ends."""


def as_machine(guest: Guest) -> VirtualMachine | None:
    """Return a guest that is a virtual machine, or stands in for one; None for any other."""
    return guest if isinstance(guest, QemuGuest | StandIn) else None


def machines_of(lab: Lab) -> list[VirtualMachine]:
    """List the machines of a lab in the order in which they start."""
    found = [machine for machine in map(as_machine, lab.guests.values()) if machine is not None]
    return sorted(found, key=lambda each: each.machine.start_order)


def is_for_machine(lab: Lab, target: str, settings: Sequence[str]) -> bool:
    """Tell whether settings are such as a machine carries out, and the target a guest."""
    return target in lab.guests and all(_verb(setting) is not None for setting in settings)


def machine_of(lab: Lab, name: str) -> VirtualMachine:
    """Find a virtual machine or its stand-in; raise UsageError for a guest that is neither."""
    guest = lab.guests[name]
    found = as_machine(guest)
    if found is not None:
        return found
    others = [each.name for each in machines_of(lab)]
    hint = f"guests of kind qemu are: {', '.join(others)}" if others else "this lab has no guests of kind qemu"
    raise UsageError(f"{name} is an {guest.kind} guest, no virtual machine; {hint}")


def qemu_of(lab: Lab, name: str) -> QemuGuest:
    """Find a machine that QEMU runs; raise UsageError for a guest that is none, or only stood in for."""
    found = machine_of(lab, name)
    if isinstance(found, QemuGuest):
        return found
    raise UsageError(f"an emulated host stands in for {name} here, which has no console; run the lab live")


async def end_machine(machine: VirtualMachine) -> None:
    """End a machine as its file says for the end of its lab: what does not heed its power button is turned off."""
    action = machine.machine.stop_action
    with contextlib.suppress(LabError, UsageError):  # it may have ended, or cannot be saved
        if action == "save":
            await machine.save()
        elif action == "shutdown":
            await machine.shutdown(STOP_PATIENCE)
    if machine.state is not MachineState.SAVED:
        await machine.stop()


async def change_machine(lab: Lab, target: str, settings: Sequence[str]) -> dict[str, object]:
    """Carry out what is asked, one after the other; return how the machine stands now."""
    machine = machine_of(lab, target)
    for setting in settings:
        verb = _verb(setting)
        assert verb is not None, "is_for_machine has looked"
        key, tag = verb
        if tag is None:
            await _VERBS[key](machine)
        else:
            await _NAMED[key](machine, tag)
    return {"guest": target, "state": machine.state.value, "error": machine.error or None}


def _verb(setting: str) -> tuple[str, str | None] | None:
    key, equals, value = setting.partition("=")
    key = key.strip().lower()
    if not equals:
        return (key, None) if key in _VERBS else None
    return (key, value.strip()) if key in _NAMED else None
