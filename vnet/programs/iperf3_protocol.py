"""What iperf3 says over its control connection, as iperf 3.12 says it; there is no standard but its source.

The client opens the control connection and sends its *cookie*: 36 characters and a NUL. From then on the server leads, with
one octet for each state. In two of the states JSON passes, behind its length in four octets::

    client                                     server
      | cookie ---------------------------------> |
      | <----------------------- PARAM_EXCHANGE   |
      | parameters (JSON) ----------------------> |
      | <----------------------- CREATE_STREAMS   |
      | a connection for each stream: cookie ---> |   UDP: a greeting and its answer
      | <----------- TEST_START, TEST_RUNNING     |
      | <======== data, one way ================> |
      | TEST_END -------------------------------> |
      | <--------------------- EXCHANGE_RESULTS   |
      | results (JSON) -------------------------> |
      | <---------------------- results (JSON)    |
      | <---------------------- DISPLAY_RESULTS   |
      | IPERF_DONE -----------------------------> |
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct as Layout
from typing import Final, TypeVar, final

import msgspec
import trio

from vnet.errors import PeerError
from vnet.ports import Randomness

DEFAULT_PORT: Final = 5201
COOKIE_OCTETS: Final = 37
MAX_STREAMS: Final = 128
MAX_TCP_BLOCK: Final = 1024 * 1024
MAX_UDP_BLOCK: Final = 65507
TCP_BLOCK: Final = 128 * 1024
UDP_BLOCK: Final = 1448
"""What iperf3 sends at once when nobody says otherwise; for UDP it asks the control connection for its MSS, we do not."""
UDP_RATE_BPS: Final = 1_000_000
MAX_SECONDS: Final = 86400
MAX_OMITTED_SECONDS: Final = 600
MAX_PARAMETERS: Final = 8 * 1024
"""Octets of the parameters, the bound that iperf3 has itself."""
MAX_RESULTS: Final = 1024 * 1024
"""Octets of a peer's results: 128 streams take some 30 KB, the rest is room for the output it may send along."""

UDP_GREETING: Final = (0x36373839).to_bytes(4, "little")
UDP_ANSWER: Final = (0x39383736).to_bytes(4, "little")
UDP_ANSWERS: Final = frozenset({UDP_ANSWER, (987654321).to_bytes(4, "little")})
"""In the order of the sender's processor, which is little-endian nearly everywhere; the second is what iperf 3.1 answers."""
UDP_HEADER: Final = Layout(">III")
UDP_HEADER_64: Final = Layout(">IIQ")
"""Seconds, microseconds, and the number of the datagram, from 1; with 64 bits where the client asked for it."""

_COOKIE_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz234567"


@final
class State(IntEnum):
    """The control connection's octets, signed."""

    TEST_START = 1
    TEST_RUNNING = 2
    TEST_END = 4
    PARAM_EXCHANGE = 9
    CREATE_STREAMS = 10
    SERVER_TERMINATE = 11
    CLIENT_TERMINATE = 12
    EXCHANGE_RESULTS = 13
    DISPLAY_RESULTS = 14
    IPERF_START = 15
    IPERF_DONE = 16
    ACCESS_DENIED = -1
    SERVER_ERROR = -2


@final
class Code(IntEnum):
    """The numbers by which iperf3 names what is wrong with a test (``i_errno``), as far as we send them."""

    DURATION = 5
    NUMBER_OF_STREAMS = 6
    BLOCK_SIZE = 7
    NOT_IMPLEMENTED = 13


