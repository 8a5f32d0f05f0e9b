"""Checksums against the loop that RFC 1071 describes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from vnet.wire.checksum import checksum, delta, is_valid, ones_sum, pseudo_header_sum, update, update_partial


def naive(data: bytes, initial: int = 0) -> int:
    """Sum words with an end-around carry after each, and complement (RFC 1071, section 4.1)."""
    total = initial % 0xFFFF
    for at in range(0, len(data), 2):
        word = data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def same(one: int, other: int) -> bool:
    """Tell whether two fields are equal in ones'-complement arithmetic, where 0 and 0xFFFF are both zero."""
    return one % 0xFFFF == other % 0xFFFF


@given(st.binary(max_size=300), st.integers(0, 1 << 20))
@example(b"", 0)
@example(b"\xff", 0)
@example(b"\xff\xff", 0)
@example(b"\x00\x01\xff\xfe", 0)
def test_the_checksum_is_that_of_the_loop(data: bytes, initial: int) -> None:
    value = checksum(data, initial)
    assert 0 <= value <= 0xFFFE
    assert same(value, naive(data, initial))
    assert 0 <= ones_sum(data) <= 0xFFFE
    assert same(ones_sum(data), ~naive(data) & 0xFFFF)


def test_the_example_of_the_rfc() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert ones_sum(data) == 0xDDF2
    assert checksum(data) == 0x220D


@given(st.binary(max_size=80).filter(lambda data: len(data) % 2 == 0), st.binary(max_size=81))
def test_a_field_filled_in_is_valid_and_a_flipped_bit_is_not(head: bytes, tail: bytes) -> None:
    value = checksum(head + b"\0\0" + tail)
    whole = head + value.to_bytes(2, "big") + tail
    assert is_valid(whole)
    for at in range(len(whole)):
        assert not is_valid(whole[:at] + bytes((whole[at] ^ 0x10,)) + whole[at + 1 :])


@given(
    st.sampled_from([4, 16]).flatmap(lambda n: st.tuples(*[st.binary(min_size=n, max_size=n)] * 2)),
    st.integers(0, 255),
    st.integers(0, 65535),
)
def test_pseudo_headers(addresses: tuple[bytes, bytes], protocol: int, length: int) -> None:
    source, destination = addresses
    if len(source) == 4:
        written = source + destination + bytes((0, protocol)) + length.to_bytes(2, "big")
    else:
        written = source + destination + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
    assert pseudo_header_sum(source, destination, protocol, length) == ones_sum(written)


@given(st.binary(min_size=20, max_size=60), st.integers(0, 4), st.binary(min_size=2, max_size=8))
def test_an_update_is_as_good_as_a_new_sum(data: bytes, word: int, new: bytes) -> None:
    new = new[: len(new) & ~1]
    at = 2 * word
    old = data[at : at + len(new)]
    changed = data[:at] + new + data[at + len(new) :]
    assert same(update(checksum(data), delta(old, new)), checksum(changed))
    assert same(update_partial(ones_sum(data), delta(old, new)), ones_sum(changed))


@given(st.integers(0, 0xFFFF), st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
def test_an_update_is_the_third_equation_of_rfc_1624(field: int, old: bytes, new: bytes) -> None:
    total = ~field & 0xFFFF
    for at in (0, 2):
        total += ~int.from_bytes(old[at : at + 2], "big") & 0xFFFF
        total += int.from_bytes(new[at : at + 2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert same(update(field, delta(old, new)), ~total & 0xFFFF)


def test_an_update_never_writes_the_field_of_rfc_1624_that_was_wrong_before() -> None:
    """The RFC's own example: 0xDD2F with 0x5555 replaced by 0x3285 is 0x0000, not 0xFFFF."""
    assert update(0xDD2F, delta(b"\x55\x55", b"\x32\x85")) == 0x0000


@given(st.binary(min_size=2, max_size=2), st.binary(min_size=2, max_size=2), st.integers(0, 0xFFFE))
def test_a_change_and_its_reverse_cancel_out(old: bytes, new: bytes, field: int) -> None:
    assert update(update(field, delta(old, new)), delta(new, old)) == field
    assert update_partial(update(field, delta(old, new)), delta(old, new)) == field
