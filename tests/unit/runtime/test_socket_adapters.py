"""Two live labs joined by a socket, each of emulated guests: no root, and nothing of the machine but a file."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Timer

import pytest
import trio

import vnet
from vnet.adapters.base import AdapterContext, HostAdapter
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime import ways
from vnet.runtime.networks import LabNetwork
from vnet.topology import parse_topology
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.resolved import ResolvedTopology
from vnet.wire.ethernet import HEADER_OCTETS

pytestmark = pytest.mark.usefixtures("run_directory")


def lab_of(name: str, address: str, adapter: str) -> ResolvedTopology:
    return parse_topology(
        f"{{name: {name}, networks: {{lan: {{vlan: 7, subnet: 10.0.0.0/24, adapter: {adapter}}}}},"
        f" guests: {{{name}1: {{nics: [{{network: lan, address: {address}/24}}]}}}}}}"
    )


async def until_up(lab: vnet.Lab) -> None:
    with trio.fail_after(10):
        while lab.networks["lan"].state != "up":  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.01)


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["stream", "dgram"])
async def test_two_labs_are_one_network(tmp_path: Path, kind: str) -> None:
    one, two = tmp_path / "one.sock", tmp_path / "two.sock"
    ends = (
        [f'{{stream: {{listen: "{one}"}}}}', f'{{stream: {{connect: "{one}"}}}}'] if kind == "stream"
        else [f'{{dgram: {{local: "{one}", remote: "{two}"}}}}', f'{{dgram: {{local: "{two}", remote: "{one}"}}}}']
    )  # fmt: skip
    async with vnet.open_lab(lab_of("a", "10.0.0.1", ends[0])) as a:
        assert a.networks["lan"].state.startswith("unbound: nobody ")
        async with vnet.open_lab(lab_of("b", "10.0.0.2", ends[1])) as b, trio.open_nursery() as nursery:
            await until_up(a)
            await until_up(b)
            assert (await a.ping("a1", "10.0.0.2")).ok and (await b.ping("b1", "10.0.0.1")).ok
            server, client = a.guests["a1"], b.guests["b1"]
            assert isinstance(server, EmulatedGuest) and isinstance(client, EmulatedGuest)
            data = bytes(range(256)) * 2000  # in super-frames inside each lab, in frames between them

            async def serve(stream: trio.SocketStream) -> None:
                await stream.send_all(data)

            await nursery.start(server.serve_tcp, serve, 80)
            sizes: list[int] = []
            b.ports["lan:adapter"].hook(
                tx=lambda send: lambda frame, offload: (sizes.append(len(frame)), send(frame, offload))[1]
            )
            stream = await client.open_tcp_stream("10.0.0.1", 80)
            got = b"".join([piece async for piece in stream])
            assert got == data and max(sizes) == 1500 + HEADER_OCTETS
            await b.networks["lan"].rebind("none")
            assert not (await a.ping("a1", "10.0.0.2", timeout=0.2)).ok
            await b.networks["lan"].rebind(ends[1])
            await until_up(b)
            await until_up(a)
            assert (await b.ping("b1", "10.0.0.1")).ok, "after a rebind as before"
            nursery.cancel_scope.cancel()
        if kind == "stream":
            with trio.fail_after(5):
                while "nobody" not in a.networks["lan"].state:  # noqa: ASYNC110 - nobody is told
                    await trio.sleep(0.01)
    assert not one.exists() and not two.exists()


@pytest.mark.trio
async def test_a_network_plugs_into_a_switch_that_comes_later_in_the_file(tmp_path: Path) -> None:
    networks = {"client": f'{{vde: "{tmp_path}/lan"}}', "server": f'{{vde: {{listen: "{tmp_path}/lan"}}}}'}
    topology = parse_topology(
        "{name: a, networks: {"
        + ", ".join(f"{name}: {{adapter: {adapter}}}" for name, adapter in networks.items())
        + "}, guests: {a1: {nics: [{network: client, address: 10.0.0.1/24}]},"
        " a2: {nics: [{network: server, address: 10.0.0.2/24}]}}}"
    )
    async with vnet.open_lab(topology) as lab:
        with trio.fail_after(10):
            while lab.networks["client"].state != "up":  # noqa: ASYNC110 - nobody is told
                await trio.sleep(0.01)
        assert (await lab.ping("a1", "10.0.0.2")).ok and (await lab.ping("a2", "10.0.0.1")).ok
    assert not (tmp_path / "lan").exists()


@pytest.mark.trio
async def test_a_lab_does_not_start_without_the_switch_it_names() -> None:
    with pytest.raises(vnet.HostError, match="no vde_switch at .*: No such file"):
        async with vnet.open_lab(lab_of("a", "10.0.0.1", '{vde: "/nowhere/switch"}')):  # pytest's own paths may be too long
            pass


@pytest.mark.trio
async def test_a_change_under_way_ends_with_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was still being opened, in a thread, when the lab ended: it is closed with the rest, and none comes after it."""
    opening, may_open, closed = Event(), Event(), []
    open_adapter = ways.open_adapter

    def slowly(spec: AdapterSpec, context: AdapterContext) -> HostAdapter:
        opening.set()
        assert may_open.wait(10)
        adapter = open_adapter(spec, context)
        close = adapter.close
        monkeypatch.setattr(adapter, "close", lambda: (closed.append(spec), close()))
        return adapter

    monkeypatch.setattr(ways, "open_adapter", slowly)
    refused: list[str] = []

    async def rebind(network: LabNetwork, path: Path) -> None:
        try:
            await network.rebind(f'{{stream: {{listen: "{path}"}}}}')
        except vnet.UsageError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery, vnet.open_lab(lab_of("a", "10.0.0.1", "none"), emulate=True) as lab:
        network = lab.networks["lan"]
        nursery.start_soon(rebind, network, tmp_path / "one")
        nursery.start_soon(rebind, network, tmp_path / "two")
        await trio.to_thread.run_sync(opening.wait)
        Timer(0.05, may_open.set).start()
    assert len(closed) == 1 and len(refused) == 1 and "has ended" in refused[0]
    assert not [path for path in (tmp_path / "one", tmp_path / "two") if path.exists()]
    await rebind(network, tmp_path / "three")
    assert len(refused) == 2
