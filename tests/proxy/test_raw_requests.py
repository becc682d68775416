"""Raw binary requests (Inference-Header-Content-Length: 0): a tensor alone, by the description of its model."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from infer_site import Held, error_of, gate_to, idle
from oip_site import INFER, Answer, ModelServer, ask, echo, floats, request

from lb.wire import grpc_service_pb2 as wire
from lb.wire.model_config_pb2 import ModelConfig

RAW = {"Inference-Header-Content-Length": "0"}


def describe(
    model: ModelServer, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 4), batch: int | None = 8, name: str = "x"
) -> None:
    tensor = wire.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)
    model.management["ModelMetadata"] = wire.ModelMetadataResponse(name="m", inputs=[tensor])
    model.management.pop("ModelConfig", None)
    if batch is not None:
        model.management["ModelConfig"] = wire.ModelConfigResponse(config=ModelConfig(name="m", max_batch_size=batch))


class Described(ModelServer):
    """Counts the calls about its model."""

    def __init__(self, behave: Any = echo, **described: Any) -> None:
        super().__init__(behave)
        self.asked: list[str] = []
        describe(self, **described)

    def _manage(self, method: str) -> Any:
        answer = super()._manage(method)

        async def counted(data: bytes, context: grpc.aio.ServicerContext) -> Any:
            self.asked.append(method)
            return await answer(data, context)

        return counted


async def raw(gate: Gate, body: bytes, path: str = INFER, **headers: str) -> Answer:
    return await ask(gate, body, path, headers={**RAW, **headers})


async def test_the_tensor_goes_to_the_model_and_all_outputs_come_binary(site: Site) -> None:
    model = Described()
    gate = await gate_to(site, model)
    for _ in range(3):
        answer = await raw(gate, floats(1, 2, 3, 4))
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.binary == floats(1, 2, 3, 4)
        (output,) = answer.json["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("x", "FP32", [1, 4])
    sent = model.requests[0]
    assert (sent.model_name, list(sent.inputs[0].shape), sent.inputs[0].datatype) == ("m", [1, 4], "FP32")
    assert list(sent.raw_input_contents) == [floats(1, 2, 3, 4)]
    assert model.asked == ["ModelMetadata", "ModelConfig"]  # once, and kept
    await idle(gate)


async def test_the_variable_dimension_follows_from_the_size(site: Site) -> None:
    gate = await gate_to(site, Described(shape=(-1, -1, 2)))
    for rows in (1, 3, 50_000):
        answer = await raw(gate, floats(*[0.5] * 2 * rows))
        assert answer.json["outputs"][0]["shape"] == [1, rows, 2]


async def test_a_server_without_configurations(site: Site) -> None:
    """KServe's: no dimension is known to be the batch."""
    model = Described(batch=None)
    model.without = frozenset(("ModelConfig",))
    gate = await gate_to(site, model)
    assert (await raw(gate, floats(*range(8)))).json["outputs"][0]["shape"] == [2, 4]


async def test_bytes_are_one_element(site: Site) -> None:
    model = Described(datatype="BYTES", shape=(-1, 1))
    gate = await gate_to(site, model)
    for text in (b"a picture", b"", bytes(200_000)):
        answer = await raw(gate, text)
        assert answer.binary == len(text).to_bytes(4, "little") + text
    assert list(model.requests[0].raw_input_contents) == [b"\x09\0\0\0a picture"]


async def test_compressed_and_versioned(site: Site) -> None:
    model = Described()
    gate = await gate_to(site, model)
    packed = gzip.compress(floats(1, 2, 3, 4))
    answer = await raw(gate, packed, "/v2/models/m/versions/3/infer", **{"Content-Encoding": "gzip"})
    assert answer.binary == floats(1, 2, 3, 4)
    assert model.requests[0].model_version == "3"


