"""iperf3, both of our roles against each other: on the loopback of this machine, as the programs know nothing of vnet."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import PeerError, UsageError
from vnet.fabric.rng import RandomStreams
from vnet.programs.iperf3_client import Iperf3Options, run_client
from vnet.programs.iperf3_protocol import Code, Control, Parameters, Results, State, StreamResults, stream_number
from vnet.programs.iperf3_result import Iperf3Result, summarize
from vnet.programs.iperf3_server import serve
from vnet.programs.iperf3_streams import Tally

HOST = "127.0.0.1"
DRAWS = RandomStreams(3).stream("tests", "iperf3")


async def start_server(nursery: trio.Nursery, results: list[Iperf3Result] | None = None) -> int:
    """Start a server on a port that is free for TCP and, as nothing else is about, for UDP."""
    on_result = None if results is None else results.append

    async def run(task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        with trio.socket.socket() as probe:
            await probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        await serve(port, host=HOST, on_result=on_result, task_status=task_status)

    (listener,) = await nursery.start(run)
    return listener.socket.getsockname()[1]


async def run_test(options: Iperf3Options) -> tuple[Iperf3Result, Iperf3Result]:
    seen: list[Iperf3Result] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            port = await start_server(nursery, seen)
            result = await run_client(HOST, port, options, randomness=DRAWS)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    return result, seen[0]


@pytest.mark.trio
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("parallel", [1, 3])
async def test_tcp_for_a_time(reverse: bool, parallel: int) -> None:
    result, at_server = await run_test(Iperf3Options(time=0.3, parallel=parallel, reverse=reverse))
    assert result.streams == at_server.streams == parallel
    assert 0 < result.received_octets <= result.sent_octets + parallel * 128 * 1024
    assert (result.sent_octets, result.received_octets) == (at_server.sent_octets, at_server.received_octets)
    assert result.seconds == pytest.approx(0.3, abs=0.2)


@pytest.mark.trio
@pytest.mark.parametrize("reverse", [False, True])
async def test_tcp_for_a_number_of_octets(reverse: bool) -> None:
    result, _ = await run_test(Iperf3Options(octets=3_000_000, reverse=reverse, block=100_000))
    if reverse:
        assert 3_000_000 <= result.received_octets <= result.sent_octets
    else:
        assert result.sent_octets == 3_000_000 == result.received_octets
    assert not {"datagrams", "lost", "loss", "jitter_s"} & result.summary().keys()


@pytest.mark.trio
@pytest.mark.parametrize("reverse", [False, True])
async def test_udp_keeps_to_its_rate(reverse: bool) -> None:
    result, at_server = await run_test(
        Iperf3Options(time=0.5, udp=True, bitrate=800_000, block=1000, parallel=2, reverse=reverse)
    )
    assert result.sent_octets == pytest.approx(2 * 50_000, rel=0.1)
    assert result.datagrams == pytest.approx(100, abs=10) and result.lost == 0 and result.loss == 0
    assert result.jitter < 0.1 and at_server.datagrams == result.datagrams
    assert {"datagrams", "lost", "loss", "jitter_s"} <= result.summary().keys()


@pytest.mark.trio
async def test_omitted_seconds_are_not_counted() -> None:
    result, _ = await run_test(Iperf3Options(time=0.3, omit=0.3, udp=True, bitrate=800_000, block=1000))
    assert result.sent_octets == pytest.approx(30_000, rel=0.2) and result.datagrams == pytest.approx(30, abs=6)


@pytest.mark.trio
async def test_a_server_does_one_test_at_a_time_and_then_the_next() -> None:
    async with trio.open_nursery() as nursery:
        port = await start_server(nursery)
        async with trio.open_nursery() as first:
            first.start_soon(lambda: run_client(HOST, port, Iperf3Options(time=0.4, bitrate=1e6), randomness=DRAWS))
            await trio.sleep(0.1)
            with pytest.raises(PeerError, match="busy"):
                await run_client(HOST, port, Iperf3Options(time=0.1), randomness=DRAWS)
        await run_client(HOST, port, Iperf3Options(octets=1000), randomness=DRAWS)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"x" * 10,
        b"x" * 37,
        b"x" * 37 + b"\xff\xff\xff\xff",
        b"x" * 37 + b"\0\0\0\x04nope",
        b"x" * 37 + b"\0\0\x1f\xff" + b"[" * 0x1FFF,
        b"x" * 37 + b"\0\0\0\x02{}",
        b"x" * 37 + b"\0\0\0\x3b" + b'{"tcp":true,"time":1,"parallel":1,"num":1e999,"len":131072}',
    ],
)
async def test_nonsense_ends_its_own_test_only(sent: bytes) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            port = await start_server(nursery)
            async with await trio.open_tcp_stream(HOST, port) as stream:
                await stream.send_all(sent)
                await stream.send_eof()
                with suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
            result = await run_client(HOST, port, Iperf3Options(octets=1000), randomness=DRAWS)
            assert result.sent_octets >= 1000
            nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_a_client_that_goes_away_before_its_streams_keeps_nobody_waiting(kind: str) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            port = await start_server(nursery)
            async with await trio.open_tcp_stream(HOST, port) as stream:
                control = Control(stream)
                await control.send(b"c" * 37)
                await control.expect(State.PARAM_EXCHANGE)
                data = json.dumps({kind: True, "time": 5, "parallel": 2}).encode()
                await control.send(len(data).to_bytes(4, "big") + data)
                await control.expect(State.CREATE_STREAMS)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await run_client(HOST, port, Iperf3Options(octets=1000), randomness=DRAWS)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_server_names_what_it_refuses() -> None:
    async with trio.open_nursery() as nursery:
        port = await start_server(nursery)
        for wanted, code in (
            ({"tcp": True, "time": 1, "parallel": 500}, Code.NUMBER_OF_STREAMS),
            ({"tcp": True, "time": 1e6, "parallel": 1}, Code.DURATION),
            ({"udp": True, "time": 1, "parallel": 1, "len": 70000}, Code.BLOCK_SIZE),
            ({"tcp": True, "time": 1, "parallel": 1, "bidirectional": True}, Code.NOT_IMPLEMENTED),
        ):
            async with await trio.open_tcp_stream(HOST, port) as stream:
                control = Control(stream)
                await control.send(b"c" * 37)
                await control.expect(State.PARAM_EXCHANGE)
                data = json.dumps(wanted).encode()
                await control.send(len(data).to_bytes(4, "big") + data)
                await control.expect(State.SERVER_ERROR)
                assert await control.receive(8) == code.to_bytes(4, "big") + bytes(4)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"\xff", "busy"),
        (b"\xfe" + b"\0\0\0\x05" + bytes(4), "refused the test"),
        (b"\x0b", "was ended"),
        (b"\x63", "state 99"),
        (b"\x01", "TEST_START where PARAM_EXCHANGE"),
        (b"", "closed its control"),
        (b"\x09\x0a\x01\x02\x0b", "was ended"),
        (b"\x09\x0a\x01\x02", "closed its control"),
        (b"\x09\x0a\x01\x02\x01", "went to TEST_START$"),
    ],
)
async def test_a_client_says_what_a_server_did_wrong(answer: bytes, complaint: str) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some(37)
        await stream.send_all(answer)
        await stream.send_eof()
        await trio.sleep(5)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, speak, 0, host=HOST))
            port = listener.socket.getsockname()[1]
            with pytest.raises(PeerError, match=complaint):
                await run_client(HOST, port, Iperf3Options(time=3, bitrate=1e6), randomness=DRAWS)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_no_server_is_an_os_error() -> None:
    with pytest.raises(OSError):
        await run_client(HOST, 1, randomness=DRAWS)


@pytest.mark.trio
@pytest.mark.parametrize(
    "options",
    [
        Iperf3Options(time=0), Iperf3Options(time=1e9), Iperf3Options(parallel=0), Iperf3Options(parallel=129),
        Iperf3Options(udp=True, block=4), Iperf3Options(block=2**21), Iperf3Options(omit=601), Iperf3Options(bitrate=-1),
    ],
)  # fmt: skip
async def test_impossible_tests_are_not_begun(options: Iperf3Options) -> None:
    with pytest.raises(UsageError):
        await run_client(HOST, 1, options, randomness=DRAWS)


@pytest.mark.trio
async def test_loss_reordering_and_jitter_are_counted_as_by_iperf3() -> None:
    tally = Tally(1)
    for number, sent_at, now in ((1, 0.0, 1.0), (2, 0.1, 1.1), (5, 0.4, 1.416), (4, 0.3, 1.3)):
        tally.arrived(100, number, sent_at, now)
    assert (tally.octets, tally.packets, tally.lost, tally.out_of_order) == (400, 5, 1, 1)
    assert tally.jitter == pytest.approx(0.001 + (0.016 - 0.001) / 16)  # 16 ms once: J = 1 ms; and once more


def test_streams_are_numbered_as_by_iperf3() -> None:
    assert [stream_number(index) for index in range(4)] == [1, 3, 4, 5]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_a_peer_calls_results_adds_up(value: object) -> None:
    numbers = {"id": 1, "bytes": value, "jitter": value, "errors": value, "packets": value}
    text = json.dumps({"cpu_util_total": 1, "sender_has_retransmits": 0, "streams": [numbers]}).encode()
    try:
        theirs = msgspec.json.decode(text, type=Results)
    except msgspec.DecodeError:
        return
    ours = Results(streams=[StreamResults(id=1, bytes=10, end_time=1)])
    for we_send in (False, True):
        result = summarize(ours, theirs, we_send=we_send, udp=True)
        assert all(number >= 0 for number in result.summary().values())


def test_large_numbers_as_cjson_writes_them() -> None:
    wanted = msgspec.json.decode(b'{"udp":true,"num":1e+16,"bandwidth":1.5e+10,"parallel":1,"len":1448}', type=Parameters)
    assert (wanted.num, wanted.bandwidth, wanted.block) == (1e16, 1.5e10, 1448)
