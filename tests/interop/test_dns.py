"""The resolver of emulated guests beside that of glibc, asking the same servers; the built-in one asked by dig and glibc."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
from live_labs import guest, live, needs, program, run

pytestmark = needs("dnsmasq", "dig", "getent")

ANSWERS = Path(__file__).with_name("dns_answers.py")
LAB = """
name: NAME
networks: {lan: {subnet: 10.1.0.0/24}}
guests:
  ns: {kind: namespace, nics: [{network: lan, address: 10.1.0.53/24}]}
  linux: {kind: namespace, nics: [{network: lan, address: 10.1.0.1/24}], dns: SERVERS, search: SEARCH}
  pc: {nics: [{network: lan, address: 10.1.0.2/24}], dns: SERVERS, search: SEARCH}
  own:
    nics: [{network: lan, address: 10.1.0.54/24}]
    run: [{dns: {names: {www.example: [192.0.2.1, "2001:db8::1"], mail.office.example: 192.0.2.2, MANY}}}]
"""
MANY = "many.example: [" + ", ".join(f"192.0.2.{number}" for number in range(1, 101)) + "]"
GLIBC = """
import json, socket, sys, time
for line in sys.argv[2:]:
    name, family, flags = line.split("/")
    started = time.monotonic()
    try:
        found = [e[3:] for e in socket.getaddrinfo(name, 80, int(family), socket.SOCK_STREAM, 0, int(flags))]
        found = [found[0][0], [where[0] for _, where in found]]
    except socket.gaierror as error:
        found = error.errno
    print(json.dumps([found, round(time.monotonic() - started)]), flush=True)
"""


def lab_with(servers: str, search: str = "[]") -> str:
    return LAB.replace("SERVERS", servers).replace("SEARCH", search).replace("MANY", MANY)


def dnsmasq(where):
    """Run dnsmasq with names of its own; what it does not know ends in NXDOMAIN below example, in REFUSED elsewhere."""
    names = ["www.example,192.0.2.80,2001:db8::80", "mail.office.example,192.0.2.2", "four.example,192.0.2.4"]
    names += [f"many.example,192.0.2.{number}" for number in range(1, 101)]
    options = [f"--host-record={name}" for name in names]
    options += [
        "--cname=alias.example,www.example",
        "--local=/example/",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
    ]
    options += ["--user=root", "--group=root", "--pid-file", "--log-facility=-", "--log-queries", "--keep-in-foreground"]
    return program(where, "dnsmasq", *options, ready="started")


async def ask_both(lab, questions, linux="linux", pc="pc"):
    """Ask glibc in the namespace and the emulated guest the same, at the same time; return both lists of answers."""
    ours, theirs = {}, []

    async def glibc():
        text = await run(guest(lab, linux), sys.executable, "-c", GLIBC, "", *questions)
        theirs.extend(json.loads(line) for line in text.splitlines())

    async def emulated():
        for line in questions:
            name, family, flags = line.split("/")
            started = trio.current_time()
            try:
                entries = await trio.socket.getaddrinfo(name, 80, int(family), trio.socket.SOCK_STREAM, 0, int(flags))
                found = [entries[0][3], [entry[4][0] for entry in entries]]
            except trio.socket.gaierror as error:
                found = error.errno
            ours[line] = [found, round(trio.current_time() - started)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(glibc)
        nursery.start_soon(lab.guests[pc].run, emulated)
    return ours, dict(zip(questions, theirs, strict=True))


@pytest.mark.trio
async def test_dnsmasq_is_asked_as_glibc_asks_it():
    names = ("www.example", "alias.example", "four.example", "mail", "mail.office", "none.example", "nothing.else",
             "many.example", "WWW.Example", "www.example.", "alias.example.", "none")  # fmt: skip
    canonical, four, six = int(trio.socket.AI_CANONNAME), int(trio.socket.AF_INET), int(trio.socket.AF_INET6)
    questions = [f"{name}/{family}/{canonical}" for name in names for family in (0, four, six)]
    async with live(lab_with("[10.1.0.53]", "[office.example, example]")) as lab, dnsmasq(guest(lab, "ns")) as server:
        ours, theirs = await ask_both(lab, questions)
        for answers in (ours, theirs):
            answers["many.example/0/2"][0][1].sort()  # the server turns them round
            answers["many.example/2/2"][0][1].sort()
        assert ours == theirs
        assert theirs["www.example/0/2"][0][1] and len(theirs["many.example/0/2"][0][1]) == 100
        assert theirs["mail/0/2"][0][0] == "mail.office.example" and theirs["none.example/0/2"] == [-2, 0]
        async with lab.guests["pc"].activate():
            for address in ("192.0.2.80", "2001:db8::80", "192.0.2.4", "192.0.2.200"):
                reply = await guest(lab, "linux").exec("getent", "hosts", address)
                name = reply.output.decode().split()[1] if reply.status == 0 else address
                assert (await trio.socket.getnameinfo((address, 80), 0))[0] == name
        assert "query[AAAA]" in server.said and "from 10.1.0.2" in server.said


@pytest.mark.trio
async def test_odd_answers_are_taken_as_glibc_takes_them():
    labels = ("www", "none", "nodata", "servfail", "refused", "notimp", "formerr", "half", "half6", "mixed", "mixed6",
              "gone4", "lame", "chain", "loop", "dangling")  # fmt: skip
    questions = [f"{label}.example/{family}/0" for label in labels for family in (0, 2, 10)]
    for label in ("loop", "dangling"):
        questions.remove(f"{label}.example/2/0")  # here alone glibc says EAI_NODATA
    async with (
        live(lab_with("[10.1.0.53]")) as lab,
        program(guest(lab, "ns"), sys.executable, str(ANSWERS), "10.1.0.53", ready="ready"),
    ):
        ours, theirs = await ask_both(lab, questions)
        assert ours == theirs


@pytest.mark.trio
async def test_silence_is_waited_for_as_long_as_by_glibc():
    """With two servers, of which one is not there, and with a search list; side by side, because either takes long."""
    searching = """
  linux2: {kind: namespace, nics: [{network: lan, address: 10.1.0.3/24}], dns: [10.1.0.53], search: [a.example, b.example]}
  pc2: {nics: [{network: lan, address: 10.1.0.4/24}], dns: [10.1.0.53], search: [a.example, b.example]}
