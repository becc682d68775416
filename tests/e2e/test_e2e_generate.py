"""Triton's generate extension in front of model servers that speak gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from daemon import Daemon, eventually, http_listener, route
from onnx import TensorProto, helper
from talking_server import TalkingServer
from test_e2e_model_servers import ready_replicas

Start = Callable[..., Daemon]
ONE = "generate expects model to produce exactly 1 response"


@pytest.fixture
async def talking() -> AsyncIterator[TalkingServer]:
    server = await TalkingServer().start()
    yield server
    server.go.set()
    await server.server.stop(None)


def config(*addresses: str, **other: Any) -> dict[str, Any]:
    return {
        "workers": 1,
        "listeners": {"web": http_listener(route("/", "models", **other))},
        "pools": {"models": {"protocol": "oip", "endpoints": list(addresses)}},
    }


@pytest.fixture
async def client(start: Start, talking: TalkingServer) -> AsyncIterator[httpx.AsyncClient]:
    daemon = start(config(talking.address, timeout="20s"))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.port()}/v2/models/", timeout=20) as client:
        yield client


def events(body: str) -> list[Any]:
    assert body == "" or body.endswith("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n")[:-1]]


async def test_events_of_a_decoupled_model(client: httpx.AsyncClient, talking: TalkingServer) -> None:
    asked = {"text": "Hello é", "times": 3, "temperature": 0.5, "id": "one"}
    for _ in range(2):  # the second one needs no description of the model
        answer = await client.post("talk/generate_stream", json=asked)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        said = {"id": "one", "model_name": "talk", "model_version": "1", "said": "Hello é"}
        assert events(answer.text) == [said] * 3
    assert talking.asked[0].parameters["temperature"].double_param == 0.5
    assert events((await client.post("talk/versions/1/generate_stream", json=asked | {"times": 1})).text) == [said]
    answer = await client.post("talk/generate_stream", json=asked | {"times": 0})
    assert (answer.status_code, answer.text) == (200, "")


async def test_events_are_passed_on_as_they_come(client: httpx.AsyncClient, talking: TalkingServer) -> None:
    asked = {"text": "x", "times": 3, "slow": True}
    async with asyncio.timeout(20), client.stream("POST", "talk/generate_stream", json=asked) as answer:
        chunks = answer.aiter_text()
        assert events(await anext(chunks))[0]["said"] == "x"
        talking.go.set()
        rest = "".join([chunk async for chunk in chunks])
    assert len(events(rest)) == 2


async def test_many_streams_at_once(client: httpx.AsyncClient) -> None:
    async def ask(number: int) -> None:
        answer = await client.post("talk/generate_stream", json={"text": f"t{number}", "times": number})
        assert [event["said"] for event in events(answer.text)] == [f"t{number}"] * number

    await asyncio.gather(*(ask(number) for number in range(60)))


async def test_a_large_stream_waits_for_its_client(client: httpx.AsyncClient) -> None:
    text = "x" * 100_000
    async with client.stream("POST", "talk/generate_stream", json={"text": text, "times": 200}) as answer:
        await asyncio.sleep(0.5)
        body = await answer.aread()
    assert [event["said"] for event in events(body.decode())] == [text] * 200


async def test_an_error_within(client: httpx.AsyncClient) -> None:
    for kind, reason in (("message", "it has failed"), ("status", "no memory")):
        asked = {"text": "x", "times": 1, "fail": kind}
        answer = await client.post("talk/generate_stream", json=asked)
        assert answer.status_code == 200
        first, last = events(answer.text)
        assert first["said"] == "x"
        assert last == {"error": reason}
    answer = await client.post("talk/generate_stream", json={"text": "x", "times": 0, "fail": "message"})
    assert answer.status_code == 400
    assert events(answer.text) == [{"error": "it has failed"}]
    answer = await client.post("talk/generate_stream", json={"text": "x", "times": 0, "fail": "status"})
    assert answer.status_code == 429
    assert answer.json()["error"] == "no memory"


async def test_a_client_that_leaves_ends_the_stream(client: httpx.AsyncClient, talking: TalkingServer) -> None:
    asked = {"text": "x", "times": 2, "slow": True}
    async with client.stream("POST", "talk/generate_stream", json=asked) as answer:
        await anext(answer.aiter_text())
    async with asyncio.timeout(20):
        await talking.gone.wait()


async def test_a_server_that_dies_within(client: httpx.AsyncClient, talking: TalkingServer) -> None:
    asked = {"text": "x", "times": 2, "slow": True}
    async with client.stream("POST", "talk/generate_stream", json=asked) as answer:
        chunks = answer.aiter_text()
        await anext(chunks)
        await talking.server.stop(None)
        (last,) = events("".join([chunk async for chunk in chunks]))
    assert last["error"]


async def test_time_that_is_over_within(start: Start, talking: TalkingServer) -> None:
    daemon = start(config(talking.address, timeout="500ms"))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.port()}/v2/models/", timeout=20) as client:
        answer = await client.post("talk/generate_stream", json={"text": "x", "times": 2, "slow": True})
    assert "did not answer in time" in events(answer.text)[-1]["error"]


async def test_one_answer_of_a_decoupled_model(client: httpx.AsyncClient) -> None:
    answer = await client.post("talk/generate", json={"text": "x", "times": 1})
    assert answer.status_code == 200
    assert answer.json() == {"model_name": "talk", "model_version": "1", "said": "x"}
    for times in (0, 2):
        answer = await client.post("talk/generate", json={"text": "x", "times": times})
        assert answer.status_code == 500
        assert ONE in answer.json()["error"]
    answer = await client.post("talk/generate", json={"text": "x", "times": 0, "fail": "message"})
    assert (answer.status_code, answer.json()["error"]) == (400, "it has failed")


async def test_what_is_refused(client: httpx.AsyncClient) -> None:
    for what in ("generate", "generate_stream"):
        for body, status, reason in (
            ({"text": "x"}, 400, "expected 2 inputs but got 1"),
            ({"text": 1, "times": 1}, 400, "text"),
            ({"text": "x", "times": [1, 2]}, 400, "proper shape"),
            ([], 400, "must be a JSON object"),
        ):
            answer = await client.post(f"talk/{what}", json=body)
            assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
        answer = await client.post(f"nobody/{what}", json={"text": "x"})
        assert (answer.status_code, answer.json()["error"]) == (404, "unknown model 'nobody'")
        assert (await client.get(f"talk/{what}")).status_code == 405


async def test_a_server_without_configurations(start: Start) -> None:
    server = await TalkingServer(configured=False).start()
    daemon = start(config(server.address))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.port()}/v2/models/", timeout=20) as client:
        answer = await client.post("talk/generate", json={"text": "x", "times": 5})
    assert answer.json()["said"] == "x"
    await server.server.stop(None)


async def test_the_streams_of_mlserver(start: Start) -> None:
    server = await TalkingServer(configured=False, bare=True).start()
    daemon = start(config(server.address))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{daemon.port()}/v2/models/", timeout=20) as client:
        answer = await client.post("talk/generate_stream", json={"text": "x", "times": 2, "fail": "status"})
    assert events(answer.text) == [
        *[{"model_name": "talk", "model_version": "1", "said": "x"}] * 2, {"error": "no memory"},
    ]  # fmt: skip
    await server.server.stop(None)


async def test_over_http2(start: Start, talking: TalkingServer) -> None:
    daemon = start(config(talking.address))
    port = daemon.port()
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-N", "--http2-prior-knowledge", "-d", '{"text": "x", "times": 3}',
        f"http://127.0.0.1:{port}/v2/models/talk/generate_stream", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert [event["said"] for event in events(out.decode())] == ["x"] * 3


def test_our_own_model_servers(start: Start, tmp_path: Path) -> None:
    """With a cache: the answer of one is the other's."""
    models = tmp_path / "models"
    (models / "chat" / "1").mkdir(parents=True)
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.STRING, ["N", 1]) for name in ("text_input", "text_output")
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text_input"], ["text_output"])], "chat", tensors[:1], tensors[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, models / "chat" / "1" / "model.onnx")
    serve = {"models": str(models), "min": 2, "max": 2, "threads": 1, "drain_timeout": "10s"}
    daemon = start({
        "workers": 1,
        "cache": {"size": "16MiB"},
        "listeners": {"web": http_listener(route("/", "digits"))},
        "pools": {"digits": {"protocol": "oip", "serve": serve}},
    })  # fmt: skip
    eventually(lambda: len(ready_replicas(daemon)) == 2, "both model servers")
    with httpx.Client(base_url=f"http://127.0.0.1:{daemon.port()}/v2/models/", timeout=20) as client:
        expected = {"model_name": "chat", "model_version": "1", "text_output": "Hello"}
        first = client.post("chat/generate", json={"text_input": "Hello"})
        assert first.json() == expected
        again = client.post("chat/generate", json={"text_input": "Hello"})
        assert again.json() == expected
        assert "hit" in again.headers["cache-status"]
        streamed = client.post("chat/generate_stream", json={"text_input": "Hello"})
        assert events(streamed.text) == [expected]
        assert client.post("chat/generate", json={"text": "Hello"}).status_code == 400
        found = client.get(f"http://127.0.0.1:{daemon.port()}/v2").json()
        assert "generate" in found["extensions"]
