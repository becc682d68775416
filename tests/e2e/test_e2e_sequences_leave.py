"""Endpoints that leave with open sequences: removed by a reload, or scaled away; how long they are served, and then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from daemon import Daemon, digits_pool, http_listener, route
from sequence_servers import SequenceServer
from test_e2e_sequences import Failed, Rest, config
from traffic import DIGITS_INFER, Client, ask_once, digit_samples, request
from waiting import until_in_thread as until

Start = Callable[..., Daemon]


@pytest.fixture
async def fleet() -> AsyncIterator[list[SequenceServer]]:
    made = [SequenceServer() for _ in range(2)]
    for one in made:
        await one.start()
    yield made
    for one in made:
        await one.server.stop(None)


async def lost(daemon: Daemon) -> float:
    return sum((await asyncio.to_thread(daemon.metrics, "tidegate_sequences_lost_total")).values())


async def test_a_removed_endpoint_serves_its_sequences_for_a_while(start: Start, fleet: list[SequenceServer]) -> None:
    gone, stays = fleet
    pool = {"affinity": {"sequence": {"drain_timeout": "8s"}}}
    daemon = start(config(fleet, workers=2, **pool))
    rest = Rest([await Client(daemon.port()).connect() for _ in range(4)])
    keys = [f"k{i}" for i in range(12)]
    for key in keys:
        assert await rest.ask(key, True) == 1
    theirs, others = list(gone.open), list(stays.open)
    assert theirs
    assert others

    assert (await asyncio.to_thread(daemon.reload, config([stays], workers=2, **pool)))["ok"]
    for key in keys:
        assert await rest.ask(key) == 2
    (leaving,) = daemon.pool("models")["leaving"]
    assert (leaving["address"], leaving["sequences"]) == (gone.address, len(theirs))
    for i in range(6):
        assert await rest.ask(f"new-{i}", True) == 1
    assert not [key for key in gone.open if key.startswith("new-")]

    # They do not end by themselves: their time runs out.
    await until(lambda: not daemon.pool("models")["leaving"], "the end of what was removed")
    for key in theirs:
        with pytest.raises(Failed, match="begin the sequence anew") as failure:
            await rest.ask(key)
        assert failure.value.status == 409
        with pytest.raises(Failed, match="not open"):
            await rest.ask(key)
        assert await rest.ask(key, True) == 1  # anew, where there is one
    assert await lost(daemon) == len(theirs)
    for key in others:
        assert await rest.ask(key) == 3
    assert set(theirs) <= set(stays.open)
    assert not gone.broken
    assert not stays.broken


def sequence_request(key: str, start: bool = False, end: bool = False) -> bytes:
    inputs = [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": digit_samples()[0]["image"]}]
    parameters = {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    return request("POST", DIGITS_INFER, json.dumps({"parameters": parameters, "inputs": inputs}).encode())


@pytest.mark.parametrize(("drain", "ends"), [("120s", True), ("4s", False)])
async def test_a_model_server_that_is_scaled_away(start: Start, drain: str, ends: bool) -> None:
    """It goes when its sequences are over; those that do not end keep it for `drain_timeout`, and are lost."""

    def config_with(least: int) -> dict[str, Any]:
        pool = digits_pool(min=least, max=2, drain_timeout=drain)
        pool["scaling"] = {"metrics": [{"type": "in_flight", "target": 1000}], "down": {"window": "0s"}}
        return {"workers": 2, "listeners": {"web": http_listener(route("/", "digits"))}, "pools": {"digits": pool}}

    daemon = start(config_with(2))
    port = daemon.port()
    await until(lambda: [e["health"] for e in daemon.pool("digits")["endpoints"]] == ["up"] * 2, "two model servers")

    async def ask(key: str, start: bool = False, end: bool = False) -> int:
        return (await ask_once(port, sequence_request(key, start, end))).status

    def replicas() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = daemon.pool("digits")["managed"]["replicas"]
        return found

    keys = [f"s{i}" for i in range(24)]
    for key in keys:
        assert await ask(key, True) == 200
    assert all(row["sequences"] for row in daemon.pool("digits")["endpoints"])
    assert (await asyncio.to_thread(daemon.reload, config_with(1)))["ok"]
    if ends:
        await until(lambda: any(r["state"] == "draining" for r in replicas()), "a model server that drains")
        for _ in range(2):
            for key in keys:
                assert await ask(key) == 200
        assert any(r["state"] == "draining" for r in replicas())
        for key in keys:
            assert await ask(key, end=True) == 200
    await until(lambda: len(replicas()) == 1, "the end of the model server")
    statuses = [await ask(key) for key in keys]
    assert set(statuses) == ({409} if ends else {200, 409})
    assert await lost(daemon) == (0 if ends else statuses.count(409))
