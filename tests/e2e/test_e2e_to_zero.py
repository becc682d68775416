"""Pools that go to zero and come back: real daemons, real model servers, real clients."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from daemon import DIGITS, Daemon, alive, digits_pool, eventually, http_listener, route
from ports import free_port
from traffic import DIGITS_INFER, ask_once, digit_request, digit_samples, load

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
SERVICE = "/inference.GRPCInferenceService/"
FAILED = "no endpoint of pool digits is available: its model server ended before it was ready"


def config(listener: dict[str, Any] | None = None, **serve: Any) -> dict[str, Any]:
    """A pool that is at zero until a request comes."""
    pool = digits_pool(**{"min": 0, "idle_timeout": "1h", **serve})
    routes = [
        route("/v2", "digits", **(listener or {})),
        {"name": "grpc", "match": {"grpc": {"service": "inference.GRPCInferenceService"}}, "pool": "digits"},
        {"name": "health", "match": {"grpc": {"service": "grpc.health.v1.Health"}}, "pool": "digits"},
    ]
    return {"listeners": {"web": http_listener(*routes)}, "pools": {"digits": pool}}


def replicas(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.pool("digits")["managed"]["replicas"]
    return found


def on_demand(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.pool("digits")["managed"]["on_demand"]
    return found


def waiting(daemon: Daemon) -> int:
    return int(daemon.pool("digits")["queue"]["waiting"])


def body(sample: int = 0) -> dict[str, Any]:
    image = digit_samples()[sample]["image"]
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image}]}


async def infer(daemon: Daemon, port: int, timeout: float = 60, **settings: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=timeout) as client:
        return await client.post(f"http://127.0.0.1:{port}{DIGITS_INFER}", json=body(), **settings)


async def background(daemon: Daemon, count: int = 1) -> list[asyncio.Task[httpx.Response]]:
    """Requests that wait for a model server."""
    port = daemon.port()
    before = waiting(daemon)
    tasks = [asyncio.create_task(infer(daemon, port)) for _ in range(count)]
    await asyncio.to_thread(eventually, lambda: waiting(daemon) == before + count, "the requests wait")
    return tasks


def asleep(daemon: Daemon) -> bool:
    return bool(on_demand(daemon)["asleep"]) and not replicas(daemon)


async def test_to_zero_and_back(start: Start) -> None:
    daemon = start(config(idle_timeout="500ms"))
    assert replicas(daemon) == []
    port = daemon.port()
    for wakes in (1, 2):
        answer = await infer(daemon, port)
        assert answer.status_code == 200, answer.text
        assert on_demand(daemon)["wakes"] == wakes
        await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
        assert daemon.pool("digits")["endpoints"] == []
        assert daemon.admin("/readyz")[0] == 200
    shown = daemon.command("status").stdout
    assert "digits on demand" in shown
    assert "the next request starts a model server" in shown
    assert daemon.metrics("tidegate_pool_asleep") == {frozenset({("pool", "digits")}): 1}
    assert daemon.metrics("tidegate_pool_wakes_total") == {frozenset({("pool", "digits")}): 2}


async def test_clients_of_every_kind_find_it_at_zero(start: Start) -> None:
    daemon = start(config())
    port = daemon.port()
    image = np.array(digit_samples()[0]["image"], "f4").reshape(1, 64)

    def ask_grpc() -> int:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            tensor = triton_grpc.InferInput("image", [1, 64], "FP32")
            tensor.set_data_from_numpy(image)
            return int(client.infer("digits", [tensor]).as_numpy("label")[0])

    def ask_http() -> int:
        with triton_http.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            tensor = triton_http.InferInput("image", [1, 64], "FP32")
            tensor.set_data_from_numpy(image)
            return int(client.infer("digits", [tensor]).as_numpy("label")[0])

    found = await asyncio.gather(asyncio.to_thread(ask_grpc), asyncio.to_thread(ask_http), infer(daemon, port))
    expected = digit_samples()[0]["label"]
    assert found[:2] == [expected, expected]
    assert found[2].status_code == 200
    assert on_demand(daemon)["wakes"] == 1


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_two_hundred_first_requests_are_all_answered(start: Start, tmp_path: Path) -> None:
    daemon = start(config())
    (tmp_path / "body.json").write_text(json.dumps(body()))
    done = subprocess.run(
        ["h2load", "-n", "200", "-c", "200", "-m", "1", "-d", tmp_path / "body.json",
         f"http://127.0.0.1:{daemon.port()}{DIGITS_INFER}"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert "200 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
    assert "200 2xx" in done.stdout
    assert on_demand(daemon)["wakes"] == 1
    assert len(replicas(daemon)) == 1


async def test_metadata_wakes_it_and_statistics_and_probes_do_not(start: Start) -> None:
    daemon = start(config(idle_timeout="2s"))
    url = f"http://127.0.0.1:{daemon.port()}"
    async with httpx.AsyncClient(timeout=60) as client, grpc.aio.insecure_channel(url[7:]) as channel:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await client.get(url + path)).status_code == 200
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
        assert (await client.get(f"{url}/v2/models/stats")).status_code == 503
        explained = daemon.command("explain", "digits").stdout
        assert "it has no endpoint: the request would wait while one starts" in explained
        assert on_demand(daemon)["wakes"] == 0
        assert (await client.get(f"{url}/v2/models/digits")).json()["name"] == "digits"
        assert on_demand(daemon)["wakes"] == 1
        assert (await client.post(url + DIGITS_INFER, json=body())).status_code == 200
        before = (await client.get(f"{url}/v2/models/digits/stats")).json()["model_stats"][0]
        assert before["inference_count"] == 1
        # Probes do not keep it awake.
        deadline = asyncio.get_running_loop().time() + 60
        while not asleep(daemon):
            assert asyncio.get_running_loop().time() < deadline, "probes keep it awake"
            assert (await client.get(f"{url}/v2/health/ready")).status_code == 200
            await asyncio.sleep(0.05)
        after = (await client.get(f"{url}/v2/models/digits/stats")).json()["model_stats"][0]
        assert after["inference_count"] == 1
        assert on_demand(daemon)["wakes"] == 1


@pytest.mark.parametrize("path", ["/v2/models/digits/config", "/v2", "/v2/models/digits/ready"])
async def test_descriptions_come_from_a_model_server_that_is_started(start: Start, path: str) -> None:
    daemon = start(config())
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"http://127.0.0.1:{daemon.port()}{path}")).status_code == 200
    assert on_demand(daemon)["wakes"] == 1


async def test_requests_that_need_a_description_first(start: Start) -> None:
    """A raw request takes its tensor's name and shape from the model."""
    daemon = start(config())
    raw = np.array(digit_samples()[0]["image"], "f4").tobytes()
    url = f"http://127.0.0.1:{daemon.port()}{DIGITS_INFER}"
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(url, content=raw, headers={"Inference-Header-Content-Length": "0"})
    assert answer.status_code == 200, answer.text


