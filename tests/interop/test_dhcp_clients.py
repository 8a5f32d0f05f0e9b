"""DHCP clients of three makers in one network: full pools, networks that change, addresses that somebody took.

What one client gets from a lease's beginning to its end is in tests/system; here it is what goes on between several, and
when something is not as it was. The clients write nothing outside the test's directory.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dpkt
import pytest
from live_labs import Program, guest, live, named, needs, program, run, until

import vnet
from vnet.guests.namespace import NamespaceGuest
from vnet.services.dhcp.binding import BindingState

pytestmark = needs("udhcpc", "dhclient", "dhcpcd", "ip")

LAB = """
name: NAME
networks:
  lan:
    subnet: SUBNET.0/24
    dhcp:
      {range: SUBNET.50-SUBNET.52, server: SUBNET.2, gateway: SUBNET.1, dns: [SUBNET.53], lease: 1h, domain: lab.example}
guests:
  a: {kind: namespace, nics: [lan]}
  b: {kind: namespace, nics: [lan]}
  c: {kind: namespace, nics: [lan]}
  d: {kind: namespace, nics: [lan]}
"""
HERE = LAB.replace("SUBNET", "10.77.0")
ELSEWHERE = LAB.replace("SUBNET", "10.78.0")

# all three tell a script what they got by its environment, if not by the same names
SCRIPT = """#!/bin/sh
case "${reason:-$1}" in
    PREINIT) ip link set eth0 up ;;
    bound|renew|BOUND|RENEW|REBIND|REBOOT) ip address replace "${new_ip_address:-$ip}/24" dev eth0 ;;
    deconfig|nak|EXPIRE|RELEASE|STOP|NAK) ip address flush dev eth0 ;;
esac
"""


def command(client: str, folder: Path) -> list[str]:
    """Write the command line of a client that keeps all its files in *folder*."""
    folder.mkdir(exist_ok=True)
    script = folder / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    if client == "udhcpc":
        return ["udhcpc", "-f", "-i", "eth0", "-s", str(script), "-t", "10", "-T", "1", "-A", "1"]
    if client == "dhclient":
        configuration = folder / "conf"
        configuration.write_text("timeout 5; retry 1; initial-interval 1;\n")
        leases = folder / "leases"
        leases.touch()
        files = ("-sf", str(script), "-cf", str(configuration), "-lf", str(leases), "-pf", str(folder / "pid"))
        return ["dhclient", "-d", *files, "eth0"]
    # dhcpcd knows its places by heart; it runs in a mount namespace of its own, so they can be others there
    kept = folder / "dhcpcd"
    kept.mkdir(exist_ok=True)
    places = f"mount -t tmpfs none /run && mount -t tmpfs none /var/lib && ln -s {kept} /var/lib/dhcpcd"
    return ["sh", "-c", f"{places} && exec dhcpcd -B -4 -A -f /dev/null -c {script} eth0"]


@asynccontextmanager
async def client(where: NamespaceGuest, name: str, folder: Path) -> AsyncIterator[Program]:
    """Run a client in a guest; when it is gone Linux has no address there any more."""
    async with program(where, *command(name, folder)) as running:
        yield running
    await run(where, "ip", "address", "flush", "dev", "eth0")


def held(lab: vnet.Lab) -> dict[str, str]:
    """Say who holds what by the server's book: guests by their MAC addresses."""
    names = {each.interfaces()[0].mac: name for name, each in lab.guests.items()}
    bound = [each for each in lab.dhcp["lan"].bindings() if each.state is BindingState.BOUND]
    return {names[each.mac]: ".".join(map(str, each.address)) for each in bound}


async def until_configured(lab: vnet.Lab, *names: str) -> dict[str, str]:
    """Wait until Linux uses in these guests what the server has in its book for them."""

    def agree() -> bool:
        book = held(lab)
        return all(name in book and str(lab.guests[name].address) == book[name] for name in names)

    await until(agree, f"{names} have addresses, by the book {held(lab)}", 30)
    return held(lab)


