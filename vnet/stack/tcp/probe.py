"""Probes: one SYN tells whether a peer's port is open, with no connection made."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Final, NamedTuple, final

from vnet.stack.tcp.states import MASK, MODULUS, Segment, split
from vnet.stack.transport import IcmpError
from vnet.units import Duration, Instant
from vnet.wire.tcp import ACK, RST, SYN, Tcp
from vnet.wire.tcp_options import TcpOptions

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface
    from vnet.stack.tcp.path import LowerLevel

EPHEMERAL_FIRST: Final = 49152
EPHEMERAL_COUNT: Final = 16384
"""Dynamic ports (RFC 6335, section 6)."""


class ProbeResult(NamedTuple):
    """What a probe found: *state* is "open", "refused" or the reason why there was neither, such as "no answer"."""

    state: str
    rtt: Duration | None = None
    source: bytes | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the port is open."""
        return self.state == "open"


OnProbe = Callable[[ProbeResult], None]


@final
class _Probe:
    """A SYN that waits for its answer."""

    __slots__ = ("on_result", "sent", "sequence")

    def __init__(self, sequence: int, sent: Instant, on_result: OnProbe) -> None:
        self.sequence = sequence
        self.sent = sent
        self.on_result = on_result


@final
class Probes:
    """The probes of a host that wait, by the key of the segment that answers them."""

    __slots__ = ("_host", "_probes")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._probes: dict[bytes, _Probe] = {}

    def is_waiting(self, key: bytes) -> bool:
        """Tell whether a probe waits for segments with this key: addresses and ports."""
        return key in self._probes

    def take(self, key: bytes, segment: Segment) -> bool:
        """Take a segment if it answers a probe, and tell the prober (RFC 9293, 3.10.7.3).

        An open port is then to be reset by the ordinary answer of a closed one.
        """
        probe = self._probes.get(key)
        if probe is None or not segment.flags & ACK or segment.acknowledgment != (probe.sequence + 1) & MASK:
            return False
        self._host.delivered += 1
        if segment.flags & (RST | SYN):
            state = "refused" if segment.flags & RST else "open"
            (source, _), _ = split(key)
            self._finish(key, ProbeResult(state, rtt=self._host.scheduler.now - probe.sent, source=source))
        return True

    def error(self, key: bytes, number: int, error: IcmpError) -> bool:
        """Take an ICMP error about segment *number*; tell whether it was about a probe."""
        probe = self._probes.get(key)
        if probe is None or number != probe.sequence:
            return False
        self._finish(key, ProbeResult(error.text, rtt=self._host.scheduler.now - probe.sent, source=error.reporter))
        return True

    def probe(
        self, lower: LowerLevel, destination: bytes, port: int, timeout: Duration, on_result: OnProbe,
        taken: Container[bytes], interface: Interface | None,
    ) -> None:  # fmt: skip
        """Send one SYN from a port whose key is not *taken*; *on_result* is called once, never from within this call."""
        host = self._host
        source = lower.source_for(destination, interface)
        if isinstance(source, str):
            host.scheduler.soon(on_result, ProbeResult(source))
            return
        stream = host.stream("tcp")
        source_port = EPHEMERAL_FIRST + stream.below(EPHEMERAL_COUNT)
        head = destination + source + port.to_bytes(2, "big")
        while (key := head + source_port.to_bytes(2, "big")) in self._probes or key in taken:
            source_port = EPHEMERAL_FIRST + (source_port + 1 - EPHEMERAL_FIRST) % EPHEMERAL_COUNT
        probe = self._probes[key] = _Probe(stream.below(MODULUS), host.scheduler.now, on_result)
        syn = Tcp(
            source_port=source_port, destination_port=port, sequence=probe.sequence, flags=SYN, window=64240,
            options=TcpOptions(mss=1500 - lower.headers).encode(),
        )  # fmt: skip
        problem = lower.send(destination, syn.encode(source, destination), source, interface)
        if problem is not None:
            host.scheduler.soon(self._give_up, key, probe, problem)
        else:
            host.scheduler.at(host.scheduler.now + timeout, self._give_up, key, probe, "no answer")

    def _give_up(self, key: bytes, probe: _Probe, problem: str) -> None:
        if self._probes.get(key) is probe:
            self._finish(key, ProbeResult(problem))

    def _finish(self, key: bytes, result: ProbeResult) -> None:
        self._probes.pop(key).on_result(result)
