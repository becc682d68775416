"""Managed model servers: killed under load, and scaled by it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backend_models import slow
from daemon import Daemon, digits_pool, eventually, http_listener, route
from traffic import DIGITS_INFER, HAVE_WRK, digit_request, digit_samples, load, request, wrk

Start = Callable[..., Daemon]


def digits_config(**pool: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/v2", "digits"))},
        "pools": {"digits": {**digits_pool(), **pool}},
    }


def ready_replicas(daemon: Daemon) -> dict[int, str]:
    """pid -> address of the model servers that are ready."""
    return {r["pid"]: r["address"] for r in daemon.pool("digits")["managed"]["replicas"] if r["state"] == "ready"}


def kill_one(daemon: Daemon) -> tuple[int, str]:
    replicas = ready_replicas(daemon)
    assert len(replicas) == 2
    pid = min(replicas)
    os.kill(pid, signal.SIGKILL)
    return pid, replicas[pid]


def wait_replaced(daemon: Daemon, killed: int) -> None:
    """Until there are two again and both have had requests since."""

    def replaced() -> bool:
        replicas = ready_replicas(daemon)
        return len(replicas) == 2 and killed not in replicas

    eventually(replaced, "the model server was not replaced")
    before = daemon.requests_by_endpoint("digits")

    def served() -> bool:
        now = daemon.requests_by_endpoint("digits")
        return all(now.get(address, 0) > before.get(address, 0) + 10 for address in ready_replicas(daemon).values())

    eventually(served, "the new model server gets no requests")


# A PID namespace of its own, as a container has; it ends with `unshare`.
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
if os.geteuid() != 0:
    CONTAINER += ["--user", "--map-root-user"]


def test_the_daemon_as_process_1(start: Start) -> None:
    """As in a container: model servers whose parent is process 1 are no orphans."""
    daemon = start({**digits_config(), "workers": 1}, shell=f'set -- {" ".join(CONTAINER)} "$@"')
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    assert os.readlink(f"/proc/{daemon.process.pid}/ns/pid_for_children") != os.readlink("/proc/self/ns/pid")
    assert [r["restarts"] for r in daemon.pool("digits")["managed"]["replicas"]] == [0, 0]


@pytest.mark.skipif(not HAVE_WRK, reason="wrk is not installed")
def test_a_killed_model_server_fails_no_request_of_wrk(start: Start, tmp_path: Path) -> None:
    daemon = start({**digits_config()})
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    bodies = [
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": sample["image"]}]}
        for sample in digit_samples()
    ]
    with wrk(tmp_path, daemon.port(), DIGITS_INFER, bodies, seconds=14, clients=16) as running:
        eventually(lambda: sum(daemon.requests_by_endpoint("digits").values()) > 200, "load")
        killed, _ = kill_one(daemon)
        wait_replaced(daemon, killed)
        assert running.process.poll() is None, "the load ended too early to show anything"
        requests, errors = running.finish()
    assert errors == {}
    assert requests > 500
    restarts = [r["restarts"] for r in daemon.pool("digits")["managed"]["replicas"]]
    assert sorted(restarts) == [0, 1]
    eventually(lambda: daemon.in_flight() == 0, "in-flight counts")


async def test_killed_model_servers_fail_no_request(start: Start) -> None:
    daemon = start(digits_config())
    await asyncio.to_thread(eventually, lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    messages = [digit_request(sample["image"]) for sample in digit_samples()]
    async with load(daemon.port(), messages, clients=12) as running:
        for _ in range(2):
            await running.until(100)
            killed, _ = await asyncio.to_thread(kill_one, daemon)
            await asyncio.to_thread(wait_replaced, daemon, killed)
    assert running.reasons == []
    assert running.answers > 300
    eventually(lambda: daemon.in_flight() == 0, "in-flight counts")
    # Their connections lived through it: no client had to connect again.
    assert all(client.answers > 0 for client in running.clients)


async def test_load_adds_and_removes_model_servers_without_a_failed_request(start: Start, tmp_path: Path) -> None:
    step = {"window": "1s", "policies": [{"type": "percent", "value": 100, "period": "1s"}]}
    scaling = {
        "interval": "200ms",
        "metrics": [{"type": "in_flight", "target": 2}],
        "up": {**step, "window": "0s"},
        "down": step,
    }
    # So slow that the requests of the clients are where they are counted, rather than with the clients.
    slow(tmp_path / "models")
    daemon = start(digits_config(**digits_pool(min=1, max=3, models=str(tmp_path / "models")), scaling=scaling))
    count = {"name": "count", "datatype": "INT64", "shape": [], "data": [30_000]}
    messages = [request("POST", "/v2/models/slow/infer", {"inputs": [count]})]

    async def replicas(number: int) -> None:
        def reached() -> bool:
            managed = daemon.pool("digits")["managed"]
            return len(managed["replicas"]) == number and len(ready_replicas(daemon)) == number

        await asyncio.to_thread(eventually, reached, f"{number} model servers")

    await replicas(1)
    # One connection goes on all the time, so that there is somebody to notice every step.
    async with load(daemon.port(), messages, clients=1) as steady:
        async with load(daemon.port(), messages, clients=24) as heavy:
            await replicas(3)
            addresses = set(ready_replicas(daemon).values())
            await asyncio.to_thread(
                eventually,
                lambda: all(daemon.requests_by_endpoint("digits").get(a, 0) > 20 for a in addresses),
                "all take part",
            )
        assert heavy.reasons == []
        await replicas(1)
        await steady.until(20)
    assert steady.reasons == []
    managed = daemon.pool("digits")["managed"]
    assert managed["wanted"] == 1
    changes = [(event["from"], event["to"]) for event in managed["scaling"]["events"]]
    assert changes[0][0] == changes[-1][1] == 1
    assert max(to for _, to in changes) == 3
    ways = {dict(labels)["direction"]: n for labels, n in daemon.metrics("tidegate_scale_events_total").items()}
    assert ways["up"] >= 1
    assert ways["down"] >= 1
    eventually(lambda: daemon.in_flight() == 0, "in-flight counts")


async def test_a_reload_replaces_as_many_model_servers_as_the_load_has(start: Start) -> None:
    scaling = {"interval": "200ms", "metrics": [{"type": "in_flight", "target": 2}]}  # down: not before 300 s
    config = digits_config(**digits_pool(min=1, max=3), scaling=scaling)
    daemon = start(config)
    messages = [digit_request(sample["image"]) for sample in digit_samples()]
    async with load(daemon.port(), messages, clients=24) as running:
        await asyncio.to_thread(eventually, lambda: len(ready_replicas(daemon)) == 3, "three model servers")
        before = set(ready_replicas(daemon).values())
        config["pools"]["digits"]["serve"]["env"] = {"A": "1"}
        await asyncio.to_thread(daemon.reload, config)

        def replaced() -> list[str]:
            """The new ones, from the moment on that they have taken over."""
            return [] if before & set(ready_replicas(daemon).values()) else list(ready_replicas(daemon).values())

        await asyncio.to_thread(eventually, replaced, "the model servers were not replaced")
        assert len(replaced()) == 3
        await running.until(100)
    assert running.reasons == []


async def test_servers_with_more_runs_at_once_take_over_without_a_failed_request(start: Start, tmp_path: Path) -> None:
    """Requests wait, one run is under way all the time, and half of the cores that a server is to have is idle."""
    slow(tmp_path / "models")
    vertical = {"max_instances": 2, "min_cores": 2, "max_cores": 2, "interval": "300ms"}
    settings = {"min": 2, "models": str(tmp_path / "models"), "threads": 2, "instances": 1, "vertical": vertical}
    daemon = start(digits_config(**digits_pool(**settings)))
    await asyncio.to_thread(eventually, lambda: len(ready_replicas(daemon)) == 2, "two model servers")
    before = set(ready_replicas(daemon))
    count = {"name": "count", "datatype": "INT64", "shape": [], "data": [30_000]}
    most = 0

    def grown() -> bool:
        nonlocal most
        managed = daemon.pool("digits")["managed"]
        most = max(most, len(managed["replicas"]))
        after = set(ready_replicas(daemon))
        return managed["vertical"]["instances"] == 2 and len(after) == 2 and not before & after

    async with load(
        daemon.port(), [request("POST", "/v2/models/slow/infer", {"inputs": [count]})], clients=12
    ) as running:
        await asyncio.to_thread(eventually, grown, "two model servers with two runs at once", 60)
    assert running.reasons == []
    assert most <= 3
    shown = daemon.command("status").stdout
    assert "2 runs at once" in shown
