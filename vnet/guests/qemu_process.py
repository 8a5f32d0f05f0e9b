"""One run of a machine: the QEMU process, its QMP connection, its console and what it says on standard error."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, final

import trio

from vnet.guests.console import Console
from vnet.guests.process import LabProcesses
from vnet.guests.qemu_command import Lines, empty_qcow2
from vnet.guests.qmp import Qmp, QmpError

QUIT_TIMEOUT: Final = 2.0
"""Seconds from asking QEMU to quit to SIGTERM, and from there to SIGKILL."""
LAST_WORDS_TIMEOUT: Final = 1.0
"""Seconds in which what QEMU said before its end must have been read: something else may hold its descriptors."""
KEPT_ERRORS: Final = 4096
TOLD_LINES: Final = 3


@final
class QemuProcess:
    """QEMU, from ``launch`` until ``ended`` is set; ``status`` is then as ``subprocess`` has it."""

    def __init__(self, process: trio.Process, qmp: Qmp) -> None:
        self.qmp = qmp
        self.pid = process.pid
        self.status = 0
        self.ended = trio.Event()
        self._process = process
        self._errors = b""

    @classmethod
    async def launch(
        cls,
        nursery: trio.Nursery,
        processes: LabProcesses,
        state_file: str,
        command: Callable[[Lines], list[str]],
        console: Console,
        on_event: Callable[[str, Mapping[str, object]], None],
        on_end: Callable[[int], None],
    ) -> QemuProcess:
        """Start QEMU with the *command* that uses the given descriptors; *on_end* is told its status.

        Raise OSError if it cannot be started.
        """
        with contextlib.ExitStack() as opened:
            pairs = [socket.socketpair() for _ in range(2)]
            for ours, theirs in pairs:
                opened.callback(ours.close)
                opened.callback(theirs.close)
            await trio.to_thread.run_sync(_make_state_file, state_file)
            fds = [theirs.fileno() for _, theirs in pairs]
            argv = command(Lines(qmp=fds[0], console=fds[1], state_file=state_file))
            process = await processes.spawn(argv, output=subprocess.DEVNULL, errors=subprocess.PIPE, pass_fds=fds)
            streams: list[trio.SocketStream] = []
            for ours, _ in pairs:
                kept = ours.dup()
                kept.setblocking(False)
                streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(kept)))
        made = cls(process, Qmp(streams[0], on_event))
        nursery.start_soon(made._watch, streams, console, on_end)
        return made

    async def _watch(self, streams: list[trio.SocketStream], console: Console, on_end: Callable[[int], None]) -> None:
        """Read what QEMU says until it ends, whatever is cancelled: who ends the lab ends QEMU first."""
        with trio.CancelScope(shield=True):
            async with streams[0], streams[1], trio.open_nursery() as nursery:
                nursery.start_soon(self.qmp.run)
                nursery.start_soon(console.run, streams[1])
                nursery.start_soon(self._read_errors)
                await self._process.wait()
                nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_TIMEOUT
            self.status = self._process.returncode or 0
            on_end(self.status)
            self.ended.set()

    async def _read_errors(self) -> None:
        stream = self._process.stderr
        assert stream is not None, "it was asked for"
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                while piece := await stream.receive_some(KEPT_ERRORS):
                    self._errors = (self._errors + piece)[-KEPT_ERRORS:]

    @property
    def said(self) -> str:
        """The last lines on standard error."""
        lines = self._errors.decode(errors="replace").strip().splitlines()[-TOLD_LINES:]
        return " / ".join(line.partition("qemu-system-x86_64: ")[2] or line for line in lines)

    async def end(self) -> None:
        """End QEMU: by QMP, by SIGTERM, by SIGKILL; return when it is gone and all was said about it."""
        with contextlib.suppress(QmpError):
            await self.qmp.execute("quit", timeout=QUIT_TIMEOUT)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with trio.move_on_after(QUIT_TIMEOUT):
                await self.ended.wait()
                return
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)  # of a child that was not waited for: the number is still its own
        await self.ended.wait()


def describe_end(status: int) -> str:
    """Say how a process ended."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _make_state_file(path: str) -> None:
    """Make the disk for saved states; one of an earlier start stays."""
    with contextlib.suppress(FileExistsError), Path(path).open("xb") as file:
        file.write(empty_qcow2())