async def test_answers_of_the_cache_need_no_model_server(start: Start, tmp_path: Path) -> None:
    cache = {"cache": {"size": "1MiB", "ttl": "1h"}}
    daemon = start({**config(idle_timeout="500ms"), **cache})
    port = daemon.port()
    assert (await infer(daemon, port)).status_code == 200
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    cached = await infer(daemon, port)
    assert (cached.status_code, cached.headers["cache-status"].split("; ttl")[0]) == (200, "tidegate; hit")
    assert on_demand(daemon)["wakes"] == 1
    # Other models would give other answers.
    copy = tmp_path / "models"
    shutil.copytree(DIGITS / "models", copy)
    generation = daemon.status()["generation"]
    assert (await asyncio.to_thread(daemon.reload, {**config(models=str(copy)), **cache}))["ok"]
    await asyncio.to_thread(eventually, lambda: daemon.status()["generation"] > generation + 1, "a plan without them")
    fresh = await infer(daemon, port)
    assert (fresh.status_code, fresh.headers["cache-status"]) == (200, "tidegate; fwd=miss; stored")


async def test_a_deadline_that_no_start_can_meet(start: Start) -> None:
    daemon = start(config(idle_timeout="500ms"))
    port = daemon.port()
    assert (await infer(daemon, port)).status_code == 200
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    hopeless = {**body(), "parameters": {"timeout": 30_000}}  # µs
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"http://127.0.0.1:{port}{DIGITS_INFER}", json=hopeless)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert "whose start takes too long" in answer.json()["error"]
    assert on_demand(daemon)["wakes"] == 2  # for when the client comes again


