"""Endpoints that answer datagrams, and clients that ask one after the other and count what was lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

LISTENER = {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "echo"}


class EchoEndpoint:
    """Gives back what comes, with its name in front."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"
        asyncio.get_running_loop().add_reader(self.sock, self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            for _ in range(64):
                data, sender = self.sock.recvfrom(1 << 16)
                self.sock.sendto(self.name + data, sender)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()


@contextlib.contextmanager
def echoes(*names: bytes) -> Iterator[list[EchoEndpoint]]:
    made = [EchoEndpoint(name) for name in names]
    try:
        yield made
    finally:
        for one in made:
            one.close()


class UdpClient:
    """One address and port; connected, so that it hears of a closed port and of nobody else."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.sock.connect((host, port))
        self.sock.setblocking(False)
        self.asked = 0

    async def ask(self, data: bytes, seconds: float = 20) -> bytes:
        self.sock.send(data)
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 16), seconds)

    def close(self) -> None:
        self.sock.close()


@dataclass
class UdpLoad:
    """What the clients of `udp_load` saw."""

    answers: int = 0
    lost: int = 0
    refused: int = 0
    wrong: list[bytes] = field(default_factory=list)
    seen: Counter[bytes] = field(default_factory=Counter)  # by the endpoint's name, which is one byte

    async def until(self, more: int) -> None:
        target = self.answers + more
        async with asyncio.timeout(60):
            while self.answers < target:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def udp_load(port: int, clients: int = 16, patience: float = 5) -> AsyncIterator[UdpLoad]:
    """`clients` that each have one datagram under way at any time; it is lost when no answer comes for `patience`."""
    load = UdpLoad()
    stop = asyncio.Event()

    async def work(number: int) -> None:
        client = UdpClient(port)
        turn = 0
        while not stop.is_set():
            turn += 1
            data = b"%d/%d/" % (number, turn) + b"x" * (turn % 700)
            try:
                answer = await client.ask(data, patience)
                while answer[1:] != data and answer[1:].split(b"/")[:2] != data.split(b"/")[:2]:
                    # An answer to one that was given up.
                    answer = await asyncio.wait_for(
                        asyncio.get_running_loop().sock_recv(client.sock, 1 << 16), patience
                    )
            except TimeoutError:
                load.lost += 1
                continue
            except ConnectionRefusedError:
                load.refused += 1
                await asyncio.sleep(0.01)
                continue
            load.answers += 1
            load.seen[answer[:1]] += 1
            if answer[1:] != data:
                load.wrong.append(answer)
        client.close()

    tasks = [asyncio.create_task(work(number)) for number in range(clients)]
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)


class ForgedSender:
    """Sends datagrams from addresses that are not its own; needs CAP_NET_RAW (PermissionError)."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send(self, source: tuple[str, int], target: tuple[str, int], data: bytes) -> None:
        """One IPv4 packet (RFC 791) with a UDP datagram (RFC 768) without checksum; the kernel fills in the rest."""
        udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
        ip = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0,
            socket.inet_aton(source[0]), socket.inet_aton(target[0]),
        )  # fmt: skip
        self.sock.sendto(ip + udp, (target[0], 0))

    def close(self) -> None:
        self.sock.close()
