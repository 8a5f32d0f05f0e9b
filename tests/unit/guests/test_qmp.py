"""QMP with a QEMU that is a few lines of Python: answers, events, errors, and what no QEMU would say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from vnet.guests.qmp import MAX_LINE, Qmp, QmpError

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


class Fake:
    """QEMU's end; answers each command by a function of its name and arguments."""

    def __init__(
        self, stream: trio.abc.Stream, answer: Callable[[str, dict[str, object]], bytes | dict[str, object]]
    ) -> None:
        self.stream = stream
        self._answer = answer
        self.asked: list[str] = []

    async def run(self) -> None:
        rest = b""
        while piece := await self.stream.receive_some():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                request = json.loads(line)
                self.asked.append(request["execute"])
                answer = self._answer(request["execute"], request.get("arguments", {}))
                if isinstance(answer, dict):
                    answer = json.dumps({**answer, "id": request["id"]}).encode() + b"\r\n"
                await self.stream.send_all(answer)


@asynccontextmanager
async def talking(
    answer: Callable[[str, dict[str, object]], bytes | dict[str, object]],
) -> AsyncIterator[tuple[Qmp, Fake, list[str]]]:
    ours, theirs = trio.testing.memory_stream_pair()
    events: list[str] = []
    qmp, fake = Qmp(ours, lambda event, data: events.append(event)), Fake(theirs, answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(qmp.run)
        nursery.start_soon(fake.run)
        yield qmp, fake, events
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_commands_are_answered_and_events_told() -> None:
    def answer(command: str, arguments: dict[str, object]) -> bytes | dict[str, object]:
        if command == "human-monitor-command":
            line = str(arguments["command-line"])
            return {"return": "" if line == "savevm a" else "Error: no such thing\r\n"}
        return {"return": [command, arguments]} if command != "bad" else {"error": {"class": "X", "desc": "cannot"}}

    async with talking(answer) as (qmp, fake, events):
        await fake.stream.send_all(GREETING + b'{"event": "STOP"}\r\n\r\n{"event": "RESUME", "data": {"a"')
        await fake.stream.send_all(b": 1}}\r\n")
        await qmp.negotiate()
        assert events == ["STOP", "RESUME"] and fake.asked == ["qmp_capabilities"]
        assert await qmp.execute("set_link", {"up": True}) == ["set_link", {"up": True}]
        with pytest.raises(QmpError, match="^cannot$"):
            await qmp.execute("bad")
        await qmp.monitor("savevm a")
        with pytest.raises(QmpError, match="^no such thing$"):
            await qmp.monitor("savevm b")


@pytest.mark.trio
async def test_answers_find_their_question() -> None:
    """They may come in another order than the questions, and some are for nobody."""
    held: list[dict[str, object]] = []

    def answer(command: str, arguments: dict[str, object]) -> bytes:
        held.append({"return": command, "id": len(held) + 1})
        if len(held) < 3:
            return b""
        strays = [{"return": 0, "id": 77}, {"return": 0}, {"id": True}, {"id": "1"}]
        return b"".join(json.dumps(each).encode() + b"\n" for each in (*reversed(held), *strays))

    async with talking(answer) as (qmp, _, _):
        got: dict[str, object] = {}

        async def ask(command: str) -> None:
            got[command] = await qmp.execute(command)

        async with trio.open_nursery() as nursery:
            for command in ("a", "b", "c"):
                nursery.start_soon(ask, command)
                await trio.testing.wait_all_tasks_blocked()
        assert got == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.trio
@pytest.mark.parametrize("noise", [b"hello\n", b"[1]\n", b"[" * 100_000 + b"\n", b"\xff\xfe\n", b"x" * (MAX_LINE + 1)])
async def test_what_is_no_qmp_ends_it(noise: bytes) -> None:
    async with talking(lambda command, arguments: noise) as (qmp, fake, _):
        with pytest.raises(QmpError, match="QEMU is gone"):
            await qmp.execute("anything")
        with pytest.raises(QmpError, match="QEMU is gone"):
            await qmp.execute("more")


@pytest.mark.trio
async def test_a_silent_qemu(autojump_clock: trio.testing.MockClock) -> None:
    async with talking(lambda command, arguments: b"") as (qmp, _, _):
        with pytest.raises(QmpError, match="QEMU does not answer$"):
            await qmp.negotiate()
        with pytest.raises(QmpError, match="does not answer stop within 10 s"):
            await qmp.execute("stop")
