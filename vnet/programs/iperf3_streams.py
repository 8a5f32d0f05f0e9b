"""The data of an iperf3 test: streams that send or receive, over TCP or UDP, and what each side counts.

A stream sends until it is cancelled or a quota that all streams of a test share is used up. Jitter is the interarrival
jitter of RFC 3550, 6.4.1: only differences of clocks enter it, so any two clocks will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

import trio

from vnet.programs.closed_sockets import raise_if_closed
from vnet.programs.iperf3_protocol import MAX_UDP_BLOCK, UDP_HEADER, UDP_HEADER_64, StreamResults
from vnet.programs.program_clock import program_time, sleep_until
from vnet.programs.standstill import Standstill

SOCKET_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a connection that the other end gave up raises."""


@final
class Pacer:
    """Spaces blocks so that a stream keeps to a rate in bit/s; 0 is no limit. A stream that was held up catches up."""

    __slots__ = ("_due", "_rate_bps")

    def __init__(self, rate_bps: float) -> None:
        self._rate_bps = rate_bps
        self._due: float | None = None

    async def wait(self, octets: int) -> None:
        """Wait until the next block may go."""
        if not self._rate_bps:
            return
        now = program_time()
        if self._due is None:
            self._due = now
        if self._due > now:
            await sleep_until(self._due)
        self._due += octets * 8 / self._rate_bps


@final
class Quota:
    """What all streams of a test may send, or are to receive, together; None is no limit. ``spent`` is set at its end.

    ``is_time`` tells a sender that nothing but time ends the test.
    """

    __slots__ = ("is_time", "left", "spent")

    def __init__(self, octets: int | None, *, is_time: bool | None = None) -> None:
        self.left = octets
        self.is_time = octets is None if is_time is None else is_time
        self.spent = trio.Event()

    def take(self, octets: int) -> bool:
        """Take a block's octets, the last block whole as iperf3 does; False if nothing was left."""
        if self.left is None:
            return True
        if self.left <= 0:
            return False
        self.left -= octets
        if self.left <= 0:
            self.spent.set()
        return True


@final
@dataclass(slots=True)
class Tally:
    """What one side counts of one stream. ``lost`` and ``out_of_order`` are known to a receiver of UDP only."""

    number: int
    octets: int = 0
    packets: int = 0
    lost: int = 0
    out_of_order: int = 0
    jitter: float = 0.0
    omitted_lost: int = 0
    omitted_packets: int = 0
    started: float = field(default_factory=trio.current_time)
    ended: float | None = None
    _transit: float | None = None

    def omit(self) -> None:
        """Begin anew: what was before is not to be counted."""
        self.octets = 0
        self.omitted_lost, self.omitted_packets = self.lost, self.packets
        self.jitter = 0.0
        self.started = trio.current_time()

    def arrived(self, octets: int, number: int, sent_at: float, now: float) -> None:
        """Note a datagram by its number and time: a gap is loss, until what was missing comes late (as iperf3 counts)."""
        self.octets += octets
        if number > self.packets:
            self.lost += number - 1 - self.packets
            self.packets = number
        else:
            self.out_of_order += 1
            if self.lost:
                self.lost -= 1
        transit = now - sent_at
        if self._transit is not None:
            self.jitter += (abs(transit - self._transit) - self.jitter) / 16
        self._transit = transit

    def results(self) -> StreamResults:
        """Return it in iperf3's terms."""
        ended = trio.current_time() if self.ended is None else self.ended
        return StreamResults(
            id=self.number, bytes=self.octets, jitter=self.jitter, errors=self.lost, omitted_errors=self.omitted_lost,
            packets=self.packets, omitted_packets=self.omitted_packets, end_time=max(0.0, ended - self.started),
        )  # fmt: skip


class DataStream(Protocol):
    """One stream of a test."""

    tally: Tally

    async def send(self, block: int, pacer: Pacer, quota: Quota) -> None:
        """Send blocks until the quota is used up, or the peer gives up."""

    async def receive(self, quota: Quota) -> None:
        """Count what comes until the peer ends."""

    def close(self) -> None:
        """Give the connection up."""


