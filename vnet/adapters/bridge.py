"""The bridge adapter: a NIC of the machine as a network's way out (VS-01, VS-04, VS-14 to VS-26).

Frames pass by a packet socket beside the machine's own protocols, which notice nothing. Many networks may share one NIC:
each has its socket, which sees the frames of its VLAN and no other, so to the switch outside the cable is an 802.1Q trunk.
What is sent by one socket is not seen by those beside it: networks meet at a router.

The adapter hears from the kernel of every change of an interface. When its own is gone it waits, without
carrier, for one with that MAC address or name, and opens that.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Final, final

from vnet.adapters import _linux
from vnet.adapters.base import AdapterContext
from vnet.adapters.macvtap import MacvtapChannel
from vnet.adapters.netlink import Link, LinkWatch, Netlink
from vnet.adapters.nic import NicBinding, NicEvent
from vnet.adapters.packet_ring import PacketRing
from vnet.adapters.to_machine import ToMachine, own_mark
from vnet.addresses import Mac, format_mac
from vnet.errors import HostError, WireError
from vnet.ports import NO_OFFLOAD, Handler
from vnet.services.mac_translation import MacTranslation
from vnet.topology.adapter_kinds.bridge import BridgeSpec
from vnet.wire.dhcpv4_frame import is_dhcp
from vnet.wire.ethernet import ETHERTYPE_VLAN, HEADER_OCTETS
from vnet.wire.segmentation import largest_frame
from vnet.wire.virtio_net import shift
from vnet.wire.vlan import TAG_OCTETS

_DHCP_SERVER, _DHCP_CLIENT = b"\0\x43", b"\0\x44"
_DHCP_PORTS: Final = frozenset({_DHCP_SERVER, _DHCP_CLIENT})


@final
class BridgeAdapter:
    """The NIC, from the making of the object to ``stop``; raise HostError if it is not there or may not be opened."""

    def __init__(self, spec: BridgeSpec, context: AdapterContext) -> None:
        self._spec = spec
        self._context = context
        self._drops: Counter[str] = Counter()
        self._nic = NicBinding(spec.nic, spec.mac)
        self._channel: PacketRing | MacvtapChannel | None = None
        self._translation = MacTranslation(bytes(6), self._drops) if spec.mode == "wifi" else None
        self._to_machine: ToMachine | None = None
        self._mark = own_mark(context.streams("mark").octets(2))
        self._is_open = True
        self._is_started = False
        self._failure = ""
        self._limit = 0
        self._tag = b"" if spec.vlan is None else ETHERTYPE_VLAN + spec.vlan.to_bytes(2, "big")
        self._watch = LinkWatch()
        try:
            self._find()
            self._open()
        except BaseException:
            self._close()
            self._watch.close()
            raise
        context.port.set_handler(self._outward())

    @property
    def problem(self) -> str:
        """The NIC may be gone, or not let itself be opened again."""
        if not self._is_open:
            return ""
        if self._nic.link is None:
            return f"{self._nic.name} is gone"
        return self._failure or (self._channel.problem if self._channel is not None else "")

    @property
    def drops(self) -> Counter[str]:
        """What did not go out, what came too fast, and what may not pass."""
        return self._drops + self._channel.drops if self._channel is not None else self._drops

    def start(self) -> None:
        """Begin to pass frames."""
        self._is_started = True
        self._context.poller.register(self._watch.fd, self._on_news)
        self._listen()
        self._catch_up()  # with what has changed since it was opened

    def stop(self) -> None:
        """Let go of the NIC."""
        if self._is_open:
            self._is_open = False
            if self._is_started:
                self._context.poller.unregister(self._watch.fd)
            self._watch.close()
            self._close()

    def close(self) -> None:
        """There is nothing left to give back."""

    def details(self) -> dict[str, object]:
        """Tell the NIC and how it is."""
        link = self._nic.link
        found: dict[str, object] = {"interface": self._nic.name, "vlan": self._spec.vlan, "mode": self._spec.mode}
        if link is not None:
            found["host"] = self._to_machine is not None
            found |= {"mac": format_mac(Mac(link.mac)), "mtu": link.mtu, "carrier": link.has_carrier}
        if self._translation is not None:
            found["stations"] = len(self._translation)
        return found

    # -- the interface

    def _find(self) -> None:
        if not _linux.is_little_endian():
            raise HostError("live labs need a little-endian machine: virtio-net headers are not converted")
        with closing(Netlink()) as netlink:
            links = netlink.links()
        if not self._nic.find(links):
            others = ", ".join(link.name for link in links if link.name != "lo") or "none"
            raise HostError(f"there is no interface {self._spec.nic} to bridge with; there are {others}")
        link = self._nic.link
        assert link is not None, "it was found"
        if len(link.mac) != 6 or link.name == "lo":
            raise HostError(f"{link.name} cannot be bridged: it is no Ethernet interface")

    def _open(self) -> None:
        """Open what is bound; raise HostError if the kernel refuses."""
        link = self._nic.link
        assert link is not None, "there is something to open"
        if self._translation is not None:
            self._translation.outside = Mac(link.mac)
        try:
            if self._spec.mode == "macvtap":
                self._channel = MacvtapChannel(link, self._inward(), self._context)
            else:
                hears_all = self._translation is None
                vlan, deliver = self._spec.vlan, self._inward()
                mark = self._mark if self._open_to_machine(link) else 0
                self._channel = PacketRing(link.index, vlan, deliver, promiscuous=hears_all, mark=mark)
        except PermissionError as error:
            raise HostError(f"bridging with {link.name} needs root (CAP_NET_RAW and CAP_NET_ADMIN)") from error
        except OSError as error:
            raise HostError(f"cannot bridge with {link.name}: {error.strerror or error}") from error
        self._limit = link.mtu + HEADER_OCTETS
        self._failure = ""

    def _open_to_machine(self, link: Link) -> bool:
        """Have guests reach the machine, if they are to and can; tell whether they do."""
        if self._spec.host:
            try:
                self._to_machine = ToMachine(link.index, link.mac, self._mark)
            except HostError as error:
                self._context.report("machine-not-reached", nic=link.name, cause=str(error))
        return self._to_machine is not None

    def _listen(self) -> None:
        link = self._nic.link
        if self._channel is not None and link is not None:
            self._channel.start(self._context.poller)
            self._context.set_carrier(link.has_carrier)
            if link.mtu < self._context.mtu:
                self._context.report("nic-mtu", nic=link.name, mtu=link.mtu, wanted=self._context.mtu)

    def _close(self) -> None:
        if self._to_machine is not None:
            self._to_machine.close()
            self._to_machine = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
            self._drops += channel.drops

    def _on_news(self) -> None:
        try:
            news = self._watch.read()
        except OSError:
            self._catch_up()  # more was told than there was room for
            return
        for each in news:
            event = self._nic.hear(each)
            if event is not None:
                self._heed(event)

    def _catch_up(self) -> None:
        with closing(Netlink()) as netlink:
            events = self._nic.refresh(netlink.links())
        for event in events:
            self._heed(event)

    def _heed(self, event: NicEvent) -> None:
        link = self._nic.link
        if not self._is_open:
            return  # it is being stopped in another thread
        if event is NicEvent.GONE:
            self._close()
            self._context.set_carrier(False)
            self._context.report("nic-gone", nic=self._nic.name)
        elif event is NicEvent.BOUND:
            self._context.report("nic-back", nic=self._nic.name)
            self._reopen()
        elif event is NicEvent.NEW_ADDRESS:
            self._close()
            self._reopen()
        elif link is not None:
            if event is NicEvent.RENAMED:
                self._context.report("nic-renamed", nic=link.name)
            self._limit = link.mtu + HEADER_OCTETS
            self._context.set_carrier(link.has_carrier)

    def _reopen(self) -> None:
        try:
            self._open()
        except HostError as error:
            self._close()
            self._failure = str(error)
        else:
            self._listen()

    # -- frames

    def _inward(self) -> Handler:
        """Choose the shortest way in that does all that is wanted."""
        port, translation, scheduler = self._context.port, self._translation, self._context.scheduler

        def deliver(frame: bytes, offload: bytes) -> None:
            port.send(frame, offload)

        if translation is None:
            return self._fenced(deliver)

        def translate(frame: bytes, offload: bytes) -> None:
            translated = translation.inbound(frame, scheduler.now)
            if translated is not None:
                port.send(translated, offload)

        return self._fenced(translate)

    def _outward(self) -> Handler:
        """Choose the shortest way out that does all that is wanted."""
        translation, scheduler = self._translation, self._context.scheduler
        send = self._send if not self._tag else self._send_tagged

        if translation is None:
            return self._fenced(send)

        def translate(frame: bytes, offload: bytes) -> None:
            translated = translation.outbound(frame, offload, scheduler.now)
            if translated is not None:
                send(translated, offload)

        return self._fenced(translate)

    def _fenced(self, handler: Handler) -> Handler:
        """Hold DHCP back, where the lab has its own and the wire its own (VS-57)."""
        if self._spec.passes_dhcp:
            return handler
        drops = self._drops

        def fence(frame: bytes, offload: bytes) -> None:
            if frame[36:38] in _DHCP_PORTS and (is_dhcp(frame, _DHCP_SERVER) or is_dhcp(frame, _DHCP_CLIENT)):
                drops["dhcp"] += 1
            else:
                handler(frame, offload)

        return fence

    def _send_tagged(self, frame: bytes, offload: bytes) -> None:
        if offload != NO_OFFLOAD:
            try:
                offload = shift(offload, TAG_OCTETS)
            except WireError:
                self._drops["malformed"] += 1
                return
        self._send(frame[:12] + self._tag + frame[12:], offload)

    def _send(self, frame: bytes, offload: bytes) -> None:
        channel = self._channel
        if channel is None:
            self._drops["nic-gone"] += 1
        elif len(frame) > self._limit and largest_frame(frame, offload) > self._limit + len(self._tag):
            self._drops["oversize"] += 1
        else:
            channel.send(frame, offload)
