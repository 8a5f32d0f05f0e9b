"""Lines for people: expected texts, and no exception or control character whatever the octets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.wire.describe import describe
from vnet.wire.describe_application import printable

GOLDEN = Path(__file__).parents[2] / "golden" / "describe.txt"
LINES = GOLDEN.read_text().splitlines()[1:]
CASES = [(bytes.fromhex(octets), text) for text, octets in zip(LINES[::2], LINES[1::2], strict=True)]


@pytest.mark.parametrize(("frame", "text"), CASES, ids=[text.partition(", ")[2][:40] for _, text in CASES])
def test_expected_text(frame: bytes, text: str) -> None:
    assert describe(frame) == text


@pytest.mark.parametrize("frame", [frame for frame, _ in CASES], ids=[text.partition(", ")[2][:40] for _, text in CASES])
def test_every_prefix_has_a_line(frame: bytes) -> None:
    for end in range(len(frame)):
        assert describe(frame[:end]).isprintable()


def test_says_where_the_octets_ran_out() -> None:
    tcp = next(frame for frame, text in CASES if "TCP [S]" in text)
    assert describe(tcp[:34]).endswith("> 52:54:00:00:00:02, [cut short]")
    assert describe(tcp[:57]).endswith("TCP [S], seq 1000, win 64240, options [bad], length 0, [cut short]")
    assert describe(b"") == " > , [cut short]"


def test_a_dns_name_whose_pointers_circle() -> None:
    query = next(frame for frame, text in CASES if "DNS query" in text)
    assert describe(query[:54] + b"\xc0\x0c" + query[56:]).endswith("DNS query 5, [cut short]")


def test_peers_cannot_write_to_the_terminal() -> None:
    assert printable(b"a\\\x1b]0;x\x07\xc3\xa9") == r"a\x5c\x1b]0;x\x07\xc3\xa9"
    assert printable(b"x" * 81) == "x" * 80 + "..."


@given(st.sampled_from([frame for frame, _ in CASES]), st.data())
def test_mutated_frames(frame: bytes, data: st.DataObject) -> None:
    mutated = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assert describe(bytes(mutated)).isprintable()


@given(st.sampled_from(["0800", "0806", "86dd", "88cc", "8809", "8100", "0026"]), st.binary(max_size=120))
def test_arbitrary_payloads(ethertype: str, payload: bytes) -> None:
    assert describe(bytes(12) + bytes.fromhex(ethertype) + payload).isprintable()
