"""Programs that run in a guest and end with the lab.

Every one is started through ``_enter.py`` and carries the lab's token in its environment, as do its descendants, also those
that became daemons: ``LabProcesses.stop`` finds them by it, and so does the sweep after a lab that was killed. (The
kernel could kill them along with us, PR_SET_PDEATHSIG; but it goes by the thread that started them, and trio's come and go.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import trio

from vnet.adapters.resources import LAB_TOKEN, Ledger, NoLedger, ProcessResource, end_all_with_token
from vnet.errors import LabError

ENTER: Final = str(Path(__file__).with_name("_enter.py"))


@final
@dataclass(frozen=True, slots=True)
class Process:
    """How a program ended; a negative *status* is the signal that ended it, as ``subprocess`` has it."""

    command: tuple[str, ...]
    status: int
    output: bytes
    errors: bytes

    @property
    def ok(self) -> bool:
        """Tell whether the exit status was 0."""
        return self.status == 0


@final
class LabProcesses:
    """The programs of one lab; *token* is a secret that no other run of a lab has."""

    def __init__(self, ledger: Ledger | None = None, token: str = "") -> None:
        self.token = token or secrets.token_hex(16)
        self._ledger: Ledger = ledger or NoLedger()

    def argv(self, entry: Sequence[str], command: Sequence[str], resolv_conf: str | None = None) -> list[str]:
        """Give the command line that runs *command* in a namespace, which *entry* leads to (``Space.entry``)."""
        argv = [sys.executable, "-IS", ENTER, *entry, "--token", self.token]
        if resolv_conf is not None:
            argv += ["--resolv", resolv_conf]
        return [*argv, "--", *command]

    async def run(self, argv: Sequence[str], *, input: bytes = b"", check: bool = False) -> Process:
        """Run a program made by ``argv`` to its end; if this is cancelled, the program and its children are killed.

        With *check* raise LabError if the status is not 0; the text has the last lines that the program wrote.
        """
        command = tuple(argv[argv.index("--") + 1 :])
        result = await trio.run_process(
            list(argv),
            stdin=input,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            start_new_session=True,
            deliver_cancel=_kill_session,
        )
        process = Process(command, result.returncode, result.stdout or b"", result.stderr or b"")
        if check and not process.ok:
            tail = (process.errors or process.output).decode(errors="replace").strip().splitlines()[-3:]
            raise LabError(f"{' '.join(command)} ended with status {process.status}: {' / '.join(tail) or 'no output'}")
        return process

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        output: int | None = subprocess.DEVNULL,
        errors: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> trio.Process:
        """Start a program and leave it running; it ends with the lab at the latest.

        It is one made by ``argv``, or any that stays in the lab's own namespace: the token is in its environment.
        """
        process: trio.Process = await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if errors is None else errors,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            env={**os.environ, LAB_TOKEN: self.token},
        )
        with contextlib.suppress(ProcessLookupError):
            self._ledger.add(ProcessResource.of(process.pid))
        return process

    def stop(self) -> bool:
        """End every process that carries the token; blocks until they are gone; tell whether there were any."""
        return bool(end_all_with_token(self.token))


async def _kill_session(process: trio.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
