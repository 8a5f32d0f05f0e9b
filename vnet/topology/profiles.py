"""Whose habits a lab follows: the limits and MAC prefixes of the products that vnet re-creates.

A profile never changes what the fabric can do; it makes a topology behave, and be refused, as that product would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from vnet.addresses import VNET_OUI, Mac


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Defaults and limits of one product; None is no limit.

    ``oui`` begins the MAC addresses that are derived. ``most_nics`` is refused when exceeded; ``usual_guests`` and
    ``usual_networks`` only draw a warning, as the product goes on working beyond them.
    """

    name: str
    oui: Mac
    most_nics: int | None = None
    usual_guests: int | None = None
    usual_networks: int | None = None


_OLDER_MICROSOFT: Final = bytes.fromhex("0003ff")

PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile(name="vnet", oui=VNET_OUI),
        # four adapters a machine (VS-06); 64 machines by the one-octet id in their MAC addresses (VS-07, VS-43)
        Profile(name="virtual-server-2005r2", oui=_OLDER_MICROSOFT, most_nics=4, usual_guests=64, usual_networks=256),
        Profile(name="virtual-pc", oui=_OLDER_MICROSOFT, most_nics=4),
        # the range that the products generate themselves (VM-08); the number of NICs differs between them
        Profile(name="vmware", oui=bytes.fromhex("000c29")),
        Profile(name="esx", oui=bytes.fromhex("000c29")),
        # three VIFs a domain (X2), inside Xen's own prefix (XN-32)
        Profile(name="xen", oui=bytes.fromhex("00163e"), most_nics=3),
    )
}
