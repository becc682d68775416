"""Models loaded and unloaded through the daemon: at all model servers of a pool, and at those that join later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from daemon import DIGITS, Daemon, digits_pool, environment, eventually, http_listener, route
from ports import free_port
from test_e2e_model_servers import ready_replicas

Start = Callable[..., Daemon]
EXPLICIT = ["--model-control-mode", "explicit", "--load-model", "digits"]
ERRORS = (triton_http.InferenceServerException, triton_grpc.InferenceServerException)


def config(models: Path, **serve: Any) -> dict[str, Any]:
    pool = digits_pool(models=str(models), args=EXPLICIT, **serve)
    routes = [
        route("/v2", "digits"),
        {"name": "calls", "match": {"grpc": {"service": "inference.GRPCInferenceService"}}, "pool": "digits"},
    ]
    operators = [{**each, "name": f"operators-{each['name']}", "server_calls": ["models"]} for each in routes]
    listeners = {"web": http_listener(*routes), "operators": http_listener(*operators)}
    return {"workers": 2, "listeners": listeners, "cache": {}, "pools": {"digits": pool}}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of the model digits, and of a copy that no server loads by itself."""
    folder = tmp_path / "models"
    shutil.copytree(DIGITS / "models" / "digits", folder / "digits")
    shutil.copytree(DIGITS / "models" / "digits", folder / "more")
    return folder


def http_client(daemon: Daemon, listener: str = "web") -> triton_http.InferenceServerClient:
    return triton_http.InferenceServerClient(f"127.0.0.1:{daemon.port(listener)}")


def infer(daemon: Daemon, model: str = "more") -> None:
    image = triton_http.InferInput("image", [1, 64], "FP32")
    image.set_data_from_numpy(np.random.default_rng().random((1, 64), "f4"))
    http_client(daemon).infer(model, [image])


def ready_at(daemon: Daemon) -> dict[str, bool]:
    """address -> whether that model server has the copy."""
    found = {}
    for address in ready_replicas(daemon).values():
        client = triton_grpc.InferenceServerClient(address)
        found[address] = bool(client.is_model_ready("more"))
        client.close()
    return found


def test_models_are_loaded_everywhere_and_wherever_a_server_joins(start: Start, models: Path) -> None:
    daemon = start(config(models))
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    with pytest.raises(ERRORS):
        infer(daemon)
    http_client(daemon, "operators").load_model("more")
    assert list(ready_at(daemon).values()) == [True, True]
    for _ in range(4):
        infer(daemon)
    # One is killed: its successor is told before it gets a request.
    killed = min(ready_replicas(daemon))
    os.kill(killed, signal.SIGKILL)

    def replaced() -> bool:
        infer(daemon)
        return len(now := ready_replicas(daemon)) == 2 and killed not in now and all(ready_at(daemon).values())

    eventually(replaced, "the next model server")
    # So are those that scaling and a reload bring; the state outlives the workers.
    workers = daemon.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(now := daemon.worker_pids()) == 2 and not {*now} & {*workers}, "the next workers")
    assert daemon.reload(config(models, min=3))["ok"]

    def scaled() -> bool:
        infer(daemon)
        return len(ready_replicas(daemon)) == 3 and all(ready_at(daemon).values())

    eventually(scaled, "the third model server")
    eventually(lambda: [e["health"] for e in daemon.pool("digits")["endpoints"]] == ["up"] * 3, "all are up")
    for _ in range(20):
        infer(daemon)
    operators = triton_grpc.InferenceServerClient(f"127.0.0.1:{daemon.port('operators')}")
    operators.unload_model("more")
    assert not any(ready_at(daemon).values())
    with pytest.raises(ERRORS):
        infer(daemon)
    infer(daemon, "digits")
    operators.load_model("more")
    infer(daemon)
    operators.close()


