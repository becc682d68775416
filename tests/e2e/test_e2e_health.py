"""Health in a real daemon: models that are ready on some servers only, and the log of transitions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from daemon import DIGITS, ROOT, Daemon, environment, eventually, http_listener, route
from readiness import Inference
from traffic import ask_once, load, request

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]


class ModelServer(Inference):
    """Says which of its models are ready, and infers; `served` counts by model. Unlike its word, it never refuses."""

    def __init__(self, models: dict[str, str]) -> None:
        super().__init__(models)
        self.served: Counter[str] = Counter()
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.served[request.model_name] += 1
        answer = wire.ModelInferResponse(model_name=request.model_name, model_version="1")
        answer.outputs.add(name="x", datatype="FP32", shape=[1])
        answer.raw_output_contents.append(b"\0" * 4)
        return answer

    async def start(self) -> str:
        infer = grpc.unary_unary_rpc_method_handler(
            self.ModelInfer, wire.ModelInferRequest.FromString, wire.ModelInferResponse.SerializeToString
        )
        service = "inference.GRPCInferenceService"
        self.server.add_generic_rpc_handlers(
            (self.handlers(), grpc.method_handlers_generic_handler(service, {"ModelInfer": infer}))
        )
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"


@pytest.fixture
async def two() -> AsyncIterator[tuple[ModelServer, ModelServer]]:
    servers = ModelServer({"a": "READY", "b": "READY"}), ModelServer({"a": "READY", "b": "READY"})
    yield servers
    for server in servers:
        await server.server.stop(None)


def infer(port: int, model: str, shape: list[int] | None = None) -> tuple[int, Any]:
    shape = shape or [1]
    data = [1] * (shape[0] * (shape[1] if len(shape) > 1 else 1))
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": shape, "data": data}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/{model}/infer", data=json.dumps(body).encode(), method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def config(addresses: list[str], **health: Any) -> dict[str, Any]:
    pool = {"protocol": "oip", "endpoints": addresses, "health": {"interval": "50ms", **health}}
    return {"workers": 2, "listeners": {"web": http_listener(route("/v2", "models"))}, "pools": {"models": pool}}


def ready_models(daemon: Daemon) -> list[dict[str, bool] | None]:
    return [endpoint["models"] for endpoint in daemon.pool("models")["endpoints"]]


@pytest.mark.parametrize("models", ["index", ["a", "b"]])
async def test_a_model_that_is_unloaded_on_one_server_gets_no_request_there(
    start: Start, two: tuple[ModelServer, ModelServer], models: Any
) -> None:
    first, second = two
    addresses = [await first.start(), await second.start()]

    def run() -> None:
        daemon = start(config(addresses, type="oip", models=models))
        port = daemon.port()
        eventually(lambda: ready_models(daemon) == [{"a": True, "b": True}] * 2, "the models")
        first.models["b"] = "UNAVAILABLE"
        eventually(lambda: ready_models(daemon)[0] == {"a": True, "b": False}, "the unloading")
        # The plan that names the models is in force everywhere as soon as it is the daemon's.
        eventually(lambda: daemon.status()["generation"] >= (2 if models == "index" else 1), "the plan")
        first.served.clear()
        second.served.clear()
        for model in ("a", "b") * 20:
            assert infer(port, model)[0] == 200
        assert (first.served["b"], second.served["b"]) == (0, 20)
        assert first.served["a"] > 0
        second.models["b"] = "LOADING"
        eventually(lambda: ready_models(daemon)[1] == {"a": True, "b": False}, "the second unloading")
        code, answer = infer(port, "b")
        assert (code, answer) == (503, {"error": "no endpoint of pool models has model b ready"})
        assert infer(port, "a")[0] == 200
        first.models["b"] = "READY"
        eventually(lambda: infer(port, "b")[0] == 200, "its return")
        assert second.served["b"] == 20
        changes = json.loads(daemon.admin("/api/v1/transitions?pool=models&last=50")[1])["transitions"]
        assert [(c["endpoint"], c["what"], c["from"], c["to"]) for c in reversed(changes)] == [
            (addresses[0], "model b", "ready", "unready"),
            (addresses[1], "model b", "ready", "unready"),
            (addresses[0], "model b", "unready", "ready"),
        ]

    await asyncio.to_thread(run)


async def test_servers_of_other_makers_with_models_index(start: Start, two: tuple[ModelServer, ModelServer]) -> None:
    """MLServer writes the states of its index otherwise; KServe's server has no index."""
    mlserver, kserve = two
    mlserver.models = {"a": "State.READY", "b": "State.UNAVAILABLE"}
    kserve.index = False
    addresses = [await mlserver.start(), await kserve.start()]

    def run() -> None:
        daemon = start(config(addresses, type="oip", models="index", initial="down"))
        port = daemon.port()
        eventually(lambda: all(e["health"] == "up" for e in daemon.pool("models")["endpoints"]), "both")
        eventually(lambda: ready_models(daemon) == [{"a": True, "b": False}, {}], "the models")
        eventually(lambda: daemon.status()["generation"] >= 2, "the plan that names them")
        for model in ("a", "b") * 10:
            assert infer(port, model)[0] == 200
        assert (mlserver.served["b"], kserve.served["b"]) == (0, 10)
        assert mlserver.served["a"] > 0
        checks = [e["check"]["last"]["reason"] for e in daemon.pool("models")["endpoints"]]
        assert checks == ["passed", "passed; the server has no index of its models"]
        assert daemon.log.count("has no index of its models (RepositoryIndex)") == 1
        kserve.index = True
        eventually(lambda: ready_models(daemon)[1] == {"a": True, "b": True}, "its index")

    await asyncio.to_thread(run)


