"""Two daemons that count together by a real Redis, which is killed; then one of them is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon import ROOT, Daemon, http_listener
from tier_servers import TierServers
from waiting import until_in_thread

Start = Callable[..., Daemon]
USER = "${header.x-user}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TierServers]:
    made = TierServers("redis", tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def config(server: TierServers) -> dict[str, Any]:
    secret = server.folder / "peers.secret"
    secret.write_bytes(b"a secret that the daemons have in common")
    secret.chmod(0o600)
    return {
        "peers": {
            "redis": f"redis://127.0.0.1:{server.ports[0]}/0",
            "secret_file": str(secret),
            "interval": "100ms",
        },
        "tables": {
            "users": {"key": USER, "size": 1000, "store": ["request_rate(1h)", "concurrent", "gpt0"], "shared": True},
            "brief": {"key": USER, "size": 1000, "expire": "1s", "store": ["requests"], "shared": True},
        },
        "listeners": {
            "web": http_listener(
                {"match": {"tables": {"users": {"gpt0": 7}}}, "respond": {"status": 200, "body": "vip"}},
                {"respond": {"status": 200, "body": "${table.users.requests}"}},
                track=["users", "brief"],
                table_rules=[{"when": {"users": {"request_rate": {"above": 20}}}, "deny": 429}],
            )
        },
    }


async def test_an_upgrade_counts_nothing_twice_and_loses_nothing(
    start: Start, client: aiohttp.ClientSession, server: TierServers
) -> None:
    shell = f'export PYTHONPATH="{ROOT}"'  # as `tidegate run`, which can be upgraded
    one, two = start(config(server), shell=shell), start(config(server))

    async def ask(daemon: Daemon, user: str, times: int) -> None:
        for _ in range(times):
            fields = {"X-User": user, "Connection": "close"}
            async with client.get(f"http://127.0.0.1:{daemon.port()}/", headers=fields) as answer:
                await answer.read()

    def requests(daemon: Daemon) -> dict[str, tuple[int, int]]:
        rows = json.loads(daemon.admin("/api/v1/tables?table=users")[1])["entries"]
        return {row["key"]: (row["requests"], row["request_rate"]) for row in rows}

    async def both_have(wanted: dict[str, int]) -> None:
        def have() -> bool:
            both = {user: (number, number) for user, number in wanted.items()}
            return requests(one) == requests(two) == both

        try:
            await until_in_thread(have)
        except TimeoutError:
            raise AssertionError(f"{requests(one)} and {requests(two)}, not {wanted}") from None

    await ask(one, "anna", 5)
    await ask(two, "anna", 3)
    await both_have({"anna": 8})
    await ask(one, "anna", 1)  # not told yet, perhaps
    done = await asyncio.to_thread(one.command, "upgrade")
    assert done.returncode == 0, done.stderr
    assert "tables.users goes on with the counts of 1 keys" in one.log
    assert requests(one)["anna"] == (9, 9), "before a message has come"
    await ask(one, "anna", 1)
    await ask(two, "bert", 2)
    await both_have({"anna": 10, "bert": 2})
    sent = two.status()["peers"]["received"]
    await ask(one, "carl", 1)  # further exchanges, in which nothing is told that was told before
    await until_in_thread(lambda: two.status()["peers"]["received"] > sent)
    await both_have({"anna": 10, "bert": 2, "carl": 1})


async def test_daemons_count_together(start: Start, client: aiohttp.ClientSession, server: TierServers) -> None:
    one, two = start(config(server)), start(config(server))

    async def ask(daemon: Daemon, user: str) -> tuple[int, str]:
        fields = {"X-User": user, "Connection": "close"}  # so that both workers count
        async with client.get(f"http://127.0.0.1:{daemon.port()}/", headers=fields) as answer:
            return answer.status, await answer.text()

    def entry(daemon: Daemon, user: str, table: str = "users") -> dict[str, Any]:
        answer = daemon.admin(f"/api/v1/tables?table={table}&key={user}")[1]
        found: list[dict[str, Any]] = json.loads(answer)["entries"]
        return found[0] if found else {}

    async def both_have(user: str, **values: int) -> None:
        def have() -> bool:
            return all(entry(daemon, user).items() >= values.items() for daemon in (one, two))

        await until_in_thread(have, f"both have {values} of {user}")

    # What is counted at one is denied at the other, and each request counts once everywhere.
    assert {status for status, _ in [await ask(one, "anna") for _ in range(15)]} == {200}
    await both_have("anna", requests=15, request_rate=15, concurrent=0)
    seen = [await ask(two, "anna") for _ in range(7)]
    assert [status for status, _ in seen] == [200] * 5 + [429] * 2
    assert seen[0][1] == "16"
    assert (await ask(two, "bert"))[1] == "1"
    await both_have("anna", requests=22, request_rate=22)
    assert (await ask(one, "anna"))[0] == 429

    # What an operator says here is so there.
    one.command("table", "set", "users", "bert", "gpt0=7", check=True)
    await both_have("bert", gpt0=7, requests=1)
    assert (await ask(two, "bert"))[1] == "vip"

    # Without the server both go on for themselves, and say so; what they counted meanwhile is told then.
    server.kill()
    await until_in_thread(lambda: all(each.status()["peers"]["trouble"] for each in (one, two)))
    assert [await ask(daemon, "carl") for daemon in (one, one, two)] == [(200, "1"), (200, "2"), (200, "1")]
    assert "each daemon counts alone" in one.log
    (away,), (failures,) = (one.metrics(f"tidegate_peers_{name}").values() for name in ("connected", "failures_total"))
    assert (away, failures >= 1) == (0, True)
    server.start()
    await both_have("carl", requests=3, request_rate=3)
    assert all(each.status()["peers"]["connected"] for each in (one, two))

    # A daemon that is killed: what it has counted stays until it expires, and it finds it again.
    await ask(one, "dora")
    await asyncio.gather(ask(two, "dora"), ask(one, "dora"))
    await both_have("dora", requests=3)
    await until_in_thread(lambda: entry(two, "dora", "brief") == {}, "an entry that expires")
    one.kill()
    three = start(config(server))
    await until_in_thread(lambda: entry(three, "dora").get("requests") == 3, "a start with what the others know")
    assert entry(two, "dora")["requests"] == 3
    assert entry(three, "dora", "brief") == {}
    status = three.status()
    assert {table["name"]: table["shared"] for table in status["tables"]} == {"users": True, "brief": True}
    assert (status["peers"]["ignored"], status["peers"]["trouble"]) == (0, None)
    messages = {dict(labels)["result"]: n for labels, n in two.metrics("tidegate_peers_messages_total").items()}
    assert (messages["sent"] > 0, messages["received"] > 0, messages["ignored"]) == (True, True, 0)
    (lag,), (age,) = (two.metrics(f"tidegate_peers_{name}_seconds").values() for name in ("lag", "exchange_age"))
    assert 0 <= lag < 60 > age >= 0
    assert three.stop() == 0
