"""Clients of four kinds ask the digits model the same: one answer for all of them, from one run of the model."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from daemon import Daemon, digits_pool, eventually, http_listener, route
from test_e2e_model_servers import ready_replicas

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
IMAGE = np.linspace(0, 16, 64, dtype="f4").reshape(1, 64)
OUTPUT = "probabilities"


def by_http(port: int, binary: bool) -> np.ndarray[Any, Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{port}") as client:
        image = triton_http.InferInput("image", [1, 64], "FP32")
        image.set_data_from_numpy(IMAGE, binary_data=binary)
        outputs = [triton_http.InferRequestedOutput(OUTPUT, binary_data=binary)]
        answer = client.infer("digits", [image], outputs=outputs, request_id="h").as_numpy(OUTPUT)
        assert answer is not None
        return answer


def by_grpc(port: int) -> np.ndarray[Any, Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        image = triton_grpc.InferInput("image", [1, 64], "FP32")
        image.set_data_from_numpy(IMAGE)
        answer = client.infer("digits", [image], outputs=[triton_grpc.InferRequestedOutput(OUTPUT)], request_id="g")
        assert answer.get_response().id == "g"
        found = answer.as_numpy(OUTPUT)
        assert found is not None
        return found


def by_typed_contents(port: int) -> np.ndarray[Any, Any]:
    request = wire.ModelInferRequest(model_name="digits", id="t")
    request.inputs.add(name="image", datatype="FP32", shape=[1, 64]).contents.fp32_contents.extend(IMAGE.ravel())
    request.outputs.add(name=OUTPUT)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD, wire.ModelInferRequest.SerializeToString, wire.ModelInferResponse.FromString)
        answer = call(request, timeout=30)
    assert answer.id == "t"
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(1, -1)


def results(daemon: Daemon) -> dict[str, int]:
    """Of all routes."""
    found: Counter[str] = Counter()
    for labels, n in daemon.metrics("tidegate_cache_requests_total").items():
        found[dict(labels)["result"]] += int(n)
    return dict(found)


def test_one_run_of_the_model_for_all_clients(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    daemon = start({
        "workers": 2,
        "cache": {"size": "16MiB", "ttl": "5m"},
        "log": {"access": str(log)},
        "listeners": {"web": http_listener(route("/v2", "digits"), route("/inference.GRPC", "digits", name="calls"))},
        "pools": {"digits": digits_pool(min=1)},
    })  # fmt: skip
    port = daemon.port()
    eventually(lambda: len(ready_replicas(daemon)) == 1, "the model server")
    first = by_grpc(port)
    answers = [by_grpc(port), by_typed_contents(port), by_http(port, True), by_http(port, False), by_grpc(port)]
    for answer in answers:
        np.testing.assert_array_equal(answer, first)
    found = {kind: n for kind, n in results(daemon).items() if n}
    assert found == {"hit": 5, "miss": 1, "stored": 1}
    eventually(lambda: len(log.read_text().splitlines()) >= 6, "the records of the log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    calls = [line for line in lines if line["target"] == METHOD]  # of two workers, in any order
    calls.sort(key=lambda line: str(line["cache"]), reverse=True)
    assert [(line["cache"], line["model"], line["grpc_status"]) for line in calls] == [
        ("miss", "digits", 0), *[("hit", "digits", 0)] * 3
    ]  # fmt: skip
    assert all(line["endpoint"] == "" for line in calls[1:])


def test_tenants_and_clients_that_want_it_anew(start: Start, stub: Callable[[], str]) -> None:
    """The same question of two tenants, over REST and gRPC, on two workers."""
    cached = {"vary": ["accept-language"], "tenant": {"header": "X-Tenant"}, "honor_cache_control": True}
    daemon = start({
        "workers": 2,
        "cache": {},
        "listeners": {"web": http_listener({"pool": "models", "cache": cached})},
        "pools": {"models": {"protocol": "oip", "endpoints": [stub()]}},
    })  # fmt: skip
    port = daemon.port()
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, -2.0]}]}
    request = wire.ModelInferRequest(model_name="m", raw_input_contents=[np.array([1.5, -2.0], "<f4").tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[2])

    def rest(**fields: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request("POST", "/v2/models/m/infer", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()
        return str(answer.headers["Cache-Status"]).removeprefix("tidegate; ").removesuffix("; stored").split("; ttl")[0]

    def call(**fields: str) -> str:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            asks = channel.unary_unary(METHOD, wire.ModelInferRequest.SerializeToString)
            metadata = [(name.replace("_", "-").lower(), value) for name, value in fields.items()]
            _, told = asks.with_call(request, timeout=30, metadata=metadata)
            status = str(dict(told.initial_metadata())["cache-status"])
        return status.removeprefix("tidegate; ").split("; ttl")[0]

    assert [rest(X_Tenant="a"), call(X_Tenant="a"), rest(X_Tenant="a")] == ["fwd=miss", "hit", "hit"]
    assert [call(X_Tenant="b"), rest(X_Tenant="b"), call(X_Tenant="b")] == ["fwd=miss", "hit", "hit"]
    assert [call(), rest()] == ["fwd=bypass"] * 2
    assert [call(X_Tenant="a", Accept_Language="de"), rest(X_Tenant="a", Accept_Language="de")] == ["fwd=miss", "hit"]
    assert [ask(X_Tenant="a", Cache_Control="no-cache") for ask in (rest, call)] == ["fwd=request"] * 2
    assert [ask(X_Tenant="a", Cache_Control="no-store") for ask in (rest, call)] == ["fwd=bypass"] * 2
    assert [ask(X_Tenant="a") for ask in (rest, call)] == ["hit"] * 2
