"""What the probes of an emulated guest are made of: callbacks of its host that become values to wait for."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Generic, TypeVar, final

import trio

from vnet.errors import UsageError
from vnet.guests.base import Address, ProbeReply, Verdict
from vnet.ports import Scheduler
from vnet.stack.host import Host
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.units import DAY, SECOND, Duration, nanoseconds
from vnet.wire import icmpv4, icmpv6

T = TypeVar("T")


@final
class Answer(Generic[T]):
    """What a callback will be given: call it with the value, await it for the value."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._values: list[T] = []

    def __call__(self, value: T) -> None:
        """Take the value; only the first counts."""
        self._values.append(value)
        self._event.set()

    async def wait(self) -> T:
        """Wait for the value."""
        await self._event.wait()
        return self._values[0]


@final
class UdpProbe:
    """One datagram, and whatever comes back for it."""

    def __init__(self, host: Host, peer: TransportAddress) -> None:
        self._scheduler: Scheduler = host.scheduler
        self._host = host
        self._peer = peer
        self._socket = host.udp_bind(on_datagram=self._arrived, both=True)
        self._socket.on_error = self._failed
        self._sent = host.scheduler.now
        self._answer = Answer[ProbeReply]()

    async def run(self, payload: bytes, timeout: Duration) -> ProbeReply:
        """Send and wait."""
        self._sent = self._scheduler.now
        problem = self._socket.send_to(payload, self._peer)
        if problem is not None:
            await trio.lowlevel.checkpoint()
            return ProbeReply(Verdict.UNREACHABLE, error=problem)
        self._scheduler.at(self._sent + timeout, self._answer, ProbeReply(Verdict.SILENT, error="no answer"))
        return await self._answer.wait()

    def close(self) -> None:
        """Free the port."""
        self._socket.close()

    def _arrived(self, payload: bytes, source: TransportAddress) -> None:
        if source == self._peer:
            self._answer(ProbeReply(Verdict.OPEN, self._scheduler.now - self._sent))

    def _failed(self, destination: TransportAddress, error: IcmpError) -> None:
        refused = icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE
        if len(destination[0]) == 4:
            refused = icmpv4.UNREACHABLE, icmpv4.PORT_UNREACHABLE
        if (error.kind, error.code) == refused:
            self._answer(ProbeReply(Verdict.CLOSED, self._scheduler.now - self._sent, error.text))
        else:
            self._answer(ProbeReply(Verdict.UNREACHABLE, error=with_reporter(error.text, error.reporter, self._host)))


def address_from(packed: bytes | None) -> Address | None:
    """Turn packed octets into an address."""
    return None if packed is None else ip_address(packed)


def patience(timeout: float) -> Duration:
    """Convert a time-out; one that never ends is a hundred years. Raise UsageError for what is no number."""
    if timeout != timeout:
        raise UsageError("a timeout is a number of seconds, not nan")
    return nanoseconds(min(timeout, 36_500 * DAY / SECOND))


def with_reporter(text: str, reporter: bytes | None, host: Host) -> str:
    """Say who reported an error, unless it was the host itself."""
    local = reporter is None or (host.is_local(reporter) if len(reporter) == 4 else reporter in host.use_ipv6().local)
    return text if local else f"{text} from {address_from(reporter)}"
