"""What is true of every lab at every instant, whatever is done to it; to be checked after each step of a test.

``Invariants(lab)`` watches all nodes' ports from then on. Its ``check`` raises AssertionError with all that is wrong:

* *isolation*: each frame that a node receives was sent by a node in that VLAN, octet for octet but for the tag. So no frame
  passes between VLANs, none is made up and none is changed on its way. Links may lose, delay, reorder and repeat frames.
  Where links corrupt, a frame may differ from one that was sent by a bit for each such link; it may have been one of another
  VLAN, as a bit of the tag may be the one;
* *counters*: a switch sends at most one copy to each other port and at least one of each frame it does not count as dropped;
* *filtering databases*: within their bound, and each entry on a port that is up and a member of the entry's VLAN;
* *leases*: no address is bound twice, and each that a client uses is bound to its MAC;
* *mappings*: no two inside transport addresses share one outside;
* *the event log* is in the order of time.

Isolation needs to know what was sent before, so begin before there is traffic; for the longest time that a frame can take
from end to end, what is received from earlier is let be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

from vnet.addresses import format_mac, is_group
from vnet.errors import UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.usage import called_as
from vnet.runtime.views import dotted, leased
from vnet.services.dhcp.binding import BindingState
from vnet.testing.expectations import bits_between, is_canary
from vnet.topology.resolved import ALL_VLANS, ResolvedSwitchPort
from vnet.units import SECOND, Duration
from vnet.wire import pcapng
from vnet.wire.describe import describe
from vnet.wire.pcapng import Direction
from vnet.wire.vlan import TAG_OCTETS, VID_MASK, is_tagged

if TYPE_CHECKING:
    from vnet.links.link import Link
    from vnet.runtime.lab import Lab

REMEMBERED: Final = 200_000
"""Frames that are known to have been sent; the oldest are forgotten first."""
COMPLAINTS: Final = 20
"""Frames out of place that are described; more are counted."""


@final
class Invariants:
    """The watch over one lab; also a context manager that checks at the end of a block that did not fail."""

    @called_as("Invariants(lab)")
    def __init__(self, lab: Lab) -> None:
        if not hasattr(lab, "captures"):
            raise UsageError(f"invariants are of a lab, which {lab!r} is not; write it as Invariants(lab)")
        self._lab = lab
        self._ledger = _Ledger(lab)
        self._capture = lab.captures.start(self._ledger, list(self._ledger.switch_ports))

    def problems(self) -> list[str]:
        """List what is wrong; nothing should be."""
        lab = self._lab
        return [*self._ledger.problems, *_counters(lab), *_databases(lab), *_leases(lab), *_mappings(lab), *_order(lab)]

    def check(self) -> None:
        """Raise AssertionError if anything is wrong."""
        found = self.problems()
        if found:
            raise AssertionError("\n".join([f"at {self._lab.now:.9f} s of lab {self._lab.name}:", *found]))

    def close(self) -> None:
        """Watch no more."""
        self._capture.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.check()


@final
class _Ledger:
    """A sink that keeps account of what nodes send and receive, by VLAN."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        switches = lab.topology.switches
        plugged = {f"{node}:{cable.name}": cable.port for node, _, cable in lab.topology.cables()}
        plugged |= {f"{net.name}:dhcp": net.dhcp.port for net in lab.topology.networks.values() if net.dhcp is not None}
        self.switch_ports = {name: switches[ref.switch].ports[ref.number - 1] for name, ref in plugged.items()}
        self._complaints: list[str] = []
        self._count = 0
        self._reader = pcapng.Reader()
        self._sent: OrderedDict[tuple[int | None, bytes], None] = OrderedDict()
        self._blind_until = lab.captures.epoch + lab.timeline.now + _longest_way(lab)

    @property
    def problems(self) -> list[str]:
        """The frames out of place."""
        more = self._count - len(self._complaints)
        return self._complaints + ([f"{more} more frames out of place"] if more else [])

    def keep(self, block: bytes) -> None:
        """Take a header."""
        self._reader.feed(block)

    def packet(self, block: bytes) -> bool:
        """Account for a frame."""
        for packet in self._reader.feed(block):
            self._note(packet)
        return True

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def _note(self, packet: pcapng.Packet) -> None:
        frame = packet.frame
        if len(frame) < 14 or is_canary(frame):
            return
        name = packet.interface.name
        port = self.switch_ports[name]
        vid = _tag(frame)
        plain = frame if vid is None else _without_tag(frame)
        if packet.direction is Direction.OUTBOUND:
            vid = vid or port.pvid
            self._sent[vid, plain] = None
            self._sent.move_to_end((vid, plain))
            if len(self._sent) > REMEMBERED:
                self._sent.popitem(last=False)
            return
        vids: tuple[int, ...] = port.untagged if vid is None else (vid,)
        if packet.instant <= self._blind_until or any((each, plain) in self._sent and _takes(port, each) for each in vids):
            return
        if len(self._sent) >= REMEMBERED:
            return  # it may have been forgotten
        if self._may_be_damaged(plain) or (vid is not None and self._may_be_damaged(frame)):
            return
        self._count += 1
        if len(self._complaints) < COMPLAINTS:
            text = f"{name} received what nobody sent in VLAN {'/'.join(map(str, vids)) or '-'}: {describe(frame)}"
            self._complaints.append(text)

    def _may_be_damaged(self, frame: bytes) -> bool:
        """Tell whether this is a frame that was sent, but for a bit on each link that corrupts."""
        bits = sum(1 for link in self._lab.links.values() if _corrupts(link))
        if not bits:
            return False
        shorter = _without_tag(frame)  # what a switch no longer knew as a tag, its TPID being damaged
        return is_canary(frame, bits) or any(
            (len(sent) == len(frame) and bits_between(sent, frame) <= bits)
            or (len(sent) == len(shorter) and bits_between(sent, shorter) <= bits)
            or (len(sent) == len(frame) + TAG_OCTETS and bits_between(_without_tag(sent), frame) <= bits)
            for _, sent in reversed(self._sent)
        )


