"""Network namespaces (ip-netns(8)) of a test's own; they need CAP_SYS_ADMIN and iproute2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""

# Answers streams and datagrams with the sender's address and what came.
_SERVER = """
import socket, sys, threading
host, port, scope = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
name = (host, port, 0, scope) if ":" in host else (host, port)
stream, datagram = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
stream.bind(name); stream.listen(); datagram.bind(name)
print("ready", flush=True)
def datagrams():
    while True:
        data, sender = datagram.recvfrom(65536)
        datagram.sendto(f"{sender[0]} {sender[1]} ".encode() + data, sender)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    connection, sender = stream.accept()
    connection.sendall(f"{sender[0]} {sender[1]} ".encode() + connection.recv(65536))
    connection.close()
"""
_CLIENT = """
import socket, sys
host, port, kind, count, scope = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for _ in range(count):
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((host, port, 0, scope) if ":" in host else (host, port))
        sock.send(b"hello")
        print(sock.recv(65536).decode())
"""


def ip(*words: str) -> None:
    """Raises CalledProcessError."""
    subprocess.run([IP, *words], check=True, capture_output=True, text=True)


@dataclass
class NetSpace:
    """`front` is where clients are (veth 10.77.0.2, fe80::2), `name` where the daemon is (10.77.0.1, fe80::1 towards
    them; 10.78.0.1 towards endpoints), `back` where endpoints are (10.78.0.2, fe80::2)."""

    name: str
    front: str
    back: str
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def serve(self, host: str, port: int) -> None:
        """An endpoint that answers with the sender's address and port and what came."""
        command = [IP, "netns", "exec", self.back, sys.executable, "-c", _SERVER, host, str(port)]
        command.append(_scope(self.back, "back1") if host.startswith("fe80") else "0")
        self.servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert self.servers[-1].stdout is not None
        assert self.servers[-1].stdout.readline() == "ready\n"

    def ask(self, host: str, port: int, kind: str = "tcp", count: int = 1) -> list[str]:
        """What clients in `front` are answered."""
        scope = _scope(self.front, "front1") if host.startswith("fe80") else "0"
        command = [IP, "netns", "exec", self.front, sys.executable, "-c", _CLIENT, host, str(port), kind, str(count)]
        done = subprocess.run([*command, scope], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def _scope(space: str, link: str) -> str:
    command = [IP, "-n", space, "-o", "link", "show", link]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition(":")[0]


@pytest.fixture
def net_space() -> Iterator[NetSpace]:
    """Skips the test where the kernel or the rights allow none."""
    name = f"tidegate-{os.getpid()}"
    space = NetSpace(name, f"{name}-front", f"{name}-back")
    if not IP:
        pytest.fail("ip is not installed (apt-get install iproute2)")
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        ip("-n", name, "link", "set", "lo", "up")
        for net, side in ((77, "front"), (78, "back")):
            other = f"{name}-{side}"
            ip("netns", "add", other)
            ip("-n", name, "link", "add", f"{side}0", "type", "veth", "peer", "name", f"{side}1", "netns", other)
            for where, link, number in ((name, f"{side}0", 1), (other, f"{side}1", 2)):
                ip("-n", where, "link", "set", link, "addrgenmode", "none")
                ip("-n", where, "address", "add", f"10.{net}.0.{number}/24", "dev", link)
                ip("-n", where, "link", "set", link, "up")
                ip("-n", where, "address", "add", f"fe80::{number}/64", "dev", link, "nodad")
            ip("-n", other, "route", "add", "default", "via", f"10.{net}.0.1")
        yield space
    finally:
        for server in space.servers:
            server.kill()
            server.communicate()
        for each in (space.name, space.front, space.back):
            subprocess.run([IP, "netns", "delete", each], check=False, capture_output=True)
