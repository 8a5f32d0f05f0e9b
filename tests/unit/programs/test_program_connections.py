from __future__ import annotations

import pytest
import trio

from vnet.programs.connections import bounded

HOST = "127.0.0.1"


@pytest.mark.trio
async def test_one_too_many_is_closed_at_once_and_the_next_has_the_place_of_who_left() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    async def answer_to(stream: trio.SocketStream) -> bytes:
        await stream.send_all(b"hello")
        return bytes(await stream.receive_some())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, bounded(echo, 1), 0)
            port = listeners[0].socket.getsockname()[1]
            async with await trio.open_tcp_stream(HOST, port) as first:
                assert await answer_to(first) == b"hello"
                async with await trio.open_tcp_stream(HOST, port) as second:
                    assert await second.receive_some() == b""
                await first.send_eof()
                assert await first.receive_some() == b""
            async with await trio.open_tcp_stream(HOST, port) as third:
                assert await answer_to(third) == b"hello"
            nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.TooSlowError])
async def test_what_a_client_raises_frees_its_place_and_goes_no_further(error: type[Exception]) -> None:
    calls = 0

    async def fail(stream: trio.SocketStream) -> None:
        nonlocal calls
        calls += 1
        raise error

    listener, client = trio.socket.socketpair()
    with listener, client:
        serve = bounded(fail, 1)
        await serve(trio.SocketStream(listener))
        await serve(trio.SocketStream(listener))
    assert calls == 2
