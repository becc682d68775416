"""Stick tables over a real daemon with two workers: counted, matched, denied, held back, shown and set."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from daemon import Daemon, http_listener
from waiting import logged, until_in_thread

Start = Callable[..., Daemon]
GIVEN = {"status": 200, "body": "ok"}
USER = "${header.x-user}"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def config(slow: str, **change: Any) -> dict[str, Any]:
    return {
        "tables": {
            "users": {
                "key": USER,
                "size": 1000,
                "expire": "1m",
                "store": [
                    "requests", "request_rate(1h)", "errors", "bytes_in", "bytes_out", "concurrent", "gpc0", "gpt0"
                ],
                **change,
            },
            "clients": {"key": "${client.address}", "store": ["requests", "failures"]},
        },
        "listeners": {
            "web": http_listener(
                {
                    "match": {"path": {"exact": "/slow"}},
                    "pool": "slow",
                    "table_rules": [{"when": {"users": {"concurrent": {"above": 2}}}, "deny": 503}],
                },
                {"match": {"path": {"exact": "/missing"}}, "respond": {"status": 404}},
                {"match": {"path": {"exact": "/gone"}}, "pool": "gone"},
                {"match": {"path": {"prefix": "/test."}}, "pool": "gone"},
                {
                    "match": {"path": {"exact": "/vip"}, "tables": {"users": {"gpt0": 7}}},
                    "respond": {"status": 200, "body": "vip"},
                },
                {
                    "respond": {**GIVEN, "body": "${table.users.requests}"},
                    "log_fields": {"rate": "${table.users.request_rate}"},
                },
                track=["users", "clients"],
                table_rules=[
                    {
                        "when": {"users": {"errors": {"above": 2}, "request_rate": {"below": 20}, "gpt0": 0}},
                        "set_gpt0": {"users": 1},
                    },
                    {"when": {"users": {"gpt0": 1}}, "increment_gpc0": ["users"], "tarpit": "1s", "deny": 403},
                    {"when": {"users": {"request_rate": {"above": 20}}}, "deny": 429},
                ],
            )
        },
        "pools": {
            "slow": {"protocol": "http", "endpoints": [slow]},
            "gone": {"protocol": "http2", "endpoints": ["127.0.0.1:1"]},
        },
        "log": {"access": "access.log"},
    }  # fmt: skip


async def test_tables_from_the_first_request_to_the_reload(
    start: Start, client: aiohttp.ClientSession, endpoint: Callable[..., Any]
) -> None:
    slow = await endpoint("slow", 1.5)
    daemon = start(config(slow.address))
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(user: str, path: str = "/", data: bytes | None = None) -> tuple[int, str]:
        # Each by a connection of its own, so that both workers count.
        fields = {"Connection": "close", **({"X-User": user} if user else {})}
        async with client.request("POST" if data else "GET", base + path, headers=fields, data=data) as answer:
            return answer.status, await answer.text()

    def entry(user: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(daemon.admin(f"/api/v1/tables?table=users&key={user}")[1])["entries"]
        return found[0] if found else {}

    # Exactly as many as may come, over both workers, and a text says how many there were.
    seen = await asyncio.gather(*(ask("anna") for _ in range(40)))
    assert sorted(status for status, _ in seen).count(429) == 20
    assert {text for status, text in seen if status == 200} <= {str(n) for n in range(1, 41)}
    assert (await ask("anna"))[0] == 429
    assert (await ask("bert"))[1] == "1"
    assert (await ask(""))[1] == "0"  # it has no key
    row = entry("anna")
    assert (row["requests"], row["request_rate"], row["errors"], row["concurrent"]) == (41, 41, 21, 0)

    # Bytes, and requests under way, which a client that leaves gives back.
    assert (await ask("carl", data=b"x" * 1000))[0] == 200
    assert (entry("carl")["bytes_in"], entry("carl")["bytes_out"]) == (1000, 1)
    async with client.head(base, headers={"X-User": "cleo"}) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "1")
    assert (entry("cleo")["requests"], entry("cleo")["bytes_out"]) == (1, 0)  # of HEAD no body goes out
    asked = [asyncio.create_task(ask("dora", "/slow")) for _ in range(2)]
    await until_in_thread(lambda: entry("dora").get("concurrent") == 2)
    assert (await ask("dora", "/slow"))[0] == 503
    for task in asked:
        task.cancel()
    await until_in_thread(lambda: entry("dora").get("concurrent") == 0)

    # Errors lead to the tarpit; its refusals take their time and meet nobody else.
    assert [(await ask("eve", "/missing"))[0] for _ in range(3)] == [404, 404, 404]
    began = time.monotonic()
    held = [asyncio.create_task(ask("eve", data=b"x" * 100_000)) for _ in range(4)]
    assert (await ask("bert"))[0] == 200
    assert time.monotonic() - began < 1
    assert [status for status, _ in await asyncio.gather(*held)] == [403] * 4
    assert time.monotonic() - began >= 1
    assert (entry("eve")["gpt0"], entry("eve")["gpc0"]) == (1, 4)
    gone = asyncio.create_task(ask("eve"))
    await until_in_thread(lambda: sum(daemon.metrics("tidegate_tarpit_requests").values()) == 1)
    gone.cancel()
    await until_in_thread(lambda: sum(daemon.metrics("tidegate_tarpit_requests").values()) == 0)
    await until_in_thread(lambda: entry("eve").get("concurrent") == 0)
    assert entry("eve")["errors"] == 3 + 4 + 1  # who hangs up was refused as well

    # gRPC is told in its own words, and counts as HTTP does: 5xx is no error of the client's, 429 is, although the code
    # is the same.
    assert [(await ask("gustav"))[0] for _ in range(20)] == [200] * 20
    denied, unavailable = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        for user, code in (("eve", denied), ("fritz", unavailable), ("gustav", unavailable)):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary("/test.A/B")(b"", metadata=(("x-user", user),), timeout=30)
            assert failed.value.code() == code
    assert (entry("fritz")["errors"], entry("gustav")["errors"]) == (0, 1)
    (by_address,) = json.loads(daemon.admin("/api/v1/tables?table=clients")[1])["entries"]
    assert (by_address["key"], by_address["failures"]) == ("127.0.0.1", 2)  # that and the 503

    lines = await asyncio.to_thread(
        logged, daemon.folder / "access.log", lambda lines: sum(line["reason"] == "table-rule" for line in lines) > 26
    )
    assert {line["status"] for line in lines if line["reason"] == "table-rule"} >= {403, 429, 503}
    assert any(line.get("fields", line).get("rate") == "1" for line in lines), lines[0]

    # A worker's death loses nothing, and gives back what it had under way.
    asked = [asyncio.create_task(ask("gina", "/slow")) for _ in range(2)]
    await until_in_thread(lambda: entry("gina").get("concurrent") == 2)
    await asyncio.to_thread(daemon.kill_worker)
    await asyncio.gather(*asked, return_exceptions=True)
    await until_in_thread(lambda: entry("gina").get("concurrent") == 0)
    assert entry("anna")["requests"] == 41

    # Operators look, set and clear.
    async def table(*arguments: str, check: bool = True) -> str:
        done = await asyncio.to_thread(daemon.command, "table", *arguments, check=check)
        return done.stdout + done.stderr

    assert re.search(r"^users +\$\{header\.x-user\} +1750 +0 +0 ", await table("show"), re.MULTILINE)
    assert re.findall(r"^(\w+) .* 41 ", await table("show", "users", "--filter", "requests>=41"), re.MULTILINE) == [
        "anna"
    ]
    # What clients choose is shown as it is: no markup, and nothing that a terminal obeys.
    for chosen in ("[/x]", "[bold]b[/bold]", "c\u009b31m\u202e"):
        assert (await ask(chosen))[0] == 200
    shown = await table("show", "users")
    assert all(text in shown for text in ("\n[/x] ", "\n[bold]b[/bold] ", "\nc\\x9b31m\\u202e ")), shown
    assert "no comparison such as" in await table("show", "users", "--filter", "requests", check=False)
    assert "there is no table 'user'" in await table("show", "user", check=False)
    assert "does not store failures" in await table("set", "users", "hugo", "failures=1", check=False)
    assert (await ask("hugo", "/vip"))[1] == "1"
    await table("set", "users", "hugo", "gpt0=7")
    assert (await ask("hugo", "/vip"))[1] == "vip"
    assert "1 entries would be cleared" in await table("clear", "users", "anna", "--dry-run")
    assert (await ask("anna"))[0] == 429
    await table("clear", "users", "anna")
    assert (await ask("anna"))[1] == "1"
    assert "has no entry nobody" in await table("clear", "users", "nobody", check=False)
    await table("clear", "clients", "--all")

    # A reload keeps the counts, but of a table that is another.
    assert daemon.reload(config(slow.address, expire="2m"))["ok"]
    assert (await ask("anna"))[1] == "2"
    assert daemon.reload(config(slow.address, size=2000))["ok"]
    assert (await ask("anna"))[1] == "1"
    found = daemon.reload(config(slow.address, size=1_000_000))
    assert "tables.users: the shared memory has room for" in found["error"]
    assert (await ask("anna"))[1] == "2"


async def test_tables_by_identity_wait_for_auth_and_the_others_do_not(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """So a flood of bad credentials is counted, and ends before they are looked at."""
    keys = tmp_path / "keys"
    keys.write_text(f"anna:sha256:{hashlib.sha256(b'right').hexdigest()}\n")
    keys.chmod(0o600)
    store = ["requests", "errors", "concurrent", "gpc0", "gpt0"]
    daemon = start(
        {
            "auth": {"keys": {"type": "api_key", "file": str(keys)}},
            "tables": {
                "places": {"key": "${header.x-from}", "size": 1000, "store": store},
                "users": {"key": "${auth.identity}", "size": 1000, "store": store},
            },
            "listeners": {
                "web": http_listener(
                    {"respond": {"status": 200, "body": "${table.places.requests} ${table.users.requests}"}},
                    auth="keys",
                    track=["users", "places"],
                    table_rules=[
                        {"when": {"users": {"requests": {"above": 3}}}, "deny": 403},
                        {"when": {"places": {"errors": {"above": 2}}}, "deny": 429, "increment_gpc0": ["places"]},
                        {"when": {"places": {"requests": 2}}, "set_gpt0": {"users": 7}},
                    ],
                )
            },
        }
    )

    async def ask(place: str, key: str = "right") -> tuple[int, str]:
        fields = {"X-From": place, "X-Api-Key": key, "Connection": "close"}
        async with client.get(f"http://127.0.0.1:{daemon.port()}/", headers=fields) as answer:
            return answer.status, await answer.text()

    def entry(table: str, key: str) -> dict[str, Any]:
        found = json.loads(daemon.admin(f"/api/v1/tables?table={table}&key={key}")[1])["entries"]
        return {name: found[0][name] for name in store} if found else {}

    # Without an identity only the place counts, and its rule goes before auth: the right key meets it as well.
    assert [(await ask("here", "wrong"))[0] for _ in range(5)] == [401] * 3 + [429] * 2
    assert (await ask("here"))[0] == 429
    assert entry("places", "here") == {"requests": 6, "errors": 6, "concurrent": 0, "gpc0": 3, "gpt0": 0}
    assert json.loads(daemon.admin("/api/v1/tables?table=users")[1])["entries"] == []

    # With one both count, each once, and a rule that has to do with both waits for it.
    assert await ask("there") == (200, "1 1")
    assert entry("users", "anna")["gpt0"] == 0
    assert await ask("there") == (200, "2 2")
    assert entry("users", "anna")["gpt0"] == 7
    assert [(await ask("there"))[0] for _ in range(2)] == [200, 403]
    assert entry("users", "anna") == {"requests": 4, "errors": 1, "concurrent": 0, "gpc0": 0, "gpt0": 7}
    assert entry("places", "there") == {"requests": 4, "errors": 1, "concurrent": 0, "gpc0": 0, "gpt0": 0}
