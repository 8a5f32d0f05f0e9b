"""Seeded random streams, one for each node and purpose.

A stream depends only on the lab's seed and its own name, so a node that draws once more, or a guest that joins, leaves
the draws of all others as they were. This is the only place in the fabric that knows ``random``.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from vnet.ports import Randomness


@final
class RandomStreams:
    """The streams of one lab."""

    __slots__ = ("seed",)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def stream(self, node: str, purpose: str) -> Randomness:
        """Make the stream that *node* uses for *purpose*; calling again starts the same stream anew."""
        return LazyStream(f"{self.seed}\0{node}\0{purpose}")


@final
class LazyStream:
    """A stream that costs nothing until its first draw: a lab of a thousand hosts holds several thousand of them."""

    __slots__ = ("_name", "_source")

    def __init__(self, name: str) -> None:
        self._name = name
        self._source: random.Random | None = None

    def _random(self) -> random.Random:
        if self._source is None:
            # sha256, because hash() of a string changes from process to process
            digest = hashlib.sha256(self._name.encode("utf-8", "surrogatepass")).digest()
            self._source = random.Random(int.from_bytes(digest, "big"))
        return self._source

    def random(self) -> float:
        """Draw from [0, 1)."""
        return self._random().random()

    def below(self, bound: int) -> int:
        """Draw a whole number from 0 to *bound* - 1."""
        return self._random().randrange(bound)

    def octets(self, count: int) -> bytes:
        """Draw *count* octets."""
        return self._random().randbytes(count)