async def test_a_start_that_fails_says_why(start: Start, tmp_path: Path) -> None:
    broken = tmp_path / "models" / "digits" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"no model")
    daemon = start(config(models=str(tmp_path / "models"), backoff={"initial": "30s", "max": "30s"}))
    answers = await asyncio.gather(*(infer(daemon, daemon.port()) for _ in range(10)))
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json() == {"error": FAILED}
        assert 1 <= int(answer.headers["retry-after"]) <= 46
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{daemon.port()}/v2/health/ready")).status_code == 400
    # Clients of gRPC, by the worker and by the master, hear no more: neither paths nor what the process has written.
    request = wire.ModelInferRequest(model_name="digits").SerializeToString()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        for method, message in (("ModelInfer", request), ("ModelMetadata", b"\x0a\x06digits")):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(SERVICE + method)(message, timeout=60)
            assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNAVAILABLE, FAILED)
    # Operators do.
    (replica,) = replicas(daemon)
    assert replica["state"] == "backoff"
    assert str(tmp_path / "models") in replica["last_error"]
    assert "none could be started (exit code 1: " in daemon.command("status").stdout


async def test_a_model_server_without_a_place_refuses_until_one_comes_free(start: Start) -> None:
    cores = len(os.sched_getaffinity(0))
    settings = config(cores=cores)
    settings["pools"]["others"] = digits_pool(min=1, cores=cores)
    daemon = start(settings)
    port, url = daemon.port(), f"127.0.0.1:{daemon.port()}"
    refused = await infer(daemon, port)
    assert refused.status_code == 503
    assert refused.json()["error"] == ("no endpoint of pool digits is available: its model server waits for free cores")
    assert int(refused.headers["retry-after"]) >= 1
    async with grpc.aio.insecure_channel(url) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(SERVICE + "ModelMetadata")(b"\x0a\x06digits", timeout=60)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert f"it waits for {cores} of {cores} cores, of which {cores} are taken" in daemon.command("status").stdout
    # The other pool goes: who comes now finds a model server.
    del settings["pools"]["others"]
    assert (await asyncio.to_thread(daemon.reload, settings))["ok"]
    await asyncio.to_thread(eventually, lambda: replicas(daemon)[0]["state"] != "waiting", "it has a place")
    assert (await infer(daemon, port)).status_code == 200


