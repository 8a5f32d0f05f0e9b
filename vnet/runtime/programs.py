"""Run the programs that the topology gives its guests.

Servers start first, before anybody may ask them, and listen on all addresses their guest is going to have. Then each client
waits until its guest and its target have their addresses. Nothing that a program does ends the lab: what goes wrong becomes
an event ``program-failed``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, assert_never, cast, final

import trio

from vnet.errors import UsageError
from vnet.fabric.rng import RandomStreams
from vnet.guests.base import Guest
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.program import GuestProgram, Row
from vnet.guests.stand_in import StandIn
from vnet.ports import Randomness
from vnet.programs import dns, echo, http, iperf3_client, iperf3_server, traffic
from vnet.programs.traffic_sink import Sink
from vnet.runtime.machine_programs import MachinePrograms
from vnet.runtime.tasks import PROGRAM
from vnet.topology.resolved_programs import (
    ResolvedProgram,
    RunDns,
    RunEcho,
    RunFunction,
    RunHttp,
    RunIperf3,
    RunIperf3Client,
    RunServer,
    RunSink,
    RunTraffic,
)
from vnet.units import DAY, SECOND, seconds

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

PATIENCE: Final = seconds(3650 * DAY)
"""Seconds that a client waits for addresses: as long as the lab runs."""

MOST_RESTARTS: Final = 100
"""Times that a server begins anew at one instant; one that goes on closing its own sockets would hold time up."""


@asynccontextmanager
async def running_programs(lab: Lab) -> AsyncIterator[None]:
    """Run the programs of all guests for the length of the block; what the block raises comes out as it is."""
    failure: Exception | None = None
    streams = RandomStreams(lab.seed)
    async with trio.open_nursery() as nursery:
        clients: list[_Runner] = []
        for name, resolved in lab.topology.guests.items():
            guest = lab.guests[name]
            if not isinstance(guest, EmulatedGuest):
                continue
            runners = [
                _Runner(lab, guest, program, streams.stream(name, f"program {index} {program.name}"))
                for index, program in enumerate(resolved.run)
            ]
            guest.programs.extend(runner.state for runner in runners)
            if isinstance(guest, StandIn):
                guest.program_runner = MachinePrograms(nursery, runners, are_running=guest.state.is_alive)
                if not guest.state.is_alive:  # they start with it, and nobody waits for what does not
                    if guest.machine.start_action == "never":
                        guest.program_runner.cut()
                    continue
            for runner in runners:
                if runner.state.is_server:
                    nursery.start_soon(runner.run, name=runner.title)
                    await runner.listening.wait()
                else:
                    clients.append(runner)
        for runner in clients:
            nursery.start_soon(runner.run, name=runner.title)
        try:
            yield
        except Exception as error:
            failure = error  # the nursery would put it into a group
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@final
class _Runner:
    """Runs one program, once: one that is to run again is a new one, with *before* for what stays."""

    def __init__(
        self, lab: Lab, guest: EmulatedGuest, program: ResolvedProgram, randomness: Randomness, before: _Runner | None = None
    ) -> None:
        self._lab = lab
        self._guest = guest
        self._program = program
        self._randomness = randomness
        self._scope: trio.CancelScope | None = None
        self._is_cut = False
        self.listening = trio.Event()
        self.ended = trio.Event()
        if before is None:
            self._sink = Sink()  # outlives restarts of its guest: what arrived before is not lost
            self.state = GuestProgram(program.name, is_server=isinstance(program, RunServer))
        else:
            self._sink, self.state = before._sink, before.state

    @property
    def title(self) -> str:
        """Name the program and its guest, as errors do that say who waits."""
        return f"{PROGRAM}{self.state.name} of {self._guest.name}"

    def started(self, value: object = None) -> None:
        """Take note that a server listens: this is its ``task_status``."""
        self.listening.set()

    def anew(self) -> _Runner:
        """Return one that runs the program again from its beginning, on the machine that has started anew."""
        self.state.begin_again()
        return _Runner(self._lab, self._guest, self._program, self._randomness, self)

    def ask_to_end(self) -> None:
        """End it, so that it says goodbye to its peers; ``ended`` tells when that is done."""
        if self._scope is not None:
            self._scope.cancel()

    def cut(self) -> None:
        """End it with its machine; what it still does and says is of no interest any more."""
        self._is_cut = True
        self.ask_to_end()
        if self.state.state in ("waiting", "running"):
            self.state.state = "stopped"
            self.state.ended.set()

    async def run(self) -> None:
        """Run it, and contain what goes wrong."""
        try:
            if not isinstance(self._guest, StandIn):
                await self._run()
            elif not self._is_cut:
                with self._guest.program_time.track() as self._scope:
                    await self._run()
        finally:
            self.ended.set()
            self.listening.set()

    async def _run(self) -> None:
        state = self.state
        try:
            program = self._program
            if isinstance(program, RunServer):
                state.state = "running"
                await self._keep_serving(program)
            else:
                await self._wait_for_addresses(program)
                state.state = "running"
                await self._guest.run(self._act, program)
            if not self._is_cut:
                state.state = "done"
        except (Exception, SystemExit) as error:
            self._fail(error)
        except BaseExceptionGroup as group:
            ending, rest = group.split(_ends_the_lab)
            if ending is not None:  # what its other tasks say of closed sockets when the lab ends is of no interest
                raise ending from None
            assert rest is not None
            self._fail(rest)
        finally:
            if not self._is_cut:
                state.ended.set()
            self.listening.set()

    def _fail(self, error: BaseException) -> None:
        state = self.state
        if self._is_cut:
            return  # its machine was turned off: what it says of that is of no interest
        if not trio.lowlevel.in_trio_run():
            return  # the whole run was given up, and nobody may wait any more: that says nothing about this program
        state.state, state.error = "failed", _describe(error)
        self._lab.events.add(self._guest.name, "program-failed", program=state.name, error=state.error)

    # -- servers

    async def _keep_serving(self, program: RunServer) -> None:
        """Serve, and begin anew when somebody else closed the sockets: a guest that crashed starts its services again."""
        at_once = 0
        while True:
            began = trio.current_time()
            try:
                await self._guest.run(self._serve, program)
            except Exception as error:
                at_once = at_once + 1 if trio.current_time() <= began else 0
                if not isinstance(_first(error), trio.ClosedResourceError) or at_once > MOST_RESTARTS:
                    raise
                self._lab.events.add(self._guest.name, "program-restarted", program=self.state.name)

    async def _serve(self, program: RunServer) -> None:
        task_status = cast("trio.TaskStatus[object]", self)
        match program:
            case RunEcho():
                await echo.serve(program.port, services=_datagram_services(self._lab), task_status=task_status)
            case RunHttp():
                await http.serve(_existing(program.folder), program.port, task_status=task_status)
            case RunDns():
                table = dns.NameTable(dict(program.names), program.ttl // SECOND)
                await dns.serve(table, program.port, task_status=task_status)
            case RunIperf3():
                await iperf3_server.serve(
                    program.port, on_result=lambda result: self.state.add(result.summary()), task_status=task_status
                )
            case RunSink():
                self.state.measure = lambda: [each.summary() for each in self._sink.reports()]
                await self._sink.serve(program.port, task_status=task_status)
            case _:
                assert_never(program)

    # -- clients

    async def _wait_for_addresses(self, program: RunIperf3Client | RunTraffic | RunFunction) -> None:
        await _wait_up(self._guest)
        if isinstance(program, RunFunction):
            return
        if program.to in self._lab.guests:
            await _wait_up(self._lab.guests[program.to])
        await trio.sleep(seconds(program.start))

    async def _act(self, program: RunIperf3Client | RunTraffic | RunFunction) -> None:
        match program:
            case RunTraffic():
                result = await traffic.generate(
                    program.to, program.port, _traffic_options(program), randomness=self._randomness
                )
                self.state.add({"to": program.to, "pattern": program.pattern, **result.summary()})
            case RunIperf3Client():
                test = await iperf3_client.run_client(
                    program.to, program.port, _iperf3_options(program), randomness=self._randomness
                )
                self.state.add({"to": program.to, **test.summary()})
            case RunFunction():
                returned = await _load(program)(self._guest)
                if isinstance(returned, Mapping):
                    self.state.add(_row(returned))
            case _:
                assert_never(program)


def _datagram_services(lab: Lab) -> frozenset[int]:
    """List the UDP ports on which the topology has guests serve."""
    programs = (program for guest in lab.topology.guests.values() for program in guest.run)
    return frozenset(each.port for each in programs if isinstance(each, RunServer) and "udp" in each.transports)


async def _wait_up(guest: Guest) -> None:
    """Wait until DHCP has done its part, or a guest of IPv6 alone knows that nobody else has its address."""
    if any(each.dhcp for each in guest.interfaces()):
        await guest.dhcp(PATIENCE)
    if guest.address is None and isinstance(guest, EmulatedGuest):
        await guest.settle()


def _traffic_options(program: RunTraffic) -> traffic.TrafficOptions:
    return traffic.TrafficOptions(
        pattern=program.pattern,
        protocol=program.protocol,
        rate=program.rate,
        size=program.size,
        reply=program.reply,
        burst=seconds(program.burst),
        pause=seconds(program.pause),
        duration=None if program.duration is None else seconds(program.duration),
        count=program.count,
    )


def _iperf3_options(program: RunIperf3Client) -> iperf3_client.Iperf3Options:
    return iperf3_client.Iperf3Options(
        time=seconds(program.time),
        octets=program.octets,
        parallel=program.parallel,
        reverse=program.reverse,
        udp=program.udp,
        bitrate=program.bitrate,
        block=program.block,
    )


def _row(returned: Mapping[object, object]) -> Row:
    """Take what a function returned for a result, if whoever wants the results can have it as JSON."""
    row = dict(returned)
    try:
        json.dumps(row)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"it returned a mapping that cannot be JSON: {error}") from error
    if not all(isinstance(key, str) for key in row):
        raise UsageError("it returned a mapping with keys that are no texts")
    return cast("Row", row)


def _load(program: RunFunction) -> Callable[[EmulatedGuest], Awaitable[object]]:
    """Import the user's function, with the folder of the topology first, as Python does for a script's."""
    folder = str(Path(program.folder).absolute())
    sys.path.insert(0, folder)
    try:
        module = _load_file(Path(folder, program.module + ".py")) or importlib.import_module(program.module)
    finally:
        sys.path.remove(folder)
    function = getattr(module, program.function, None)
    if not inspect.iscoroutinefunction(function):
        what = "no function" if function is None else "no async function"
        raise UsageError(f"{program.function} in {program.module} is {what}: write async def {program.function}(guest)")
    return cast("Callable[[EmulatedGuest], Awaitable[object]]", function)


def _load_file(path: Path) -> ModuleType | None:
    """Import a file under a name of its own: two labs may have a module of one name, and so may Python itself."""
    name = f"vnet program {path}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        return None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _existing(folder: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"there is no folder {folder}")
    return path


def _ends_the_lab(error: BaseException) -> bool:
    """Tell a cancellation, or what else no program may hold up, from a failure of the program."""
    return not isinstance(error, Exception | SystemExit | BaseExceptionGroup)


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group, or the one that is none."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _describe(error: BaseException) -> str:
    """Say in one line what went wrong, and why, where the error says so: trio's "all attempts failed" has a cause."""
    error = _first(error)
    text = _describe_alone(error)
    if isinstance(error, OSError) and error.__cause__ is not None:
        return f"{text} ({_describe_alone(_first(error.__cause__))})"
    return text


def _describe_alone(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())[:300]
    except Exception as broken:  # it is the class of somebody else
        text = f"its text cannot be told: {type(broken).__name__}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
