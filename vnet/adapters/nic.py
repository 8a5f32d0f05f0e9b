"""Which interface of the machine a bridge adapter means, as interfaces come, go and change their names (VS-15, X4).

An interface is bound by its index, which the kernel gives to no other while that one lives. So a new name changes nothing
but what it is called. When it is gone, the first interface takes its place that has its MAC address (the same NIC, by
whatever name) or its name (another one in its place).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import final

from vnet.adapters.netlink import Link


class NicEvent(Enum):
    """What a piece of news means for the adapter."""

    BOUND = auto()
    """An interface has taken the place of the one that went: open it."""
    GONE = auto()
    """The interface is no more: let go of it."""
    RENAMED = auto()
    NEW_ADDRESS = auto()
    """It has another MAC address."""
    CHANGED = auto()
    """Its carrier or MTU may be another."""


@final
@dataclass(slots=True)
class NicBinding:
    """The interface called *name*, or with the MAC address *mac*; ``link`` is what was told of it last."""

    name: str
    mac: bytes | None = None
    link: Link | None = None

    def find(self, links: Iterable[Link]) -> bool:
        """Bind one of the interfaces that are there: by MAC address before name; tell whether one fits."""
        known = list(links)
        by_mac = [link for link in known if self.mac is not None and link.mac == self.mac and link.exists]
        # several have one address where VLAN devices and bonds are about; then the name decides
        fitting = [link for link in by_mac if link.name == self.name] or by_mac
        fitting = fitting or [link for link in known if link.name == self.name and link.exists]
        if fitting:
            self._bind(fitting[0])
        return bool(fitting)

    def hear(self, news: Link) -> NicEvent | None:
        """Take note of what the kernel tells of an interface; return what it means, None if nothing."""
        if self.link is None:
            return NicEvent.BOUND if self.find([news]) else None
        if news.index != self.link.index:
            return None
        if not news.exists:
            self.link = None
            return NicEvent.GONE
        before, self.link, self.mac = self.link, news, news.mac
        if before.name != news.name:
            self.name = news.name
            return NicEvent.RENAMED
        if before.mac != news.mac:
            return NicEvent.NEW_ADDRESS
        return NicEvent.CHANGED if before != news else None

    def refresh(self, links: Iterable[Link]) -> list[NicEvent]:
        """Catch up from a list of everything, because news was lost."""
        known = list(links)
        events: list[NicEvent | None] = []
        if self.link is not None:
            same = next((link for link in known if link.index == self.link.index), None)
            if same is None:
                self.link = None
                events.append(NicEvent.GONE)
            else:
                events.append(self.hear(same))
        if self.link is None and self.find(known):
            events.append(NicEvent.BOUND)
        return [event for event in events if event is not None]

    def _bind(self, link: Link) -> None:
        self.link, self.name, self.mac = link, link.name, link.mac
