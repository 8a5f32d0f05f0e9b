"""An iperf3 server: runs the tests that iperf3 clients ask for, one at a time.

Whoever comes while a test runs is denied, as by iperf3: datagrams do not say which test they belong to. A client that goes
away, or speaks nonsense, ends its own test and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Final, final

import trio

from vnet.errors import PeerError, UsageError
from vnet.programs.both_protocols import datagram_socket
from vnet.programs.closed_sockets import raise_if_closed
from vnet.programs.iperf3_protocol import (
    COOKIE_OCTETS,
    DEFAULT_PORT,
    MAX_PARAMETERS,
    MAX_RESULTS,
    MAX_UDP_BLOCK,
    UDP_ANSWER,
    UDP_GREETING,
    Control,
    Parameters,
    Results,
    State,
    stream_number,
)
from vnet.programs.iperf3_result import Iperf3Result, summarize
from vnet.programs.iperf3_streams import SOCKET_ERRORS, DataStream, Quota, TcpStream, UdpStream, run_streams
from vnet.programs.plain_nursery import open_plain_nursery

GREETING_TIMEOUT: Final = 10.0
"""Seconds that a new connection has for its cookie."""
SETUP_TIMEOUT: Final = 30.0
"""Seconds for the parameters, for all streams to be there, and for the results to be exchanged."""
GRACE: Final = 10.0
"""Seconds by which a test may take longer than the client said."""
MAX_WAITING: Final = 256
"""Connections that may be in the middle of their greeting."""

OnResult = Callable[[Iperf3Result], None]


@final
@dataclass(slots=True)
class _Test:
    """The test that runs."""

    cookie: bytes
    parameters: Parameters | None = None
    streams: list[DataStream] = field(default_factory=list)
    complete: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)

    def wants(self, cookie: bytes) -> bool:
        """Tell whether a connection is one of the streams that are still missing."""
        return (
            cookie == self.cookie
            and self.parameters is not None
            and self.parameters.tcp
            and len(self.streams) < self.parameters.parallel
        )

    def add(self, stream: DataStream) -> None:
        """Take a stream in."""
        assert self.parameters is not None
        self.streams.append(stream)
        if len(self.streams) == self.parameters.parallel:
            self.complete.set()


@final
class Iperf3Server:
    """The state that the connections of a server share."""

    def __init__(self, port: int = DEFAULT_PORT, host: str | None = None, on_result: OnResult | None = None) -> None:
        self._port = port
        self._host = host
        self._on_result = on_result
        self._test: _Test | None = None
        self._waiting = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection, whatever it turns out to be."""
        control = Control(stream)
        if self._waiting >= MAX_WAITING:
            return
        self._waiting += 1
        try:
            with trio.fail_after(GREETING_TIMEOUT):
                cookie = await control.receive(COOKIE_OCTETS)
        except (PeerError, trio.TooSlowError, OSError):
            return
        finally:
            self._waiting -= 1
        try:
            if self._test is None:
                await self._serve_client(control, cookie)
            elif self._test.wants(cookie):
                test = self._test
                test.add(TcpStream(stream, stream_number(len(test.streams))))
                await test.over.wait()
            else:
                await control.send_state(State.ACCESS_DENIED)
        except (PeerError, UsageError, trio.TooSlowError, *SOCKET_ERRORS):
            return

    async def _serve_client(self, control: Control, cookie: bytes) -> None:
        test = self._test = _Test(cookie)
        try:
            with trio.fail_after(SETUP_TIMEOUT):
                await control.send_state(State.PARAM_EXCHANGE)
                test.parameters = await control.receive_message(Parameters, MAX_PARAMETERS)
                code = test.parameters.problem()
                if code is not None:
                    await control.refuse(code)
                    return
            with self._listening(test.parameters) as socket:
                result = await self._run(control, test, test.parameters, socket)
        finally:
            self._test = None
            test.over.set()
        if self._on_result is not None:
            self._on_result(result)

    @contextmanager
    def _listening(self, parameters: Parameters) -> Iterator[trio.socket.SocketType | None]:
        """Open the socket for datagrams, which is there while a test needs it."""
        if not parameters.udp:
            yield None
            return
        with datagram_socket(self._host) as socket:
            yield socket

    async def _run(
        self, control: Control, test: _Test, parameters: Parameters, socket: trio.socket.SocketType | None
    ) -> Iperf3Result:
        counted = parameters.tcp and not parameters.reverse and parameters.num > 0
        quota = Quota(int(parameters.num) if counted else None, is_time=not parameters.num)
        async with open_plain_nursery() as nursery:
            if socket is not None:
                await socket.bind((self._host or "", self._port))
                nursery.start_soon(self._read_datagrams, socket, test, parameters, quota)
            with trio.fail_after(SETUP_TIMEOUT):
                await control.send_state(State.CREATE_STREAMS)
            nursery.start_soon(self._move_data, control, test, parameters, quota)
            # heard all the time: a client that goes away before its streams are there must not keep the others waiting
            limit = SETUP_TIMEOUT + parameters.time + parameters.omit + GRACE if parameters.time else inf
            with trio.fail_after(limit):
                await control.expect(State.TEST_END)
            if counted:
                # the client says when it has sent all; iperf3 drops what is on its way then, which is much over a slow link
                with trio.move_on_after(GRACE):
                    await quota.spent.wait()
            nursery.cancel_scope.cancel()
        for stream in test.streams:
            stream.close()  # iperf3 as a receiver goes on reading whole blocks until then, and hears nothing else
        return await self._exchange(control, test, parameters)

    async def _move_data(self, control: Control, test: _Test, parameters: Parameters, quota: Quota) -> None:
        """Begin when all streams are there; then send, or count what comes."""
        with trio.fail_after(SETUP_TIMEOUT):
            await test.complete.wait()
            await control.send_state(State.TEST_START)
            await control.send_state(State.TEST_RUNNING)
        await run_streams(
            test.streams,
            sends=parameters.reverse,
            block=parameters.block,
            rate_bps=parameters.bandwidth,
            quota=quota,
            omit=parameters.omit,
        )

    async def _read_datagrams(
        self, socket: trio.socket.SocketType, test: _Test, parameters: Parameters, quota: Quota
    ) -> None:
        """Answer greetings, and give each datagram to the stream of its sender."""
        peers: dict[tuple[str, int], UdpStream] = {}
        while True:
            try:
                data, peer = await socket.recvfrom(MAX_UDP_BLOCK)
                stream = peers.get(peer)
                is_greeting = data == UDP_GREETING and (stream is not None or len(peers) < parameters.parallel)
                if is_greeting:
                    await socket.sendto(UDP_ANSWER, peer)  # again, if the client asks again: the first one was lost
            except OSError as error:
                raise_if_closed(error)
                continue  # an ICMP error about what was sent, or somebody who cannot be answered, as at port 0
            if is_greeting:
                if stream is None:
                    wide = bool(parameters.udp_counters_64bit)
                    peers[peer] = UdpStream(socket, peer, stream_number(len(peers)), wide=wide, shared=True)
                    test.add(peers[peer])
            elif stream is not None:
                stream.count(data, quota)

    async def _exchange(self, control: Control, test: _Test, parameters: Parameters) -> Iperf3Result:
        ours = Results(
            sender_has_retransmits=0 if parameters.reverse else -1,
            streams=[stream.tally.results() for stream in test.streams],
        )
        with trio.fail_after(SETUP_TIMEOUT):
            await control.send_state(State.EXCHANGE_RESULTS)
            theirs = await control.receive_message(Results, MAX_RESULTS)
            await control.send_message(ours)
            await control.send_state(State.DISPLAY_RESULTS)
            await control.expect(State.IPERF_DONE)
        return summarize(ours, theirs, we_send=parameters.reverse, udp=parameters.udp)


async def serve(
    port: int = DEFAULT_PORT,
    *,
    host: str | None = None,
    on_result: OnResult | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve iperf3 clients until cancelled; *on_result* is called with what each test showed.

    Raise OSError if the port is taken.
    """
    server = Iperf3Server(port, host, on_result)
    await trio.serve_tcp(server.handle, port, host=host, task_status=task_status)