async def test_a_pool_that_is_never_at_zero_says_why_it_has_no_model_server(start: Start) -> None:
    cores = len(os.sched_getaffinity(0))
    settings = config(cores=cores)
    settings["pools"]["busy"] = digits_pool(min=1, cores=cores)
    daemon = start(settings)  # which waits for the first model servers of pools that are never at zero
    settings["pools"]["digits"] = digits_pool(min=1, cores=cores)
    assert (await asyncio.to_thread(daemon.reload, settings))["ok"]
    port, url = daemon.port(), f"127.0.0.1:{daemon.port()}"
    await asyncio.to_thread(eventually, lambda: [r["state"] for r in replicas(daemon)] == ["waiting"], "it waits")
    told = "no endpoint of pool digits is available: its model server waits for free cores"
    refused = await infer(daemon, port)
    assert (refused.status_code, refused.json()["error"]) == (503, told)
    assert int(refused.headers["retry-after"]) >= 1
    tensor = wire.ModelInferRequest(model_name="digits").SerializeToString()
    async with grpc.aio.insecure_channel(url) as channel:
        for method, request in (("ModelInfer", tensor), ("ModelMetadata", b"\x0a\x06digits"), ("ServerMetadata", b"")):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(SERVICE + method)(request, timeout=60)
            assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNAVAILABLE, told)
            if method == "ModelInfer":
                assert "grpc-retry-pushback-ms" in dict(failed.value.trailing_metadata() or ())
    # The other pool goes: who comes now finds a model server.
    del settings["pools"]["busy"]
    assert (await asyncio.to_thread(daemon.reload, settings))["ok"]
    await asyncio.to_thread(eventually, lambda: replicas(daemon)[0]["state"] == "ready", "it is ready")
    await asyncio.to_thread(eventually, lambda: daemon.pool("digits")["endpoints"], "requests go there")
    assert (await infer(daemon, port)).status_code == 200


async def test_a_pool_that_is_never_at_zero_has_requests_wait_for_its_model_server(
    start: Start, tmp_path: Path
) -> None:
    """At the start of the daemon, and when the model server dies; not for one that hangs."""
    port = free_port()
    settings = config(min=1)
    del settings["pools"]["digits"]["serve"]["idle_timeout"]
    settings["listeners"]["web"]["bind"] = f"127.0.0.1:{port}"
    settings["pools"]["digits"]["health"] = {"type": "oip", "interval": "100ms", "timeout": "100ms"}
    settings["pools"]["digits"]["panic_threshold"] = 0
    daemon = start(settings, ready=False)
    first = digit_request(body()["inputs"][0]["data"])

    async def asked() -> int:
        while True:
            try:
                return (await ask_once(port, first)).status
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)

    assert await asked() == 200
    await asyncio.to_thread(daemon.wait_ready)
    async with load(port, [first]) as running:
        for _ in range(2):
            await running.until(more=400)  # a fifth of as many may be repeated
            os.kill(replicas(daemon)[0]["pid"], signal.SIGKILL)
            await running.until(more=500)
    assert not running.failures
    pid = replicas(daemon)[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(eventually, lambda: daemon.pool("digits")["endpoints"][0]["health"] == "down", "it hangs")
    refused = await infer(daemon, port)
    told = "no endpoint of pool digits is available: its model servers do not pass their checks"
    assert (refused.status_code, refused.json()["error"]) == (503, told)
    os.kill(pid, signal.SIGCONT)
    await asyncio.to_thread(eventually, lambda: daemon.pool("digits")["endpoints"][0]["health"] == "up", "it goes on")
    assert (await infer(daemon, port)).status_code == 200


async def test_a_start_that_is_longer_than_the_idle_time_is_of_use(start: Start) -> None:
    daemon = start(config(idle_timeout="100ms"))
    (request,) = await background(daemon)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await asyncio.to_thread(eventually, lambda: [r["state"] for r in replicas(daemon)] == ["ready"], "it is ready")
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    assert on_demand(daemon)["start_s"] > 0


async def test_a_start_that_fails_is_not_tried_for_ever(start: Start, tmp_path: Path) -> None:
    broken = tmp_path / "models" / "digits" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"no model")
    daemon = start(
        config(models=str(tmp_path / "models"), idle_timeout="1s", backoff={"initial": "100ms", "max": "1s"})
    )
    assert (await infer(daemon, daemon.port())).status_code == 503
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")


async def process(daemon: Daemon) -> int:
    """The process of the only replica, once it has one."""
    found: int = await asyncio.to_thread(eventually, lambda: replicas(daemon)[0]["pid"], "it has a process")
    return found


