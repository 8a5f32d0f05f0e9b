"""vnet's DHCP client in a namespace, against vnet's server, in real time."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
import trio
from rig import make_guests, needs, running

from vnet.errors import NoAnswer
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.guests.namespace import NamespaceGuest
from vnet.guests.namespace_nic import Nic
from vnet.ports import connect
from vnet.runtime.shell import Shell
from vnet.services.dhcp.node import DhcpServerNode
from vnet.services.dhcp.policy import DhcpConfig

pytestmark = [pytest.mark.real, needs("ip")]

MAC = bytes.fromhex("525400007701")
SERVER = DhcpConfig(
    server=IPv4Address("10.77.0.2"),
    subnet=IPv4Network("10.77.0.0/24"),
    range_start=IPv4Address("10.77.0.50"),
    range_end=IPv4Address("10.77.0.60"),
    gateway=IPv4Address("10.77.0.2"),
    dns=(IPv4Address("10.77.0.53"),),
    domain="lab.example",
)


def make_guest(tmp_path: Path, timeline: Timeline) -> NamespaceGuest:
    name = make_guests(tmp_path, 1)[0].namespace
    streams = RandomStreams(7)
    return NamespaceGuest(
        "pc", name, [Nic(mac=MAC, dhcp=True)],
        directory=str(tmp_path), scheduler=timeline, streams=partial(streams.stream, "pc"),
    )  # fmt: skip


@pytest.mark.trio
async def test_the_client_configures_linux_and_unconfigures_it(tmp_path: Path) -> None:
    timeline = Timeline()
    shell = Shell(timeline)
    streams = RandomStreams(1)
    server = DhcpServerNode("dhcp", timeline, bytes.fromhex("525400007702"), SERVER, None, partial(streams.stream, "dhcp"))
    with running([make_guest(tmp_path, timeline)]) as (guest,):
        connect(server.port, guest.ports[0], defer=timeline)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.run)
            guest.start(shell)
            assert guest.interfaces()[0].dhcp == "selecting" or guest.interfaces()[0].dhcp == "init"
            address = await guest.dhcp(timeout=20)
            assert SERVER.range_start <= address <= SERVER.range_end
            (state,) = guest.interfaces()
            assert state.addresses == (IPv4Interface(f"{address}/24"),)
            assert (state.gateway, state.dhcp) == (IPv4Address("10.77.0.2"), "bound")
            assert guest.address == address
            resolv = (await guest.exec("cat", "/etc/resolv.conf")).output
            assert resolv == b"search lab.example\nnameserver 10.77.0.53\n"

            # Linux answers for the address, alone, and says nothing against the server's unicast
            reply = await guest.ping("10.77.0.2")
            assert reply.ok, reply.error
            client = guest._clients[0]
            host = client._interface.host
            before = dict(server.counters)
            renewed = trio.Event()
            client._client.on_bound.append(lambda lease: renewed.set())
            client._client.renew()
            with trio.fail_after(5):
                await renewed.wait()
            assert client.state == "bound" and server.counters["ack"] == before["ack"] + 1
            errors = (await guest.exec("grep", "^Icmp:", "/proc/net/snmp")).output.decode().split("\n")
            counts = dict(zip(errors[0].split(), errors[1].split(), strict=True))
            assert counts["OutDestUnreachs"] == "0" and not host.drops

            client.release()
            assert guest.interfaces()[0].addresses == () and guest.interfaces()[0].gateway is None
            assert guest.address is None
            guest.stop()
            nursery.cancel_scope.cancel()
    shell.close()


@pytest.mark.trio
async def test_no_server_is_no_answer(tmp_path: Path) -> None:
    none = pytest.raises(NoAnswer, match=r"pc got no address by DHCP within 0\.05 s")
    with running([make_guest(tmp_path, Timeline())]) as (guest,), none:
        await guest.dhcp(timeout=0.05)
