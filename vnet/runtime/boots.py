"""Hosts of emulated guests that stop and start: by a crash, or as machines do."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.build import Builder

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab


@final
class Boots:
    """Replaces the hosts of a lab's guests."""

    def __init__(self, lab: Lab, builder: Builder) -> None:
        self._lab = lab
        self._builder = builder
        self._count: dict[str, int] = {}

    def stop(self, guest: EmulatedGuest) -> None:
        """Put a blank host in the place of the guest's; the old one keeps its timers, and no way to be heard."""
        name, old = guest.name, guest.host
        old.abandon_nics()
        self._count[name] = self._count.get(name, 0) + 1
        guest.replace_host(self._builder.blank_host(name, self._count[name]))

    def boot(self, guest: EmulatedGuest) -> None:
        """Plug the guest's blank host in, and give it what the topology says."""
        guest.host.adopt_nics({name: self._lab.ports[port.name] for name, port in guest.host.nics.items()})
        self._builder.start_host(guest.name)
        guest.host.changed()
