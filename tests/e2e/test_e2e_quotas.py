"""Quotas over a real daemon with two workers: exact, told, kept over deaths and restarts, shown and reset."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from daemon import Daemon, http_listener
from waiting import logged

Start = Callable[..., Daemon]
GIVEN = {"status": 200, "body": "ok"}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def config(file: Path | str, requests: int = 30) -> dict[str, Any]:
    tenant = {"header": "X-Tenant"}
    return {
        "quotas": {
            "monthly": {"requests": requests, "per": "month", "key": tenant, "overrides": {"big": 1000}},
            "total": {"requests": 200, "per": "month", "key": {"all": True}},
            "hidden": {"requests": 2, "per": "month", "key": {"source": True}, "fields": "off"},
        },
        "listeners": {
            "web": http_listener(
                {"match": {"path": {"exact": "/hidden"}}, "respond": GIVEN, "quota": ["total", "hidden"]},
                {"match": {"path": {"exact": "/free"}}, "respond": GIVEN},
                {"match": {"path": {"prefix": "/test."}}, "pool": "calls", "quota": "monthly"},
                {"respond": GIVEN, "quota": ["monthly", "total"]},
            )
        },
        "pools": {"calls": {"protocol": "grpc", "endpoints": ["127.0.0.1:1"]}},
        "limits": {"quota_file": str(file)},
        "log": {"access": "access.log"},
    }


async def test_quotas_from_the_first_request_to_the_next_daemon(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "quotas.sqlite"
    daemon = start(config(file))
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(tenant: str, path: str = "/") -> tuple[int, Any]:
        # Each by a connection of its own, so that both workers count.
        fields = {"Connection": "close", **({"X-Tenant": tenant} if tenant else {})}
        async with client.get(base + path, headers=fields) as answer:
            return answer.status, answer.headers

    # Exactly as many as there are, however many come at once.
    seen = await asyncio.gather(*(ask("a") for _ in range(60)))
    assert Counter(status for status, _ in seen) == {200: 30, 429: 30}
    status, head = await ask("a")
    assert status == 429
    assert head.getall("RateLimit-Policy")[0].startswith('"monthly";q=30;w=')
    left = re.fullmatch(r'"monthly";r=0;t=(\d+)', head.getall("RateLimit")[0])
    assert left is not None
    assert abs(int(head["Retry-After"]) - int(left[1])) <= 1
    # Who is refused by one quota uses nothing of another.
    status, head = await ask("big")
    assert (status, head.getall("RateLimit")[0].partition(";t")[0]) == (200, '"monthly";r=999')
    assert head.getall("RateLimit")[1].partition(";t")[0] == '"total";r=169'
    # A long or strange value is one client, too, and one without the header is known by its address.
    assert (await ask("é" * 900))[0] == 200
    assert (await ask(""))[0] == 200
    assert [(await ask("x", "/hidden"))[0] for _ in range(3)] == [200, 200, 429]
    assert "RateLimit" in (await ask("x", "/hidden"))[1]  # of the other quota
    assert "RateLimit" not in (await ask("x", "/free"))[1]

    # gRPC is told once for all.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/test.A/B")(b"", metadata=(("x-tenant", "a"),), timeout=30)
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(failed.value.trailing_metadata() or ()) | dict(failed.value.initial_metadata() or ())
    assert trailers["grpc-retry-pushback-ms"] == "-1"

    log = daemon.folder / "access.log"

    def refused(lines: list[dict[str, Any]]) -> set[tuple[str, int, int | None]]:
        return {(line["protocol"], line["status"], line["grpc_status"]) for line in lines if line["reason"] == "quota"}

    lines = await asyncio.to_thread(logged, log, lambda lines: len(refused(lines)) > 1)
    assert refused(lines) == {("HTTP/1.1", 429, None), ("HTTP/2", 200, 8)}

    # A worker's death loses nothing.
    await asyncio.to_thread(daemon.kill_worker)
    assert (await ask("a"))[0] == 429

    def used(key: str) -> int:
        document = json.loads(daemon.admin(f"/api/v1/quotas?key={key}&quota=monthly")[1])
        return sum(row["used"] for row in document["clients"])

    assert (used("a"), used("big"), used("127.0.0.1"), used("nobody")) == (30, 1, 1, 0)
    assert daemon.metrics("tidegate_quota_exhausted")[frozenset({("quota", "monthly")})] == 1
    assert daemon.metrics("tidegate_quota_clients")[frozenset({("quota", "monthly")})] == 4
    shown = await asyncio.to_thread(daemon.command, "quota", "show", check=True)
    assert re.search(r"^a +key +monthly +30 +30 +0 ", shown.stdout, re.MULTILINE), shown.stdout
    assert (await asyncio.to_thread(daemon.command, "quota", "reset", "nobody")).returncode == 1
    assert (await asyncio.to_thread(daemon.command, "quota", "reset", "a", "--dry-run")).returncode == 0
    assert used("a") == 30
    assert "before 30" in (await asyncio.to_thread(daemon.command, "quota", "reset", "a", check=True)).stdout
    assert [(await ask("a"))[0] for _ in range(2)] == [200, 200]

    # A reload changes the limit, not the counts; one with a file that cannot be used changes nothing.
    assert daemon.reload(config(file, 2))["ok"]
    assert (await ask("a"))[0] == 429
    bad = daemon.reload(config("/no/such/folder/x"))
    assert not bad["ok"]
    assert "limits.quota_file: /no/such/folder: there is no such folder" in bad["error"]

    # The death of the whole daemon loses at most a second.
    await asyncio.sleep(2.2)
    daemon.kill()
    daemon = start(config(file, 2))
    base = f"http://127.0.0.1:{daemon.port()}"
    assert (await ask("a"))[0] == 429
    assert (used("a"), used("big")) == (2, 1)
    assert (await ask("b"))[0] == 200
    # An orderly stop loses nothing.
    assert await asyncio.to_thread(daemon.stop) == 0
    daemon = start(config(file))
    assert used("b") == 1
