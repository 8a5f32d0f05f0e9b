"""What guests have in common that vnet cannot look into: nothing can be run inside, and that answers every probe."""

from __future__ import annotations

from typing import Final

import trio

from vnet.guests.base import PingReply, ProbeReply, Target, Verdict
from vnet.guests.program import GuestProgram, Row

_CANNOT: Final = "vnet cannot run anything inside a virtual machine"


class OpaqueGuest:
    """The probes and programs of such a guest."""

    @property
    def programs(self) -> tuple[GuestProgram, ...]:
        """None: what runs inside is the machine's own affair."""
        return ()

    @property
    def results(self) -> tuple[Row, ...]:
        """None, as there are no programs."""
        return ()

    async def ping(self, target: Target, count: int = 1, timeout: float = 1.0, size: int = 56) -> PingReply:
        """Say that this cannot be done from outside; the console can."""
        await trio.lowlevel.checkpoint()
        return PingReply(False, error=_CANNOT, sent=0)

    async def tcp_probe(self, target: Target, port: int, timeout: float = 1.0) -> ProbeReply:
        """Say that this cannot be done from outside."""
        await trio.lowlevel.checkpoint()
        return ProbeReply(Verdict.SILENT, error=_CANNOT)

    async def udp_probe(self, target: Target, port: int, payload: bytes = b"vnet", timeout: float = 1.0) -> ProbeReply:
        """Say that this cannot be done from outside."""
        await trio.lowlevel.checkpoint()
        return ProbeReply(Verdict.SILENT, error=_CANNOT)
