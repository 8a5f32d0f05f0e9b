"""What runs on Linux in more than one test, as text for ``python -c``."""

TALK = """
import hashlib, socket, threading
def talk(s, data):
    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    digest, count = hashlib.sha256(), 0
    while piece := s.recv(1 << 20):
        digest.update(piece)
        count += len(piece)
    sender.join()
    print(count, digest.hexdigest(), flush=True)
"""
"""Begins a program: ``talk`` sends data while it reads, and tells how much came and its SHA-256."""

ENDS = """
import socket, struct, sys
def connect(port):
    s = socket.create_connection((sys.argv[1], port), 5)
    s.settimeout(10)
    return s
try:
    connect(7)
except ConnectionRefusedError:
    print("refused", flush=True)
s = connect(9090)
s.sendall(b"half")
s.shutdown(socket.SHUT_WR)
got = b""
while piece := s.recv(100):
    got += piece
print(got.decode(), flush=True)
s = connect(9090)
s.sendall(b"abort me")
try:
    s.recv(100)
except ConnectionResetError:
    print("reset", flush=True)
s = connect(9090)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.sendall(b"x")
s.close()
print("done", flush=True)
"""
"""Ends connections in all ways: refused at port 7; at 9090 half-closed, reset by the other end, by this one."""
