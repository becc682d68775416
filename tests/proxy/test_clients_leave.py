"""Clients whose end comes together with their request: nobody waits for the answer."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from datapath import Site, settle

GET = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Slow:
    """Answers /quick at once and anything else never; `left` are the connections on which it was given up."""

    def __init__(self) -> None:
        self.asked = 0
        self.left = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b" /quick " in (head := await reader.readuntil(b"\r\n\r\n")):
            writer.write(OK)
        assert b" /slow " in head
        self.asked += 1
        try:
            while await reader.read(100):
                pass
        except ConnectionError:
            pass
        self.left += 1


@pytest.mark.parametrize("ends", ["half", "close", "reset"])
@pytest.mark.parametrize("request_", [GET, POST, GET + GET], ids=["get", "post", "two"])
async def test_on_a_connection_that_was_in_use(site: Site, request_: bytes, ends: str) -> None:
    slow = Slow()
    gate = await site.gate([await site.endpoint(slow)])
    with socket.create_connection(("127.0.0.1", gate.port)) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 200 ")
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
        client.send(request_)  # both are there when the gate looks
        if ends == "half":
            client.shutdown(socket.SHUT_WR)
        elif ends == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ends != "half":
            client.close()
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection is still there")
        assert gate.in_flight() == 0
        await settle(lambda: slow.left == slow.asked, "the endpoint was not told")
