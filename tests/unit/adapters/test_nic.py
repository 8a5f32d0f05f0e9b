"""Which interface a bridge adapter means: renamed, replaced, gone and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vnet.adapters.netlink import Link
from vnet.adapters.nic import NicBinding, NicEvent

MAC, OTHER_MAC = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
ETH1 = Link(index=7, name="eth1", mac=MAC, mtu=1500, is_up=True, has_carrier=True)
ETH2 = Link(index=8, name="eth2", mac=OTHER_MAC, mtu=1500, is_up=True, has_carrier=True)


def bound() -> NicBinding:
    nic = NicBinding("eth1")
    assert nic.find([ETH2, ETH1]) and nic.link == ETH1
    return nic


@pytest.mark.parametrize(
    ("name", "mac", "links", "index"),
    [
        ("eth1", None, [ETH1, ETH2], 7),
        ("eth9", None, [ETH1, ETH2], None),
        ("eth9", OTHER_MAC, [ETH1, ETH2], 8),  # the hint finds it whatever its name is
        ("eth1", OTHER_MAC, [ETH1, ETH2], 8),  # the same NIC comes before the same name
        ("eth1", b"\x02\0\0\0\0\3", [ETH1, ETH2], 7),  # another NIC in its place
        ("eth1.16", MAC, [ETH1, replace(ETH1, index=9, name="eth1.16")], 9),  # one address, two interfaces
        ("eth1", None, [replace(ETH1, exists=False)], None),
    ],
)
def test_it_is_found_by_address_and_name(name: str, mac: bytes | None, links: list[Link], index: int | None) -> None:
    nic = NicBinding(name, mac)
    assert nic.find(links) == (index is not None)
    assert (nic.link.index if nic.link else None) == index


def test_others_do_not_matter_while_it_is_there() -> None:
    nic = bound()
    assert nic.hear(ETH2) is None and nic.hear(replace(ETH2, name="eth1", exists=False)) is None
    assert nic.hear(replace(ETH1, index=9)) is None
    assert nic.hear(ETH1) is None


def test_a_new_name_is_the_same_nic() -> None:
    nic = bound()
    assert nic.hear(replace(ETH1, name="lan0")) is NicEvent.RENAMED
    assert nic.name == "lan0" and nic.hear(replace(ETH2, name="eth1")) is None
    assert nic.hear(replace(ETH1, name="lan0", has_carrier=False)) is NicEvent.CHANGED
    assert nic.hear(replace(ETH1, name="lan0", has_carrier=False, mac=OTHER_MAC)) is NicEvent.NEW_ADDRESS
    assert nic.mac == OTHER_MAC


@pytest.mark.parametrize(
    "comes",
    [
        replace(ETH1, index=9),
        replace(ETH1, index=9, name="usb0"),  # the same NIC in another socket
        replace(ETH1, index=9, mac=b"\x02\0\0\0\0\3"),  # another NIC in its place
        ETH1,
    ],
)
def test_what_is_gone_comes_back_by_address_or_name(comes: Link) -> None:
    nic = bound()
    assert nic.hear(replace(ETH1, exists=False)) is NicEvent.GONE and nic.link is None
    assert nic.hear(ETH2) is None and nic.hear(replace(comes, exists=False)) is None
    assert nic.hear(comes) is NicEvent.BOUND
    assert nic.link == comes and (nic.name, nic.mac) == (comes.name, comes.mac)


def test_it_catches_up_when_news_was_lost() -> None:
    nic = bound()
    assert nic.refresh([ETH1, ETH2]) == []
    assert nic.refresh([replace(ETH1, name="x"), ETH2]) == [NicEvent.RENAMED]
    assert nic.refresh([ETH2]) == [NicEvent.GONE]
    assert nic.refresh([ETH2]) == []
    assert nic.refresh([replace(ETH1, index=12)]) == [NicEvent.BOUND]
    again = replace(ETH1, index=13)
    assert nic.refresh([again]) == [NicEvent.GONE, NicEvent.BOUND] and nic.link == again
