"""HTTP caching in the real daemon: all workers share the answers, which outlive a worker and a reload."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
from daemon import Daemon, http_listener, route
from waiting import eventually

Start = Callable[..., Daemon]


class Dated:
    """Answers that are good for ten minutes, each with a number of its own."""

    def __init__(self) -> None:
        self.served = 0
        self.validated = 0

    async def start(self) -> str:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.served += 1
                body = b"%d " % self.served * 1000
                writer.write(
                    b'HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nCache-Tag: page\r\nETag: "%d"\r\n'
                    b"Content-Length: %d\r\n\r\n%s" % (self.served, len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def config(address: str, **rules: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "cache": {"size": "16MiB"},
        "listeners": {"web": http_listener({"pool": "pages", "http_cache": rules})},
        "pools": {"pages": {"protocol": "http", "endpoints": [address]}},
    }


async def test_workers_share_answers_that_outlive_them(start: Start) -> None:
    origin = Dated()
    address = await origin.start()
    daemon = start(config(address))
    url = f"http://127.0.0.1:{daemon.port()}/page"

    async def bodies(count: int) -> set[bytes]:
        """Each over a connection of its own, so that both workers get some."""
        found = set()
        for _ in range(count):
            async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
                found.add((await client.get(url)).content)
        return found

    assert await bodies(20) == {b"1 " * 1000}
    pids = daemon.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    await asyncio.to_thread(
        eventually, lambda: len(set(daemon.worker_pids()) - set(pids[:1])) == 2, "a worker in its place"
    )
    assert await bodies(20) == {b"1 " * 1000}
    assert daemon.reload(config(address, stale_if_error="1m"))["ok"]
    assert await bodies(20) == {b"1 " * 1000}
    assert origin.served == 1
    told = await asyncio.to_thread(
        subprocess.run, ["curl", "-s", "-D", "-", "-o", "/dev/null", "-H", 'If-None-Match: "1"', url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.startswith("HTTP/1.1 304")
    assert "Cache-Status: tidegate; hit; ttl=" in told.stdout
    found = daemon.metrics("tidegate_cache_requests_total")
    by_result = {dict(labels)["result"]: count for labels, count in found.items()}
    assert by_result["hit"] == 60
    assert by_result["miss"] == 1
    origin.server.close()


async def test_urls_are_purged(start: Start) -> None:
    origin = Dated()
    plan = config(await origin.start())
    plain = {**route("/plain", "pages"), "name": "plain", "http_cache": {"key": {"query": False}}}
    moved = {**route("/old", "pages", rewrite={"prefix": "/new"}), "name": "moved", "http_cache": True}
    plan["listeners"]["web"] = http_listener(plain, moved, {"pool": "pages", "http_cache": True})
    daemon = start(plan)
    base = f"http://127.0.0.1:{daemon.port()}"
    urls = [f"{base}{target}" for target in ("/a", "/a?b", "/plain?x", "/old/1", "/\u00fc")]

    async def taken(*arguments: str) -> list[str]:
        """Which of the URLs a purge takes."""
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            for url in urls * 2:
                got = await client.get(url)
            assert got.headers["Cache-Status"].startswith("tidegate; hit")
            done = await asyncio.to_thread(daemon.command, "cache", "purge", *arguments)
            assert done.returncode == 0, done.stderr
            missed = [url for url in urls if "hit" not in (await client.get(url)).headers["Cache-Status"]]
            return [url.removeprefix(base) for url in missed]

    for url in urls:
        assert await taken("--url", url) == [url.removeprefix(base)]
    assert await taken("--url", f"{base}/plain?y".replace("http", "https")) == ["/plain?x"]
    assert await taken("--url", f"{base}/new/1") == ["/old/1"]
    assert await taken("--url", f"{base}/a#c") == ["/a"]
    assert await taken("--url", "http://example.org/a") == []
    assert len(await taken("--pool", "pages")) == len(urls)
    assert len(await taken("--all")) == len(urls)
    for wrong in ("/a", "ftp://127.0.0.1/a", "http:///a", "http://me@127.0.0.1/a", "http://[/"):
        done = await asyncio.to_thread(daemon.command, "cache", "purge", "--url", wrong)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "url: " in done.stderr
    origin.server.close()
