"""MAC addresses, and the groups a bridge must know."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.addresses import BROADCAST, format_mac, is_group, is_reserved, multicast_mac, parse_mac


@given(st.binary(min_size=6, max_size=6))
def test_what_is_printed_can_be_read(mac: bytes) -> None:
    assert parse_mac(format_mac(mac)) == mac
    assert parse_mac(format_mac(mac).upper().replace(":", "-")) == mac


@pytest.mark.parametrize("text", [
    "", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54-00:12:34:56", "525400123456", "5:54:00:12:34:56",
    "52:54:00:12:34:5g", "52:54:00:12:34:56\n", " 52:54:00:12:34:56", "५2:54:00:12:34:56",
])  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write six octets"):
        parse_mac(text)


def test_groups() -> None:
    assert is_group(BROADCAST)
    assert is_group(bytes.fromhex("01005e000001"))
    assert not is_group(bytes.fromhex("525400123456"))


def test_the_sixteen_reserved_addresses_and_their_neighbours() -> None:
    for last in range(256):
        assert is_reserved(bytes.fromhex("0180c20000") + bytes((last,))) == (last <= 15)
    assert not is_reserved(bytes.fromhex("0180c2000100"))


@pytest.mark.parametrize(("address", "mac"), [
    ("224.0.0.251", "01:00:5e:00:00:fb"), ("239.255.255.250", "01:00:5e:7f:ff:fa"), ("224.128.1.2", "01:00:5e:00:01:02"),
    ("ff02::1", "33:33:00:00:00:01"), ("ff02::1:ff12:3456", "33:33:ff:12:34:56"),
])  # fmt: skip
def test_groups_of_ip_map_to_groups_of_ethernet(address: str, mac: str) -> None:
    assert format_mac(multicast_mac(ipaddress.ip_address(address).packed)) == mac
