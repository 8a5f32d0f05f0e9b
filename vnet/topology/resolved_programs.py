"""The programs of guests, spelled out: what ``ResolvedGuest.run`` holds. Times are in nanoseconds, sizes in octets."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Literal, TypeAlias, final

from vnet.units import Duration, Rate, Size

Transport: TypeAlias = Literal["tcp", "udp"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunEcho:
    """The echo service."""

    name: ClassVar[str] = "echo"
    transports: ClassVar[tuple[Transport, ...]] = ("tcp", "udp")
    port: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunHttp:
    """A web server; ``folder`` is a path as seen from where vnet runs."""

    name: ClassVar[str] = "http"
    transports: ClassVar[tuple[Transport, ...]] = ("tcp",)
    port: int
    folder: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunDns:
    """A name server for a table."""

    name: ClassVar[str] = "dns"
    transports: ClassVar[tuple[Transport, ...]] = ("tcp", "udp")
    port: int
    names: tuple[tuple[str, tuple[IPv4Address | IPv6Address, ...]], ...]
    ttl: Duration


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunIperf3:
    """An iperf3 server."""

    name: ClassVar[str] = "iperf3"
    transports: ClassVar[tuple[Transport, ...]] = ("tcp", "udp")
    port: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunSink:
    """The far end of traffic generators."""

    name: ClassVar[str] = "sink"
    transports: ClassVar[tuple[Transport, ...]] = ("tcp", "udp")
    port: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunIperf3Client:
    """One iperf3 test; ``octets`` in place of ``time`` if not None."""

    name: ClassVar[str] = "iperf3_client"
    to: str
    port: int
    start: Duration
    time: Duration
    octets: Size | None
    parallel: int
    reverse: bool
    udp: bool
    bitrate: Rate | None
    block: Size | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunTraffic:
    """A traffic generator; ``rate`` in messages a second. Without ``duration`` and ``count`` the generator chooses."""

    name: ClassVar[str] = "traffic"
    to: str
    port: int
    pattern: Literal["cbr", "poisson", "onoff", "bulk", "request"]
    protocol: Transport
    rate: float | None
    size: Size
    reply: Size
    burst: Duration
    pause: Duration
    start: Duration
    duration: Duration | None
    count: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFunction:
    """The user's own async function; ``folder`` is where its module is looked for first."""

    module: str
    function: str
    folder: str

    @property
    def name(self) -> str:
        """As it was typed."""
        return f"{self.module}:{self.function}"


RunServer: TypeAlias = RunEcho | RunHttp | RunDns | RunIperf3 | RunSink
RunClient: TypeAlias = RunIperf3Client | RunTraffic | RunFunction
ResolvedProgram: TypeAlias = RunServer | RunClient
