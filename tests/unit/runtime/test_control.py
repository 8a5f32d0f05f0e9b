"""The control socket: hostile clients get an error or nothing, the lab goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnet.errors import NoAnswer, UsageError
from vnet.fabric.timeline import Timeline
from vnet.ports import Port, connect
from vnet.runtime import control
from vnet.runtime.capture import Capture, Captures
from vnet.runtime.commands import Arguments, Commands, Progress
from vnet.runtime.control import ControlServer, decode_request, error_reply
from vnet.runtime.sinks import Sink
from vnet.wire import pcapng


class FakeCommands:
    """Commands without a lab: echo, fail, progress, and one that waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.a, self.b = (Port(name, lambda frame, offload: None) for name in ("a:eth0", "b:eth0"))
        connect(self.a, self.b)
        self.captures = Captures(Timeline(), {"a:eth0": self.a, "b:eth0": self.b})

    async def run(self, name: str, values: dict[str, object], progress: Progress) -> object:
        if name == "echo":
            return values
        if name == "count":
            for number in range(3):
                await progress(number)
            return "done"
        if name == "crash":
            raise ZeroDivisionError("oops")
        if name == "wait":
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        raise UsageError(f"no {name}")

    def start_capture(self, values: dict[str, object], sink: Sink) -> Capture:
        return self.captures.start(sink, Arguments(values).texts("ports"))


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[FakeCommands]:
    fake = FakeCommands()
    server = ControlServer(fake, path)  # type: ignore[arg-type]
    listener = server.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, listener)
        yield fake
        nursery.cancel_scope.cancel()


async def ask(path: Path, line: bytes) -> list[dict[str, object]]:
    """Send octets and read all lines of the answer."""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(line)
        data = b""
        with trio.fail_after(5):
            while piece := await stream.receive_some():
                data += piece
    return [json.loads(each) for each in data.splitlines()]


def request(command: str, **arguments: object) -> bytes:
    return json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"


def test_answers_and_progress(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path):
            assert await ask(path, request("echo", x=[1])) == [{"ok": True, "data": {"x": [1]}}]
            assert await ask(path, request("count")) == [
                {"progress": 0}, {"progress": 1}, {"progress": 2}, {"ok": True, "data": "done"},
            ]  # fmt: skip
            assert await ask(path, request("nix")) == [{"ok": False, "kind": "usage", "error": "no nix"}]
            (crash,) = await ask(path, request("crash"))
            assert crash == {"ok": False, "kind": "internal", "error": "internal error: ZeroDivisionError: oops"}
            assert await ask(path, request("echo")) == [{"ok": True, "data": {}}]

    trio.run(main)


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        path.write_text("left by a dead lab")
        async with serving(path):
            assert path.is_socket()
            assert path.stat().st_mode & 0o777 == 0o600

    trio.run(main)


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"hello\n", b"\xff\xfe\x00\n", b"[]\n", b"null\n", b"42\n", b'{"command": 5}\n', b'{"command": null}\n',
        b'{"command": "echo", "arguments": []}\n', b'{"command": "echo", "arguments": 7}\n', b"[" * 60_000 + b"\n",
        b'{"a":' * 10_000 + b"\n", b"x" * (control.MAX_REQUEST + 1), b"9" * 60_000 + b"\n", b'{"command": "\\ud800"}\n',
        b'{"command": "capture", "arguments": {"ports": 5}}\n', b'{"command": "capture", "arguments": {"ports": ["zz"]}}\n',
    ],
)  # fmt: skip
def test_nonsense_is_refused_politely(tmp_path: Path, line: bytes) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path):
            (reply,) = await ask(path, line)
            assert (reply["ok"], reply["kind"]) == (False, "usage")
            assert await ask(path, request("echo")) == [{"ok": True, "data": {}}]

    trio.run(main)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8))
def test_arbitrary_octets_do_not_stop_the_server(tmp_path: Path, lines: list[bytes]) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path):
            for line in lines:
                with trio.fail_after(5):
                    replies = await ask(path, line + b"\n")
                assert all("ok" in reply for reply in replies)
            assert await ask(path, request("echo")) == [{"ok": True, "data": {}}]

    trio.run(main)


