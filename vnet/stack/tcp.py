"""What a host does about TCP while it has none: every port is closed, and a probe tells whether a peer's port is open.

Connections are to take this transport's place in ``Host.protocols``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, final

from vnet.errors import WireError
from vnet.stack.transport import IcmpError
from vnet.units import Duration, Instant
from vnet.wire import tcp
from vnet.wire.ipv4 import PROTOCOL_TCP
from vnet.wire.tcp import ACK, RST, SYN, Tcp

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface

EPHEMERAL_FIRST: Final = 49152
EPHEMERAL_COUNT: Final = 16384
_MODULUS: Final = 1 << 32


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
_Key = tuple[bytes, int, int]


@final
class _Probe:
    """A SYN that waits for its answer."""

    __slots__ = ("on_result", "sent", "sequence")

    def __init__(self, sequence: int, sent: Instant, on_result: OnProbe) -> None:
        self.sequence = sequence
        self.sent = sent
        self.on_result = on_result


@final
class ClosedTcp:
    """The TCP transport of a host without connections."""

    __slots__ = ("_host", "_probes")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._probes: dict[_Key, _Probe] = {}

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a segment: the answer to a probe, or one for a closed port."""
        host = self._host
        source, destination = packet[12:16], packet[16:20]
        try:
            segment = tcp.decode(packet[octets:], source, destination, verify=not trusted)
        except WireError:
            host.drop("tcp-malformed")
            return
        if group:
            host.drop("tcp-group")  # RFC 9293, 3.9.2.3 (MUST-57)
            return
        key = source, segment.source_port, segment.destination_port
        probe = self._probes.get(key)
        if probe is not None and segment.flags & ACK and segment.acknowledgment == (probe.sequence + 1) % _MODULUS:
            host.delivered += 1
            self._answered(key, probe, segment)
            if segment.flags & RST:
                return
        else:
            host.drop("tcp-port")
        self._refuse(segment, source, destination)

    def expects(self, packet: bytes, octets: int) -> bool:
        """Tell whether a probe waits for the segment in *packet*, whose IPv4 header has *octets*."""
        ports = int.from_bytes(packet[octets : octets + 4], "big")
        return (packet[12:16], ports >> 16, ports & 0xFFFF) in self._probes

    def _answered(self, key: _Key, probe: _Probe, segment: Tcp) -> None:
        """Tell the prober (RFC 9293, 3.10.7.3); an open port is then reset by the ordinary answer of a closed one."""
        if segment.flags & RST:
            state = "refused"
        elif segment.flags & SYN:
            state = "open"
        else:
            return
        self._finish(key, ProbeResult(state, rtt=self._host.scheduler.now - probe.sent, source=key[0]))

    def _refuse(self, segment: Tcp, source: bytes, destination: bytes) -> None:
        """Answer a segment for a connection that is not there (RFC 9293, 3.10.7.1)."""
        answer = tcp.reset_answering(segment)
        if answer is not None:
            self._host.send_ipv4(source, PROTOCOL_TCP, answer.encode(destination, source), source=destination)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an ICMP error about a probe."""
        source_port, port = quoted[octets] << 8 | quoted[octets + 1], quoted[octets + 2] << 8 | quoted[octets + 3]
        key = quoted[16:20], port, source_port
        probe = self._probes.get(key)
        if probe is None or int.from_bytes(quoted[octets + 4 : octets + 8], "big") != probe.sequence:
            return False
        self._finish(key, ProbeResult(error.text, rtt=self._host.scheduler.now - probe.sent, source=error.reporter))
        return True

    def probe(self, destination: bytes, port: int, timeout: Duration, on_result: OnProbe) -> None:
        """Send one SYN and see what comes back; *on_result* is called once, never from within this call."""
        host = self._host
        stream = host.stream("tcp")
        source_port = EPHEMERAL_FIRST + stream.below(EPHEMERAL_COUNT)
        while (key := (destination, port, source_port)) in self._probes:
            source_port = EPHEMERAL_FIRST + (source_port + 1 - EPHEMERAL_FIRST) % EPHEMERAL_COUNT
        source = host.source_for(destination)
        if source is None:
            host.scheduler.soon(on_result, ProbeResult("no route"))
            return
        probe = self._probes[key] = _Probe(stream.below(_MODULUS), host.scheduler.now, on_result)
        syn = Tcp(
            source_port=source_port, destination_port=port, sequence=probe.sequence, flags=SYN, window=64240,
            options=b"\x02\x04\x05\xb4",  # MSS 1460
        )  # fmt: skip
        problem = host.send_ipv4(destination, PROTOCOL_TCP, syn.encode(source, destination), source=source)
        if problem is not None:
            host.scheduler.soon(self._give_up, key, probe, problem)
        else:
            host.scheduler.at(host.scheduler.now + timeout, self._give_up, key, probe, "no answer")

    def _give_up(self, key: _Key, probe: _Probe, problem: str) -> None:
        if self._probes.get(key) is probe:
            self._finish(key, ProbeResult(problem))

    def _finish(self, key: _Key, result: ProbeResult) -> None:
        self._probes.pop(key).on_result(result)
