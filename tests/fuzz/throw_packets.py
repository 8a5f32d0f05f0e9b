"""Run inside a namespace: throw frames into an interface by AF_PACKET, plain ones and ones with a virtio-net header.

Arguments: interface, seed, count, and ``mac/address`` of those who are there. Prints how many frames the kernel took without
and with a header; it refuses what is longer than the MTU, and headers that it does not believe.
"""

import socket
import sys

from draws import Place
from frames import FrameSource

SOL_PACKET, PACKET_VNET_HDR = 263, 15


def main() -> None:
    interface, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    stations = []
    for text in sys.argv[4:]:
        mac, address = text.split("/")
        stations.append((bytes.fromhex(mac), socket.inet_aton(address)))
    source = FrameSource(seed, Place(stations, [address for _, address in stations], (1, 16, 4095)))
    plain = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    plain.bind((interface, 0))
    headed = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    headed.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    headed.bind((interface, 0))
    taken = [0, 0]
    for number in range(count):
        frame, offload = source.draw()
        with_header = number % 2
        try:
            (headed if with_header else plain).send(offload + frame if with_header else frame)
        except OSError:
            continue
        taken[with_header] += 1
    print(*taken)  # noqa: T201


main()
