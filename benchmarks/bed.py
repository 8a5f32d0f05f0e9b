"""Namespaces, TAP devices and processes that a live benchmark makes, and takes away whatever happens.

Every process is ended by the handle that started it, and the kernel kills it should the benchmark itself be killed.
Namespaces carry the benchmark's process id in their name, so that the next run can remove those of a run that was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from benchmarks import setup_peers
from benchmarks.setup_peers import environment

PREFIX: Final = "vbench"
QUIET_IPV6: Final = ("sh", "-c", "for kind in all default; do echo 1 > /proc/sys/net/ipv6/conf/$kind/disable_ipv6; done")


def run(*command: str, check: bool = True, timeout: float = 60) -> str:
    """Run a short command to its end and return what it printed; raise RuntimeError with its complaint if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=timeout, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
    """Poll until *condition* holds; raise TimeoutError naming *what* otherwise."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout:g} s")
        time.sleep(0.02)


@final
@dataclass(frozen=True, slots=True)
class Space:
    """A network namespace; without a name, that of an existing process."""

    name: str
    pid: int | None = None

    def command(self, *command: str) -> list[str]:
        """Turn a command into one that runs inside."""
        if self.pid is not None:
            return ["nsenter", "-t", str(self.pid), "-n", *command]
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Run a short command inside."""
        return run(*self.command(*command), check=check, timeout=timeout)


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """Two guests that can reach each other, and the processes that carry their frames."""

    a: Space
    b: Space
    address_a: str
    address_b: str
    carriers: tuple[int, ...] = ()


@final
class Bed:
    """A context in which things are made, and at whose end they are gone, in reverse order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the namespaces."""
        self._stack.close()

    def space(self, name: str) -> Space:
        """Make a namespace with loopback up and without IPv6, whose own chatter would be measured too."""
        space = Space(f"{PREFIX}-{os.getpid()}-{self.name}-{name}")
        run("ip", "netns", "add", space.name)
        self._stack.callback(run, "ip", "netns", "del", space.name, check=False)
        space.run(*QUIET_IPV6)
        space.run("ip", "link", "set", "lo", "up")
        return space

    def start(
        self, *command: str, space: Space | None = None, log: str = "log", death: str = "KILL", patience: float = 3.0
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends with the bed; its output goes to *log* in the bed's folder.

        It has *patience* seconds to end when asked to, and gets the signal *death* should the benchmark be killed.
        """
        inside = space.command(*command) if space else list(command)
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", death, *inside],
                stdin=subprocess.PIPE,  # never written to: some programs end when it is closed
                stdout=output,
                stderr=output,
                env=environment(),
                start_new_session=True,
            )
        self._stack.callback(end, process, patience)
        return process

    def on_close(self, action: Callable[..., object], *args: object) -> None:
        """Call ``action(*args)`` when the bed is closed."""
        self._stack.callback(action, *args)

    def guest(self, name: str, device: str, address: str, source: Space, mtu: int = 1500) -> Space:
        """Make a namespace, move *device* there from *source* and give it an address."""
        space = self.space(name)
        source.run("ip", "link", "set", device, "netns", space.name)
        configure(space, device, address, mtu)
        return space


def configure(space: Space, device: str, address: str, mtu: int = 1500) -> None:
    """Bring a guest's device up as ``eth0`` with *address* (with its prefix length)."""
    space.run("ip", "link", "set", device, "name", "eth0", "mtu", str(mtu))
    space.run("ip", "address", "add", address, "dev", "eth0")
    space.run("ip", "link", "set", "eth0", "up")


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask a process to end, insist if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()


def settle(pair: Pair) -> None:
    """Wait until the guests reach each other, with their ARP caches filled."""
    wait_until(
        lambda: "1 received" in pair.a.run("ping", "-c1", "-W1", pair.address_b, check=False), f"ping {pair.address_b}"
    )


def sweep() -> None:
    """Remove the namespaces and folders of earlier runs that were killed."""
    for line in run("ip", "netns", "list").splitlines():
        if _is_abandoned(name := line.split()[0]):
            run("ip", "netns", "del", name, check=False)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        if _is_abandoned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(name: str) -> bool:
    """Tell whether the name carries the process id of a benchmark that is no more."""
    words = name.split("-")
    return words[0] == PREFIX and len(words) > 1 and words[1].isdigit() and not Path(f"/proc/{words[1]}").exists()


def raise_on_terminate() -> None:
    """Turn SIGTERM into KeyboardInterrupt, so that beds are closed."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def why_not(programs: Sequence[str]) -> str:
    """Say why live rows cannot be measured here, or nothing."""
    if os.geteuid() != 0:
        return "needs root: namespaces and TAP devices"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    return setup_peers.why_not(programs)
