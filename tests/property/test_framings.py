"""Streams of frames, and hyperkit's greeting, come apart alike wherever they are cut, and nonsense is only a WireError."""

from __future__ import annotations

import contextlib
from struct import Struct, pack

from hypothesis import given
from hypothesis import strategies as st

from vnet.adapters.framings import COMMAND, HELLO, LARGEST_FRAME, MAGIC, RESPONSE, Deframer, Greeting
from vnet.errors import WireError

LENGTH = Struct("<H")
frames = st.lists(st.binary(max_size=100) | st.integers(0, LARGEST_FRAME).map(bytes), max_size=8)
cuts = st.lists(st.floats(0, 1), max_size=20)


def pieces(data: bytes, where: list[float]) -> list[bytes]:
    places = [0, *sorted(int(each * len(data)) for each in where), len(data)]
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


@given(frames=frames, where=cuts)
def test_a_stream_comes_apart(frames: list[bytes], where: list[float]) -> None:
    deframer = Deframer(LENGTH)
    data = b"".join(LENGTH.pack(len(each)) + each for each in frames)
    assert [each for piece in pieces(data, where) for each in deframer.feed(piece)] == frames


@given(before=frames, octets=st.integers(LARGEST_FRAME + 1, 65535), where=cuts)
def test_a_length_above_the_cap(before: list[bytes], octets: int, where: list[float]) -> None:
    deframer = Deframer(LENGTH)
    data = b"".join(LENGTH.pack(len(each)) + each for each in before) + LENGTH.pack(octets)
    try:
        for piece in pieces(data, where):
            deframer.feed(piece)
    except WireError:
        return
    raise AssertionError("it was taken")


@given(commit=st.binary(min_size=40, max_size=40), uuid=st.binary(min_size=36, max_size=36), rest=st.binary(), where=cuts)
def test_a_greeting_comes_apart(commit: bytes, uuid: bytes, rest: bytes, where: list[float]) -> None:
    greeting = Greeting("lab", 1500)
    hello = HELLO.pack(MAGIC, 22, commit)
    answer = left = b""
    for piece in pieces(hello + COMMAND.pack(1, uuid, 0) + rest, where):
        if greeting.is_over:
            left += piece
        else:
            said, more = greeting.feed(piece)
            answer, left = answer + said, left + more
    assert greeting.is_over
    assert left == rest
    assert answer[:49] == hello
    assert len(answer) == 49 + RESPONSE.size == 49 + 258


@given(data=st.lists(st.binary(max_size=60) | st.just(MAGIC) | st.just(pack("<I", 22)), max_size=20))
def test_nonsense_is_only_a_wire_error(data: list[bytes]) -> None:
    greeting, deframer = Greeting("lab", 1500), Deframer(LENGTH)
    with contextlib.suppress(WireError):
        for each in data:
            deframer.feed(each)
    with contextlib.suppress(WireError):
        for each in data:
            if not greeting.is_over:
                greeting.feed(each)
