"""The parts of a lab by name: what ``lab.links``, ``lab.guests`` and their like are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, final, overload

from vnet.errors import UsageError
from vnet.links.link import Link
from vnet.ports import Port
from vnet.runtime.usage import check_name

T = TypeVar("T")
D = TypeVar("D")


@final
class Named(Mapping[str, T]):
    """Parts of one *kind*; an unknown name raises UsageError with the nearest there is."""

    def __init__(self, kind: str, parts: Mapping[str, T]) -> None:
        self._kind = kind
        self._parts = parts

    def __getitem__(self, name: str) -> T:
        part = self._parts.get(name) if isinstance(name, str) else None
        return self._parts[check_name(self._kind, name, self._parts)] if part is None else part

    @overload
    def get(self, key: str, default: None = None, /) -> T | None: ...
    @overload
    def get(self, key: str, default: T | D, /) -> T | D: ...
    def get(self, key: str, default: object = None, /) -> object:
        """Return a part, or *default* if there is none of that name."""
        return self._parts.get(key, default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


@final
class Links(Mapping[str, Link]):
    """The cables of a lab, by name ("core-edge", "web:eth0") or by the two boxes they join, in either order."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = links  # cables come and go with the adapters of networks

    def _between(self, ends: tuple[object, ...]) -> Link | None:
        """Find the first link of two boxes."""
        wanted = frozenset(ends)
        return next((link for link in self._links.values() if wanted == {_node(link.a), _node(link.b)}), None)

    def __getitem__(self, key: str | tuple[str, str]) -> Link:
        if isinstance(key, str):
            return self._links[key if key in self._links else check_name("link", key, self._links)]
        if not isinstance(key, tuple) or not all(isinstance(end, str) for end in key):
            raise UsageError(f"a link is named by text, or by its two ends, such as 'core', 'edge', not by {key!r}")
        link = self._between(key) if len(key) == 2 else None
        if link is None:
            raise UsageError(f"no link joins {' and '.join(key)}; there are: {', '.join(self._links)}")
        return link

    @overload
    def get(self, key: str | tuple[str, str], default: None = None, /) -> Link | None: ...
    @overload
    def get(self, key: str | tuple[str, str], default: Link | D, /) -> Link | D: ...
    def get(self, key: str | tuple[str, str], default: object = None, /) -> object:
        """Return a link, or *default* if there is none of that name, or between these two."""
        if key in self:
            return self[key]
        return default

    def __contains__(self, key: object) -> bool:
        return key in self._links or (isinstance(key, tuple) and self._between(key) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)


def _node(port: Port) -> str:
    return port.name.split(":", 1)[0]
