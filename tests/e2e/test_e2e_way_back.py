"""What is changed of answers on their way back, in the real daemon: redirects, error pages, compression, reloads."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import httpx
from daemon import Daemon, http_listener

Start = Callable[..., Daemon]
PAGE = b'{"text": "a page of some length, which repeats itself"}, ' * 2000


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint below /two/: a large page, a redirect, an error, and an answer that it cuts off."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            host = next(line[6:] for line in head.split("\r\n") if line.lower().startswith("host: "))
            fields, status, body = "Content-Type: application/json", 200, PAGE
            if path == "/two/moved":
                fields, status, body = f"Location: http://{host}/two/there", 302, b""
            elif path == "/two/error":
                status, body = 500, b"the endpoint's own words" * 10
            writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            if path == "/two/cut":
                writer.write(body[:30_000])
                await writer.drain()
                return
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def config(address: str, compression: Any, body: str) -> dict[str, Any]:
    page = {"on": [404, 500], "body": body, "intercept": True, "headers": {"Content-Type": "text/plain"}}
    route = {
        "match": {"path": {"prefix": "/one/"}},
        "pool": "app",
        "rewrite": {"prefix": "/two/"},
        "retry": "off",
        "compression": compression,
    }
    return {
        "listeners": {"web": http_listener(route, request_id=True, error_pages=[page])},
        "pools": {"app": {"protocol": "http", "endpoints": [address]}},
    }


async def test_answers_on_their_way_back_and_reloads_under_load(start: Start) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    first = config(address, True, "first ${error.status} ${request.id:-none}")
    second = config(address, False, "second ${error.status}")
    daemon = start(first)
    base = f"http://127.0.0.1:{daemon.port()}"
    stopped = False
    taken = {"gzip": 0, "identity": 0}

    async def load(client: httpx.AsyncClient) -> None:
        while not stopped:
            got = await client.get(f"{base}/one/page", headers={"Accept-Encoding": "gzip"})
            assert (got.status_code, got.content) == (200, PAGE)
            taken[got.headers.get("content-encoding", "identity")] += 1
            got = await client.get(f"{base}/one/error")
            assert got.text.startswith(("first 500 ", "second 500")), got.text

    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        got = await client.get(f"{base}/one/moved")
        assert got.headers["location"] == f"{base}/one/there"
        assert (await client.get(f"{base}/nowhere")).text == "first 404 none"
        got = await client.get(f"{base}/one/error")
        assert got.status_code == 500
        assert len(got.text) == len("first 500 ") + 32
        async with client.stream("GET", f"{base}/one/page", headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([piece async for piece in answer.aiter_raw()])
        assert gzip.decompress(raw) == PAGE
        assert len(raw) < len(PAGE) // 20
        try:
            await client.get(f"{base}/one/cut", headers={"Accept-Encoding": "gzip"})
            raise AssertionError("an answer that was cut off came whole")
        except httpx.RemoteProtocolError:
            pass

        tasks = [asyncio.create_task(load(client)) for _ in range(4)]
        for _ in range(2):
            for changed in (second, first):
                outcome = await asyncio.to_thread(daemon.reload, changed)
                assert outcome["ok"], outcome
        stopped = True
        await asyncio.gather(*tasks)
        assert min(taken.values()) > 0, taken
    server.close()
    assert all(row["restarts"] == 0 for row in daemon.status()["workers"]), daemon.log