@pytest.mark.parametrize(
    ("model", "body", "reason"),
    [
        ({"shape": (-1, -1, -1)}, bytes(8), "one variable dimension"),
        ({"shape": (-1, -1, 4)}, bytes(12), "no whole number of rows"),
        ({"shape": (-1, 4)}, bytes(12), "binary_data_size is 12 where shape and datatype take 16"),
        ({"shape": (-1, 4)}, b"", "binary_data_size is 0"),
        ({"datatype": "BYTES", "shape": (-1, 2)}, b"a", "shape"),
    ],
)
async def test_requests_that_do_not_fit(site: Site, model: dict[str, Any], body: bytes, reason: str) -> None:
    server = Described(**model)
    gate = await gate_to(site, server)
    answer = await raw(gate, body)
    assert answer.status == 400
    assert reason in error_of(answer)
    assert server.requests == []
    await idle(gate)


async def test_errors_of_the_model_server_are_passed_on_and_not_kept(site: Site) -> None:
    model = Described()
    described = model.management.pop("ModelMetadata")
    gate = await gate_to(site, model)
    answer = await raw(gate, floats(1, 2, 3, 4))
    assert (answer.status, error_of(answer)) == (501, "ModelMetadata is not here")
    model.management["ModelMetadata"] = described
    assert (await raw(gate, floats(1, 2, 3, 4))).status == 200
    await idle(gate)


async def test_no_endpoint_to_ask(site: Site) -> None:
    gate = await site.gate([], pool={"protocol": "oip"})
    answer = await raw(gate, floats(1))
    assert (answer.status, error_of(answer)) == (503, "no endpoint of pool pool is available")


async def test_another_description_is_asked_for_where_the_model_is_another(site: Site) -> None:
    async def picky(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        if sent.inputs[0].name != name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no input {sent.inputs[0].name}")
        return await echo(sent, context)

    name = "x"
    model = Described(picky)
    gate = await gate_to(site, model)
    assert (await raw(gate, floats(1, 2, 3, 4))).status == 200
    name = "y"
    describe(model, name="y")
    assert (await raw(gate, floats(1, 2, 3, 4))).status == 400
    assert (await raw(gate, floats(1, 2, 3, 4))).status == 200
    assert model.asked == ["ModelMetadata", "ModelConfig"] * 2
    await idle(gate)


async def test_they_are_cached_as_the_same_request_in_another_form(site: Site) -> None:
    model = Described()
    gate = await gate_to(site, model, cached=True)
    assert (await raw(gate, floats(1, 2, 3, 4))).cache == "tidegate; fwd=miss; stored"
    assert (await raw(gate, floats(1, 2, 3, 4))).cache == "tidegate; hit"
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    assert (await ask(gate, body)).cache == "tidegate; hit"


async def test_clients_that_leave_while_the_model_is_asked_about(site: Site) -> None:
    model = Described()
    hold = asyncio.Event()
    answer = model._manage("ModelMetadata")

    async def held(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        found = await answer(data, context)
        await hold.wait()
        return found

    model._manage = lambda method: held if method == "ModelMetadata" else Described._manage(model, method)  # type: ignore[method-assign]
    gate = await gate_to(site, model)
    _, writer = await gate.connect()
    writer.write(request("POST", INFER, floats(1, 2, 3, 4), RAW))
    await settle(lambda: model.asked == ["ModelMetadata"], "it is not asked")
    others = [asyncio.create_task(raw(gate, floats(1, 2, 3, i))) for i in range(5)]
    writer.close()
    await asyncio.sleep(0.1)
    hold.set()
    assert [(await other).status for other in others] == [200] * 5
    assert model.asked.count("ModelMetadata") == 1
    await idle(gate)


async def test_a_raw_request_waits_for_its_model_server_as_any(site: Site) -> None:
    model = Held()
    describe(model)
    gate = await gate_to(site, model)
    waiting = asyncio.create_task(raw(gate, floats(1, 2, 3, 4)))
    await settle(lambda: len(model.requests) == 1, "it does not get there")
    model.release.set()
    assert (await waiting).status == 200
    await idle(gate)
