"""Stands for qemu-system-x86_64: QMP, console and NICs as it has them, and no machine.

FAKE_QEMU in the environment, words with commas between them, makes it behave badly: ``refuse`` (says why and ends), ``mute``
(no QMP greeting), ``deaf`` (heeds neither quit nor SIGTERM), ``crash`` (ends with 3 once it runs), ``kept`` (has a
state that an earlier one saved), ``full`` (has no place for what is saved without a name). Where FAKE_QEMU_LOG
names a file it writes down each command.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

KNOWN = ("good",) if "full" in os.environ.get("FAKE_QEMU", "").split(",") else ("good", "vnet-saved")
BEHAVIOUR = os.environ.get("FAKE_QEMU", "").split(",")


def value(argv: list[str], option: str, key: str) -> list[str]:
    """Find the values of a key in the arguments of an option."""
    found = []
    for word, argument in zip(argv, argv[1:], strict=False):
        if word == option:
            found += [part.partition("=")[2] for part in argument.split(",") if part.startswith(key + "=")]
    return found


def main(argv: list[str]) -> int:
    if "refuse" in BEHAVIOUR:
        sys.stderr.write("qemu-system-x86_64: it is too hot\n")
        return 1
    if "deaf" in BEHAVIOUR:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    qmp, console = (socket.socket(fileno=int(fd)) for fd in value(argv, "-chardev", "fd"))
    listeners = []
    for path in value(argv, "-netdev", "addr.path"):
        listeners.append(socket.socket(socket.AF_UNIX))
        if os.path.exists(path):
            os.unlink(path)
        listeners[-1].bind(path)
        listeners[-1].listen()
    if "mute" not in BEHAVIOUR:
        qmp.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
    running = False
    with qmp.makefile("rb") as lines:
        for line in lines:
            request = json.loads(line)
            command, arguments = request["execute"], request.get("arguments", {})
            if log := os.environ.get("FAKE_QEMU_LOG"):
                with open(log, "a") as file:
                    print(command, *arguments.values(), file=file)
            answer: dict[str, object] = {"return": {"running": running} if command == "query-status" else {}}
            event = ""
            if command in ("stop", "cont"):
                running = command == "cont"
                event = "RESUME" if running else "STOP"
            if command == "human-monitor-command":
                is_known = any(tag in arguments["command-line"] for tag in KNOWN)
                answer = {"return": "" if is_known else "Error: Snapshot does not exist"}
                running = running and is_known
                if arguments["command-line"] == "info snapshots":
                    answer = {"return": "1 vnet-saved 80 MiB" if "kept" in BEHAVIOUR else "partial: 1 vnet-saved"}
            if event:
                qmp.sendall(json.dumps({"event": event}).encode() + b"\r\n")
            qmp.sendall(json.dumps({**answer, "id": request["id"]}).encode() + b"\r\n")
            if command == "cont":
                console.sendall(b"hello from the machine\r\n")
                if "crash" in BEHAVIOUR:
                    sys.stderr.write("something is broken\n")
                    return 3
            if command == "system_powerdown" or (command == "quit" and "deaf" not in BEHAVIOUR):
                return 0
    if "deaf" in BEHAVIOUR:
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
