from __future__ import annotations

from functools import partial

import pytest
import trio

from vnet.programs.echo import serve

HOST = "127.0.0.1"


@pytest.mark.trio
async def test_tcp_and_udp_come_back() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(serve, 0, host=HOST))
            async with await trio.open_tcp_stream(HOST, port) as stream:
                await stream.send_all(b"over TCP")
                await stream.send_eof()
                answer = b""
                while more := await stream.receive_some():
                    answer += more
                assert answer == b"over TCP"
            with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as socket:
                for text in (b"over UDP", b"", b"x" * 9000):
                    await socket.sendto(text, (HOST, port))
                    assert (await socket.recvfrom(65535))[0] == text
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_client_that_resets_harms_nobody() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(serve, 0, host=HOST))
            rude = await trio.open_tcp_stream(HOST, port)
            await rude.send_all(b"x" * 100_000)
            rude.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            rude.socket.close()
            async with await trio.open_tcp_stream(HOST, port) as stream:
                await stream.send_all(b"polite")
                assert await stream.receive_some() == b"polite"
            nursery.cancel_scope.cancel()
