"""``vnet capture``: frames of a running lab as pcapng for other programs, or as lines for people."""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Final, final

import click

from vnet.cli.completion import LabName
from vnet.errors import UsageError
from vnet.runtime.client import RemoteCapture, find_lab, open_capture
from vnet.runtime.filter import compile_filter
from vnet.units import SECOND
from vnet.wire.describe import describe
from vnet.wire.pcapng import Direction, Packet, Reader, closing_statistics

TAIL: Final = 1 << 17
"""Octets of the end of a capture that hold the statistics of up to 2500 ports."""
_ARROWS: Final = {Direction.INBOUND: "in ", Direction.OUTBOUND: "out", Direction.UNKNOWN: "   "}


@click.command("capture")
@click.argument("lab", type=LabName())
@click.argument("ports", nargs=-1, metavar="[PORT...]")
@click.option("--write", "-w", "target", metavar="FILE|-", help="Write pcapng to FILE, or to standard output (-).")
@click.option("--filter", "-f", "expression", default="", metavar="EXPR", help="Only these frames, as with tcpdump.")
@click.option("--count", "-c", type=click.IntRange(1, 1_000_000), help="End after so many frames.")
@click.option("--text", "as_text", is_flag=True, help="Print a line per frame, even into a pipe.")
def capture_command(
    lab: str, ports: tuple[str, ...], target: str | None, expression: str, count: int | None, as_text: bool
) -> None:
    """Capture frames of LAB at its PORTs: web:eth0, core:3, all of a node (web), a pattern (web:*) or a link (core-edge).

    Without PORT, one end of every cable. Without -w, a terminal gets a line per frame, a pipe gets pcapng. Filters know
    host, net, port, ether, vlan, len, arp, ip, ip6, icmp, tcp, udp, dhcp, stp, lldp, broadcast, multicast, and, or, not.

    \b
    vnet capture office web
    vnet capture office web mail | tshark -i -
    vnet capture office | wireshark -k -i -
    vnet capture office 'core:*' -w core.pcapng --filter 'vlan 20 and not arp' --count 100
    """
    compile_filter(expression)
    if as_text and target is not None:
        raise click.UsageError("--text and --write exclude each other")
    as_text = as_text or (target is None and sys.stdout.isatty())
    arguments = {"ports": list(ports), "filter": expression, "count": count}
    place = find_lab(lab)
    # the target is opened first: a file that cannot be written must not start a capture
    with _target(target) as out, open_capture(place, arguments) as capture:
        names = capture.ports
        click.echo(f"capturing {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}; Ctrl-C ends it", err=True)
        show = _Lines() if as_text else _Copy(out)
        if target is None or target == "-":
            threading.Thread(target=_end_with_reader, args=(capture,), daemon=True).start()
        with _ended_by_signals(capture):
            show.take_all(capture)
        click.echo(show.verdict(), err=True)


class _Taker:
    """Takes a capture piece by piece, and keeps its end, where the lab says how many frames there were."""

    def __init__(self) -> None:
        self._tail = b""

    def take_all(self, capture: RemoteCapture) -> None:
        """Take pieces until there are no more."""
        for piece in capture.pieces():
            self._tail = (self._tail + piece)[-TAIL:]
            self.take(piece)

    def take(self, piece: bytes) -> None:
        """Do with a piece what is to be done."""
        raise NotImplementedError

    def verdict(self) -> str:
        """Say how many frames there were, and how many are missing."""
        statistics = closing_statistics(self._tail)
        if not statistics:
            return "the lab ended in the middle of the capture"
        dropped = sum(missing for _, _, missing in statistics)
        frames = sum(passed for _, passed, _ in statistics) - dropped
        return f"{frames} frames" + (f"; {dropped} more came faster than they could be taken" if dropped else "")


@final
class _Copy(_Taker):
    """Passes the file on as it comes."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self._out = out

    def take(self, piece: bytes) -> None:
        """Write and flush: whoever reads behind a pipe wants to see it now."""
        self._out.write(piece)
        self._out.flush()


@final
class _Lines(_Taker):
    """Prints a line for each frame."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = Reader()

    def take(self, piece: bytes) -> None:
        """Print what the piece completes."""
        click.echo("".join(line_of(packet) + "\n" for packet in self._reader.feed(piece)), nl=False)


@contextlib.contextmanager
def _ended_by_signals(capture: RemoteCapture) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the capture in order, and the second end us.

    Not by an exception, which could come between reading a piece and writing it, and leave a hole in the file.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        restore()
        capture.finish()

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()


def _end_with_reader(capture: RemoteCapture) -> None:
    """End a capture when nobody reads behind the pipe any more: no frame may come that would tell."""
    with contextlib.suppress(OSError, ValueError):  # standard output may be no file at all
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors are always told
        poll.poll()
        capture.finish()


@contextlib.contextmanager
def _target(target: str | None) -> Iterator[BinaryIO]:
    if target is None or target == "-":
        yield sys.stdout.buffer
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(Path(target).open("wb"))
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}") from error
        yield file


def line_of(packet: Packet) -> str:
    """Write a frame on one line: time of day, port, direction, what it is."""
    seconds = packet.instant // SECOND % 86400
    time_of_day = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{packet.instant % SECOND // 1000:06}"
    return f"{time_of_day} {packet.interface.name} {_ARROWS[packet.direction]} {describe(packet.frame)}"
