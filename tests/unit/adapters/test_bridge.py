"""The bridge adapter over a fake kernel: what goes out in which form, what is held back, and what it makes of news."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from vnet.adapters import bridge as module
from vnet.adapters.base import AdapterContext
from vnet.adapters.bridge import BridgeAdapter
from vnet.adapters.netlink import Link
from vnet.adapters.resources import NoLedger
from vnet.errors import HostError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Handler, Port, connect
from vnet.topology.adapter_kinds.bridge import BridgeSpec
from vnet.wire import virtio_net
from vnet.wire.dhcpv4_frame import IP_BROADCAST, dhcp_frame

NIC, GUEST, PEER = (bytes.fromhex(text) for text in ("020000000001", "0003ff000005", "520000000009"))
ETH1 = Link(index=7, name="eth1", mac=NIC, mtu=1500, is_up=True, has_carrier=True)
FRAME = PEER + GUEST + b"\x08\0" + bytes(range(46))
SUPER = virtio_net.tcp_super(54, 1448)


class FakeKernel:
    """Interfaces, news of them, and the channels that are open."""

    def __init__(self) -> None:
        self.links = [ETH1]
        self.news: list[Link] = []
        self.overflow = False
        self.refusal: OSError | None = None
        self.open: list[FakeRing] = []
        self.opened: list[tuple[int, int | None, bool, bool]] = []
        self.programs = 0


class FakeRing:
    problem = ""

    def __init__(
        self, kernel: FakeKernel, index: int, vid: int | None, deliver: Handler, *, promiscuous: bool, mark: int
    ) -> None:
        if kernel.refusal is not None:
            raise kernel.refusal
        self.kernel, self.deliver = kernel, deliver
        self.drops: Counter[str] = Counter({"overrun": 1})
        self.sent: list[tuple[bytes, bytes]] = []
        kernel.open.append(self)
        kernel.opened.append((index, vid, promiscuous, mark != 0))

    def start(self, poller: FakePoller) -> None:
        poller.started.append(self)

    def send(self, frame: bytes, offload: bytes) -> None:
        self.sent.append((frame, offload))

    def close(self) -> None:
        self.kernel.open.remove(self)


class FakePoller:
    def __init__(self) -> None:
        self.started: list[FakeRing] = []
        self.registered: dict[int, Callable[[], None]] = {}

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.registered[fd] = on_readable

    def unregister(self, fd: int) -> None:
        del self.registered[fd]

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        raise AssertionError("a packet socket never waits to write")


class Rig:
    def __init__(self, kernel: FakeKernel, spec: BridgeSpec) -> None:
        self.kernel, self.poller = kernel, FakePoller()
        self.carrier: list[bool] = []
        self.events: list[str] = []
        self.seen: list[tuple[bytes, bytes]] = []
        port = Port("lan:adapter", lambda frame, offload: None)
        self.switch = Port("switch:1", lambda frame, offload: self.seen.append((frame, offload)))
        connect(port, self.switch)
        self.adapter = BridgeAdapter(
            spec,
            AdapterContext(
                port=port, poller=self.poller, scheduler=Timeline(), streams=partial(RandomStreams(1).stream, "lan:adapter"),
                report=lambda kind, **fields: self.events.append(kind), ledger=NoLedger(), directory="/nowhere",
                set_carrier=self.carrier.append,
            ),
        )  # fmt: skip
        self.adapter.start()

    @property
    def ring(self) -> FakeRing:
        (ring,) = self.kernel.open
        return ring

    def tell(self, *news: Link) -> None:
        self.kernel.news += news
        self.poller.registered[99]()

    def out(self, frame: bytes = FRAME, offload: bytes = NO_OFFLOAD) -> list[tuple[bytes, bytes]]:
        self.ring.sent.clear()
        self.switch.send(frame, offload)
        return list(self.ring.sent)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    made = FakeKernel()

    class FakeNetlink:
        def links(self) -> list[Link]:
            return list(made.links)

        def close(self) -> None:
            pass

    class FakeWatch(FakeNetlink):
        fd = 99

        def read(self) -> list[Link]:
            if made.overflow:
                raise OSError(105, "No buffer space available")
            news, made.news = made.news, []
            return news

    class FakeProgram:
        def __init__(self, index: int, mac: bytes, mark: int) -> None:
            made.programs += 1

        def close(self) -> None:
            made.programs -= 1

    monkeypatch.setattr(module, "Netlink", FakeNetlink)
    monkeypatch.setattr(module, "LinkWatch", FakeWatch)
    monkeypatch.setattr(module, "ToMachine", FakeProgram)
    monkeypatch.setattr(module, "PacketRing", lambda *args, **options: FakeRing(made, *args, **options))
    return made


@pytest.fixture
def rig(kernel: FakeKernel) -> Rig:
    return Rig(kernel, BridgeSpec(nic="eth1"))


def test_frames_pass_as_they_are(rig: Rig) -> None:
    assert rig.kernel.opened == [(7, None, True, True)] and rig.poller.started == [rig.ring] and rig.carrier[-1]
    assert rig.out() == [(FRAME, NO_OFFLOAD)] and rig.out(FRAME, SUPER) == [(FRAME, SUPER)]
    rig.ring.deliver(FRAME, SUPER)
    assert rig.seen == [(FRAME, SUPER)]


def test_a_network_in_a_vlan_is_tagged_outside(kernel: FakeKernel) -> None:
    rig = Rig(kernel, BridgeSpec(nic="eth1", vlan=16))
    assert kernel.opened[0][1] == 16
    tagged = FRAME[:12] + b"\x81\0\0\x10" + FRAME[12:]
    assert rig.out() == [(tagged, NO_OFFLOAD)]
    assert rig.out(FRAME, SUPER) == [(tagged, virtio_net.shift(SUPER, 4))]
    lie = virtio_net.HEADER.pack(1, 0, 0, 0, 0xFFFE, 16)
    assert rig.out(FRAME, lie) == [] and rig.adapter.drops["malformed"] == 1


@pytest.mark.parametrize("vlan", [None, 16])
def test_what_the_nic_cannot_take_is_dropped(kernel: FakeKernel, vlan: int | None) -> None:
    kernel.links = [replace(ETH1, mtu=1400)]
    rig = Rig(kernel, BridgeSpec(nic="eth1", vlan=vlan))
    assert rig.events == ["nic-mtu"]
    full = FRAME + bytes(1414 - len(FRAME))
    assert len(rig.out(full)) == 1 and rig.out(full + b"\0") == []
    tcp = FRAME[:46] + b"\x50" + bytes(20_000)
    assert len(rig.out(tcp, virtio_net.tcp_super(54, 1360))) == 1 and rig.out(tcp, virtio_net.tcp_super(54, 1361)) == []
    assert rig.adapter.drops["oversize"] == 2
    rig.tell(replace(ETH1, mtu=9000))
    assert len(rig.out(full + b"\0")) == 1


def test_dhcp_is_held_back_where_lab_and_wire_have_their_own(kernel: FakeKernel) -> None:
    rig = Rig(kernel, BridgeSpec(nic="eth1", passes_dhcp=False))
    asks = dhcp_frame(b"\xff" * 6, GUEST, bytes(4), IP_BROADCAST, 68, 67, bytes(240))
    tells = dhcp_frame(GUEST, PEER, bytes(4), IP_BROADCAST, 67, 68, bytes(240))
    for frame in (asks, tells):
        assert rig.out(frame) == []
        rig.ring.deliver(frame, NO_OFFLOAD)
    assert rig.seen == [] and rig.adapter.drops["dhcp"] == 4
    other = dhcp_frame(GUEST, PEER, bytes(4), IP_BROADCAST, 67, 69, bytes(240))
    rig.ring.deliver(other, NO_OFFLOAD)
    assert len(rig.out(other)) == 1 and rig.seen == [(other, NO_OFFLOAD)]


def test_a_wireless_nic_has_one_address(kernel: FakeKernel) -> None:
    rig = Rig(kernel, BridgeSpec(nic="eth1", mode="wifi", host=False))
    assert kernel.opened == [(7, None, False, False)]
    ((sent, _),) = rig.out()
    assert sent[6:12] == NIC
    rig.ring.deliver(PEER + NIC + FRAME[12:], NO_OFFLOAD)
    assert rig.seen == [] and rig.adapter.drops["echo"] == 1
    rig.tell(replace(ETH1, mac=PEER))
    ((sent, _),) = rig.out()
    assert sent[6:12] == PEER


def test_the_machine_is_left_out_on_demand_or_where_the_kernel_cannot(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    Rig(kernel, BridgeSpec(nic="eth1", host=False))
    assert kernel.opened.pop() == (7, None, True, False) and kernel.programs == 0

    def refuse(index: int, mac: bytes, mark: int) -> None:
        raise HostError("Linux 6.6 or newer is needed")

    monkeypatch.setattr(module, "ToMachine", refuse)
    rig = Rig(kernel, BridgeSpec(nic="eth1"))
    assert kernel.opened.pop() == (7, None, True, False) and rig.events == ["machine-not-reached"]
    assert rig.adapter.details()["host"] is False


def test_carrier_and_name_follow_the_nic(rig: Rig) -> None:
    rig.tell(replace(ETH1, has_carrier=False))
    assert not rig.carrier[-1] and rig.adapter.details()["carrier"] is False
    rig.tell(replace(ETH1, name="lan0"))
    assert rig.carrier[-1] and rig.events == ["nic-renamed"] and rig.adapter.details()["interface"] == "lan0"
    assert len(rig.kernel.opened) == 1 and rig.adapter.problem == ""


def test_a_nic_that_is_gone_is_waited_for(rig: Rig) -> None:
    rig.tell(replace(ETH1, exists=False))
    assert rig.adapter.problem == "eth1 is gone" and rig.kernel.open == [] and rig.kernel.programs == 0
    assert not rig.carrier[-1]
    rig.switch.send(FRAME, NO_OFFLOAD)
    assert rig.adapter.drops == {"nic-gone": 1, "overrun": 1}
    rig.tell(replace(ETH1, index=9))
    assert rig.adapter.problem == "" and rig.kernel.opened[-1][0] == 9 and rig.carrier[-1] and len(rig.out()) == 1
    assert rig.events == ["nic-gone", "nic-back"] and rig.kernel.programs == 1


def test_a_nic_that_cannot_be_opened_again_says_why(rig: Rig) -> None:
    rig.tell(replace(ETH1, exists=False))
    rig.kernel.refusal = OSError(12, "Cannot allocate memory")
    rig.tell(replace(ETH1, index=9))
    assert rig.adapter.problem == "cannot bridge with eth1: Cannot allocate memory"
    assert rig.kernel.programs == 0 and not rig.carrier[-1]
    rig.kernel.refusal = None
    rig.tell(replace(ETH1, index=9, exists=False), replace(ETH1, index=10))
    assert rig.adapter.problem == "" and len(rig.out()) == 1


def test_news_that_was_lost_is_made_up_for(rig: Rig) -> None:
    rig.kernel.links = [replace(ETH1, index=12)]
    rig.kernel.overflow = True
    rig.poller.registered[99]()
    assert rig.events == ["nic-gone", "nic-back"] and rig.kernel.opened[-1][0] == 12


def test_what_happens_between_opening_and_starting_is_noticed(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = iter([[ETH1], []])
    monkeypatch.setattr(module.Netlink, "links", lambda self: next(lists))
    assert Rig(kernel, BridgeSpec(nic="eth1")).adapter.problem == "eth1 is gone"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (BridgeSpec(nic="eth7"), "there is no interface eth7 to bridge with; there are eth1"),
        (BridgeSpec(nic="tun0"), "tun0 cannot be bridged: it is no Ethernet interface"),
        (BridgeSpec(nic="lo"), "lo cannot be bridged: it is no Ethernet interface"),
    ],
)
def test_what_is_no_nic_is_refused(kernel: FakeKernel, spec: BridgeSpec, told: str) -> None:
    kernel.links = [replace(ETH1, index=1, name="lo", mac=bytes(6)), ETH1]
    if spec.nic == "tun0":
        kernel.links.append(replace(ETH1, index=8, name="tun0", mac=b""))
    with pytest.raises(HostError, match=told):
        Rig(kernel, spec)


def test_without_privileges_it_says_what_is_missing(kernel: FakeKernel) -> None:
    kernel.refusal = PermissionError(1, "Operation not permitted")
    with pytest.raises(HostError, match="bridging with eth1 needs root"):
        Rig(kernel, BridgeSpec(nic="eth1"))
    assert kernel.programs == 0


def test_it_stops_once(rig: Rig) -> None:
    rig.adapter.stop()
    rig.adapter.stop()
    assert rig.kernel.open == [] and rig.kernel.programs == 0 and rig.poller.registered == {} and rig.adapter.problem == ""
    rig.switch.send(FRAME, NO_OFFLOAD)
    assert rig.adapter.drops["nic-gone"] == 1
