"""Which spellings of a name a resolver tries, and in which order (resolv.conf(5), search and ndots)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vnet.wire import dns

MAX_SEARCH: Final = 6
"""Search domains that are tried (``MAXDNSRCH`` of glibc before 2.26); others are for nothing."""


def candidates(name: str, search: Iterable[str], ndots: int) -> list[tuple[dns.Name, bool]]:
    """List the names to ask for, each with whether it is the one that was given; none for what is no name.

    A name with at least *ndots* dots is tried as it is first, any other behind the search domains. A dot at the end has it
    tried as it is alone.
    """
    given = _parsed(name)
    if not given:
        return []
    if name.endswith("."):
        return [(given, True)]
    found = [(made, False) for domain in usable_domains(search) if (made := _parsed(f"{name}.{domain}"))]
    as_given = (given, True)
    return [as_given, *found] if name.count(".") >= ndots else [*found, as_given]


def usable_domains(texts: Iterable[str]) -> list[str]:
    """List the domains that *texts* name, several in one text separated by blanks; what is no name is left out."""
    found = [domain.rstrip(".") for text in texts for domain in text.split()]
    return list(dict.fromkeys(domain for domain in found if _parsed(domain)))[:MAX_SEARCH]


def _parsed(text: str) -> dns.Name:
    """Return the name, () for what is none, such as text that is not ASCII."""
    try:
        return dns.parse_name(text)
    except ValueError:
        return ()
