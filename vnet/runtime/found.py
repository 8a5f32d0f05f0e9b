"""What a lab has, by name: its cables and its guests, with errors that say which there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from vnet.errors import UsageError
from vnet.guests.base import Guest
from vnet.links.link import Link
from vnet.ports import Port


@final
class Links(Mapping[str, Link]):
    """The cables of a lab, by name ("core-edge", "web:eth0") or by the two boxes they join, in either order."""

    def __init__(self, links: dict[str, Link]) -> None:
        self._links = links

    def _between(self, ends: tuple[str, ...]) -> Link | None:
        """Find the first link of two boxes."""
        wanted = frozenset(ends)
        return next((link for link in self._links.values() if wanted == {_node(link.a), _node(link.b)}), None)

    def __getitem__(self, key: str | tuple[str, str]) -> Link:
        link = self._links.get(key) if isinstance(key, str) else self._between(key)
        if link is None:
            raise UsageError(
                f"no link {key if isinstance(key, str) else ' to '.join(key)}: there are {', '.join(self._links)}"
            )
        return link

    def __contains__(self, key: object) -> bool:
        return key in self._links or (isinstance(key, tuple) and self._between(key) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)


def _node(port: Port) -> str:
    return port.name.split(":", 1)[0]


@final
class Guests(Mapping[str, Guest]):
    """The guests of a lab by name."""

    def __init__(self, guests: dict[str, Guest]) -> None:
        self._guests = guests

    def __getitem__(self, name: str) -> Guest:
        guest = self._guests.get(name)
        if guest is None:
            raise UsageError(f"no guest {name}: there are {', '.join(self._guests) or 'none'}")
        return guest

    def __contains__(self, name: object) -> bool:
        return name in self._guests

    def __iter__(self) -> Iterator[str]:
        return iter(self._guests)

    def __len__(self) -> int:
        return len(self._guests)
