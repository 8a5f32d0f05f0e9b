"""A small live driver and a place for guests, for tests that run real programs in namespaces without a whole lab."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from vnet.guests.namespace import NamespaceGuest, create_all, remove_all
from vnet.guests.namespace_nic import Nic
from vnet.ports import connect


def why_not_real(*programs: str) -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    missing = [program for program in programs if shutil.which(program) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def needs(*programs: str) -> pytest.MarkDecorator:
    return skip_for(why_not_real(*programs))


def skip_for(reason: str) -> pytest.MarkDecorator:
    """Skip a test for a reason; run it if there is none."""
    return pytest.mark.skipif(bool(reason), reason=reason or "can run")


class Pump:
    """A Poller on a thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._wake, self._wake_write = os.pipe()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failures: list[BaseException] = []

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        self._callbacks[fd] = on_readable
        self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        raise NotImplementedError

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    return
                callback = self._callbacks.get(fd)
                if callback is not None:
                    try:
                        callback()
                    except BaseException as error:
                        self.failures.append(error)
                        return

    def __enter__(self) -> Pump:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)
        os.close(self._wake_write)
        assert not self.failures, self.failures


def make_guests(directory: Path, count: int, prefix: str | None = None, **nic: object) -> list[NamespaceGuest]:
    """Describe *count* guests 10.77.0.1, .2, ... with names that no other run uses."""
    prefix = prefix or f"vt{secrets.token_hex(3)}"
    return [
        NamespaceGuest(
            f"g{number}",
            f"{prefix}-g{number}",
            [
                Nic(
                    mac=bytes.fromhex("5254000077") + bytes((number,)),
                    addresses=(IPv4Interface(f"10.77.0.{number}/24"),),
                    **nic,
                )
            ],
            directory=str(directory),
        )
        for number in range(1, count + 1)
    ]


@contextmanager
def running(guests: Sequence[NamespaceGuest]) -> Iterator[Sequence[NamespaceGuest]]:
    create_all(guests)
    try:
        yield guests
    finally:
        remove_all(guests)


@contextmanager
def pair(directory: Path, **nic: object) -> Iterator[tuple[NamespaceGuest, NamespaceGuest]]:
    """Two guests joined by a bare cable, frames flowing."""
    with running(make_guests(directory, 2, **nic)) as (left, right), Pump() as pump:
        connect(left.ports[0], right.ports[0])
        left.start(pump)
        right.start(pump)
        try:
            yield left, right
        finally:
            left.stop()
            right.stop()


ADDRESS_1 = IPv4Address("10.77.0.1")
ADDRESS_2 = IPv4Address("10.77.0.2")
