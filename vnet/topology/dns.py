"""What a guest says about DNS: the servers that its resolver asks, and the domains it searches."""

from __future__ import annotations

from typing import Final

from vnet.topology.draft import Draft
from vnet.topology.model import Guest
from vnet.topology.problems import Path
from vnet.topology.resolved import Address
from vnet.topology.shape import numbered
from vnet.wire.dns import parse_name

MAX_SERVERS: Final = 3
"""Servers that a resolver asks (resolv.conf(5), nameserver)."""


def resolve_servers(draft: Draft, model: Guest, path: Path) -> tuple[Address, ...]:
    """Read ``dns:``; say so if there are more servers than are ever asked."""
    place: Path = (*path, "dns")
    found = [draft.reader.address(text, (*place, index)) for index, text in numbered(model.dns)]
    if len(found) > MAX_SERVERS:
        text = f"resolvers ask the first {MAX_SERVERS} servers only; remove the others, they are for nothing"
        draft.problems.warning("too-many-dns", (*place, MAX_SERVERS), text)
    return tuple(address for address in found if address is not None)


def resolve_search(draft: Draft, model: Guest, path: Path) -> tuple[str, ...]:
    """Read ``search:``."""
    found = []
    for index, text in numbered(model.search):
        try:
            good = bool(parse_name(text)) and not any(letter.isspace() for letter in text)
        except ValueError:
            good = False
        if good:
            found.append(text.removesuffix("."))
        else:
            problem = f"{text[:60]!r} is no domain; write one such as office.example"
            draft.problems.error("bad-domain", (*path, "search", index), problem)
    return tuple(found)