async def test_the_model_server_that_starts_is_killed(start: Start) -> None:
    daemon = start(config(backoff={"initial": "100ms", "max": "1s"}))
    requests = await background(daemon, 5)
    server = await process(daemon)
    assert replicas(daemon)[0]["state"] == "starting"
    os.kill(server, signal.SIGKILL)
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json() == {"error": FAILED}
    # The next start goes well, and so does who comes then.
    await asyncio.to_thread(eventually, lambda: replicas(daemon)[0]["state"] == "ready", "it starts again")
    assert (await infer(daemon, daemon.port())).status_code == 200


async def test_a_model_server_that_dies_is_waited_for(start: Start) -> None:
    daemon = start(config(backoff={"initial": "100ms", "max": "1s"}))
    port = daemon.port()
    assert (await infer(daemon, port)).status_code == 200
    (replica,) = replicas(daemon)
    os.kill(replica["pid"], signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: replicas(daemon)[0]["pid"] != replica["pid"], "it is seen")
    answers = await asyncio.gather(*(infer(daemon, port) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_worker_that_holds_requests_is_killed(start: Start) -> None:
    daemon = start({**config(), "workers": 2})
    requests = await background(daemon, 12)
    daemon.kill_worker()
    done = await asyncio.gather(*requests, return_exceptions=True)
    answered = [one for one in done if isinstance(one, httpx.Response)]
    assert {answer.status_code for answer in answered} <= {200}
    assert all(isinstance(one, httpx.HTTPError) for one in done if not isinstance(one, httpx.Response))
    port = daemon.port()
    later = await asyncio.gather(*(infer(daemon, port) for _ in range(12)))
    assert {answer.status_code for answer in later} == {200}
    assert waiting(daemon) == 0
    assert len(replicas(daemon)) == 1


async def test_a_worker_that_comes_up_knows_why_nothing_starts(start: Start, tmp_path: Path) -> None:
    broken = tmp_path / "models" / "digits" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"no model")
    daemon = start({**config(models=str(tmp_path / "models"), backoff={"initial": "30s", "max": "30s"}), "workers": 1})
    port = daemon.port()
    assert (await infer(daemon, port)).status_code == 503
    before = daemon.worker_pids()
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> bool:
        return daemon.worker_pids() not in (before, [None]) and daemon.admin("/readyz")[0] == 200

    await asyncio.to_thread(eventually, replaced, "a new worker")
    assert (await infer(daemon, port)).json() == {"error": FAILED}


async def test_the_master_is_killed(start: Start) -> None:
    daemon = start(config())
    requests = await background(daemon, 5)
    server = await process(daemon)
    os.kill(daemon.process.pid, signal.SIGKILL)
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {503}
    assert "the daemon is stopping" in answers[0].json()["error"]
    await asyncio.to_thread(eventually, lambda: not alive(server), "the model server is gone")


async def test_a_daemon_that_stops_refuses_those_who_wait(start: Start) -> None:
    daemon = start(config())
    requests = await background(daemon, 5)
    assert await asyncio.to_thread(daemon.stop) == 0
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {503}


async def test_clients_that_leave_while_they_wait(start: Start) -> None:
    daemon = start(config())
    requests = await background(daemon, 8)
    for request in requests[:6]:
        request.cancel()
    await asyncio.gather(*requests[:6], return_exceptions=True)
    answers = await asyncio.gather(*requests[6:])
    assert {answer.status_code for answer in answers} == {200}
    eventually(lambda: waiting(daemon) == 0 and daemon.in_flight() == 0, "nothing is left")


async def test_a_sequence_keeps_the_model_server(start: Start, tmp_path: Path) -> None:
    settings = config(idle_timeout="500ms")
    settings["pools"]["digits"]["affinity"] = {"sequence": {"idle_timeout": "3s"}}
    daemon = start(settings)
    url = f"http://127.0.0.1:{daemon.port()}{DIGITS_INFER}"
    async with httpx.AsyncClient(timeout=60) as client:
        first = {**body(), "parameters": {"sequence_id": 7, "sequence_start": True}}
        assert (await client.post(url, json=first)).status_code == 200
        await asyncio.sleep(1.5)
        (replica,) = replicas(daemon)
        assert replica["state"] == "ready"
        following = {**body(), "parameters": {"sequence_id": 7, "sequence_end": True}}
        assert (await client.post(url, json=following)).status_code == 200
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero once the sequence is over")


async def test_an_operator_who_drains_the_last_one(start: Start) -> None:
    daemon = start(config())
    port = daemon.port()
    assert (await infer(daemon, port)).status_code == 200
    # The status shows what all workers have.
    (endpoint,) = await asyncio.to_thread(eventually, lambda: daemon.pool("digits")["endpoints"], "its endpoint")
    address = endpoint["address"]
    daemon.command("drain", "digits", address, check=True)
    refused = await infer(daemon, port)
    assert (refused.status_code, "an operator keeps requests away" in refused.json()["error"]) == (503, True)
    daemon.command("enable", "digits", address, check=True)
    assert (await infer(daemon, port)).status_code == 200


async def test_an_operator_who_holds_it_at_a_number(start: Start) -> None:
    daemon = start(config(idle_timeout="500ms"))
    for number in ("1", "2"):
        told = await asyncio.to_thread(daemon.command, "scale", "digits", number, check=True)
        assert told.stdout.startswith("changed: pools.digits.replicas from ")
    states = ["ready", "ready"]
    await asyncio.to_thread(eventually, lambda: [r["state"] for r in replicas(daemon)] == states, "two are started")
    await asyncio.sleep(1)
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    assert [r["state"] for r in replicas(daemon)] == states
    await asyncio.to_thread(daemon.command, "scale", "digits", "automatic", check=True)
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    assert (await infer(daemon, daemon.port())).status_code == 200


async def test_reloads_at_zero_and_while_requests_wait(start: Start, tmp_path: Path) -> None:
    copy = tmp_path / "models"
    shutil.copytree(DIGITS / "models", copy)
    daemon = start(config(idle_timeout="500ms"))
    port = daemon.port()
    # At zero: the next model server has the new settings.
    assert daemon.reload(config(idle_timeout="500ms", models=str(copy)))["ok"]
    assert replicas(daemon) == []
    assert (await infer(daemon, port)).status_code == 200
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    # While requests wait: none of them fails.
    requests = await background(daemon, 5)
    outcome = await asyncio.to_thread(daemon.reload, config(idle_timeout="1h"))
    assert outcome["ok"]
    assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}
    # Awake: at least one runs from now on, and goes on doing so.
    assert (await asyncio.to_thread(daemon.reload, config(min=1, idle_timeout="5m")))["ok"]
    await asyncio.to_thread(eventually, lambda: on_demand(daemon) is None, "it follows")
    assert (await infer(daemon, port)).status_code == 200
    assert (await asyncio.to_thread(daemon.reload, config(idle_timeout="500ms")))["ok"]
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero again")


