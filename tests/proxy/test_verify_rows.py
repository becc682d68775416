"""`tidegate cache verify-rows` against servers that are not as they should be."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import grpc
import pytest
from datapath import Site
from oip_site import ModelServer, echo, failing, floats

from lb.cli.verify_rows import CannotTry, Place, Verdict, try_rows
from lb.wire import grpc_service_pb2 as wire


def metadata(*shape: int, datatype: str = "FP32") -> wire.ModelMetadataResponse:
    made = wire.ModelMetadataResponse(name="m")
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    made.outputs.add(name="x", datatype=datatype, shape=shape)
    return made


async def verdict_of(site: Site, model: ModelServer, shape: tuple[int, ...] = (-1, 2), **options: Any) -> Verdict:
    model.management.setdefault("ModelMetadata", metadata(*shape))
    places = [Place("p", await site.model(model))]
    return await try_rows(places, "m", "", options.pop("requests", 40), Random(1), options)


async def test_a_server_without_configurations(site: Site) -> None:
    found = await verdict_of(site, ModelServer())
    assert (found.row_wise, found.batches, found.difference, found.pool) == (True, 40, 0.0, "p")
    assert (found.version, found.distinct_rows) == ("1", 40)


async def test_batches_are_as_large_as_the_configuration_allows(site: Site) -> None:
    model = ModelServer()
    config = wire.ModelConfigResponse()
    config.config.max_batch_size = 3
    model.management["ModelConfig"] = config
    assert (await verdict_of(site, model)).row_wise
    assert {request.inputs[0].shape[0] for request in model.requests} == {1, 2, 3}
    config.config.max_batch_size = 1
    found = await verdict_of(site, model_of(config))
    assert (found.row_wise, found.reason) == (False, "its configuration allows one row at a time")


def model_of(config: wire.ModelConfigResponse) -> ModelServer:
    model = ModelServer()
    model.management["ModelConfig"] = config
    return model


async def test_sizes_that_the_model_leaves_open(site: Site) -> None:
    model = ModelServer()
    assert (await verdict_of(site, model, (-1, -1, 2))).row_wise
    assert {tuple(request.inputs[0].shape[1:]) for request in model.requests} == {(8, 2), (3, 2), (1, 2)}
    said = ModelServer()
    assert (await verdict_of(site, said, (-1, -1, 2), x=(5, 2))).row_wise
    assert {tuple(request.inputs[0].shape[1:]) for request in said.requests} == {(5, 2)}


async def test_chance(site: Site) -> None:
    random = Random(3)

    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        answer = await echo(sent, context)
        answer.raw_output_contents[0] = floats(*[random.random() for _ in range(2 * sent.inputs[0].shape[0])])
        return answer

    found = await verdict_of(site, ModelServer(behave))
    assert (found.row_wise, found.reason) == (False, "the same row has two answers, one after the other")


async def test_batches_that_are_refused(site: Site) -> None:
    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        if sent.inputs[0].shape[0] > 4:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "four at most")
        return await echo(sent, context)

    found = await verdict_of(site, ModelServer(behave))
    assert not found.row_wise
    assert found.reason == "5 rows together are refused, which are taken alone: INVALID_ARGUMENT: four at most"


async def test_another_version_for_each_batch(site: Site) -> None:
    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        answer = await echo(sent, context)
        answer.model_version = str(sent.inputs[0].shape[0])
        return answer

    found = await verdict_of(site, ModelServer(behave))
    assert not found.row_wise
    assert found.reason.startswith("the version is not the same for a row alone and for 2 rows")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_a_server_that_cannot_answer_is_no_verdict(site: Site, code: grpc.StatusCode) -> None:
    with pytest.raises(CannotTry, match="busy"):
        await verdict_of(site, ModelServer(failing(code, "busy")))


async def test_a_server_that_goes_away_is_no_verdict(site: Site) -> None:
    model = ModelServer()

    async def behave(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        if len(model.requests) == 90:
            asyncio.get_running_loop().create_task(model.server.stop(0))
            await asyncio.sleep(30)
        return await echo(sent, context)

    model.behave = behave
    with pytest.raises(CannotTry):
        await verdict_of(site, model)


async def test_answers_that_are_too_large_to_compare(site: Site) -> None:
    with pytest.raises(CannotTry, match="an answer to one row has 2000000 bytes"):
        await verdict_of(site, ModelServer(), (-1, 500_000))


async def test_large_rows_come_in_small_batches(site: Site) -> None:
    model = ModelServer()
    assert (await verdict_of(site, model, (-1, 100_000), requests=10)).row_wise
    assert max(request.inputs[0].shape[0] for request in model.requests) == 7


async def test_the_first_endpoint_that_answers_is_asked(site: Site) -> None:
    model = ModelServer()
    model.management["ModelMetadata"] = metadata(-1, 2)
    places = [Place("p", "127.0.0.1:1"), Place("p", await site.model(model)), Place("p", "127.0.0.1:2")]
    assert (await try_rows(places, "m", "", 10, Random(1), {})).server == places[1].server
    with pytest.raises(CannotTry, match=r"no server has a model 'm': 127\.0\.0\.1:1: "):
        await try_rows(places[:1], "m", "", 10, Random(1), {})
