"""Live labs of emulated guests: what comes out of the block, and what a failed start leaves."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
import trio

import vnet
from vnet.adapters.resources import FileId, FileResource
from vnet.errors import HostError, NoAnswer, UsageError
from vnet.runtime import live
from vnet.runtime.journal import Journal, read_journal
from vnet.runtime.places import place_of
from vnet.topology import parse_topology

TOPOLOGY = parse_topology(
    """
name: tiny
networks:
  lan: {subnet: 10.0.0.0/24, dhcp: {}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.10/24}]}
  b: {nics: [{network: lan, dhcp: vnet}]}
""",
    source="tiny",
)
pytestmark = pytest.mark.usefixtures("run_directory")


async def run_and_raise(error: Exception) -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True):
        raise error


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


@pytest.mark.trio
async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    """Also live: an assertion in a test is no group of one."""
    for error in (AssertionError("no"), NoAnswer("nobody"), ExceptionGroup("two", [OSError(), ValueError()])):
        with pytest.raises(type(error)) as caught:
            await run_and_raise(error)
        assert caught.value is error


@pytest.mark.trio
async def test_a_cancelled_lab_leaves_nothing(run_directory: Path) -> None:
    before = descriptors()
    with trio.CancelScope() as scope:
        async with vnet.open_lab(TOPOLOGY, emulate=True):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught and os.listdir(run_directory) == []
    assert len(descriptors()) == len(before)


@pytest.mark.trio
async def test_a_lab_that_runs_is_refused_as_such_whatever_its_state(tmp_path: Path) -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True, state=tmp_path):
        with pytest.raises(UsageError, match="lab tiny is running already"):
            async with vnet.open_lab(TOPOLOGY, emulate=True, state=tmp_path):
                pass


@pytest.mark.trio
async def test_a_start_that_fails_after_the_lock_gives_all_of_it_back(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(timeline: object) -> None:
        raise HostError("no descriptors")

    monkeypatch.setattr(live, "Shell", fail)
    before = descriptors()
    with pytest.raises(HostError, match="no descriptors"):
        await run_and_raise(AssertionError("ran"))
    assert os.listdir(run_directory) == [] and len(descriptors()) == len(before)


@pytest.mark.trio
async def test_a_sweep_that_fails_keeps_what_is_to_be_swept(
    run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    left.touch()
    resource = FileResource(str(left), FileId.of(left.lstat()))
    place = place_of("tiny")
    lock = place.acquire()
    journal = Journal(place.journal, "token")
    journal.add(resource)
    journal.close()
    lock.release(keep=True)

    def fail(lock: object, token: str) -> None:
        raise OSError("killed in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(live, "begin", fail)
        with pytest.raises(OSError, match="in the middle"):
            await run_and_raise(AssertionError("ran"))
    assert not place.is_running() and read_journal(place.journal).resources == [resource]
    async with vnet.open_lab(TOPOLOGY, emulate=True):
        assert not left.exists()


@pytest.mark.trio
async def test_a_guest_with_a_client_of_its_own_is_known_by_its_lease() -> None:
    """The stand-in of a namespace asks as the user's client would; here its address is hidden as that of Linux would be."""
    topology = parse_topology(
        "name: own\nnetworks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}\n"
        "guests: {a: {nics: [{network: lan, address: 10.0.0.10/24}]}, b: {kind: namespace, nics: [{network: lan}]}}\n",
        source="own",
    )

    class Blind:
        address = None

    async def run() -> tuple[IPv4Address, bool]:
        async with vnet.open_lab(topology) as lab:
            address = await lab.guests["b"].dhcp()
            guests = dict(lab.guests)
            lab.guests = {**guests, "b": Blind()}  # type: ignore[assignment,dict-item]
            assert lab.resolve("b") == address
            return address, bool(await lab.ping("a", "b"))

    address, ok = await trio.to_thread.run_sync(lambda: vnet.simulate(run))
    assert ok and address in topology.networks["lan"].subnet  # type: ignore[operator]


def test_a_gateway_of_the_guest_counts_for_more_than_that_of_the_lease() -> None:
    topology = parse_topology(
        """
name: ways
networks:
  lan: {subnet: 10.0.0.0/24, dhcp: {gateway: 10.0.0.1}}
  far: {subnet: 10.9.0.0/24}
routers:
  wrong: {interfaces: {lan: 10.0.0.1/24}}
  right: {interfaces: {lan: 10.0.0.2/24, far: 10.9.0.1/24}}
guests:
  pc: {gateway: 10.0.0.2, nics: [{network: lan, dhcp: vnet}]}
  server: {nics: [{network: far, address: 10.9.0.10/24}]}
""",
        source="ways",
    )

    async def run() -> bool:
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            return bool(await lab.ping("pc", "server"))

    assert vnet.simulate(run)


@pytest.mark.trio
async def test_faults_work_in_real_time() -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab:
        crashed = trio.Event()
        c, d = ("10.0.0.10", "10.0.0.11")
        lab.guests["b"].host.interfaces["eth0"].add_address(IPv4Interface(f"{d}/24"))  # no waiting for the DHCP client
        assert (await lab.guests["a"].ping(d)).ok
        with lab.faults.partition("a", "b") as fault:
            assert not (await lab.guests["a"].ping(d, timeout=0.05)).ok
            assert fault.frames
        assert (await lab.guests["b"].ping(c)).ok
        lab.at("20ms", lab.faults.crash, "a")
        lab.at("40ms", crashed.set)
        await crashed.wait()
        assert lab.guests["a"].address is None
        lab.faults.heal()
        assert (await lab.guests["b"].ping(c)).ok
