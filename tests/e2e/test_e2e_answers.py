"""What a client gets is what ONNX Runtime computes, whatever the encoding, and a repetition comes from the cache."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
from daemon import DIGITS, Daemon, digits_pool, http_listener, route, worker_of
from traffic import DIGITS_INFER, Answer, Client, ask_once, digit_samples, request

from backend.runtime import onnxruntime

Start = Callable[..., Daemon]
CACHE = {"cache": {"size": "16MiB", "ttl": "5m"}}


def binary_request(path: str, tensors: list[tuple[str, str, np.ndarray]], **members: Any) -> bytes:
    inputs = [
        {"name": name, "datatype": kind, "shape": list(a.shape), "parameters": {"binary_data_size": a.nbytes}}
        for name, kind, a in tensors
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}, **members}).encode()
    body = head + b"".join(a.tobytes() for _, _, a in tensors)
    return request("POST", path, body, Inference_Header_Content_Length=str(len(head)))


def json_request(path: str, tensors: list[tuple[str, str, np.ndarray]], **members: Any) -> bytes:
    inputs = [
        {"name": name, "datatype": kind, "shape": list(a.shape), "data": a.flatten().tolist()}
        for name, kind, a in tensors
    ]
    return request("POST", path, {"inputs": inputs, **members})


def outputs_of(answer: Answer) -> dict[str, np.ndarray]:
    kinds = {"FP32": np.float32, "INT64": np.int64}
    found, at = {}, 0
    for output in answer.json["outputs"]:
        kind, shape = kinds[output["datatype"]], output["shape"]
        if "data" in output:
            found[output["name"]] = np.array(output["data"], kind).reshape(shape)
        else:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = np.frombuffer(answer.binary[at : at + size], kind).reshape(shape)
            at += size
    return found


async def test_answers_are_those_of_onnx_runtime(start: Start) -> None:
    config = {"listeners": {"web": http_listener(route("/v2", "digits"))}, "pools": {"digits": digits_pool(min=1)}}
    daemon = start(config)
    port = daemon.port()
    session = onnxruntime.InferenceSession(
        str(DIGITS / "models" / "digits" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    samples = digit_samples()
    batches = [np.array([sample["image"]], np.float32) for sample in samples]
    batches.append(np.random.default_rng(5).uniform(0, 16, (64, 64)).astype(np.float32))
    for batch in batches:
        expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": batch}), strict=True))
        for make in (json_request, binary_request):
            answer = await ask_once(port, make(DIGITS_INFER, [("image", "FP32", batch)], id="q"))
            assert answer.status == 200, answer.body
            assert answer.json["id"] == "q"
            assert answer.json["model_name"] == "digits"
            got = outputs_of(answer)
            assert got.keys() == expected.keys()
            assert np.array_equal(got["label"], expected["label"])
            # The shortest decimal of a float gives the same float back; batching may change the last bits of a sum.
            np.testing.assert_allclose(got["probabilities"], expected["probabilities"], rtol=1e-5, atol=1e-7)
    right = 0
    for sample, batch in zip(samples, batches, strict=False):
        answer = await ask_once(port, json_request(DIGITS_INFER, [("image", "FP32", batch)]))
        right += outputs_of(answer)["label"][0] == sample["label"]
    assert right >= len(samples) - 1

    # The protocol's other routes, from the same model server.
    async def get(path: str) -> Answer:
        return await ask_once(port, request("GET", path))

    assert (await get("/v2")).json["name"]
    assert (await get("/v2/health/ready")).status == 200
    assert (await get("/v2/models/digits/ready")).status == 200
    assert (await get("/v2/models/digits")).json["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    unknown = await ask_once(port, json_request("/v2/models/nothing/infer", [("image", "FP32", batches[0])]))
    assert unknown.status == 404
    assert list(unknown.json) == ["error"]
    wrong = await ask_once(port, json_request(DIGITS_INFER, [("image", "FP32", batches[0][:, :63])]))
    assert wrong.status == 400
    assert list(wrong.json) == ["error"]


async def connect_to_each_worker(daemon: Daemon, port: int) -> list[Client]:
    """A connection to every worker."""
    workers = daemon.worker_pids()
    found: dict[int, Client] = {}
    others = []
    for _ in range(400):
        client = await Client(port).connect()
        await client.ask(request("GET", "/v2/models/m"))  # so that it has been accepted
        owner = worker_of(workers, client.local_port)
        assert owner is not None
        if owner in found:
            others.append(client)
        found.setdefault(owner, client)
        if len(found) == len(workers):
            break
    for client in others:
        client.close()
    assert len(found) == len(workers), "one worker took all connections"
    return list(found.values())


async def test_a_repetition_is_a_hit_from_any_worker_and_in_any_encoding(start: Start, stub: Callable[[], str]) -> None:
    config = {
        "listeners": {"web": http_listener(route("/v2", "models"))},
        "pools": {"models": {"protocol": "oip", "endpoints": [stub()]}},
        **CACHE,
    }
    daemon = start(config)
    first, second = await connect_to_each_worker(daemon, daemon.port())
    path = "/v2/models/m/infer"
    x = np.array([[1.5, -2.0, 3.0], [4.0, 5.5, 6.0]], np.float32)
    stored, hit = "tidegate; fwd=miss; stored", "tidegate; hit"

    async def both(message: bytes) -> tuple[str | None, str | None]:
        answers = [await client.ask(message) for client in (first, second)]
        assert [a.status for a in answers] == [200, 200]
        return answers[0].cache, answers[1].cache

    plain = json_request(path, [("x", "FP32", x)])
    assert await both(plain) == (stored, hit)
    assert await both(binary_request(path, [("x", "FP32", x)])) == (hit, hit)
    answer = await second.ask(binary_request(path, [("x", "FP32", x)], id="other"))
    assert answer.binary == x.tobytes()
    assert answer.json["id"] == "other"
    different = {
        "shape": json_request(path, [("x", "FP32", x.reshape(3, 2))]),
        "datatype": binary_request(path, [("x", "INT32", x.view(np.int32))]),
        "output list": json_request(path, [("x", "FP32", x)], outputs=[{"name": "x"}]),
        "model": json_request("/v2/models/n/infer", [("x", "FP32", x)]),
        "version": json_request("/v2/models/m/versions/1/infer", [("x", "FP32", x)]),
        "value": json_request(path, [("x", "FP32", x + 1)]),
    }
    for what, message in different.items():
        assert await both(message) == (stored, hit), what
    assert await both(plain) == (hit, hit)
    results = {dict(labels)["result"]: n for labels, n in daemon.metrics("tidegate_cache_requests_total").items()}
    assert {result: n for result, n in results.items() if n} == {"hit": 12, "miss": 7, "stored": 7}

    # The cache outlives a worker and a reload.
    victim = worker_of(daemon.worker_pids(), first.local_port)
    await asyncio.to_thread(daemon.reload, config)
    os.kill(victim or 0, signal.SIGKILL)
    assert (await second.ask(plain)).cache == hit
    third = await ask_once(daemon.port(), plain)
    assert third.cache == hit
    for client in (first, second):
        client.close()
