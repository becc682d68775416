"""Management routes: which call, and how its result is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lb.failure import ALL, BY_NAME
from lb.inference.management import Call, Reply, route
from lb.wire import grpc_service_pb2 as wire
from lb.wire.model_config_pb2 import ModelConfig


def call(method: str, path: str, body: bytes = b"") -> Call:
    found = route(method, path, body)
    assert isinstance(found, Call)
    return found


def shown(path: str, answer: Any, method: str = "GET", body: bytes = b"") -> Any:
    reply = call(method, path, body).render(0, "", answer.SerializeToString())
    assert reply.status == 200
    assert reply.content_type == "application/json"
    return json.loads(reply.body)


@pytest.mark.parametrize(
    ("method", "path", "body", "name", "request_"),
    [
        ("GET", "/v2", b"", "ServerMetadata", wire.ServerMetadataRequest()),
        ("GET", "/v2/", b"", "ServerMetadata", wire.ServerMetadataRequest()),
        ("HEAD", "/v2/health/live", b"", "ServerLive", wire.ServerLiveRequest()),
        ("GET", "/v2/health/ready?x=1", b"", "ServerReady", wire.ServerReadyRequest()),
        ("GET", "/v2/models/m", b"", "ModelMetadata", wire.ModelMetadataRequest(name="m")),
        ("GET", "/v2/models/m/versions/2", b"", "ModelMetadata", wire.ModelMetadataRequest(name="m", version="2")),
        ("GET", "/v2/models/a%20%C3%A9/ready", b"", "ModelReady", wire.ModelReadyRequest(name="a é")),
        ("GET", "/v2/models/m/versions/2/ready", b"", "ModelReady", wire.ModelReadyRequest(name="m", version="2")),
        ("GET", "/v2/models/m/config", b"", "ModelConfig", wire.ModelConfigRequest(name="m")),
        ("GET", "/v2/models/stats", b"", "ModelStatistics", wire.ModelStatisticsRequest()),
        (
            "GET",
            "/v2/models/m/versions/1/stats",
            b"",
            "ModelStatistics",
            wire.ModelStatisticsRequest(name="m", version="1"),
        ),
        ("POST", "/v2/repository/index", b"", "RepositoryIndex", wire.RepositoryIndexRequest()),
        (
            "POST",
            "/v2/repository/r/index",
            b'{"ready":true}',
            "RepositoryIndex",
            wire.RepositoryIndexRequest(repository_name="r", ready=True),
        ),
    ],
)
def test_calls(method: str, path: str, body: bytes, name: str, request_: Any) -> None:
    found = call(method, path, body)
    assert found.grpc_path == b"/inference.GRPCInferenceService/" + name.encode()
    assert type(request_).FromString(found.request) == request_


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "allow"),
    [
        ("GET", "/", 404, b'{"error":"Not Found"}', ""),
        ("GET", "/v3", 404, b'{"error":"Not Found"}', ""),
        ("GET", "/v2/models", 404, b'{"error":"Not Found"}', ""),
        ("GET", "/v2/models/m/versions/x", 404, b'{"error":"Not Found"}', ""),
        ("GET", "/v2/models/m/ready/", 404, b'{"error":"Not Found"}', ""),
        ("GET", "/v2/loggings", 404, b'{"error":"Not Found"}', ""),
        ("GET", "/v2/systemsharedmemoryx", 404, b'{"error":"Not Found"}', ""),
        ("POST", "/v2", 405, b'{"error":"Method Not Allowed"}', "GET, HEAD"),
        ("DELETE", "/v2/models/m", 405, b'{"error":"Method Not Allowed"}', "GET, HEAD"),
        ("POST", "/v2/models/stats", 405, b'{"error":"Method Not Allowed"}', "GET, HEAD"),
        ("GET", "/v2/models/m/infer", 405, b'{"error":"Method Not Allowed"}', "POST"),
        ("HEAD", "/v2/models/m/versions/1/infer", 405, b'{"error":"Method Not Allowed"}', "POST"),
        ("GET", "/v2/repository/index", 405, b'{"error":"Method Not Allowed"}', "POST"),
    ],
)
def test_refusals(method: str, path: str, status: int, body: bytes, allow: str) -> None:
    failure = BY_NAME["method" if allow else "not-served"].kind
    assert route(method, path, b"") == Reply(status, body, allow=allow, failure=failure)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v2/systemsharedmemory/status", "shared memory"),
        ("/v2/systemsharedmemory/region/r/register", "shared memory"),
        ("/v2/cudasharedmemory/unregister?x=1", "shared memory"),
        ("/v2/trace/setting", "trace"),
        ("/v2/models/m/trace/setting", "trace"),
        ("/v2/logging", "logging"),
        ("/v2/repository/models/m/load", "loading"),
        ("/v2/repository/r/models/m/unload", "loading"),
    ],
)
def test_extensions_that_are_not_served_are_named(path: str, said: str) -> None:
    for method in ("GET", "POST"):
        reply = route(method, path, b"")
        assert isinstance(reply, Reply)
        assert (reply.status, reply.allow, reply.content_type) == (404, "", "application/json")
        assert said in json.loads(reply.body)["error"]
        assert ALL[reply.failure].reason == "single-server"


@pytest.mark.parametrize("what", ["generate", "versions/1/generate_stream"])
def test_generate_is_an_inference(what: str) -> None:
    for method, status in (("GET", 405), ("DELETE", 405), ("POST", 404)):
        reply = route(method, f"/v2/models/m/{what}", b"")
        assert isinstance(reply, Reply)
        assert (reply.status, reply.allow) == (status, "POST" if status == 405 else "")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready":1}', b"\xff"])
def test_bad_index_body(body: bytes) -> None:
    reply = route("POST", "/v2/repository/index", body)
    assert isinstance(reply, Reply)
    assert reply.status == 400
    assert "error" in json.loads(reply.body)
    assert ALL[reply.failure].reason == "bad-request"


def test_bad_name() -> None:
    reply = route("GET", "/v2/models/%ff", b"")
    assert isinstance(reply, Reply)
    assert (reply.status, ALL[reply.failure].reason) == (400, "bad-request")


def test_inference_is_not_management() -> None:
    with pytest.raises(ValueError, match="inference"):
        route("POST", "/v2/models/m/infer", b"")


def test_health() -> None:
    assert shown("/v2/health/live", wire.ServerLiveResponse(live=True)) == {"live": True}
    assert shown("/v2/health/ready", wire.ServerReadyResponse(ready=True)) == {"ready": True}
    assert shown("/v2/models/m/ready", wire.ModelReadyResponse(ready=True)) == {"name": "m", "ready": True}
    for path, text in (
        ("/v2/health/live", "Server not live"),
        ("/v2/health/ready", "Server not ready"),
        ("/v2/models/m/ready", "Model version not ready"),
    ):
        assert call("GET", path).render(0, "", b"") == Reply(
            400, json.dumps({"error": text}, separators=(",", ":")).encode()
        )


def test_server_metadata_names_what_works_here() -> None:
    answer = wire.ServerMetadataResponse(
        name="s", version="1", extensions=["statistics", "sequence", "cuda_shared_memory", "model_configuration"]
    )
    assert shown("/v2", answer) == {
        "name": "s",
        "version": "1",
        "extensions": ["binary_tensor_data", "generate", "statistics", "sequence", "model_configuration"],
    }


def test_model_metadata() -> None:
    answer = wire.ModelMetadataResponse(name="m", versions=["1", "2"], platform="onnxruntime_onnx")
    answer.inputs.add(name="x", datatype="FP32", shape=[-1, 64])
    answer.outputs.add(name="y", datatype="INT64", shape=[-1])
    expected = {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }
    assert shown("/v2/models/m", answer) == expected
    answer.properties["k"] = "v"
    assert shown("/v2/models/m", answer) == {**expected, "properties": {"k": "v"}}


def test_model_config() -> None:
    answer = wire.ModelConfigResponse(config=ModelConfig(name="m", platform="onnxruntime_onnx", max_batch_size=8))
    answer.config.input.add(name="x", data_type=11, dims=[-1, 2**40])
    config = shown("/v2/models/m/config", answer)
    assert config["max_batch_size"] == 8
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["input"][0]["dims"] == [-1, 2**40]
    assert "sequence_batching" not in config


def test_statistics_have_every_duration() -> None:
    answer = wire.ModelStatisticsResponse()
    answer.model_stats.add(name="m", version="1", inference_count=2**53 + 1).inference_stats.success.count = 5
    (stats,) = shown("/v2/models/m/stats", answer)["model_stats"]
    assert stats["version"] == "1"
    assert stats["inference_count"] == 2**53 + 1
    assert stats["inference_stats"]["success"] == {"count": 5, "ns": 0}
    assert set(stats["inference_stats"]) == set(wire.InferStatistics.DESCRIPTOR.fields_by_name)


def test_repository_index() -> None:
    answer = wire.RepositoryIndexResponse()
    answer.models.add(name="m", version="1", state="READY")
    assert shown("/v2/repository/index", answer, "POST") == [
        {"name": "m", "version": "1", "state": "READY", "reason": ""}
    ]


def test_errors_of_the_endpoint() -> None:
    for path in ("/v2", "/v2/health/ready", "/v2/models/m"):
        reply = call("GET", path).render(5, 'no such "model"', b"")
        assert (reply.status, json.loads(reply.body)) == (404, {"error": 'no such "model"'})
        assert call("GET", path).render(14, "", b"").status == 503
        assert json.loads(call("GET", path).render(14, "", b"").body)["error"]
        assert call("GET", path).render(0, "", b"\xff").status == 502
