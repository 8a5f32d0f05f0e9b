"""``vnet set LAB GUEST pause`` and the like: what can be done to a virtual machine while the lab runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vnet.errors import UsageError
from vnet.guests.qemu import QemuGuest

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

_VERBS: Final[Mapping[str, Callable[[QemuGuest], Awaitable[None]]]] = {
    "start": QemuGuest.start, "stop": QemuGuest.stop, "shutdown": QemuGuest.shutdown, "reset": QemuGuest.reset,
    "pause": QemuGuest.pause, "resume": QemuGuest.resume,
}  # fmt: skip
_NAMED: Final[Mapping[str, Callable[[QemuGuest, str], Awaitable[None]]]] = {
    "save": QemuGuest.save, "restore": QemuGuest.restore,
}  # fmt: skip


def is_for_machine(lab: Lab, target: str, settings: Sequence[str]) -> bool:
    """Tell whether settings are such as a machine carries out, and the target a guest."""
    return target in lab.guests and all(_verb(setting) is not None for setting in settings)


def machine_of(lab: Lab, name: str) -> QemuGuest:
    """Find a virtual machine; raise UsageError for a guest that is none here."""
    guest = lab.guests[name]
    if isinstance(guest, QemuGuest):
        return guest
    others = [each.name for each in lab.guests.values() if isinstance(each, QemuGuest)]
    hint = f"guests of kind qemu are: {', '.join(others)}" if others else "this lab runs no guests of kind qemu"
    raise UsageError(f"{name} is an {guest.kind} guest here, no virtual machine; {hint}")


async def change_machine(lab: Lab, target: str, settings: Sequence[str]) -> dict[str, object]:
    """Carry out what is asked, one after the other; return how the machine stands now."""
    machine = machine_of(lab, target)
    for setting in settings:
        verb = _verb(setting)
        assert verb is not None, "is_for_machine has looked"
        key, tag = verb
        if key in _VERBS:
            await _VERBS[key](machine)
        else:
            await _NAMED[key](machine, tag)
    return {"guest": target, "state": machine.state.value, "error": machine.error or None}


def _verb(setting: str) -> tuple[str, str] | None:
    key, equals, value = setting.partition("=")
    key = key.strip().lower()
    if key in _VERBS and not equals:
        return key, ""
    return (key, value.strip()) if key in _NAMED else None
