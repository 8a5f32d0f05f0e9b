"""An iperf3 client: one test against a server, be it ours or iperf3 itself."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, final

import trio

from vnet.errors import PeerError, UsageError
from vnet.ports import Randomness
from vnet.programs.iperf3_protocol import (
    DEFAULT_PORT,
    MAX_RESULTS,
    TCP_BLOCK,
    UDP_ANSWERS,
    UDP_BLOCK,
    UDP_GREETING,
    UDP_RATE_BPS,
    Code,
    Control,
    Parameters,
    Results,
    State,
    make_cookie,
    stream_number,
)
from vnet.programs.iperf3_result import Iperf3Result, summarize
from vnet.programs.iperf3_streams import DataStream, Quota, TcpStream, UdpStream, run_streams
from vnet.programs.plain_nursery import open_plain_nursery

DEFAULT_SECONDS: Final = 10.0
SETUP_TIMEOUT: Final = 30.0
"""Seconds that the server has for each step that is not the test itself."""
GREETING_RETRY: Final = 1.0
"""Seconds after which a greeting or its answer counts as lost. iperf3 greets once; on a lossy link that is too little."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Iperf3Options:
    """A test, as iperf3's options say it.

    ``time`` (-t) in seconds or ``octets`` (-n) end it; ``parallel`` (-P) streams; ``reverse`` (-R) has the server send;
    ``udp`` (-u); ``bitrate`` (-b) in bit/s of each stream, 0 is no limit (TCP's default; UDP's is
    1 Mbit/s); ``block`` (-l) octets at once; ``omit`` (-O) leaves the first seconds out.
    """

    time: float = DEFAULT_SECONDS
    octets: int | None = None
    parallel: int = 1
    reverse: bool = False
    udp: bool = False
    bitrate: float | None = None
    block: int | None = None
    omit: float = 0.0

    def parameters(self) -> Parameters:
        """Return it as the server is told; raise UsageError for what no server would do."""
        rate = self.bitrate if self.bitrate is not None else (UDP_RATE_BPS if self.udp else 0)
        parameters = Parameters(
            tcp=not self.udp,
            udp=self.udp,
            omit=_plain(self.omit),
            time=_plain(self.time) if self.octets is None else 0,
            num=self.octets or 0,
            parallel=self.parallel,
            reverse=self.reverse,
            len=self.block or (UDP_BLOCK if self.udp else TCP_BLOCK),
            bandwidth=_plain(rate),
            client_version="3.12",
        )
        code = Code.DURATION if self.octets is None and self.time <= 0 else parameters.problem()
        if code is not None:
            raise UsageError(f"iperf3 cannot do this test: {code.name.lower().replace('_', ' ')}")
        return parameters


async def run_client(
    host: str, port: int = DEFAULT_PORT, options: Iperf3Options | None = None, *, randomness: Randomness
) -> Iperf3Result:
    """Run a test against the server at *host*.

    Raise PeerError if it refuses, is busy or goes away, OSError if there is none, UsageError for impossible options.
    """
    options = options or Iperf3Options()
    parameters = options.parameters()
    try:
        with trio.fail_after(SETUP_TIMEOUT):
            stream = await trio.open_tcp_stream(host, port)
        with ExitStack() as opened:
            async with stream:
                return await _Client(Control(stream), options, parameters, make_cookie(randomness), opened).run()
    except trio.TooSlowError:
        raise PeerError(f"the iperf3 server at {host} port {port} does not go on") from None


