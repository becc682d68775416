"""Scaling in the real daemon: rules by their names, what explains them, and traces of the load."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from daemon import COMMAND, Daemon, digits_pool, environment, eventually, http_listener, route
from traffic import digit_request, digit_samples, load

Start = Callable[..., Daemon]


def digits_config(scaling: dict[str, Any], **serve: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/v2", "digits"))},
        "pools": {"digits": {**digits_pool(**serve), "scaling": scaling}},
    }


def command(daemon: Daemon, *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments, "-c", str(daemon.path)], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def explained(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.admin("/api/v1/scaling?pool=digits")[1])["scaling"]
    return found


async def test_a_rule_scales_by_the_traffic_and_is_explained(start: Start) -> None:
    scaling = {
        "ray": {
            "target_ongoing_requests": 0.5,
            "upscale_delay": "1s",
            "downscale_delay": "4s",
            "look_back_period": "2s",
        }
    }
    daemon = start(digits_config(scaling, min=1, max=3))
    messages = [digit_request(sample["image"]) for sample in digit_samples()]

    def wanted(number: int) -> Callable[[], bool]:
        return lambda: daemon.pool("digits")["managed"]["wanted"] == number

    async with load(daemon.port(), messages, clients=24) as heavy:
        await asyncio.to_thread(eventually, wanted(3), "three model servers")
        found = explained(daemon)
    assert heavy.reasons == []
    assert (found["rule"], found["ready"] >= 1, found["start_time_s"] > 0) == ("ray", True, True)
    ups = [event for event in found["events"] if event["to"] > event["from"]]
    assert ups[-1]["to"] == 3
    assert "ongoing requests, target 0.5 per replica" in ups[-1]["reason"]
    assert set(found["recommenders"]["ongoing_requests"]) == {"target", "average", "replicas"}
    await asyncio.to_thread(eventually, wanted(1), "one model server")
    assert json.loads(command(daemon, "scaling", "explain", "digits", "--json"))["scaling"]["wanted"] == 1
    text = command(daemon, "scaling", "explain", "digits")
    assert "digits: 1 wanted" in text
    assert "ongoing_requests" in text


async def test_without_any_setting_it_learns(start: Start) -> None:
    daemon = start(digits_config({}, min=1, max=3))
    messages = [digit_request(sample["image"]) for sample in digit_samples()]

    def learned() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(daemon.admin("/api/v1/scaling?pool=digits")[1])["scaling"]["learned"]
        return found

    async with load(daemon.port(), messages, clients=8) as running:
        await asyncio.to_thread(eventually, lambda: learned()["service_ms"], "a service time")
    assert running.reasons == []
    assert 0 < learned()["service_ms"] < 1000
    assert daemon.pool("digits")["managed"]["scaling"]["rule"] == "auto"


async def test_a_trace_has_every_request(start: Start, tmp_path: Path) -> None:
    daemon = start(digits_config({"rule": "hpa"}, min=1, max=2))
    file, messages = tmp_path / "trace.csv", [digit_request(sample["image"]) for sample in digit_samples()]
    recording = asyncio.create_task(
        asyncio.to_thread(command, daemon, "scaling", "record", "digits", "--seconds", "6", "--output", str(file))
    )
    await asyncio.to_thread(eventually, lambda: file.exists() and "0," in file.read_text(), "the first second")
    async with load(daemon.port(), messages, clients=4) as running:
        await running.until(200)
    await recording
    assert running.reasons == []
    rows = [line.split(",") for line in file.read_text().splitlines()]
    assert rows[0] == ["second", "requests"]
    assert [int(second) for second, _ in rows[1:]] == list(range(6))
    assert (
        sum(int(requests) for _, requests in rows[1:])
        == json.loads(daemon.admin("/api/v1/scaling?pool=digits")[1])["arrived"]
    )
    assert sum(int(requests) for _, requests in rows[1:]) >= running.answers


def test_a_pool_that_is_not_there_or_not_scaled(start: Start) -> None:
    daemon = start(digits_config({"rule": "hpa"}, min=1, max=2))
    code, body = daemon.admin("/api/v1/scaling?pool=digit")
    assert (code, json.loads(body)) == (404, {"error": "there is no pool 'digit'; did you mean digits?"})
    assert daemon.admin("/api/v1/scaling")[0] == 404


async def test_every_signal_of_a_machine_without_gpus(start: Start) -> None:
    asked = []

    async def query(request: web.Request) -> web.Response:
        asked.append(request.query["query"])
        return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": [1, "6"]}})

    app = web.Application()
    app.add_routes([web.get("/api/v1/query", query)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    metrics = [
        {"type": "latency", "target": "10s"},
        {"type": "memory", "target": "100GiB"},
        {"type": "cpu", "target": 10_000},
        {"type": "batch_occupancy", "target": 100},
        {"type": "prometheus", "url": site.name, "query": "sum(backlog)", "target": 3},
    ]
    config = digits_config({"metrics": metrics, "interval": "500ms"}, min=1, max=2)
    daemon = await asyncio.to_thread(start, config)
    messages = [digit_request(sample["image"]) for sample in digit_samples()]

    def complete() -> bool:
        rows = explained(daemon)["recommenders"].values()
        return bool(rows) and all(row["average"] for row in rows)

    async with load(daemon.port(), messages, clients=4) as running:
        await asyncio.to_thread(eventually, complete, "every signal")
    assert running.reasons == []
    found = explained(daemon)
    assert asked[0] == "sum(backlog)"
    assert found["wanted"] == 2  # 6 for one replica, target 3
    assert found["recommenders"]["memory"]["average"] > 10e6
    assert found["recommenders"]["batch_occupancy"]["average"] <= 100
    assert 0 < found["recommenders"]["latency_p95"]["average"] < 10
    assert {row["error"] for row in found["measures"].values()} == {None}
    await runner.cleanup()