@contextlib.contextmanager
def backends(folder: Path, *models: tuple[str, ...]) -> Iterator[list[tuple[str, subprocess.Popen[str]]]]:
    """Model servers as they are shipped, each with these copies of the digits model: their addresses and processes."""
    made: list[subprocess.Popen[str]] = []
    try:
        for i, names in enumerate(models):
            for name in names:
                shutil.copytree(DIGITS / "models" / "digits", folder / str(i) / name)
            serve = [sys.executable, "-m", "backend", "serve", "--models", str(folder / str(i)), "--threads", "1"]
            made.append(
                subprocess.Popen(
                    [*serve, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
                )
            )
        found = []
        for process in made:
            assert process.stdout is not None
            found.append((process.stdout.readline().strip().removeprefix("listening on "), process))
        yield found
    finally:
        for process in made:
            process.kill()
            process.communicate(timeout=20)


def test_real_model_servers_with_different_models(start: Start, tmp_path: Path) -> None:
    shape = [1, 64]
    with backends(tmp_path, ("digits", "numbers"), ("digits",)) as ((both, first), (one, _)):
        daemon = start(config([both, one], type="oip", models="index", initial="down"))
        port = daemon.port()
        eventually(
            lambda: ready_models(daemon) == [{"digits": True, "numbers": True}, {"digits": True, "numbers": False}],
            "the models",
            90,
        )
        eventually(lambda: daemon.status()["generation"] >= 2, "the plan that names them")
        eventually(lambda: all(e["health"] == "up" for e in daemon.pool("models")["endpoints"]), "both")
        answers = [infer(port, "numbers", shape) for _ in range(12)]
        assert [code for code, _ in answers] == [200] * 12, answers
        eventually(lambda: infer(port, "digits", shape)[0] == 200, "digits")
        for _ in range(24):
            assert infer(port, "digits", shape)[0] == 200
        eventually(lambda: all(daemon.requests_by_endpoint("models").get(a) for a in (both, one)), "both have digits")
        # What no server names is for a server to say.
        code, answer = infer(port, "nothing", shape)
        assert code == 404
        assert "nothing" in answer["error"]
        first.kill()
        missing = (503, {"error": "no endpoint of pool models has model numbers ready"})
        eventually(lambda: infer(port, "numbers", shape) == missing, "the loss of its only server")
        assert infer(port, "digits", shape)[0] == 200


async def test_transitions_by_command_and_api(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("ready")

    def run() -> None:
        health = {
            "type": "http", "interval": "50ms", "initial": "down", "rise": 1, "fall": 2,
            "body": {"contains": "ready"},
        }  # fmt: skip
        daemon = start(
            {
                "listeners": {"web": http_listener(route("/", "app"))},
                "pools": {"app": {"protocol": "http", "endpoints": [one.address], "health": health}},
            }
        )
        row = eventually(lambda: r if (r := daemon.pool("app")["endpoints"][0])["health"] == "up" else None, "up")
        assert row["models"] is None
        one.name = "broken"
        eventually(lambda: daemon.pool("app")["endpoints"][0]["health"] == "down", "down")
        daemon.command("drain", "app", one.address, check=True)
        code, body = daemon.admin("/api/v1/transitions")
        found = json.loads(body)["transitions"]
        assert code == 200
        assert [(c["what"], c["from"], c["to"]) for c in found] == [
            ("admin", "enabled", "drain"),
            ("health", "up", "down"),
            ("health", "down", "up"),
        ]
        assert found[1]["reason"] == "status 200, but 'ready' was not found in the body"
        assert found[0]["reason"] == "an operator"
        assert {c["pool"] for c in found} == {"app"}
        assert daemon.admin("/api/v1/transitions?last=0")[0] == 400
        code, body = daemon.admin("/api/v1/transitions?pool=other")
        assert (code, json.loads(body)) == (404, {"error": "there is no pool 'other'"})
        lines = daemon.command("transitions", "app", "--last", "2", check=True).stdout.splitlines()
        assert len(lines) == 3
        assert "down" in lines[1]
        assert "an operator" in lines[2]

    await asyncio.to_thread(run)


async def test_the_log_has_no_lines_of_grpc_about_checks_that_fail(
    start: Start, two: tuple[ModelServer, ModelServer]
) -> None:
    """There was one with every check of an endpoint that speaks no TLS."""
    address = await two[0].start()
    pool = {
        "protocol": "grpc",
        "endpoints": [address],
        "tls": {"server_name": "models.test"},
        "health": {"type": "grpc", "interval": "50ms"},
    }

    def run() -> None:
        daemon = start({"listeners": {"web": http_listener(route("/", "models"))}, "pools": {"models": pool}})

        def check() -> dict[str, Any]:
            found: dict[str, Any] = daemon.pool("models")["endpoints"][0]["check"]
            return found

        eventually(lambda: check()["failures"] > 5, "checks that fail")
        assert check()["last"]["reason"].startswith("TLS:")
        assert [line for line in daemon.log.splitlines() if not line[:4].isdigit()] == []

    await asyncio.to_thread(run)


def test_checks_that_a_reload_brings_find_an_endpoint_that_is_gone(start: Start) -> None:
    """With `initial: down` it served, taken for up, while its checks took it for down and had nothing to say."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        pool = {"protocol": "http", "endpoints": [f"127.0.0.1:{nobody.getsockname()[1]}"]}
        listeners = {"web": http_listener(route("/", "app"))}
        daemon = start({"listeners": listeners, "pools": {"app": pool}})
        health = {"type": "tcp", "interval": "50ms", "initial": "down"}
        assert daemon.reload({"listeners": listeners, "pools": {"app": {**pool, "health": health}}})["ok"]
        found = eventually(lambda: e if (e := daemon.pool("app")["endpoints"][0])["health"] == "down" else None, "down")
        assert found["check"]["state"] == "down"
        changes = json.loads(daemon.admin("/api/v1/transitions")[1])["transitions"]
        assert [(c["what"], c["from"], c["to"]) for c in changes] == [("health", "up", "down")]


class Starting:
    """An HTTP server that answers 503 to checks and requests until it is `ready`; counts requests."""

    def __init__(self) -> None:
        self.ready = False
        self.checks = True  # answered, or not in time
        self.refused = self.served = 0

    async def start(self) -> Starting:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/health" not in head:
                    self.served += self.ready
                    self.refused += not self.ready
                elif not self.checks:
                    await asyncio.sleep(60)
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % (200 if self.ready else 503))
        writer.close()


CHECK = {"type": "http", "path": "/health", "interval": "30s", "down_interval": "50ms"}


def pool_of(servers: list[Starting], **health: Any) -> dict[str, Any]:
    pool = {"protocol": "http", "endpoints": [s.address for s in servers], "health": {**CHECK, **health}}
    return {"listeners": {"web": http_listener(route("/", "app"))}, "pools": {"app": pool}}


async def test_endpoints_that_are_not_ready_get_nothing_from_the_first_request_on(start: Start) -> None:
    """At the start, and when a reload adds them; with checks so rare that three would take a minute and a half."""
    servers = [await Starting().start() for _ in range(5)]
    servers[0].ready = True
    daemon = await asyncio.to_thread(start, pool_of(servers[:4]))
    for _ in range(100):
        assert (await ask_once(daemon.port(), request("GET", "/x"))).status == 200
    assert [s.refused for s in servers[:4]] == [0] * 4
    assert (await asyncio.to_thread(daemon.reload, pool_of(servers)))["ok"]
    for _ in range(100):
        assert (await ask_once(daemon.port(), request("GET", "/x"))).status == 200
    assert servers[4].refused == 0
    for each in servers:
        each.ready = True

    def up() -> bool:
        return all(row["health"] == "up" for row in daemon.pool("app")["endpoints"])

    await asyncio.to_thread(eventually, up, "one good check is enough for each")
    for each in servers:
        each.server.close()


async def test_an_endpoint_that_does_not_answer_its_first_check_delays_the_start_a_little(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        good = await Starting().start()
        good.ready = True
        config = pool_of([good], timeout="20s")
        config["pools"]["app"]["endpoints"].append(f"127.0.0.1:{silent.getsockname()[1]}")
        daemon = await asyncio.to_thread(start, config)
        rows = daemon.pool("app")["endpoints"]
        assert [row["health"] for row in rows] == ["up", "unchecked"]
        good.server.close()


async def test_checks_that_are_not_answered_in_time_take_out_nobody_who_serves(start: Start) -> None:
    """A server that has no thread left for its checks; then one that answers requests no more either."""
    servers = [await Starting().start() for _ in range(2)]
    for each in servers:
        each.ready = True
    config = pool_of(servers, interval="50ms", timeout="100ms", fall=2)
    daemon = await asyncio.to_thread(start, config)
    port = daemon.port()

    def overruled() -> list[int]:
        return [row["check"]["overruled"] for row in daemon.pool("app")["endpoints"]]

    async with load(port, [request("GET", "/x")], clients=4) as running:
        await running.until(100)
        for each in servers:
            each.checks = False
        await asyncio.to_thread(eventually, lambda: min(overruled()) > 10, "checks that do not count")
        assert [row["health"] for row in daemon.pool("app")["endpoints"]] == ["up", "up"]
        assert not running.failures
    counted = daemon.metrics("tidegate_endpoint_checks_overruled_total")
    assert all(n > 10 for n in counted.values())
    assert "stays up: its check had no answer within 0.1s, but " in daemon.log
    # Nobody asks any more: what does not answer its checks is down.
    await asyncio.to_thread(
        eventually, lambda: {row["health"] for row in daemon.pool("app")["endpoints"]} == {"down"}, "down"
    )
    assert daemon.pool("app")["panic"], "and only perhaps"
    assert (await ask_once(port, request("GET", "/x"))).status == 200
    for each in servers:
        each.server.close()
