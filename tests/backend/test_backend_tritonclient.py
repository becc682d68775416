"""Triton's own clients against the model server, without a balancer between: HTTP and gRPC."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http
from google.protobuf.json_format import MessageToDict
from test_backend_protocol import IMAGES
from tritonclient.utils import InferenceServerException

CLIENTS = {"http": by_http, "grpc": by_grpc}


@pytest.fixture(params=CLIENTS)
def module(request: pytest.FixtureRequest) -> Any:
    return CLIENTS[request.param]


@pytest.fixture
def client(module: Any, server: Any) -> Any:
    with module.InferenceServerClient(server.targets[0]) as client:
        yield client


def image(module: Any, rows: np.ndarray, **options: Any) -> Any:
    tensor = module.InferInput("image", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, **options)
    return tensor


def plain(module: Any, found: Any) -> Any:
    """What the client of HTTP has as JSON, that of gRPC as a message."""
    return found if module is by_http else MessageToDict(found, preserving_proto_field_name=True)


def test_server_and_models(module: Any, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("scale", "2")
    assert not client.is_model_ready("nobody")
    metadata = client.get_server_metadata()
    assert (metadata if module is by_http else {"name": metadata.name})["name"] == "tidegate-backend"
    assert len(plain(module, client.get_model_metadata("digits"))["inputs"]) == 1
    config = plain(module, client.get_model_config("scale"))
    assert config.get("config", config)["max_batch_size"] == 32
    index = plain(module, client.get_model_repository_index())
    names = {model["name"] for model in (index if module is by_http else index["models"])}
    assert {"digits", "scale", "slow"} <= names


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_inference(module: Any, client: Any, algorithm: str | None) -> None:
    result = client.infer(
        "digits",
        [image(module, IMAGES)],
        request_id="a-1",
        outputs=[module.InferRequestedOutput("label"), module.InferRequestedOutput("probabilities")],
        **(
            {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
            if module is by_http
            else {"compression_algorithm": algorithm}
        ),
    )
    response = result.get_response()
    assert (response["id"] if module is by_http else response.id) == "a-1"
    assert result.as_numpy("label").shape == (16,)
    np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, rtol=1e-5)


def test_json_tensors(server: Any) -> None:
    with by_http.InferenceServerClient(server.targets[0]) as client:
        result = client.infer(
            "digits",
            [image(by_http, IMAGES, binary_data=False)],
            outputs=[by_http.InferRequestedOutput("label", binary_data=False)],
        )
        assert result.as_numpy("label").shape == (16,)


def test_strings(module: Any, client: Any) -> None:
    words = np.array([["a", "", "é€"], ["x" * 100, "b", "c"]], dtype=object)
    tensor = module.InferInput("x", [2, 3], "BYTES")
    tensor.set_data_from_numpy(words)
    got = client.infer("echo_bytes", [tensor]).as_numpy("y")
    assert [element.decode() for element in got.reshape(-1)] == words.reshape(-1).tolist()


def test_statistics_grow(module: Any, client: Any) -> None:
    def count() -> int:
        found = plain(module, client.get_inference_statistics("digits"))["model_stats"][0]
        return int(found["inference_count"])

    before = count()
    client.infer("digits", [image(module, IMAGES)])
    assert count() - before == 16


def test_many_at_once(module: Any, server: Any) -> None:
    options = {"concurrency": 8} if module is by_http else {}
    with module.InferenceServerClient(server.targets[0], **options) as client:
        if module is by_http:
            waiting = [client.async_infer("digits", [image(module, IMAGES[i : i + 1])]) for i in range(16)]
            results = [each.get_result() for each in waiting]
        else:
            done: queue.Queue[Any] = queue.Queue()
            for i in range(16):
                client.async_infer(
                    "digits",
                    [image(module, IMAGES[i : i + 1])],
                    lambda result, error: done.put((result, error)),
                    request_id=str(i),
                )
            found = [done.get(timeout=30) for _ in range(16)]
            assert [error for _, error in found] == [None] * 16
            results = sorted((result for result, _ in found), key=lambda result: int(result.get_response().id))
        together = client.infer("digits", [image(module, IMAGES)]).as_numpy("label")
        assert [int(result.as_numpy("label")[0]) for result in results] == together.tolist()


def test_errors_have_their_reason(module: Any, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="unknown model 'nobody'"):
        client.infer("nobody", [image(module, IMAGES)])
    with pytest.raises(InferenceServerException, match=r"expected shape \[-1,64\], got \[16,3\]"):
        client.infer("digits", [image(module, IMAGES[:, :3])])
    with pytest.raises(InferenceServerException):
        client.load_model("digits")


def test_a_stream(server: Any) -> None:
    with by_grpc.InferenceServerClient(server.targets[0]) as client:
        done: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: done.put((result, error)))
        for i in range(200):
            client.async_stream_infer(
                "digits",
                [image(by_grpc, IMAGES[i % 16 : i % 16 + 1])],
                request_id=str(i),
                enable_empty_final_response=i == 199,
            )
        found = [done.get(timeout=30) for _ in range(200)]
        client.stop_stream()
        assert [error for _, error in found] == [None] * 200
        assert [result.get_response().id for result, _ in found] == [str(i) for i in range(200)]
        assert found[-1][0].get_response().parameters["triton_final_response"].bool_param


def test_a_client_timeout(server: Any, second: int) -> None:
    with by_grpc.InferenceServerClient(server.targets[0]) as client:
        count = by_grpc.InferInput("count", [], "INT64")
        count.set_data_from_numpy(np.array(second, np.int64))
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer("slow", [count], client_timeout=0.05)