@pytest.mark.trio
async def test_three_makers_at_once_and_no_room_for_a_fourth(tmp_path: Path) -> None:
    """Each gets an address of its own; the fourth is refused (VS-56) until somebody gives his back."""
    async with live(HERE) as lab:
        a, b, c, d = (guest(lab, name) for name in "abcd")
        server = lab.dhcp["lan"]
        async with (
            client(a, "udhcpc", tmp_path / "a") as first,
            client(b, "dhclient", tmp_path / "b"),
            client(c, "dhcpcd", tmp_path / "c"),
        ):
            book = await until_configured(lab, "a", "b", "c")
            assert sorted(book.values()) == ["10.77.0.50", "10.77.0.51", "10.77.0.52"]
            for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
                assert (await lab.guests[name].ping(book[other], timeout=5)).ok

            one_try = [*command("udhcpc", tmp_path / "d"), "-n", "-q", "-t", "2"]
            assert "no lease" in await run(d, *one_try, status=1)
            assert server.counters["no-address-left"] == 2 and "d" not in held(lab) and d.address is None
            exhausted = [event for event in lab.events if event.kind == "dhcp-exhausted"]
            assert len(exhausted) == 1 and exhausted[0].fields["pool"] == 3

            # Or Linux would ask for the server's MAC address, and forget what it has for it with the address of its own.
            await run(a, "ping", "-c", "1", "-W", "5", "10.77.0.2")
            first.process.send_signal(signal.SIGUSR2)  # give it back
            await until(lambda: "a" not in held(lab), "the address is free again")
            await run(d, *one_try)
            assert str(d.address) == held(lab)["d"] == book["a"]
        assert server.counters["malformed"] == server.counters["bad-message"] == server.counters["nak"] == 0


@pytest.mark.trio
@pytest.mark.parametrize("name", ["dhclient", "dhcpcd"])
async def test_a_client_that_wakes_up_in_another_network(name: str, tmp_path: Path) -> None:
    """It asks for what it had (INIT-REBOOT), is told NAK, and starts anew."""
    lab_name = named("NAME")  # the same for both, so that the guests have the same MAC addresses
    async with live(HERE.replace("NAME", lab_name)) as lab, client(guest(lab, "a"), name, tmp_path / "a"):
        assert await until_configured(lab, "a") == {"a": "10.77.0.50"}
        await until(lambda: lease_of(name, tmp_path / "a") == "10.77.0.50", "it wrote down its lease")
    async with live(ELSEWHERE.replace("NAME", lab_name)) as lab, client(guest(lab, "a"), name, tmp_path / "a") as running:
        assert await until_configured(lab, "a") == {"a": "10.78.0.50"}
        (refused,) = [event.fields for event in lab.events if event.kind == "dhcp-nak"]
        assert (refused["address"], refused["reason"]) == ("10.77.0.50", "the address is not of this network")
        counters = lab.dhcp["lan"].counters
        assert (counters["nak"], counters["request"], counters["ack"]) == (1, 2, 1), running.said
        assert "nak" in running.said.lower()
        await until(lambda: lease_of(name, tmp_path / "a") == "10.78.0.50", "it wrote down its new lease")


@pytest.mark.trio
@pytest.mark.parametrize("name", ["dhclient", "dhcpcd"])
async def test_a_client_that_wakes_up_at_home(name: str, tmp_path: Path) -> None:
    """It asks for what it had and gets it, without a DISCOVER: also from a server that was restarted with its state."""
    text, books = named(HERE), []
    for _ in range(3):
        async with live(text, state=tmp_path / "state") as lab, client(guest(lab, "b"), "udhcpc", tmp_path / "b"):
            await until_configured(lab, "b")  # it was quicker, but the other's address is kept
            before = lab.dhcp["lan"].counters["discover"]
            async with client(guest(lab, "a"), name, tmp_path / "a"):
                books.append(await until_configured(lab, "a", "b"))
                await until(lambda: lease_of(name, tmp_path / "a") == books[-1]["a"], "it wrote down its lease")
            asked = lab.dhcp["lan"].counters["discover"] > before
            assert asked == (len(books) == 1), "only the first time"
    assert books == [{"a": "10.77.0.51", "b": "10.77.0.50"}] * 3


