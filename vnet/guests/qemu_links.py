"""Cables as a machine of QEMU sees them: each port's carrier becomes ``set_link`` of its NIC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import trio

from vnet.guests.qemu_command import netdev_id
from vnet.guests.qmp import Qmp, QmpError
from vnet.ports import Port


@final
class ShownLinks:
    """What QEMU was told of the carriers of *ports*; *changed* is called when one of those changes."""

    def __init__(self, ports: Sequence[Port], changed: Callable[[], None]) -> None:
        self._ports = ports
        self._shown = [True] * len(ports)
        self._is_showing = False
        for port in ports:
            port.on_carrier = lambda up: changed()

    def began(self) -> None:
        """Take note of a QEMU that has just started: it takes every cable for plugged in."""
        self._shown = [True] * len(self._ports)

    def came_back(self) -> None:
        """Take note that the carriers came back as they were when the machine was saved: all are to be shown."""
        self._shown = [not port.carrier for port in self._ports]

    def show_later(self, nursery: trio.Nursery, qmp: Qmp) -> None:
        """Show what has changed; several changes become one."""
        if not self._is_showing:
            self._is_showing = True
            nursery.start_soon(self._show_contained, qmp)

    async def _show_contained(self, qmp: Qmp) -> None:
        try:
            await self.show(qmp)
        except QmpError:
            pass  # it ends
        finally:
            self._is_showing = False

    async def show(self, qmp: Qmp) -> None:
        """Show what has changed now."""
        while True:
            wrong = [n for n, port in enumerate(self._ports) if port.carrier != self._shown[n]]
            if not wrong:
                return
            number, up = wrong[0], self._ports[wrong[0]].carrier
            await qmp.execute("set_link", {"name": netdev_id(number), "up": up})
            self._shown[number] = up
