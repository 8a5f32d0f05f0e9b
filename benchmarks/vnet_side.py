"""vnet as a contender: a live lab in a process of its own, as ``vnet up`` runs it.

``python -m benchmarks.vnet_side FILE`` runs the lab until its standard input is closed or it is asked to end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import trio

from benchmarks.bed import PREFIX, Bed, Pair, Space, wait_until
from vnet import open_lab

READY: Final = "ready"

SWITCHED: Final = """\
name: {name}
networks:
  lan: {{subnet: 10.77.0.0/24}}
guests:
  a: {{kind: namespace, namespace: {a}, nics: [{{network: lan, address: 10.77.0.1/24}}]}}
  b: {{kind: namespace, namespace: {b}, nics: [{{network: lan, address: 10.77.0.2/24}}]}}
"""

TRANSLATED: Final = """\
name: {name}
networks:
  inside: {{subnet: 10.78.0.0/24}}
  outside: {{subnet: 10.79.0.0/24}}
routers:
  nat:
    interfaces: {{inside: 10.78.0.254/24, outside: 10.79.0.254/24}}
    nat: {{outside: outside, inside: [inside]}}
guests:
  a: {{kind: namespace, namespace: {a}, nics: [{{network: inside, address: 10.78.0.1/24, gateway: 10.78.0.254}}]}}
  b: {{kind: namespace, namespace: {b}, nics: [{{network: outside, address: 10.79.0.1/24, gateway: none}}]}}
"""


EMULATED: Final = """\
name: {name}
networks:
  lan: {{subnet: 10.77.0.0/24}}
guests:
  a: {{kind: namespace, namespace: {a}, nics: [{{network: lan, address: 10.77.0.1/24}}]}}
  server: {{nics: [{{network: lan, address: 10.77.0.2/24}}], run: [iperf3]}}
"""


OUTWARD: Final = """\
name: {name}
networks:
  out: {{subnet: 10.0.2.0/24, adapter: {{user: {{address: 10.0.2.1, host: 10.0.2.2}}}}}}
guests:
  a: {{kind: namespace, namespace: {a}, nics: [{{network: out, address: 10.0.2.100/24, gateway: 10.0.2.1}}]}}
"""


def pair(bed: Bed) -> Pair:
    """Start a lab of one switch with two namespace guests."""
    return _pair(bed, SWITCHED, "10.77.0.1", "10.77.0.2")


def nat_pair(bed: Bed) -> Pair:
    """Start a lab where the guest b sees nothing of the guest a but the address of a NAT router."""
    return _pair(bed, TRANSLATED, "10.78.0.1", "10.79.0.1")


def emulated_pair(bed: Bed) -> Pair:
    """Start a lab where the guest a is Linux, and b an emulated host with an iperf3 server: there is no namespace b."""
    return _pair(bed, EMULATED, "10.77.0.1", "10.77.0.2")


def outward_pair(bed: Bed) -> Pair:
    """Start a lab whose guest a has the user adapter for a way out; ``b`` is the machine it leads to."""
    return _pair(bed, OUTWARD, "10.0.2.100", "10.0.2.2", bed.space("outside"))


def _pair(bed: Bed, template: str, address_a: str, address_b: str, machine: Space | None = None) -> Pair:
    name = f"{PREFIX}-{os.getpid()}-{bed.name}"
    a, b = Space(f"{name}-a"), machine or Space(f"{name}-b")
    file = bed.folder / "lab.yaml"
    file.write_text(template.format(name=name, a=a.name, b=b.name))
    # only its network is another: the namespaces of guests are to be seen by all
    enter = ["nsenter", f"--net=/run/netns/{machine.name}"] if machine is not None else []
    lab = bed.start(*enter, sys.executable, "-m", "benchmarks.vnet_side", str(file), death="TERM", patience=20)
    log = bed.folder / "log"
    wait_until(lambda: lab.poll() is not None or READY in log.read_text(), "the lab becoming ready", 30)
    if lab.poll() is not None:
        raise RuntimeError(f"the lab ended: {log.read_text()}")
    return Pair(a, b, address_a, address_b, (lab.pid,))


async def serve(file: Path) -> None:
    """Run the lab until standard input ends, or a signal asks for it."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_lab(file), trio.open_nursery() as nursery:
            print(READY, flush=True)
            nursery.start_soon(_end_with_input, nursery.cancel_scope)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _end_with_input(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(sys.stdin)  # nobody ever writes to it
    scope.cancel()


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]))
