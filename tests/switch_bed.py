"""A switch on a timeline of its own, with a far end on every port that writes down what reaches it."""

from __future__ import annotations

from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Port, connect, disconnect
from vnet.switch.port import SwitchPort
from vnet.switch.switch import Switch
from vnet.switch.vlan import VlanConfig

Received = list[tuple[bytes, bytes]]

BROADCAST = b"\xff" * 6


def mac(number: int) -> bytes:
    """Make the address of station *number*."""
    return b"\x52\x54\x00" + number.to_bytes(3, "big")


def tag(vid: int, pcp: int = 0, dei: int = 0, tpid: int = 0x8100) -> bytes:
    """Make a tag by the letter of IEEE 802.1Q clause 9."""
    return tpid.to_bytes(2, "big") + (pcp * 8192 + dei * 4096 + vid).to_bytes(2, "big")


def frame(destination: bytes, source: bytes, *tags: bytes, rest: bytes = b"\x08\x00" + bytes(range(46))) -> bytes:
    """Put a frame together; *rest* begins with the EtherType."""
    return destination + source + b"".join(tags) + rest


class Bed:
    """The switch under test. ``log`` has what each port sent since ``send`` was last called."""

    def __init__(self, *vlans: VlanConfig, **options: object) -> None:
        self.timeline = Timeline()
        self.events: list[tuple[str, dict[str, object]]] = []
        self.switch = Switch("sw", self.timeline, report=self._note, **options)  # type: ignore[arg-type]
        self.ends: dict[int, Port] = {}
        self.log: dict[int, Received] = {}
        for vlan in vlans:
            self.add(vlan)

    def _note(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))

    def add(self, vlan: VlanConfig) -> SwitchPort:
        """Add a port with a far end that records."""
        port = self.switch.add_port(vlan)

        def record(frame: bytes, offload: bytes, number: int = port.number) -> None:
            self.log.setdefault(number, []).append((frame, offload))

        end = self.ends[port.number] = Port(f"end{port.number}", record)
        connect(end, port.port)
        return port

    def send(self, number: int, frame: bytes, offload: bytes = NO_OFFLOAD) -> dict[int, list[bytes]]:
        """Send one frame into port *number*; return what came out, by port."""
        self.log.clear()
        self.ends[number].send(frame, offload)
        return {port: [frame for frame, _ in received] for port, received in sorted(self.log.items())}

    def learn(self, number: int, station: int, *tags: bytes) -> None:
        """Let *station* say something behind port *number*."""
        self.send(number, frame(BROADCAST, mac(station), *tags))

    def cut(self, number: int) -> None:
        """Take the cable of a port away."""
        disconnect(self.ends[number], self.switch.ports[number].port)

    def mend(self, number: int) -> None:
        """Plug the cable in again."""
        connect(self.ends[number], self.switch.ports[number].port)

    def advance(self, duration: int) -> None:
        """Let *duration* nanoseconds pass."""
        until = self.timeline.now + duration
        self.timeline.run_until(until)
        self.timeline.now = until

    def drops(self, number: int) -> dict[str, int]:
        """Tell the drops of a port by reason."""
        self.switch.fold()
        return dict(self.switch.ports[number].drops)

    def counters(self, number: int) -> tuple[int, int, int, int]:
        """Tell a port's frames and octets in, frames and octets out."""
        self.switch.fold()
        port = self.switch.ports[number]
        return port.rx_frames, port.rx_octets, port.tx_frames, port.tx_octets
