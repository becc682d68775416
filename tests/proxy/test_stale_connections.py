"""An endpoint closes an idle connection just as a request is sent on it: nobody notices, and nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from typing import Any

import pytest
from datapath import Gate, Site, listening_socket
from hedge_site import idle

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESET = struct.pack("ii", 1, 0)


class Kept:
    """An endpoint with plain sockets, whose moments the test chooses. `seen` are the bodies of its requests."""

    def __init__(self) -> None:
        fd, self.port = listening_socket()
        self.listening = socket.socket(fileno=fd)
        self.listening.setblocking(False)
        self.connections: list[socket.socket] = []
        self.seen: list[bytes] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def accept(self) -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listening)
        self.connections.append(connection)

    async def read(self) -> None:
        """The next request of the newest connection."""
        loop, data = asyncio.get_running_loop(), b""
        while b"\r\n\r\n" not in data:
            data += await loop.sock_recv(self.connections[-1], 65536) or self._lost()
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while len(body) < (int(length[1]) if length else 0):
            body += await loop.sock_recv(self.connections[-1], 65536) or self._lost()
        self.seen.append(body)

    async def serve(self) -> None:
        await self.read()
        await asyncio.get_running_loop().sock_sendall(self.connections[-1], ANSWER)

    def close(self, how: str) -> None:
        if how == "reset":
            self.connections[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.connections[-1].close()

    def _lost(self) -> bytes:
        raise ConnectionError("the gate closed it")


class Client:
    """One whose bytes are in the gate's kernel when `send` returns."""

    def __init__(self, gate: Gate) -> None:
        self.socket = socket.create_connection(("127.0.0.1", gate.port))
        self.socket.setblocking(False)

    def send(self, method: str, body: bytes) -> bytes:
        """What the kernel did not take."""
        request = b"%s /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (method.encode(), len(body), body)
        return request[self.socket.send(request) :]

    async def status(self) -> int:
        head = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 65536), 10)
        return int(head.split()[1])


async def warm(site: Site, **more: Any) -> tuple[Gate, Kept, Client]:
    """A gate with one idle connection to its endpoint, and a client that it knows."""
    kept = Kept()
    gate = await site.gate([kept.address], **more)
    client = Client(gate)
    client.send("POST", b"first")
    await kept.accept()
    await kept.serve()
    assert await client.status() == 200
    return gate, kept, client


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
@pytest.mark.parametrize("size", [5, 300_000], ids=["kept", "streamed"])
async def test_closed_before_the_request_is_sent(site: Site, method: str, how: str, size: int) -> None:
    """The gate hears of the request first, of the end when it has sent it."""
    gate, kept, client = await warm(site)
    body = bytes(size)
    rest = client.send(method, body)
    kept.close(how)
    upload = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client.socket, rest))
    await asyncio.wait_for(kept.accept(), 10)
    await asyncio.wait_for(kept.serve(), 10)
    assert await client.status() == 200
    await upload
    assert kept.seen == [b"first", body]
    await idle(gate)


async def test_what_the_endpoint_has_got_is_not_sent_again(site: Site) -> None:
    for how in ("fin", "reset"):
        gate, kept, client = await warm(site)
        client.send("POST", b"pay")
        await kept.read()
        kept.close(how)
        assert await client.status() == 502
        assert kept.seen == [b"first", b"pay"]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(kept.accept(), 0.1)
        assert len(kept.connections) == 1
        await idle(gate)


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 20", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"],
    ids=["half-a-head", "100", "103"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_closed_before_the_head_of_the_answer_is_complete(site: Site, method: str, begun: bytes) -> None:
    """No answer has begun: what may be repeated is, as after silence."""
    gate, kept, client = await warm(site)
    client.send(method, b"again")
    await kept.read()
    kept.connections[-1].send(begun)
    kept.close("fin")
    if method == "GET":
        await asyncio.wait_for(kept.accept(), 10)
        await asyncio.wait_for(kept.serve(), 10)
    answer = b""
    while not (found := re.search(rb"HTTP/1.1 ([2-5]\d\d) ", answer)):
        answer += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client.socket, 65536), 10)
    assert int(found[1]) == (200 if method == "GET" else 502)
    assert kept.seen == [b"first", *[b"again"] * (2 if method == "GET" else 1)]
    await idle(gate)
