"""What can be asked of a running lab from outside, each command a method over the ``Lab`` object.

Arguments come from a socket, so nothing about them is taken for granted; what is wrong with them raises UsageError. Answers
are plain data, fit for JSON.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from vnet.errors import UsageError
from vnet.guests.console import Console
from vnet.guests.namespace import NamespaceGuest
from vnet.runtime.capture import Capture
from vnet.runtime.change import change
from vnet.runtime.filter import compile_filter
from vnet.runtime.machines import machine_of, qemu_of
from vnet.runtime.matrix import measure
from vnet.runtime.sinks import Sink
from vnet.runtime.views import show
from vnet.units import SECOND

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab
    from vnet.runtime.plugs import Plug

Progress: TypeAlias = Callable[[object], Awaitable[None]]
"""Sends something to the client while its command still runs."""
Command: TypeAlias = "Callable[[Commands, Arguments, Progress], Awaitable[object]]"

MAX_COUNT: Final = 1_000_000
MAX_PORTS: Final = 4096


@final
class Arguments:
    """The arguments of a request; each reader checks the type and names what is wrong."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def text(self, name: str, default: str | None = None) -> str:
        """Read a text that must be there unless there is a *default*."""
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise UsageError(f"the argument {name!r} must be a text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Read a text that may be missing."""
        return None if self._values.get(name) is None else self.text(name)

    def texts(self, name: str) -> list[str]:
        """Read a list of texts; nothing is an empty list."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_PORTS or not all(isinstance(item, str) for item in value):
            raise UsageError(f"the argument {name!r} must be a list of texts")
        return value

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """Read a whole number from *low* to *high*."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise UsageError(f"the argument {name!r} must be a whole number from {low} to {high}")
        return value

    def seconds(self, name: str, default: float) -> float:
        """Read a time-out or interval in seconds, up to an hour."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3600:
            raise UsageError(f"the argument {name!r} must be a number of seconds from 0 to 3600")
        return float(value)


@final
class Commands:
    """The commands of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def run(self, name: str, values: Mapping[str, object], progress: Progress) -> object:
        """Carry a command out; raise UsageError for an unknown one."""
        command = _COMMANDS.get(name)
        if command is None:
            raise UsageError(f"this lab knows no command {name!r}; there are: {', '.join(_COMMANDS)}, capture, console")
        return await command(self, Arguments(values), progress)

    def start_capture(self, values: Mapping[str, object], sink: Sink) -> Capture:
        """Begin a capture: ``ports`` (names and globs), ``filter``, ``count``."""
        arguments = Arguments(values)
        wanted = arguments.optional_text("filter")
        return self._lab.captures.start(
            sink,
            [self._port_name(port) for port in arguments.texts("ports")],
            compile_filter(wanted) if wanted else None,
            arguments.number("count", 1, MAX_COUNT),
        )

    def console(self, values: Mapping[str, object]) -> Console:
        """Find the console of a ``guest``."""
        return qemu_of(self._lab, Arguments(values).text("guest")).console

    async def wait_machine_off(self, values: Mapping[str, object]) -> None:
        """Wait until a ``guest`` has run and does not any more."""
        machine = machine_of(self._lab, Arguments(values).text("guest"))
        await machine.wait_state("running", "paused")
        await machine.wait_state("stopped", "saved", "failed")

    def _port_name(self, text: str) -> str:
        """Turn a switch port by number (``core:3``, as ``show ports`` has it) into its name; leave all else as it is."""
        switch, _, number = text.partition(":")
        if switch in self._lab.switches and number.isascii() and number.isdigit() and len(number) < 9:
            port = self._lab.switches[switch].ports.get(int(number))
            return text if port is None else port.port.name
        return text

    async def info(self, arguments: Arguments, progress: Progress) -> object:
        """Say who the lab is."""
        lab = self._lab
        return {
            "name": lab.name,
            "pid": os.getpid(),
            "live": lab.live,
            "seed": lab.seed,
            "time_s": round(lab.now, 3),
            "source": lab.topology.source,
            "guests": len(lab.guests),
            "networks": len(lab.topology.networks),
        }

    async def show(self, arguments: Arguments, progress: Progress) -> object:
        """Make a view; ``last`` keeps only its last rows."""
        rows = show(self._lab, arguments.text("what"))
        last = arguments.number("last", 1, MAX_COUNT)
        return rows if last is None else rows[-last:]

    async def set(self, arguments: Arguments, progress: Progress) -> object:
        """Change a link, a port or a network."""
        return await change(self._lab, arguments.text("target"), arguments.texts("settings"))

    async def flush(self, arguments: Arguments, progress: Progress) -> object:
        """Empty a table, everywhere or of one switch, network or router; say how many entries went."""
        table, name = arguments.text("table"), arguments.optional_text("name")
        lab = self._lab
        if table == "fdb":
            return {each: lab.switches[each].flush() for each in _chosen(name, lab.switches, "switch")}
        if table == "leases":
            return {each: lab.dhcp[each].flush() for each in _chosen(name, lab.dhcp, "network with DHCP")}
        if table == "nat":
            return {each: lab.routers[each].flush() for each in _chosen(name, lab.routers, "router")}
        raise UsageError(f"there is no table {table!r} to empty; there are: fdb, leases, nat")

    async def ping(self, arguments: Arguments, progress: Progress) -> object:
        """Ping ``target`` from ``guest`` ``count`` times; each reply is progress."""
        guest, target = arguments.text("guest"), arguments.text("target")
        count = arguments.number("count", 1, MAX_COUNT, 1) or 1
        interval, timeout = arguments.seconds("interval", 1.0), arguments.seconds("timeout", 2.0)
        for sequence in range(1, count + 1):
            started = trio.current_time()
            reply = await self._lab.ping(guest, target, 1, timeout)
            await progress({
                "seq": sequence,
                "ok": reply.ok,
                "rtt_s": reply.rtt / SECOND if reply.ok and reply.rtt is not None else None,
                "from": str(reply.responder) if reply.responder is not None else None,
                "error": reply.error,
            })  # fmt: skip
            if sequence < count:
                await trio.sleep(max(0.0, started + interval - trio.current_time()))
        return None

    async def pingall(self, arguments: Arguments, progress: Progress) -> object:
        """Measure who reaches whom, beside what the rules say."""
        port = arguments.number("port", 1, 65535)
        return await measure(self._lab, arguments.text("protocol", "icmp"), port, arguments.seconds("timeout", 2.0))

    async def exec(self, arguments: Arguments, progress: Progress) -> object:
        """Give the command line that runs ``command`` inside a namespace guest; the caller runs it on its own terminal."""
        name, command = arguments.text("guest"), arguments.texts("command")
        guest = self._lab.guests[name]
        if not isinstance(guest, NamespaceGuest):
            others = [each.name for each in self._lab.guests.values() if isinstance(each, NamespaceGuest)]
            what = "a virtual machine" if guest.kind == "qemu" else f"an {guest.kind} guest"
            raise UsageError(
                f"{name} is {what} and runs no programs; "
                + (f"guests of kind namespace are: {', '.join(others)}" if others else "this lab has no namespace guests")
            )
        if not command:
            raise UsageError("which command? write it behind --, such as: vnet exec LAB GUEST -- ip addr")
        return {"argv": guest.exec_argv(command)}

    async def plug(self, arguments: Arguments, progress: Progress) -> object:
        """Make a port for a virtual machine that somebody else starts; it stays until ``unplug``."""
        return (await self._plug(arguments)).describe()

    async def attach(self, arguments: Arguments, progress: Progress) -> object:
        """Do the same, and keep the port for as long as the caller holds the connection."""
        plug = await self._plug(arguments)
        try:
            await progress(plug.describe())
            await self._lab.stopping.wait()
        finally:
            with trio.CancelScope(shield=True):
                if plug.name in self._lab.plugs:  # somebody else may have unplugged it
                    await self._lab.unplug(plug.name)
        return {}

    async def _plug(self, arguments: Arguments) -> Plug:
        return await self._lab.plug(
            arguments.optional_text("network"),
            vlan=arguments.optional_text("vlan"),
            trunk=arguments.texts("trunk") or None,
            native=arguments.optional_text("native"),
            kind=arguments.text("kind", "qemu-stream"),
            model=arguments.text("model", "virtio"),
            mac=arguments.optional_text("mac"),
            switch=arguments.optional_text("switch"),
            name=arguments.optional_text("name"),
        )

    async def unplug(self, arguments: Arguments, progress: Progress) -> object:
        """Take a port that ``plug`` made away again."""
        name = arguments.text("name")
        await self._lab.unplug(name)
        return {"name": name}

    async def down(self, arguments: Arguments, progress: Progress) -> object:
        """End the lab; the answer goes out before it does."""
        self._lab.stop()
        return {"pid": os.getpid()}


def _chosen(name: str | None, known: Mapping[str, object], what: str) -> list[str]:
    if name is None:
        return list(known)
    if name not in known:
        raise UsageError(f"there is no {what} {name!r}; there are: {', '.join(known) or 'none'}")
    return [name]


_COMMANDS: Final[Mapping[str, Command]] = {
    "info": Commands.info, "show": Commands.show, "set": Commands.set, "flush": Commands.flush, "ping": Commands.ping,
    "pingall": Commands.pingall, "exec": Commands.exec, "plug": Commands.plug, "attach": Commands.attach,
    "unplug": Commands.unplug, "down": Commands.down,
}  # fmt: skip
