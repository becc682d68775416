"""Another client: asks without pause until its input ends, and prints the longest wait for an answer in seconds.

`python sweep_watch.py ADDRESS PATH`; ADDRESS is a port of 127.0.0.1 or the path of a socket. It prints `ready` after
its first answer.
"""

from __future__ import annotations

import select
import socket
import sys
import time

PAUSE = 0.002  # seconds between an answer and the next question


def connected(address: str) -> socket.socket:
    if not address.isdigit():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        return sock
    sock = socket.create_connection(("127.0.0.1", int(address)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def wait(sock: socket.socket, question: bytes) -> float:
    """Asks once. Raises ConnectionError if the server closes."""
    began = time.perf_counter()
    sock.sendall(question)
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("the watched server closed")
        head += data
    taken = time.perf_counter() - began
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    missing = length - len(head.partition(b"\r\n\r\n")[2])
    while missing > 0:
        missing -= len(sock.recv(65536))
    return taken


def watch(address: str, path: str) -> float:
    sock = connected(address)
    question = f"GET {path} HTTP/1.1\r\nHost: watch\r\n\r\n".encode()
    wait(sock, question)
    print("ready", flush=True)
    longest = 0.0
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        longest = max(longest, wait(sock, question))
    return longest


if __name__ == "__main__":
    print(watch(sys.argv[1], sys.argv[2]))