async def test_endpoints_become_a_pool_on_demand(start: Start, stub: Callable[[], str]) -> None:
    settings = config()
    endpoints = {**settings, "pools": {"digits": {"protocol": "oip", "endpoints": [stub()]}}}
    daemon = start(endpoints)
    port = daemon.port()
    assert (await infer(daemon, port)).status_code == 200
    assert (await asyncio.to_thread(daemon.reload, settings))["ok"]
    assert (await infer(daemon, port)).status_code == 200
    assert on_demand(daemon)["wakes"] == 1


async def test_scaling_goes_on_from_one(start: Start) -> None:
    settings = config(max=2, idle_timeout="2s")
    step = {"window": "0s", "policies": [{"type": "percent", "value": 100, "period": "1s"}]}
    settings["pools"]["digits"]["scaling"] = {
        "metrics": [{"type": "in_flight", "target": 0.01}],
        "interval": "200ms",
        "up": step,
        "down": {**step, "window": "1s"},
    }
    daemon = start(settings)
    port = daemon.port()
    url = f"http://127.0.0.1:{port}{DIGITS_INFER}"

    async def load() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while len([r for r in replicas(daemon) if r["state"] == "ready"]) < 2:
                await asyncio.gather(*(client.post(url, json=body()) for _ in range(4)))

    await asyncio.wait_for(load(), 60)
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    assert daemon.pool("digits")["managed"]["scaling"]["wanted"] == 0
    assert (await infer(daemon, port)).status_code == 200