def lease_of(name: str, folder: Path) -> str:
    """Read the address of the last lease in the client's own file, with all that must stand there."""
    if name == "dhclient":
        leases = re.findall(r"lease \{(.*?)\}", (folder / "leases").read_text(), re.S)
        if not leases:
            return ""
        said = dict(re.findall(r"^ *(?:option )?([a-z-]+) (.*);$", leases[-1], re.M))
        network = said["fixed-address"].rpartition(".")[0]
        assert (said["subnet-mask"], said["routers"], said["dhcp-lease-time"], said["dhcp-server-identifier"]) == (
            "255.255.255.0", f"{network}.1", "3600", f"{network}.2",
        )  # fmt: skip
        assert (said["domain-name-servers"], said["domain-name"]) == (f"{network}.53", '"lab.example"')
        return said["fixed-address"]
    (file,) = (folder / "dhcpcd").glob("*.lease") or [folder]
    message = dpkt.dhcp.DHCP(file.read_bytes())
    options = dict(message.opts)
    address = message.yiaddr.to_bytes(4, "big")
    assert options[dpkt.dhcp.DHCP_OPT_MSGTYPE] == bytes((dpkt.dhcp.DHCPACK,))
    assert options[dpkt.dhcp.DHCP_OPT_NETMASK] == bytes((255, 255, 255, 0))
    assert options[dpkt.dhcp.DHCP_OPT_ROUTER] == address[:3] + b"\x01"
    assert options[dpkt.dhcp.DHCP_OPT_SERVER_ID] == address[:3] + b"\x02"
    assert options[dpkt.dhcp.DHCP_OPT_LEASE_SEC] == (3600).to_bytes(4, "big")
    assert (options[58], options[59]) == ((1800).to_bytes(4, "big"), (2700).to_bytes(4, "big"))
    return ".".join(map(str, address))


@pytest.mark.trio
async def test_a_renewal_that_is_refused(tmp_path: Path) -> None:
    """The server forgot, and somebody else got the address: NAK, and another address, while the other keeps his."""
    async with live(HERE) as lab:
        a, b = guest(lab, "a"), guest(lab, "b")
        async with client(a, "udhcpc", tmp_path / "a") as first:
            assert await until_configured(lab, "a") == {"a": "10.77.0.50"}
            await run(a, "ip", "link", "set", "eth0", "down")  # out of sight, or else its address would be found in use
            lab.dhcp["lan"].flush()
            async with client(b, "dhclient", tmp_path / "b"):
                assert await until_configured(lab, "b") == {"b": "10.77.0.50"}
                await run(a, "ip", "link", "set", "eth0", "up")
                first.process.send_signal(signal.SIGUSR1)
                assert await until_configured(lab, "a", "b") == {"a": "10.77.0.51", "b": "10.77.0.50"}
        assert lab.dhcp["lan"].counters["nak"] == 1 and "NAK" in first.said, first.said


@pytest.mark.trio
async def test_an_address_that_somebody_took_is_not_given_away(tmp_path: Path) -> None:
    """The server looks before it gives (RFC 2131, 2.2): Linux answers its ARP probe, and the address is quarantined."""
    async with live(HERE) as lab:
        await run(guest(lab, "d"), "ip", "address", "add", "10.77.0.50/24", "dev", "eth0")
        async with client(guest(lab, "a"), "udhcpc", tmp_path / "a"):
            assert await until_configured(lab, "a") == {"a": "10.77.0.51"}
        (conflict,) = [event.fields for event in lab.events if event.kind == "dhcp-conflict"]
        assert conflict["address"] == "10.77.0.50"
        assert conflict["mac"] == lab.guests["d"].interfaces()[0].mac.hex(":")