def _corrupts(link: Link) -> bool:
    """Tell whether the link damages frames, or did."""
    return bool(link.corruption or link.forward.altered["corrupted"] or link.backward.altered["corrupted"])


def _without_tag(frame: bytes) -> bytes:
    return frame[:12] + frame[12 + TAG_OCTETS :]


def _tag(frame: bytes) -> int | None:
    """Return the VID of a tag, 0 for a priority tag; None without a whole one."""
    if not is_tagged(frame) or len(frame) < 14 + TAG_OCTETS:
        return None
    return (frame[14] << 8 | frame[15]) & VID_MASK


def _takes(port: ResolvedSwitchPort, vid: int) -> bool:
    return port.members == ALL_VLANS or vid in port.members


def _longest_way(lab: Lab) -> Duration:
    """Bound how long a frame can be on its way: through every link, each with a full queue."""
    return sum(
        link.latency + link.delay_variation + (link.queue * 8 * SECOND // link.rate if link.rate else 0)
        for link in lab.links.values()
    )


def _counters(lab: Lab) -> Iterator[str]:
    for switch in lab.switches.values():
        switch.fold()
        ports = list(switch.ports.values())
        received, sent = sum(port.rx_frames for port in ports), sum(port.tx_frames for port in ports)
        # a frame with a bad offload header is dropped on the way to some ports only, and may have reached others
        partly = sum(port.drops.get("malformed-offload", 0) for port in ports)
        dropped = sum(sum(port.drops.values()) for port in ports) - partly
        if not received - dropped - partly <= sent <= (received - dropped) * (len(ports) - 1):
            yield f"switch {switch.name} received {received} frames, dropped {dropped + partly} and sent {sent}"
        for port in ports:
            counts = (port.rx_frames, port.rx_octets, port.tx_frames, port.tx_octets, *port.drops.values())
            if min(counts) < 0 or port.rx_frames < sum(port.drops.values()) - port.drops.get("malformed-offload", 0):
                yield f"{port.port.name} counts {port.rx_frames} frames received and {port.drops} dropped"


def _databases(lab: Lab) -> Iterator[str]:
    for switch in lab.switches.values():
        bound = lab.topology.switches[switch.name].fdb_size
        entries = list(switch.fdb)
        if len(entries) > bound:
            yield f"the FDB of {switch.name} has {len(entries)} entries, and room for {bound}"
        for entry in entries:
            port = switch.ports.get(entry.port)
            what = f"switch {switch.name} has {format_mac(entry.mac)} of VLAN {entry.vid} on port {entry.port}"
            if port is None or not port.vlan.is_member(entry.vid):
                yield f"{what}, which is no member"
            elif not port.is_up and not entry.static:
                yield f"{what}, which is down"
            if is_group(entry.mac):
                yield f"{what}, which is a group"


def _leases(lab: Lab) -> Iterator[str]:
    for network, node in lab.dhcp.items():
        seen: dict[bytes, bytes] = {}
        for binding in node.bindings():
            if binding.state is BindingState.BOUND and seen.setdefault(binding.address, binding.mac) != binding.mac:
                yield f"{network} has bound {dotted(binding.address)} twice"
    bound = leased(lab)
    for guest in lab.guests.values():
        for interface in guest.interfaces():
            lease = guest.lease(interface.name) if isinstance(guest, EmulatedGuest) else None
            held = [binding.address for binding in bound.get(interface.mac, ())]
            if lease is not None and lease.address.ip.packed not in held:
                yield f"{guest.name}:{interface.name} uses {lease.address}, which is not bound to it"


def _mappings(lab: Lab) -> Iterator[str]:
    for router in lab.routers.values():
        inside: dict[tuple[object, object], object] = {}
        for entry in router.nat_table():
            if entry.forward:
                continue  # a rule of the topology, not a mapping that was made
            other = inside.setdefault((entry.protocol, entry.outside), entry.inside)
            if other != entry.inside:
                yield f"router {router.name} maps {other} and {entry.inside} to {entry.outside}"


def _order(lab: Lab) -> Iterator[str]:
    last = None
    for event in lab.events:
        if last is not None and event.instant < last.instant:
            yield f"the event log goes back in time: {event} after {last}"
        last = event
