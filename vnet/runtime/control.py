"""The control socket of a running lab: one JSON line asks, JSON lines answer.

::

    --> {"command": "ping", "arguments": {"guest": "web", "target": "mail"}}
    <-- {"progress": {...}}                 none, one or many
    <-- {"ok": true, "data": {...}}         or {"ok": false, "kind": "usage", "error": "..."}

A connection carries one request. The answer to ``capture`` is followed by the octets of a pcapng file until either side
closes; a client that shuts down its sending side gets the rest of it. That to ``console`` is followed by what a machine
says and, the other way, by what is typed. Who closes the connection takes the request back.

The socket lies in a directory that only its user may enter; still, whatever arrives is answered with an error and never with
a crash, and everything a client can make grow has a bound.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

import trio

from vnet.errors import HostError, LabError, NetworkError, TopologyError, UsageError, VnetError
from vnet.ports import Report, no_report
from vnet.runtime.sinks import QueueSink

if TYPE_CHECKING:
    from pathlib import Path

    from vnet.runtime.commands import Commands

MAX_REQUEST: Final = 64 * 1024
MAX_CONNECTIONS: Final = 64
REQUEST_TIMEOUT: Final = 10.0
"""Seconds in which a request must have arrived whole."""
REFUSE_TIMEOUT: Final = 0.1
SEND_TIMEOUT: Final = 30.0
"""Seconds a client may take to read a line of the answer."""
LAST_WORDS_TIMEOUT: Final = 0.5
"""Seconds that the end of a lab waits for each client that captures."""

_KINDS: Final[tuple[tuple[type[VnetError], str], ...]] = (
    (UsageError, "usage"), (TopologyError, "topology"), (HostError, "host"), (NetworkError, "network"), (LabError, "lab"),
)  # fmt: skip


def error_reply(error: Exception) -> dict[str, object]:
    """Say what went wrong; what vnet did not raise on purpose is "internal"."""
    if not isinstance(error, VnetError):
        return {"ok": False, "kind": "internal", "error": f"internal error: {type(error).__name__}: {str(error)[:200]}"}
    kind = next((name for each, name in _KINDS if isinstance(error, each)), "lab")
    return {"ok": False, "kind": kind, "error": str(error)}


def decode_request(line: bytes) -> tuple[str, Mapping[str, object]]:
    """Read a request; raise UsageError for anything that is none."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("the request is not a line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise UsageError('a request is an object such as {"command": "show", "arguments": {"what": "ports"}}')
    arguments = request.get("arguments", {})
    if not isinstance(arguments, dict):
        raise UsageError("the arguments of a request are an object")
    return request["command"], arguments


@final
class ControlServer:
    """Serves the commands of one lab on a Unix socket; a fault of its own is reported, and the next client served."""

    def __init__(self, commands: Commands, path: Path, report: Report = no_report) -> None:
        self._commands = commands
        self._path = path
        self._report = report
        self._connections = 0

    def listen(self) -> trio.SocketListener:
        """Make the socket, readable and writable by its owner only, in place of one that a dead lab left."""
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listening.bind(os.fspath(self._path))
        except OSError as error:
            listening.close()
            raise HostError(f"cannot make the control socket {self._path}: {error.strerror}") from error
        finally:
            os.umask(mask)
        listening.listen(16)
        listening.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))

    async def run(self, listener: trio.SocketListener) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            async with stream:
                if self._connections > MAX_CONNECTIONS:
                    with trio.move_on_after(REFUSE_TIMEOUT):  # closing with its request unread would reset the connection
                        await stream.receive_some(MAX_REQUEST)
                    await _send(stream, error_reply(UsageError("too many commands at once")))
                    return
                await self._answer(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client has gone, or does not read
        except* Exception as errors:
            self._report("control-error", error=repr(errors.exceptions[0])[:200])
        finally:
            self._connections -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            line = await _read_line(stream)
            if line is None:
                return
            command, arguments = decode_request(line)
            if command == "capture":
                await self._capture(stream, arguments)
                return
            if command == "console":
                await self._console(stream, arguments)
                return
        except UsageError as error:
            await _send(stream, error_reply(error))
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_closed, stream, nursery.cancel_scope)
            try:
                data = await self._commands.run(command, arguments, lambda data: _send(stream, {"progress": data}))
                reply: dict[str, object] = {"ok": True, "data": data}
            except (trio.BrokenResourceError, trio.TooSlowError):
                raise
            except Exception as error:
                reply = error_reply(error)
            await _send(stream, reply)
            nursery.cancel_scope.cancel()

    async def _console(self, stream: trio.SocketStream, arguments: Mapping[str, object]) -> None:
        console = self._commands.console(arguments)
        with console.watch() as watch:
            await _send(stream, {"ok": True, "data": {}})
            if arguments.get("print") is True:
                await stream.send_all(console.output)
                return
            async with trio.open_nursery() as nursery:

                async def type_keys() -> None:
                    while keys := await stream.receive_some(4096):
                        with contextlib.suppress(UsageError):  # it does not run just now; who looks may wait for it
                            await console.write(keys)
                    nursery.cancel_scope.cancel()

                async def end_with_the_machine() -> None:
                    await self._commands.wait_machine_off(arguments)
                    watch.end()

                nursery.start_soon(type_keys)
                nursery.start_soon(end_with_the_machine)
                async for piece in watch.pieces:
                    with trio.fail_after(SEND_TIMEOUT):
                        await stream.send_all(piece)
                nursery.cancel_scope.cancel()

    async def _capture(self, stream: trio.SocketStream, arguments: Mapping[str, object]) -> None:
        sink = QueueSink()
        capture = self._commands.start_capture(arguments, sink)
        between_pieces = True
        try:
            await _send(stream, {"ok": True, "data": {"ports": [port.name for port in capture.ports]}})
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    """End the capture when the client wants no more; it still gets what is queued, and the statistics."""
                    await _wait_closed(stream)
                    capture.finish()
                    await trio.sleep(SEND_TIMEOUT)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                while data := await sink.wait_data():
                    between_pieces = False
                    await stream.send_all(data)
                    between_pieces = True
                nursery.cancel_scope.cancel()
        finally:
            capture.finish()
            if between_pieces:  # the lab ends: the file gets its end too
                with trio.move_on_after(LAST_WORDS_TIMEOUT, shield=True):
                    await stream.send_all(sink.take())


async def _wait_closed(stream: trio.SocketStream) -> None:
    """Wait until the client closes its side of the connection; what it sends besides is thrown away."""
    while await stream.receive_some(4096):
        pass


async def _cancel_when_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Take the request back when the client closes the connection."""
    await _wait_closed(stream)
    scope.cancel()


async def _read_line(stream: trio.SocketStream) -> bytes | None:
    """Read a request; None if the client closed or said nothing; raise UsageError for one without end."""
    buffer = bytearray()
    with trio.move_on_after(REQUEST_TIMEOUT):
        while data := await stream.receive_some(MAX_REQUEST):
            buffer += data
            end = buffer.find(b"\n")
            if end >= 0:
                return bytes(buffer[:end])
            if len(buffer) > MAX_REQUEST:
                raise UsageError(f"a request has at most {MAX_REQUEST} octets")
    return None


async def _send(stream: trio.SocketStream, message: Mapping[str, object]) -> None:
    with trio.fail_after(SEND_TIMEOUT):
        await stream.send_all(json.dumps(message).encode() + b"\n")