def test_a_client_that_goes_away_takes_its_request_back(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path) as fake:
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(request("wait"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await stream.aclose()
            with trio.fail_after(5):
                await fake.cancelled.wait()

    trio.run(main)


def test_clients_that_say_nothing_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT", 0.02)

    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path):
            assert await ask(path, b'{"comm') == []

    trio.run(main)


def test_clients_that_do_not_read_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SEND_TIMEOUT", 0.02)

    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path) as fake:
            original = fake.run

            async def flood(name: str, values: dict[str, object], progress: Progress) -> object:
                if name == "flood":
                    while True:
                        await progress("x" * 100_000)
                return await original(name, values, progress)

            fake.run = flood  # type: ignore[method-assign]
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(request("flood"))
                await trio.sleep(0.1)
                assert await ask(path, request("echo")) == [{"ok": True, "data": {}}]
                with trio.fail_after(5):
                    while await stream.receive_some(1 << 20):
                        pass

    trio.run(main)


def test_too_many_clients_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 3)

    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path):
            streams = [await trio.open_unix_socket(str(path)) for _ in range(3)]
            (reply,) = await ask(path, request("echo"))
            assert reply["error"] == "too many commands at once"
            for stream in streams:
                await stream.aclose()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await ask(path, request("echo")) == [{"ok": True, "data": {}}]

    trio.run(main)


def test_capture_streams_until_the_client_closes(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with serving(path) as fake:
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(request("capture", ports=["b"]))
            data = b""
            while data.count(b"\n") < 1:
                data += await stream.receive_some()
            for number in range(3):
                fake.a.send(bytes(14) + bytes((number,)), bytes(10))
            head, _, file = data.partition(b"\n")
            assert json.loads(head) == {"ok": True, "data": {"ports": ["b:eth0"]}}
            reader = pcapng.Reader()
            packets = reader.feed(file)
            with trio.fail_after(5):
                while len(packets) < 3:
                    packets += reader.feed(await stream.receive_some())
            assert [packet.frame[-1] for packet in packets] == [0, 1, 2]
            (running,) = fake.captures.running
            await stream.aclose()
            for _ in range(1000):
                if running.finished:
                    break
                await trio.sleep(0.001)
            assert running.finished

    trio.run(main)


def test_requests() -> None:
    assert decode_request(b'{"command": "show"}') == ("show", {})
    assert decode_request(b'{"command": "show", "arguments": {"what": "x"}, "more": 1}') == ("show", {"what": "x"})


def test_error_kinds() -> None:
    assert error_reply(NoAnswer("x"))["kind"] == "network"
    assert error_reply(UsageError("x"))["kind"] == "usage"


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("text", 5), ("text", None), ("text", ["x"]), ("texts", "x"), ("texts", [5]), ("texts", ["x"] * 5000),
        ("number", "5"), ("number", True), ("number", 0), ("number", 11), ("number", 1.5), ("seconds", "x"), ("seconds", -1),
        ("seconds", 1e9), ("seconds", True), ("seconds", float("nan")),
    ],
)  # fmt: skip
def test_arguments_of_the_wrong_kind(read: str, value: object) -> None:
    arguments = Arguments({"x": value})
    readers = {
        "text": lambda: arguments.text("x"),
        "texts": lambda: arguments.texts("x"),
        "number": lambda: arguments.number("x", 1, 10),
        "seconds": lambda: arguments.seconds("x", 1.0),
    }
    with pytest.raises(UsageError, match="the argument 'x' must be"):
        readers[read]()


def test_every_command_survives_arguments_of_every_kind(tmp_path: Path) -> None:
    """On a real lab: whatever the arguments are, UsageError or an answer."""
    from vnet.runtime.clock import simulate
    from vnet.runtime.opening import open_lab

    path = tmp_path / "lab.yaml"
    path.write_text(
        "name: x\nnetworks: {lan: {subnet: 10.0.0.0/24}}\nguests: {a: {nics: [{network: lan, address: 10.0.0.1}]}}\n"
    )
    values: list[object] = [
        None,
        5,
        -1,
        "a",
        "fdb",
        "ports",
        "a:eth0",
        [],
        ["up"],
        ["x=y"],
        {},
        True,
        1e308,
        "\ud800",
        "a\0b",
    ]
    names = [
        "what",
        "last",
        "target",
        "settings",
        "table",
        "name",
        "guest",
        "count",
        "protocol",
        "port",
        "command",
        "timeout",
    ]

    async def ignore(data: object) -> None:
        pass

    async def main() -> None:
        async with open_lab(path) as lab:
            commands = Commands(lab)
            for command in ("info", "show", "set", "flush", "ping", "pingall", "exec", "nix"):
                for value in values:
                    for name in names:
                        arguments = {"guest": "a", "target": "a", "timeout": 0.001, name: value}
                        try:
                            await commands.run(command, arguments, ignore)
                        except UsageError as error:
                            assert str(error)

    simulate(main)
