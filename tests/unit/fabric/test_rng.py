"""Random streams: the same everywhere, and none knows of another."""

from __future__ import annotations

import os
import subprocess
import sys

from vnet.fabric.rng import RandomStreams

DRAWS = """
from vnet.fabric.rng import RandomStreams
for node, purpose in (("a", "loss"), ("ä", "xid"), ("a", "")):
    stream = RandomStreams(7).stream(node, purpose)
    print(stream.random(), stream.below(1000), stream.octets(8).hex(), stream.random())
"""


def test_the_same_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", DRAWS], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(said) == 1
    assert len(set(said.pop().split())) == 12, "and no two draws alike"


def test_the_first_draws_are_what_they_always_were() -> None:
    stream = RandomStreams(1).stream("node", "purpose")
    assert (stream.octets(4).hex(), stream.below(1 << 32)) == ("8c4c8a6c", 1685361834)


def test_a_stream_depends_on_its_own_name_and_seed_alone() -> None:
    streams = RandomStreams(3)
    alone = streams.stream("a", "loss").octets(16)
    other = streams.stream("b", "loss")
    again = streams.stream("a", "loss")
    other.octets(1000)
    assert again.octets(16) == alone
    names = [(node, purpose) for node in "abc" for purpose in ("loss", "xid")]
    assert len({streams.stream(*name).octets(16) for name in names}) == len(names)
    assert RandomStreams(4).stream("a", "loss").octets(16) != alone


def test_draws_stay_within_their_bounds() -> None:
    stream = RandomStreams().stream("node", "test")
    assert {stream.below(3) for _ in range(100)} == {0, 1, 2}
    assert all(0 <= stream.random() < 1 for _ in range(100))
    assert stream.below(1) == 0
    assert [len(stream.octets(count)) for count in (0, 1, 6)] == [0, 1, 6]