@final
class _Client:
    def __init__(
        self, control: Control, options: Iperf3Options, parameters: Parameters, cookie: bytes, opened: ExitStack
    ) -> None:
        self._control = control
        self._options = options
        self._parameters = parameters
        self._cookie = cookie
        self._opened = opened
        self._streams: list[DataStream] = []

    async def run(self) -> Iperf3Result:
        control = self._control
        await control.send(self._cookie)
        await self._reach(State.PARAM_EXCHANGE)
        await control.send_message(self._parameters)
        await self._reach(State.CREATE_STREAMS)
        with trio.fail_after(SETUP_TIMEOUT):
            for index in range(self._parameters.parallel):
                self._streams.append(
                    await (self._open_udp if self._parameters.udp else self._open_tcp)(stream_number(index))
                )
        await self._reach(State.TEST_START)
        await self._reach(State.TEST_RUNNING)
        await self._run_test()
        await control.send_state(State.TEST_END)
        await self._reach(State.EXCHANGE_RESULTS)
        sends = not self._parameters.reverse
        ours = Results(
            sender_has_retransmits=0 if sends else -1, streams=[stream.tally.results() for stream in self._streams]
        )
        with trio.fail_after(SETUP_TIMEOUT):
            await control.send_message(ours)
            theirs = await control.receive_message(Results, MAX_RESULTS)
        await self._reach(State.DISPLAY_RESULTS)
        await control.send_state(State.IPERF_DONE)
        return summarize(ours, theirs, we_send=sends, udp=self._parameters.udp)

    async def _reach(self, wanted: State) -> None:
        """Wait for the server to go to a state."""
        with trio.fail_after(SETUP_TIMEOUT):
            await self._judge(await self._control.receive_state(), wanted)

    async def _judge(self, state: State, wanted: State | None) -> None:
        if state is wanted:
            return
        if state is State.ACCESS_DENIED:
            raise PeerError("the iperf3 server is busy with another test")
        if state is State.SERVER_ERROR:
            code = int.from_bytes((await self._control.receive(8))[:4], "big")
            raise PeerError(f"the iperf3 server refused the test (its error {code})")
        if state is State.SERVER_TERMINATE:
            raise PeerError("the iperf3 server was ended")
        raise PeerError(f"the iperf3 server went to {state.name}" + (f" where {wanted.name} is due" if wanted else ""))

    async def _open_tcp(self, number: int) -> TcpStream:
        host, port = self._control.stream.socket.getpeername()[:2]
        stream = TcpStream(await trio.open_tcp_stream(host, port), number)
        self._opened.callback(stream.close)
        await stream.stream.send_all(self._cookie)
        return stream

    async def _open_udp(self, number: int) -> UdpStream:
        control = self._control.stream.socket
        peer = control.getpeername()
        socket = self._opened.enter_context(trio.socket.socket(control.family, trio.socket.SOCK_DGRAM))
        await socket.connect(peer)
        while True:  # within SETUP_TIMEOUT
            await socket.send(UDP_GREETING)
            with trio.move_on_after(GREETING_RETRY):
                while True:
                    if await socket.recv(4096) in UDP_ANSWERS:
                        return UdpStream(socket, peer, number)

    async def _run_test(self) -> None:
        """Run the streams until the time is over or the quota used up; a word of the server in between is bad news."""
        parameters = self._parameters
        quota = Quota(self._options.octets)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._watch)
            if self._options.octets is not None:
                # who sends is through when the last block went out; who receives, when it came in
                nursery.start_soon(self._run_streams, quota, nursery.cancel_scope)
                if parameters.reverse:
                    await quota.spent.wait()
                    nursery.cancel_scope.cancel()
            else:
                nursery.start_soon(self._run_streams, quota, None)
                await trio.sleep(parameters.time + parameters.omit)
                nursery.cancel_scope.cancel()

    async def _run_streams(self, quota: Quota, when_done: trio.CancelScope | None) -> None:
        parameters = self._parameters
        sends = not parameters.reverse
        rate = parameters.bandwidth
        await run_streams(
            self._streams, sends=sends, block=parameters.block, rate_bps=rate, quota=quota, omit=parameters.omit
        )
        if when_done is not None and sends:
            when_done.cancel()

    async def _watch(self) -> None:
        await self._judge(await self._control.receive_state(), None)


def _plain(number: float) -> float:
    """Write whole numbers without a point: iperf3 reads both, and people read its debug output."""
    return int(number) if number == int(number) else number
