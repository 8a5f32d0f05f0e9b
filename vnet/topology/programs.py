"""Resolve and check the programs of guests: ``run:`` in a topology."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from vnet.topology.draft import Draft
from vnet.topology.machines import folder_of
from vnet.topology.model import Guest
from vnet.topology.problems import Path, suggestion
from vnet.topology.program_model import Dns, Echo, Http, Iperf3, Iperf3Client, Program, Sink, Traffic
from vnet.topology.reading import Reader
from vnet.topology.resolved import LINUX_KINDS, Address, ResolvedTopology
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
from vnet.topology.shape import numbered, placed
from vnet.units import SECOND, format_duration
from vnet.wire.dns import parse_name

PROGRAMS: Final = tuple(Program.__struct_fields__)
_BARE: Final[Mapping[str, Program]] = {
    "echo": Program(echo=Echo()), "iperf3": Program(iperf3=Iperf3()), "sink": Program(sink=Sink()),
}  # fmt: skip
"""Those that need no options."""
_FUNCTION: Final = re.compile(r"((?:[^\W\d]\w*\.)*[^\W\d]\w*):([^\W\d]\w*)")
_EXAMPLES: Final = {
    "http": "{folder: www}",
    "dns": "{names: {www.example: 10.0.0.1}}",
    "iperf3_client": "{to: web}",
    "traffic": "{to: web, rate: 100/s}",
}

MOST_TTL: Final = 2**31 - 1
"""Seconds that a DNS record can be kept (RFC 2181, 8)."""
SMALLEST_MESSAGE: Final = 40
LARGEST_DATAGRAM: Final = 65507
LARGEST_RECORD: Final = 1024 * 1024
MOST_STREAMS: Final = 128
LONGEST_TEST: Final = 86_400 * SECOND
"""Of iperf3, both that of others and ours."""


def resolve_programs(draft: Draft, name: str, model: Guest) -> tuple[ResolvedProgram, ...]:
    """Resolve the programs of a guest, in the order of the file."""
    path: Path = ("guests", name, "run")
    if model.run and model.kind in LINUX_KINDS:
        text = (
            f"a live lab refuses this: guests of kind {model.kind} run real programs; it is for simulated and emulated labs"
        )
        draft.problems.warning("run-in-namespace", path, text, key=True)
    found = ((index, _program(draft, given, (*path, index))) for index, given in numbered(model.run))
    programs = [(index, program) for index, program in found if program is not None]
    _check_ports(draft, path, programs)
    return tuple(program for _, program in programs)


def _program(draft: Draft, given: str | Program, path: Path) -> ResolvedProgram | None:
    if isinstance(given, str):
        if match := _FUNCTION.fullmatch(given):
            return RunFunction(module=match[1], function=match[2], folder=str(folder_of(draft)))
        if given in _BARE:
            return _built_in(draft, _BARE[given], path, "")
        if given in PROGRAMS:
            text = f"{given} needs options; write them as {{{given}: {_EXAMPLES[given]}}}"
            draft.problems.error("bad-program", path, text)
        else:
            hint = suggestion(given, PROGRAMS)
            text = f"there is no program {given[:60]!r} ({hint}), and a function of yours is written module:function"
            draft.problems.error("unknown-program", path, text)
        return None
    names = [name for name in PROGRAMS if getattr(given, name) is not None]
    if len(names) != 1:
        if not draft.problems.lost(path):
            text = f"a program is one thing, not {len(names)}; write one of {', '.join(PROGRAMS)}"
            draft.problems.error("bad-program", path, text)
        return None
    return _built_in(draft, given, path, names[0])


def _built_in(draft: Draft, given: Program, path: Path, key: str) -> ResolvedProgram | None:
    inner = (*path, key) if key else path
    reader = draft.reader

    def port(typed: int | None, usual: int) -> int:
        return reader.whole(typed, (*inner, "port"), 1, 65535, usual)

    match given.echo or given.http or given.dns or given.iperf3 or given.iperf3_client or given.sink or given.traffic:
        case Echo() as echo:
            return RunEcho(port=port(echo.port, 7))
        case Http() as http:
            return RunHttp(port=port(http.port, 80), folder=str(folder_of(draft) / http.folder))
        case Dns() as dns:
            ttl = reader.duration(dns.ttl, (*inner, "ttl"), 60 * SECOND)
            if ttl > MOST_TTL * SECOND:
                text = f"{dns.ttl} is more than DNS can say; the most is {MOST_TTL}s, which is 68 years"
                draft.problems.error("out-of-range", (*inner, "ttl"), text)
            return RunDns(port=port(dns.port, 53), names=_names(draft, dns, (*inner, "names")), ttl=ttl)
        case Iperf3() as iperf3:
            return RunIperf3(port=port(iperf3.port, 5201))
        case Sink() as sink:
            return RunSink(port=port(sink.port, 9000))
        case Iperf3Client() as client:
            return _iperf3_client(draft, client, port(client.port, 5201), inner)
        case Traffic() as traffic:
            return _traffic(draft, traffic, port(traffic.port, 9000), inner)
        case _:
            return None


def _names(draft: Draft, model: Dns, path: Path) -> tuple[tuple[str, tuple[Address, ...]], ...]:
    names: list[tuple[str, tuple[Address, ...]]] = []
    for name, texts in model.names.items():
        place: Path = (*path, name)
        try:
            parse_name(name)
        except UnicodeEncodeError:
            text = (
                f"{name[:60]!r} has letters that no name on the wire has; write it in ASCII, such as xn--bcher-kva.example"
            )
            draft.problems.error("bad-name", place, text, key=True)
            continue
        except ValueError as error:
            draft.problems.error("bad-name", place, f"{error}; write one such as www.example", key=True)
            continue
        found = [draft.reader.address(text, spot) for spot, text in placed(texts, place)]
        names.append((name, tuple(address for address in found if address is not None)))
    return tuple(names)


def _iperf3_client(draft: Draft, model: Iperf3Client, port: int, path: Path) -> RunIperf3Client:
    reader = draft.reader
    if model.octets is not None and model.time is not None:
        text = "time and octets both say when it ends; keep one of the two"
        draft.problems.error("bad-program", (*path, "octets"), text, key=True)
    time = _positive(reader, model.time, (*path, "time")) or 10 * SECOND
    if time > LONGEST_TEST:
        text = f"{model.time} is longer than iperf3 can test; the most is {format_duration(LONGEST_TEST)}"
        draft.problems.error("out-of-range", (*path, "time"), text)
    return RunIperf3Client(
        to=_target(draft, model.to, path),
        port=port,
        start=reader.duration(model.start, (*path, "start"), 0),
        time=time,
        octets=reader.size(model.octets, (*path, "octets")),
        parallel=reader.whole(model.parallel, (*path, "parallel"), 1, MOST_STREAMS, 1),
        reverse=model.reverse,
        udp=model.udp,
        bitrate=reader.rate(model.bitrate, (*path, "bitrate")),
        block=_octets(
            reader, model.block, (*path, "block"), 16 if model.udp else 1, _largest("udp" if model.udp else "tcp")
        ),
    )


def _traffic(draft: Draft, model: Traffic, port: int, path: Path) -> RunTraffic | None:
    reader, problems = draft.reader, draft.problems
    protocol = model.protocol or ("tcp" if model.pattern == "bulk" else "udp")
    if model.pattern == "bulk" and protocol == "udp":
        problems.error("bad-program", (*path, "protocol"), "bulk traffic goes over tcp: over udp nothing holds it back")
    if model.pattern in ("cbr", "poisson", "onoff") and model.rate is None and not problems.lost((*path, "rate")):
        problems.error("bad-program", path, f"{model.pattern} traffic needs a rate, such as 100/s")
    if model.count is not None and model.count < 1:
        problems.error("out-of-range", (*path, "count"), f"{model.count} is less than 1")
    usual = 64 * 1024 if model.pattern == "bulk" else 512
    size = _octets(reader, model.size, (*path, "size"), SMALLEST_MESSAGE, _largest(protocol)) or usual
    rate = reader.message_rate(model.rate, size, (*path, "rate"))
    burst = _positive(reader, model.burst, (*path, "burst")) or SECOND
    if model.pattern == "onoff" and rate and burst * rate < SECOND * (1 - 1e-9) and not problems.lost((*path, "burst")):
        text = f"a burst of {format_duration(burst)} is shorter than the time between two messages"
        text += f"; write {1 / rate:.3g}s or more"
        problems.error("bad-program", (*path, "burst"), text)
    return RunTraffic(
        to=_target(draft, model.to, path),
        port=port,
        pattern=model.pattern,
        protocol=protocol,
        rate=rate,
        size=size,
        reply=_octets(reader, model.reply, (*path, "reply"), SMALLEST_MESSAGE, _largest(protocol)) or 512,
        burst=burst,
        pause=reader.duration(model.pause, (*path, "pause"), SECOND),
        start=reader.duration(model.start, (*path, "start"), 0),
        duration=_positive(reader, model.duration, (*path, "duration")),
        count=model.count,
    )


def _largest(protocol: str) -> int:
    return LARGEST_DATAGRAM if protocol == "udp" else LARGEST_RECORD


def _octets(reader: Reader, given: int | str | None, path: Path, low: int, high: int) -> int | None:
    size = reader.size(given, path)
    return None if size is None else reader.whole(size, path, low, high, low)


def _positive(reader: Reader, text: str | None, path: Path) -> int | None:
    duration = reader.duration(text, path, -1)
    if duration == 0:
        reader.problems.error("out-of-range", path, "0s is no time at all; leave the key out for the default")
    return duration if duration > 0 else None


def _target(draft: Draft, to: str, path: Path) -> str:
    known = [*draft.model.guests, *draft.model.routers]
    if to in known:
        return to
    try:
        ip_address(to)
    except ValueError:
        if not (draft.problems.blamed(("guests",)) or draft.problems.blamed(("routers",))):
            text = f"{to[:60]!r} is no guest, router or address; {suggestion(to, known)}"
            draft.problems.error("unknown-target", (*path, "to"), text)
    return to


def _check_ports(draft: Draft, path: Path, programs: list[tuple[int, ResolvedProgram]]) -> None:
    """Two programs of a guest cannot have the same port."""
    taken: dict[tuple[str, int], str] = {}
    for index, program in programs:
        if not isinstance(program, RunServer) or draft.problems.lost((*path, index)):
            continue
        clash = next((t for t in program.transports if (t, program.port) in taken), None)
        if clash is not None:
            text = f"{clash} port {program.port} has {taken[clash, program.port]} already; give one of them another port"
            draft.problems.error("port-clash", (*path, index), text)
        for transport in program.transports:
            taken.setdefault((transport, program.port), program.name)


def clients_have_servers(draft: Draft, resolved: ResolvedTopology) -> None:
    """What a guest's client wants of another guest is there, unless that one runs programs that we know nothing of."""
    for name, guest in resolved.guests.items():
        model = draft.model.guests[name]
        if model is None or draft.problems.within(("guests", name, "run")):
            continue
        for (index, _), program in zip(numbered(model.run), guest.run, strict=True):
            if not isinstance(program, RunTraffic | RunIperf3Client):
                continue
            server = "sink" if isinstance(program, RunTraffic) else "iperf3"
            target = resolved.guests.get(program.to)
            if target is None or target.kind != "emulated" or draft.problems.within(("guests", program.to, "run")):
                continue
            there = [(each.name, each.port) for each in target.run if isinstance(each, RunServer)]
            if (server, program.port) in there or any(isinstance(each, RunFunction) for each in target.run):
                continue
            usual = 9000 if server == "sink" else 5201
            wanted = server if program.port == usual else f"{{{server}: {{port: {program.port}}}}}"
            text = f"{program.to!r} has no {server} on port {program.port}; give it run: [{wanted}]"
            draft.problems.warning("no-server", ("guests", name, "run", index, program.name, "to"), text)
