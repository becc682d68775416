"""A data path that is being drained loses nothing that it has."""

from __future__ import annotations

import asyncio
import re

from datapath import Site, settle


class Slow:
    """Answers each request with `body` when `release` is set."""

    def __init__(self, body: bytes = b"ok") -> None:
        self.body = body
        self.active = 0
        self.release = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.active += 1
            await self.release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(self.body), self.body))
            await writer.drain()


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_answers_under_way_finish_and_say_that_they_are_the_last(site: Site) -> None:
    endpoint = Slow()
    gate = await site.gate([await site.endpoint(endpoint)])
    clients = [await gate.connect() for _ in range(5)]
    for _, writer in clients:
        writer.write(GET)
    await settle(lambda: endpoint.active == 5, "the requests did not arrive")
    gate.proxy.stop_accepting()
    gate.proxy.drain()
    assert gate.proxy.busy() == 5
    endpoint.release.set()
    for reader, writer in clients:
        answer = await asyncio.wait_for(reader.read(-1), 20)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"ok")
        writer.close()
    await settle(lambda: gate.proxy.busy() == 0, "it does not come to rest")


async def test_idle_connections_close(site: Site) -> None:
    endpoint = Slow()
    endpoint.release.set()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(GET)
    await reader.readuntil(b"ok")
    gate.proxy.drain()
    assert await asyncio.wait_for(reader.read(-1), 20) == b""
    writer.close()
    await settle(lambda: gate.proxy.busy() == 0, "it does not come to rest")


async def test_a_request_that_has_just_come_is_answered(site: Site) -> None:
    """It is in the socket's buffer, not yet read, when the drain begins."""
    endpoint = Slow()
    endpoint.release.set()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(GET)
    await reader.readuntil(b"ok")
    writer.write(GET)  # sent at once, and the loop has not run since
    gate.proxy.drain()
    assert gate.proxy.busy() > 0
    answer = await asyncio.wait_for(reader.read(-1), 20)
    assert answer.endswith(b"ok")
    assert b"\r\nConnection: close\r\n" in answer
    writer.close()


async def test_the_rest_of_a_request_is_waited_for(site: Site) -> None:
    endpoint = Slow()
    endpoint.release.set()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(GET[:20])
    await settle(lambda: gate.proxy.stats()["connections"] == 1, "no connection")
    gate.proxy.drain()
    await asyncio.sleep(0)
    writer.write(GET[20:])
    assert (await asyncio.wait_for(reader.read(-1), 20)).endswith(b"ok")
    writer.close()


async def test_an_answer_that_the_client_has_not_taken_yet_is_still_sent(site: Site) -> None:
    endpoint = Slow(bytes(8 << 20))
    endpoint.release.set()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=4096)
    writer.write(GET)
    await settle(lambda: gate.total(2)["started"] == 1 and gate.proxy.busy() == 1, "no answer began")
    gate.proxy.drain()
    size = 0
    while data := await asyncio.wait_for(reader.read(65536), 20):
        size += len(data)
        # What a worker does: it ends as soon as nothing is busy.
        if gate.proxy.busy() == 0:
            gate.proxy.close()
    assert size > 8 << 20
    writer.close()


async def test_an_inference_answer_that_the_client_has_not_taken_yet_is_still_sent(site: Site) -> None:
    """Its exchange is over when the whole answer is in the connection's buffer."""
    from oip_site import OIP, ModelServer, binary, request, tensor

    body, headers = binary((tensor([], shape=[4 << 20]), bytes(16 << 20)))
    gate = await site.gate([await site.model(ModelServer())], pool=OIP)
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=4096)
    writer.write(request("POST", "/v2/models/m/infer", body, headers))
    await settle(lambda: gate.total(2)["finished"] == 1, "the exchange does not end")
    gate.proxy.drain()
    assert gate.proxy.busy() == 1
    got = bytearray()
    while data := await asyncio.wait_for(reader.read(65536), 20):
        got += data
        if gate.proxy.busy() == 0:
            gate.proxy.close()
    length = re.search(rb"\r\nContent-Length: (\d+)", got)
    assert length is not None
    assert len(got) == got.index(b"\r\n\r\n") + 4 + int(length[1])
    writer.close()