@final
class TcpStream:
    """A stream over its own TCP connection."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self.stream = stream
        self.tally = Tally(number)

    async def send(self, block: int, pacer: Pacer, quota: Quota) -> None:
        """Send blocks until the quota is used up, or the peer gives up."""
        data = bytes(block)
        standstill = Standstill()
        try:
            while quota.take(block):
                if quota.is_time:
                    standstill.count(block)
                await pacer.wait(block)
                await self.stream.send_all(data)
                self.tally.octets += block
        except SOCKET_ERRORS:
            pass  # the control connection tells why

    async def receive(self, quota: Quota) -> None:
        """Count what comes until the peer ends."""
        try:
            while data := await self.stream.receive_some(128 * 1024):
                self.tally.octets += len(data)
                quota.take(len(data))
        except SOCKET_ERRORS:
            pass

    def close(self) -> None:
        """Give the connection up."""
        self.stream.socket.close()


@final
class UdpStream:
    """A stream of datagrams to one peer. The server's streams share one socket, which somebody else reads for them."""

    def __init__(
        self, socket: trio.socket.SocketType, peer: tuple[str, int], number: int, *, wide: bool = False, shared: bool = False
    ) -> None:
        self.socket = socket
        self.peer = peer
        self.tally = Tally(number)
        self._shared = shared
        self._header = UDP_HEADER_64 if wide else UDP_HEADER

    async def send(self, block: int, pacer: Pacer, quota: Quota) -> None:
        """Send datagrams until the quota is used up; what the network says of them is no reason to stop."""
        padding = bytes(block - self._header.size)
        tally, standstill = self.tally, Standstill()
        while quota.take(block):
            if quota.is_time:
                standstill.count(block)
            await pacer.wait(block)
            now = trio.current_time()
            tally.packets += 1
            header = self._header.pack(int(now) & 0xFFFFFFFF, int(now % 1 * 1e6), tally.packets & 0xFFFFFFFF)
            try:
                await self.socket.sendto(header + padding, self.peer)
            except OSError as error:
                raise_if_closed(error)
                await trio.lowlevel.checkpoint()
                continue  # an ICMP error about an earlier one, or a full queue: iperf3 sends on, too
            tally.octets += block

    async def receive(self, quota: Quota) -> None:
        """Count what comes on a socket of the stream's own; for a shared one whoever reads it calls ``count``."""
        if self._shared:
            await trio.sleep_forever()
        while True:
            try:
                data = await self.socket.recv(MAX_UDP_BLOCK)
            except trio.ClosedResourceError:
                return
            except OSError as error:
                raise_if_closed(error)
                continue  # an ICMP error about what we sent
            self.count(data, quota)

    def count(self, data: bytes, quota: Quota) -> None:
        """Take note of a datagram; greetings and answers that come twice are shorter than a header."""
        if len(data) < self._header.size:
            return
        seconds, microseconds, number = self._header.unpack_from(data)
        self.tally.arrived(len(data), number, seconds + microseconds / 1e6, trio.current_time())
        quota.take(len(data))

    def close(self) -> None:
        """Give the connection up."""
        self.socket.close()


async def run_streams(
    streams: Sequence[DataStream], *, sends: bool, block: int, rate_bps: float, quota: Quota, omit: float
) -> None:
    """Let all streams of a side run, until they end by themselves or are cancelled; then they are counted no more."""
    for stream in streams:
        stream.tally.started = trio.current_time()
    try:
        async with trio.open_nursery() as nursery:
            if omit:
                nursery.start_soon(_omit, streams, omit)
            for stream in streams:
                if sends:
                    nursery.start_soon(stream.send, block, Pacer(rate_bps), quota)
                else:
                    nursery.start_soon(stream.receive, quota)
    finally:
        for stream in streams:
            stream.tally.ended = trio.current_time()


async def _omit(streams: Sequence[DataStream], omit: float) -> None:
    await trio.sleep(omit)
    for stream in streams:
        stream.tally.omit()
