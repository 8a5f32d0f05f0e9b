"""What an iperf3 test showed, in numbers that add both sides up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

from vnet.programs.iperf3_protocol import Results, StreamResults


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Iperf3Result:
    """The sums of a test: octets as the sender and as the receiver counted them, rates in bit/s, and for UDP the rest.

    ``jitter`` is the mean of the streams' in seconds, ``lost`` and ``datagrams`` are as the receiver counted.
    """

    sent_octets: int
    received_octets: int
    seconds: float
    sent_bps: float
    received_bps: float
    streams: int
    udp: bool = False
    jitter: float = 0.0
    lost: int = 0
    datagrams: int = 0

    @property
    def loss(self) -> float:
        """The share of datagrams that did not arrive, 0 to 1."""
        return self.lost / self.datagrams if self.datagrams else 0.0

    def summary(self) -> dict[str, int | float]:
        """Return it as plain data, whose keys carry the units; of TCP without what only datagrams have."""
        others = ("seconds", "udp", "jitter") if self.udp else ("seconds", "udp", "jitter", "lost", "datagrams")
        plain = {key: value for key, value in asdict(self).items() if key not in others} | {"duration_s": self.seconds}
        return {**plain, "jitter_s": self.jitter, "loss": self.loss} if self.udp else plain


def summarize(ours: Results, theirs: Results, *, we_send: bool, udp: bool) -> Iperf3Result:
    """Add up what both sides say."""
    sender, receiver = (ours, theirs) if we_send else (theirs, ours)
    sent, received = (int(sum(_plausible(stream.bytes) for stream in side.streams)) for side in (sender, receiver))
    seconds = max((_plausible(stream.end_time - stream.start_time) for stream in ours.streams), default=0.0)
    counted = receiver.streams if udp else []
    return Iperf3Result(
        sent_octets=sent,
        received_octets=received,
        seconds=seconds,
        sent_bps=sent * 8 / seconds if seconds else 0.0,
        received_bps=received * 8 / seconds if seconds else 0.0,
        streams=len(ours.streams),
        udp=udp,
        jitter=sum(_plausible(stream.jitter) for stream in counted) / len(counted) if counted else 0.0,
        lost=int(sum(_datagrams(stream)[0] for stream in counted)),
        datagrams=int(sum(_datagrams(stream)[1] for stream in counted)),
    )


def _datagrams(stream: StreamResults) -> tuple[float, float]:
    lost = _plausible(stream.errors - stream.omitted_errors)
    return lost, _plausible(stream.packets - stream.omitted_packets)


def _plausible(number: float) -> float:
    """Keep a peer's number within what can be counted: JSON has negative ones, and such as no float holds."""
    return number if 0 <= number < 2**63 else 0.0
