"""QMP, the machine protocol by which QEMU is told what to do, and tells what happens: JSON, a line each.

QEMU greets, we negotiate; then commands are answered by their ``id``, and events come in between. What QEMU sends is no
more trusted than what any peer sends: a line has a bound, and what is no JSON object ends the connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, final

import trio

from vnet.errors import LabError

MAX_LINE: Final = 4 << 20
TIMEOUT: Final = 10.0
"""Seconds for an answer; savevm and loadvm have their own."""
_PIECE: Final = 1 << 16

Message: TypeAlias = "dict[str, object]"


class QmpError(LabError):
    """QEMU refused a command, does not answer, or is gone."""


@final
class Qmp:
    """One connection; ``run`` reads it until it ends, and *on_event* is told of what happens in the machine."""

    def __init__(self, stream: trio.abc.Stream, on_event: Callable[[str, Mapping[str, object]], None]) -> None:
        self._stream = stream
        self._on_event = on_event
        self._waiting: dict[int, tuple[trio.Event, list[Message]]] = {}
        self._number = 0
        self._lock = trio.Lock()
        self._ready = trio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Read until QEMU closes the connection."""
        rest = b""
        try:
            while piece := await self._stream.receive_some(_PIECE):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        self._handle(line)
                if len(rest) > MAX_LINE:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError, RecursionError):
            pass  # QEMU is gone, or it is none
        finally:
            self._is_over = True
            self._ready.set()
            for event, _ in self._waiting.values():
                event.set()

    def _handle(self, line: bytes) -> None:
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not a QMP message")
        if "QMP" in message:
            self._ready.set()
        elif isinstance(message.get("event"), str):
            data = message.get("data")
            self._on_event(message["event"], data if isinstance(data, dict) else {})
        elif isinstance(message.get("id"), int) and message["id"] in self._waiting:
            event, answers = self._waiting[message["id"]]
            answers.append(message)
            event.set()

    async def negotiate(self) -> None:
        """Wait for the greeting and enter command mode; raise QmpError if QEMU is gone or silent."""
        with trio.move_on_after(TIMEOUT) as scope:
            await self._ready.wait()
        if scope.cancelled_caught:
            raise QmpError("QEMU does not answer")
        await self.execute("qmp_capabilities")

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None, timeout: float = TIMEOUT) -> object:
        """Carry out a command and return its answer; raise QmpError with what QEMU says."""
        if self._is_over:
            raise QmpError("QEMU is gone")
        self._number += 1
        number = self._number
        waiting = self._waiting[number] = (trio.Event(), [])
        request: Message = {"execute": command, "id": number}
        if arguments:
            request["arguments"] = dict(arguments)
        try:
            with trio.move_on_after(timeout) as scope:
                async with self._lock:
                    await self._stream.send_all(json.dumps(request).encode() + b"\n")
                await waiting[0].wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise QmpError("QEMU is gone") from error
        finally:
            del self._waiting[number]
        if scope.cancelled_caught:
            raise QmpError(f"QEMU does not answer {command} within {timeout:g} s")
        if not waiting[1]:
            raise QmpError("QEMU is gone")
        answer = waiting[1][0]
        error_data = answer.get("error")
        if error_data is not None:
            told = error_data.get("desc") if isinstance(error_data, dict) else None
            raise QmpError(str(told or error_data))
        return answer.get("return")

    async def monitor(self, line: str, timeout: float = TIMEOUT) -> None:
        """Carry out a command of the monitor for people; raise QmpError with what it prints, which is why it failed."""
        told = await self.execute("human-monitor-command", {"command-line": line}, timeout)
        if isinstance(told, str) and told.strip():
            raise QmpError(told.strip().removeprefix("Error: "))
