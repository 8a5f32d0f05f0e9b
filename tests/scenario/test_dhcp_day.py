"""A day of fifty DHCP clients: leases of 4 h (T1 2 h, T2 3 h: 36 h / 18 h / 27 h scaled), renewed at the right instants."""

from __future__ import annotations

import trio

import vnet
from vnet.topology import parse_topology

HOUR = 3600
HOUR_NS = HOUR * 10**9
FIFTY = """
name: fifty
networks:
  office: {subnet: 10.20.0.0/16, dhcp: {lease: 4h}}
guests:
""" + "".join(f"  pc{number}: {{nics: [office]}}\n" for number in range(50))  # fmt: skip


def test_each_client_renews_at_half_of_its_lease_all_day():
    """T1 counts from the REQUEST; on cables without delay that is the instant of the ACK (RFC 2131, 4.4.5)."""

    async def main() -> list[tuple[str, str, int]]:
        async with vnet.open_lab(parse_topology(FIFTY)) as lab:
            await lab.wait_up()
            await trio.sleep(24 * HOUR)
            addresses = {guest.address for guest in lab.guests.values()}
            assert len(addresses) == 50 and None not in addresses
            return [(e.kind, str(e.fields["mac"]), e.instant) for e in lab.events if e.node == "office:dhcp"]

    instants: dict[str, list[int]] = {}
    for kind, mac, instant in vnet.simulate(main):
        assert kind == ("dhcp-renewed" if mac in instants else "dhcp-bound")
        instants.setdefault(mac, []).append(instant)
    assert len(instants) == 50
    for first, *renewed in instants.values():
        assert renewed == [first + 2 * HOUR_NS * number for number in range(1, 13)]


def test_without_a_server_clients_rebind_then_lose_the_address_and_get_it_back():
    """RENEWING from T1, REBINDING from T2, INIT at the end of the lease; the server remembers who had which address."""

    async def main() -> None:
        async with vnet.open_lab(parse_topology(FIFTY)) as lab:
            await lab.wait_up()
            had = {name: guest.address for name, guest in lab.guests.items()}

            def states() -> set[str]:
                return {each.dhcp for guest in lab.guests.values() for each in guest.interfaces()}

            lab.links["office:dhcp"].up = False
            for hours, state in (
                (1.99, "bound"),
                (2.01, "renewing"),
                (2.99, "renewing"),
                (3.01, "rebinding"),
                (3.99, "rebinding"),
            ):
                await trio.sleep(hours * HOUR - lab.now)
                assert states() == {state}, hours
                assert {name: guest.address for name, guest in lab.guests.items()} == had
            await trio.sleep(4.01 * HOUR - lab.now)
            assert states() <= {"init", "selecting"}
            assert {guest.address for guest in lab.guests.values()} == {None}
            lab.links["office:dhcp"].up = True
            await lab.wait_up(timeout=200)
            assert {name: guest.address for name, guest in lab.guests.items()} == had

    vnet.simulate(main)