@final
class Parameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the client wants; numbers are floats because cJSON writes large ones with an exponent."""

    tcp: bool = False
    udp: bool = False
    sctp: bool = False
    omit: float = 0
    time: float = 0
    num: float = 0
    blockcount: float = 0
    parallel: int = 1
    reverse: bool = False
    bidirectional: bool = False
    len: float = 0
    bandwidth: float = 0
    udp_counters_64bit: int | bool = 0
    client_version: str = ""

    def problem(self) -> Code | None:
        """Tell what is not possible here, or nonsense."""
        longest = MAX_UDP_BLOCK if self.udp else MAX_TCP_BLOCK
        if not 0 <= self.time <= MAX_SECONDS or not 0 <= self.omit <= MAX_OMITTED_SECONDS:
            return Code.DURATION
        if not 1 <= self.parallel <= MAX_STREAMS:
            return Code.NUMBER_OF_STREAMS
        if (
            not 0 <= self.len <= longest
            or self.block < (UDP_HEADER_64.size if self.udp else 1)
            or min(self.bandwidth, self.num) < 0
        ):
            return Code.BLOCK_SIZE
        if self.bidirectional or self.sctp or self.tcp == self.udp:
            return Code.NOT_IMPLEMENTED
        return None

    @property
    def block(self) -> int:
        """Octets of a block or datagram."""
        return int(self.len) or (UDP_BLOCK if self.udp else TCP_BLOCK)


@final
class StreamResults(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as one side saw it; of UDP the receiver counts errors, both count packets."""

    id: int
    bytes: float
    retransmits: float = -1
    jitter: float = 0
    errors: float = 0
    omitted_errors: float = 0
    packets: float = 0
    omitted_packets: float = 0
    start_time: float = 0
    end_time: float = 0


@final
class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All streams of one side. How busy the processor was is not known to a program in virtual time: it says 0."""

    cpu_util_total: float = 0
    cpu_util_user: float = 0
    cpu_util_system: float = 0
    sender_has_retransmits: int = -1
    streams: list[StreamResults] = msgspec.field(default_factory=list)


Message = TypeVar("Message", Parameters, Results)


def make_cookie(randomness: Randomness) -> bytes:
    """Draw the cookie by which a server knows a test's connections."""
    return bytes(_COOKIE_LETTERS[randomness.below(32)] for _ in range(COOKIE_OCTETS - 1)) + b"\0"


def stream_number(index: int) -> int:
    """Number streams as iperf3 does, which leaves 2 out; both ends have to, as results are told by number."""
    return 1 if index == 0 else index + 2


@final
class Control:
    """The control connection of one side: states and JSON, by whole messages.

    Raise PeerError for a peer that ends the connection or sends what is no message, whatever it sends.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def receive(self, count: int) -> bytes:
        """Wait for a number of octets; nothing is lost when it is cancelled."""
        while len(self._buffer) < count:
            try:
                more = await self.stream.receive_some(count - len(self._buffer))
            except trio.BrokenResourceError as error:
                raise PeerError("the iperf3 at the other end reset its control connection") from error
            if not more:
                raise PeerError("the iperf3 at the other end closed its control connection")
            self._buffer += more
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def send(self, data: bytes) -> None:
        """Send octets."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise PeerError("the iperf3 at the other end closed its control connection") from error

    async def receive_state(self) -> State:
        """Wait for the next state."""
        number = int.from_bytes(await self.receive(1), "big", signed=True)
        try:
            return State(number)
        except ValueError:
            raise PeerError(f"the other end sent state {number}, which iperf3 does not have") from None

    async def expect(self, wanted: State) -> None:
        """Wait for a certain state; raise PeerError for any other."""
        state = await self.receive_state()
        if state is not wanted:
            raise PeerError(f"the other end went to {state.name} where {wanted.name} is due")

    async def send_state(self, state: State) -> None:
        """Move the peer on."""
        await self.send(state.to_bytes(1, "big", signed=True))

    async def refuse(self, code: Code) -> None:
        """Tell a client why its test is not run: i_errno, and an errno that nothing is the matter with."""
        await self.send_state(State.SERVER_ERROR)
        await self.send(code.to_bytes(4, "big") + bytes(4))

    async def receive_message(self, kind: type[Message], most: int) -> Message:
        """Wait for JSON of at most *most* octets."""
        length = int.from_bytes(await self.receive(4), "big")
        if length > most:
            raise PeerError(f"the other end announced {length} octets of JSON; at most {most} are taken")
        try:
            return msgspec.json.decode(await self.receive(length), type=kind)
        except (msgspec.DecodeError, RecursionError) as error:  # ValidationError is a DecodeError
            raise PeerError(f"the other end sent JSON that is none of iperf3's: {str(error)[:200]}") from None

    async def send_message(self, message: Parameters | Results) -> None:
        """Send JSON."""
        data = msgspec.json.encode(message)
        await self.send(len(data).to_bytes(4, "big") + data)