def serve(models: Path, port: int) -> subprocess.Popen[bytes]:
    listen = ["--listen", f"127.0.0.1:{port}", "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "backend", "serve", "--models", str(models), *listen, *EXPLICIT],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def test_a_server_that_was_restarted_is_told_before_it_gets_requests(start: Start, models: Path) -> None:
    ports = [free_port(), free_port()]
    servers = [serve(models, port) for port in ports]
    health = {"type": "oip", "interval": "100ms", "timeout": "2s", "initial": "down"}
    made = config(models)
    made["pools"] = {
        "digits": {
            "protocol": "oip",
            "endpoints": [f"127.0.0.1:{p}" for p in ports],
            "health": health,
            "policy": "random",
        }
    }
    try:
        daemon = start(made)

        def up() -> list[str]:
            return [each["health"] for each in daemon.pool("digits")["endpoints"]]

        eventually(lambda: up() == ["up", "up"], "both model servers")
        http_client(daemon, "operators").load_model("more")
        for _ in range(3):
            servers[0].kill()
            servers[0].wait()
            eventually(lambda: up() == ["down", "up"], "the end is seen")
            servers[0] = serve(models, ports[0])

            def back() -> bool:
                infer(daemon)
                return up() == ["up", "up"]

            eventually(back, "it is up again")
            for _ in range(20):
                infer(daemon)
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_answers_of_a_model_that_was_replaced_are_not_kept(start: Start, models: Path) -> None:
    daemon = start(config(models, min=1))
    eventually(lambda: len(ready_replicas(daemon)) == 1, "the model server")
    operators = http_client(daemon, "operators")
    operators.load_model("more")
    image = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}

    def cached() -> str:
        body = json.dumps({"inputs": [image]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port()}/v2/models/more/infer", body) as answer:
            return str(answer.headers["Cache-Status"])

    assert "hit" not in cached()
    eventually(lambda: "hit" in cached(), "an answer from the cache")
    operators.load_model("more")
    assert "hit" not in cached()


def test_trace_settings_hold_everywhere_and_wherever_a_server_joins(start: Start, models: Path) -> None:
    made = config(models)
    made["pools"]["digits"]["serve"]["args"] = [*EXPLICIT, "--trace-endpoint", "http://127.0.0.1:1"]
    for each in made["listeners"]["operators"]["routes"]:
        each["server_calls"] = ["models", "settings"]
    daemon = start(made)
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    over_rest = http_client(daemon, "operators")
    over_grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{daemon.port('operators')}")
    assert "trace" in over_rest.get_server_metadata()["extensions"]
    assert "trace" not in http_client(daemon).get_server_metadata()["extensions"]
    over_rest.update_trace_settings(settings={"trace_rate": "500", "trace_level": ["OFF"]})
    over_grpc.load_model("more")
    over_grpc.update_trace_settings("more", settings={"trace_rate": "7"})
    over_grpc.load_model("more")
    with pytest.raises(ERRORS, match="Unable to parse 'trace_rate', got: x"):
        over_rest.update_trace_settings(settings={"trace_rate": "x"})

    def rates() -> list[tuple[str, str]]:
        """Of the server, and of the model that was loaded, at each model server."""
        found = []
        for address in ready_replicas(daemon).values():
            with triton_grpc.InferenceServerClient(address) as client:
                settings = [client.get_trace_settings(model).settings for model in (None, "more")]
            found.append(tuple(each["trace_rate"].value[0] for each in settings))
        return found

    assert rates() == [("500", "7")] * 2
    os.kill(killed := min(ready_replicas(daemon)), signal.SIGKILL)
    eventually(lambda: len(now := ready_replicas(daemon)) == 2 and killed not in now, "the next model server")
    eventually(lambda: [e["health"] for e in daemon.pool("digits")["endpoints"]] == ["up"] * 2, "it is up")
    assert rates() == [("500", "7")] * 2
    shown = over_rest.get_trace_settings("more")
    assert (shown["trace_level"], shown["trace_rate"]) == (["OFF"], "7")
    over_rest.update_trace_settings(settings={"trace_rate": None, "trace_level": None})
    assert rates() == [("0", "7")] * 2
    over_grpc.close()


def test_a_model_that_cannot_be_loaded_is_told_of(start: Start, models: Path) -> None:
    daemon = start(config(models))
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    for client in (
        http_client(daemon, "operators"),
        triton_grpc.InferenceServerClient(f"127.0.0.1:{daemon.port('operators')}"),
    ):
        with pytest.raises(ERRORS, match="broken"):
            client.load_model("broken")
        client.close()
    infer(daemon, "digits")


def test_clients_may_not_unless_their_route_says_so(start: Start, models: Path) -> None:
    daemon = start(config(models, min=1))
    eventually(lambda: len(ready_replicas(daemon)) == 1, "the model server")
    for client in (http_client(daemon), triton_grpc.InferenceServerClient(f"127.0.0.1:{daemon.port('web')}")):
        for call in (lambda c: c.load_model("more"), lambda c: c.unload_model("digits")):
            with pytest.raises(ERRORS, match="server_calls"):
                call(client)
        client.close()
    with pytest.raises(ERRORS, match="server_calls"):
        http_client(daemon, "operators").get_log_settings()
    infer(daemon, "digits")


def test_a_model_takes_requests_from_its_load_on(start: Start, models: Path) -> None:
    """No check has to come first, whose index tells which models are ready."""
    made = config(models, min=1)
    made["pools"]["digits"]["health"] = {"type": "oip", "models": "index", "interval": "5s"}
    daemon = start(made)
    eventually(lambda: daemon.pool("digits")["endpoints"][0].get("models"), "the first index")
    operators = http_client(daemon, "operators")
    for _ in range(3):
        operators.load_model("more")
        infer(daemon)
        operators.unload_model("more")
        with pytest.raises(ERRORS, match="no endpoint of pool digits has model more ready"):
            infer(daemon)
