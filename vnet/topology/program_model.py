"""The programs of guests as they are typed: what stands in ``run:``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from vnet.topology.vocabulary import AddressText, DurationText, RateText, SizeText, Strict, about

MessageRate: TypeAlias = Annotated[
    str,
    Meta(
        description="Messages by time such as 100/s or 6/min, or bits such as 2mbit.",
        pattern=r"^[0-9.]+ *(/ *([Ss]|[Mm][Ii][Nn]|[Hh])|[KMGkmg]?[Bb]([Ii][Tt])?(/[Ss]|[Pp][Ss])?)$",
    ),
]
TargetText: TypeAlias = Annotated[str, about("A guest, a router or an address.")]


class Echo(Strict, frozen=True, kw_only=True):
    """Sends back what comes, over TCP and UDP."""

    port: Annotated[int | None, about("Not given: 7.")] = None


class Http(Strict, frozen=True, kw_only=True):
    """A web server for the files of a folder."""

    folder: Annotated[str, about("The folder; a relative path begins at the topology file.")]
    port: Annotated[int | None, about("Not given: 80.")] = None


class Dns(Strict, frozen=True, kw_only=True):
    """A name server for a table of names."""

    names: Annotated[dict[str, AddressText | list[AddressText]], about("Addresses, one or several, by name.")]
    ttl: Annotated[DurationText | None, about("How long answers may be kept; not given: 60s.")] = None
    port: Annotated[int | None, about("Not given: 53.")] = None


class Iperf3(Strict, frozen=True, kw_only=True):
    """An iperf3 server."""

    port: Annotated[int | None, about("Not given: 5201.")] = None


class Iperf3Client(Strict, frozen=True, kw_only=True):
    """One test against an iperf3 server."""

    to: Annotated[TargetText, about("The server: a guest, a router or an address.")]
    port: Annotated[int | None, about("Not given: 5201.")] = None
    start: Annotated[DurationText | None, about("How long to wait before; not given: not at all.")] = None
    time: Annotated[DurationText | None, about("How long to send; not given: 10s.")] = None
    octets: Annotated[SizeText | None, about("How much to send, in place of time.")] = None
    parallel: Annotated[int | None, about("Streams at a time, up to 128; not given: 1.")] = None
    reverse: Annotated[bool, about("Whether the server sends; not given: no.")] = False
    udp: Annotated[bool, about("Whether over UDP; not given: over TCP.")] = False
    bitrate: Annotated[
        RateText | None, about("Bits per second of each stream; not given: 1mbit over UDP, no limit over TCP.")
    ] = None
    block: Annotated[SizeText | None, about("Octets sent at once; not given: 1448 over UDP, 128KiB over TCP.")] = None


class Sink(Strict, frozen=True, kw_only=True):
    """Takes and counts the traffic of generators, over TCP and UDP."""

    port: Annotated[int | None, about("Not given: 9000.")] = None


class Traffic(Strict, frozen=True, kw_only=True):
    """A traffic generator."""

    to: Annotated[TargetText, about("The sink: a guest, a router or an address.")]
    port: Annotated[int | None, about("Not given: 9000.")] = None
    pattern: Annotated[
        Literal["cbr", "poisson", "onoff", "bulk", "request"],
        about(
            "When messages are sent: cbr at a constant rate; poisson at random; onoff in bursts; bulk as fast as TCP takes"
            " them; request one after the other, each when the last was answered. Not given: cbr."
        ),
    ] = "cbr"
    protocol: Annotated[Literal["udp", "tcp"] | None, about("Not given: udp, for bulk tcp.")] = None
    rate: Annotated[
        MessageRate | None, about("Mean rate, for onoff within a burst; must be given except for bulk and request.")
    ] = None
    size: Annotated[SizeText | None, about("Octets of a message, at least 40; not given: 512, for bulk 64KiB.")] = None
    reply: Annotated[SizeText | None, about("Octets of the answer to a request; not given: 512.")] = None
    burst: Annotated[DurationText | None, about("onoff: mean length of a burst; not given: 1s.")] = None
    pause: Annotated[DurationText | None, about("onoff: mean length of a pause; not given: 1s.")] = None
    start: Annotated[DurationText | None, about("How long to wait before; not given: not at all.")] = None
    duration: Annotated[DurationText | None, about("How long to send; not given: 10s, or until count.")] = None
    count: Annotated[int | None, about("How many messages to send; not given: as many as the duration allows.")] = None


class Program(Strict, frozen=True, kw_only=True):
    """A program of a guest with its options; give exactly one."""

    echo: Echo | None = None
    http: Http | None = None
    dns: Dns | None = None
    iperf3: Iperf3 | None = None
    iperf3_client: Iperf3Client | None = None
    sink: Sink | None = None
    traffic: Traffic | None = None