"""

    async def search():
        ours, theirs = await ask_both(lab, ["silent/2/0"], "linux2", "pc2")
        assert ours == theirs

    async with (
        live(lab_with("[10.1.0.99, 10.1.0.53]", "[office.example]") + searching) as lab,
        program(guest(lab, "ns"), sys.executable, str(ANSWERS), "10.1.0.53", ready="ready"),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(search)
        ours, theirs = await ask_both(lab, ["www.example/0/0", "silent.example./2/0"])
        assert ours == theirs
        assert [took for _, took in theirs.values()] == [3, 16]  # 3 s: nobody answers for 10.1.0.99


@pytest.mark.trio
async def test_the_search_goes_on_and_ends_as_with_glibc():
    async with (
        live(lab_with("[10.1.0.53]", "[a.example, b.example]")) as lab,
        program(guest(lab, "ns"), sys.executable, str(ANSWERS), "10.1.0.53", ready="ready"),
    ):
        assert (
            await run(guest(lab, "linux"), "cat", "/etc/resolv.conf") == "search a.example b.example\nnameserver 10.1.0.53\n"
        )
        questions = [f"{label}/0/0" for label in ("www", "none", "nodata", "servfail", "refused", "formerr", "servfail.x")]
        ours, theirs = await ask_both(lab, questions)
        assert ours == theirs


@pytest.mark.trio
async def test_a_closed_port_is_no_reason_to_wait():
    async with live(lab_with("[10.1.0.1, 10.1.0.2]")) as lab:
        ours, theirs = await ask_both(lab, ["www.example/0/0"])
        assert ours == theirs == {"www.example/0/0": [-3, 0]}


@pytest.mark.trio
async def test_the_built_in_server_is_asked_by_dig_and_glibc():
    async with live(lab_with("[10.1.0.54]", "[office.example]")) as lab:
        linux = guest(lab, "linux")
        assert (await run(linux, "dig", "+short", "@10.1.0.54", "www.example", "A")).split() == ["192.0.2.1"]
        assert (await run(linux, "dig", "+short", "@10.1.0.54", "www.example", "AAAA")).split() == ["2001:db8::1"]
        assert "mail.office.example." in await run(linux, "dig", "+short", "@10.1.0.54", "-x", "192.0.2.2")
        assert "status: NXDOMAIN" in await run(linux, "dig", "@10.1.0.54", "none.example")
        assert len((await run(linux, "dig", "+short", "@10.1.0.54", "many.example")).split()) == 100
        assert len((await run(linux, "dig", "+short", "+tcp", "@10.1.0.54", "many.example")).split()) == 100
        ours, theirs = await ask_both(
            lab, [f"{name}/0/2" for name in ("www.example", "mail", "none.example", "many.example")]
        )
        assert ours == theirs
