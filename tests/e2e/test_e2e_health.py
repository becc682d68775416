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
