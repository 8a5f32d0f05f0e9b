"""The console of a machine: what is kept, who looks on, and who does not keep up."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from vnet.errors import NoAnswer, UsageError
from vnet.guests.console import KEPT_OCTETS, PIECES_AHEAD, Console


@pytest.mark.trio
async def test_it_is_kept_shown_and_typed_into(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    console = Console("vm")
    with pytest.raises(UsageError, match="vm has no console now"):
        await console.write(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(console.run, ours)
        await theirs.send_all(b"\x1b[2J\x1b[0mbooting\r\n\r\nlog")
        await theirs.send_all(b"in: ")
        assert await console.wait_for("login: $") == "\x1b[2J\x1b[0mbooting\r\n\r\nlogin: "
        with console.watch() as watch:
            await console.write(b"root\n")
            assert await theirs.receive_some() == b"root\n"
            since = console.said
            await theirs.send_all(b"welcome, login: no")
            assert await console.wait_for("login: ", since=since) == "welcome, login: "
            watch.end()
            assert [piece async for piece in watch.pieces] == [
                b"\x1b[2J\x1b[0mbooting\r\n\r\nlogin: ",
                b"welcome, login: no",
            ]
        assert console.last_lines(2) == ["booting", "login: welcome, login: no"]
        with pytest.raises(NoAnswer, match=r"vm did not say 'never' within 30 s; last it said: booting / login:"):
            await console.wait_for("never")
        await theirs.aclose()
    with pytest.raises(UsageError):
        await console.write(b"x")


@pytest.mark.trio
async def test_bounds() -> None:
    console = Console("vm")
    with console.watch() as slow:
        for number in range(PIECES_AHEAD + 10):
            console.feed(b"%04d" % number * 100)
        assert len(console.output) == KEPT_OCTETS
        for _ in range(PIECES_AHEAD):
            await slow.pieces.receive()
        console.feed(b"and on")
        assert await slow.pieces.receive() == b"\r\n[4000 octets missed]\r\n"
        assert await slow.pieces.receive() == b"and on"
    assert await console.wait_for("on", since=console.said - 6) == "and on"
    console.feed(b"nobody looks")
    with pytest.raises(UsageError, match="16 look at the console of vm already"):
        look_on(console, 17)


def look_on(console: Console, times: int) -> None:
    if times:
        with console.watch():
            look_on(console, times - 1)