async def test_what_the_rule_auto_holds_does_not_wake_it(start: Start) -> None:
    """It holds replicas for the load of the last minutes, and a pool is at zero after seconds here."""
    settings = config(max=2, idle_timeout="1s")
    settings["pools"]["digits"]["scaling"] = {}
    daemon = start(settings)
    url = f"http://127.0.0.1:{daemon.port()}{DIGITS_INFER}"
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(20):
            assert (await client.post(url, json=body())).status_code == 200
            await asyncio.sleep(0.1)
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
    assert on_demand(daemon)["wakes"] == 1
    await asyncio.sleep(2)
    assert (on_demand(daemon)["wakes"], replicas(daemon)) == (1, [])
    assert "at zero without a request" in daemon.command("scaling", "explain", "digits").stdout


def test_a_stream_of_grpc_waits(start: Start) -> None:
    daemon = start(config())
    request = wire.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="FP32", shape=[1, 64])
    tensor.contents.fp32_contents.extend(digit_samples()[0]["image"])
    with grpc.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")
        (answer,) = call(iter([request.SerializeToString()]), timeout=60)
    assert not wire.ModelStreamInferResponse.FromString(answer).error_message


async def test_a_server_of_another_kind(start: Start, tmp_path: Path) -> None:
    """Over HTTP, which knows no health calls: each request wakes it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.txt").write_text("hello")
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "{host}", "--directory", str(tmp_path / "site")]
    pool = {"protocol": "http", "serve": {"command": command, "ready": "/", "min": 0, "idle_timeout": "1s"}}
    daemon = start({"listeners": {"web": http_listener(route("/", "digits"))}, "pools": {"digits": pool}})
    port = daemon.port()
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(2):
            answers = await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/a.txt") for _ in range(4)))
            assert {(answer.status_code, answer.text) for answer in answers} == {(200, "hello")}
            await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")


async def test_a_server_that_stands_by_answers_at_zero(start: Start) -> None:
    daemon = start(config(standby=1, idle_timeout="500ms"))
    await asyncio.to_thread(eventually, lambda: [r["state"] for r in replicas(daemon)] == ["standby"], "one stands by")
    (standby,) = replicas(daemon)
    assert (await infer(daemon, daemon.port())).status_code == 200
    assert standby["pid"] in [r["pid"] for r in replicas(daemon) if r["state"] == "ready"]
    await asyncio.to_thread(eventually, lambda: on_demand(daemon)["asleep"], "it goes to zero")
    await asyncio.to_thread(eventually, lambda: [r["state"] for r in replicas(daemon)] == ["standby"], "one stands by")


async def test_a_schedule_keeps_model_servers_without_requests(start: Start) -> None:
    settings = config(max=2, idle_timeout="500ms")
    settings["pools"]["digits"]["scaling"] = {
        "interval": "200ms",
        "schedules": [{"from": "2020-01-01", "until": "2120-01-01", "min": 1}],
    }
    daemon = start(settings)
    await asyncio.to_thread(eventually, lambda: [r["state"] for r in replicas(daemon)] == ["ready"], "it is started")
    await asyncio.sleep(2)
    assert not on_demand(daemon)["asleep"]
    settings["pools"]["digits"]["scaling"]["schedules"][0]["until"] = "2021-01-01"
    assert (await asyncio.to_thread(daemon.reload, settings))["ok"]
    await asyncio.to_thread(eventually, lambda: asleep(daemon), "it goes to zero")
