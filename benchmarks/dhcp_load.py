"""DHCP clients as a load: ``python -m benchmarks.dhcp_load INTERFACE``, inside a namespace.

Out of a population of clients, each with its own MAC address in the frame and in the message, a fixed number is always under
way: each goes through DISCOVER, OFFER, REQUEST and ACK and is followed by the next one, in turn. Prints one JSON object:
completed exchanges per second, the share of the time that this program itself was busy (near 1: it is the bottleneck), and
what went wrong.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import time
from typing import Final, final

PACKET_IGNORE_OUTGOING: Final = 23
SOL_PACKET: Final = 263
ETH_P_IP: Final = 0x0800
RECEIVE_BUFFER: Final = 4 << 20
PATIENCE: Final = 0.5
"""Seconds without any reply after which the clients under way are given up and new ones begin."""
OFFER, ACK = 2, 5

COOKIE: Final = bytes((99, 130, 83, 99))
WANTED: Final = bytes((55, 9, 1, 3, 6, 15, 44, 51, 54, 58, 59))


@final
class Load:
    """The clients; ``run`` them for some seconds."""

    def __init__(self, interface: str, in_flight: int, population: int, first: int) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(PATIENCE * 1e6)))
        self.socket.bind((interface, 0))
        self.in_flight = in_flight
        self.population = population
        self.first = first
        self.begun = 0
        self.completed = self.stalls = self.unexpected = 0
        self._heads = {kind: self._head(kind) for kind in (1, 3)}

    def _head(self, kind: int) -> tuple[bytes, int]:
        """Make the headers of a message of *kind* with every field that is the same in all, and their part of the sum."""
        octets = 300
        ip = struct.pack("!HHHHHH4s4s", 0x4500, octets + 28, 0, 0, 64 << 8 | 17, 0, bytes(4), b"\xff" * 4)
        ip = ip[:10] + (-int.from_bytes(ip, "big") % 0xFFFF).to_bytes(2, "big") + ip[12:]
        fixed = 0xFFFF * 2 + 17 + (octets + 8) * 2 + 68 + 67
        return b"\x08\x00" + ip + struct.pack("!HHH", 68, 67, octets + 8), fixed

    def _send(self, kind: int, xid: bytes, mac: bytes, options: bytes) -> None:
        payload = (
            b"\x01\x01\x06\x00" + xid + bytes(20) + mac + bytes(202) + COOKIE + bytes((53, 1, kind)) + options
            + b"\x3d\x07\x01" + mac + WANTED + b"\xff"
        ).ljust(300, b"\0")  # fmt: skip
        head, fixed = self._heads[kind]
        checksum = -(fixed + int.from_bytes(payload, "big")) % 0xFFFF or 0xFFFF
        self.socket.send(b"\xff" * 6 + mac + head + checksum.to_bytes(2, "big") + payload)

    def _begin(self) -> None:
        """Let one more client begin; its transaction id is the end of its MAC address."""
        mac = b"\x02" + (self.first + self.begun % self.population).to_bytes(5, "big")
        self.begun += 1
        self._send(1, mac[2:], mac, b"")

    def run(self, seconds: float) -> float:
        """Keep the clients going; return the exchanges completed per second."""
        before, began = self.completed, time.perf_counter()
        end = began + seconds
        receive = self.socket.recv
        while (now := time.perf_counter()) < end:
            try:
                frame = receive(2048)
            except BlockingIOError:
                self.stalls += 1
                for _ in range(self.in_flight):
                    self._begin()
                continue
            payload = frame[42:]
            if frame[36:38] != b"\0\x44" or payload[236:240] != COOKIE:
                continue
            kind = payload[242]  # every server here sends the message type first
            xid, mac = payload[4:8], payload[28:34]
            if kind == OFFER:
                at = payload.index(b"\x36\x04", 240)
                self._send(3, xid, mac, payload[at : at + 6] + b"\x32\x04" + payload[16:20])
            elif kind == ACK:
                self.completed += 1
                self._begin()
            else:
                self.unexpected += 1
                self._begin()
        return (self.completed - before) / (now - began)


def main() -> None:
    """Parse the arguments, warm up, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dhcp_load", description=__doc__)
    parser.add_argument("interface")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--population", type=int, default=4096, help="how many clients there are (default 4096)")
    parser.add_argument("--first", type=int, default=0, help="number of the first client: the end of its MAC address")
    options = parser.parse_args()
    load = Load(options.interface, options.in_flight, options.population, options.first)
    for _ in range(options.in_flight):
        load._begin()
    load.run(0.5)
    stalls, busy, began = load.stalls, time.process_time(), time.perf_counter()
    rate = load.run(options.seconds)
    busy = (time.process_time() - busy) / (time.perf_counter() - began)
    print(json.dumps({"rate": rate, "busy": busy, "stalls": load.stalls - stalls, "unexpected": load.unexpected}))


if __name__ == "__main__":
    main()
