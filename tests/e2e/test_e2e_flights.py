"""Identical inferences over all workers of a daemon: one call of the model server, whatever becomes of who asks it."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from crowd import Crowd, all_wait, peers
from daemon import Daemon, http_listener, route
from traffic import Answer, request
from waiting import until, until_in_thread

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
WORKERS = 4
METHOD = "/inference.GRPCInferenceService/ModelInfer"
VALUES = (1.5, -2.0)
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2], "data": list(VALUES)}
_OPTIONS = [("grpc.so_reuseport", 0)]


class HeldModel:
    """A model server that gives a request's inputs back, and answers when `release` is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.given_up = 0
        self.release = asyncio.Event()
        self.failing = 0  # number of first calls that fail; behind each the others are held again
        self.server = grpc.aio.server(options=_OPTIONS)
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer)}
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        asked = wire.ModelInferRequest.FromString(data)
        self.calls += 1
        number = self.calls
        try:
            await self.release.wait()
            if number <= self.failing:
                self.release.clear()
                await context.abort(grpc.StatusCode.INTERNAL, "broken")
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        answer = wire.ModelInferResponse(model_name=asked.model_name, id=asked.id)
        for each, raw in zip(asked.inputs, asked.raw_input_contents, strict=True):
            answer.outputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
            answer.raw_output_contents.append(raw)
        return answer.SerializeToString()


@pytest.fixture
async def model() -> AsyncIterator[HeldModel]:
    made = HeldModel()
    await made.server.start()
    yield made
    made.release.set()
    await made.server.stop(None)


def config(model: HeldModel, **pool: Any) -> dict[str, Any]:
    return {
        "workers": WORKERS,
        "cache": {"size": "16MiB", "ttl": "5m"},
        "listeners": {
            "web": http_listener(
                route("/v2/", "models", retry="off", hedge="off"),
                route("/inference.GRPC", "models", name="calls", retry="off", hedge="off"),
            )
        },
        "pools": {"models": {"protocol": "oip", "endpoints": [model.address], "response_timeout": "60s", **pool}},
    }


def infer(number: int, name: str = "m") -> bytes:
    return request("POST", f"/v2/models/{name}/infer", {"id": str(number), "inputs": [TENSOR]})


class Callers:
    """Clients of gRPC on connections of their own, so that all workers have some; each has several calls at once."""

    def __init__(self, port: int, connections: int, calls: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(connections)]
        self.calls = calls

    async def connect(self) -> None:
        await asyncio.gather(*[channel.channel_ready() for channel in self.channels])

    def ask(self, name: str = "m") -> list[asyncio.Task[Any]]:
        asked = wire.ModelInferRequest(model_name=name, id="g", raw_input_contents=[struct.pack("<2f", *VALUES)])
        asked.inputs.add(name="x", datatype="FP32", shape=[2])
        return [asyncio.create_task(self.one(channel, asked)) for channel in self.channels for _ in range(self.calls)]

    async def one(self, channel: grpc.aio.Channel, asked: Any) -> Any:
        call = channel.unary_unary(METHOD, wire.ModelInferRequest.SerializeToString, wire.ModelInferResponse.FromString)
        return await call(asked, timeout=60)

    async def close(self) -> None:
        await asyncio.gather(*[channel.close() for channel in self.channels])


def right_call(answer: Any) -> bool:
    return bool(answer.id == "g" and answer.raw_output_contents[0] == struct.pack("<2f", *VALUES))


def total(daemon: Daemon, name: str) -> float:
    return sum(daemon.metrics(f"tidegate_cache_{name}_total").values())


def right(answer: Answer, number: int) -> bool:
    return answer.status == 200 and answer.json["id"] == str(number) and answer.json["outputs"][0]["data"] == [1.5, -2]


async def test_a_thousand_identical_misses_over_four_workers_are_one_call(start: Start, model: HeldModel) -> None:
    daemon = start(config(model))
    crowd, callers = Crowd(daemon, 500), Callers(daemon.port(), 50, 10)
    await crowd.connect()
    await callers.connect()
    assert len(set(crowd.owners)) == WORKERS
    tasks, calls = crowd.ask(infer), callers.ask()
    await all_wait(daemon, 1000)
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert all(right(answer, number) for number, answer in enumerate(answers))
    assert all(map(right_call, await asyncio.gather(*calls)))
    assert model.calls == 1
    assert total(daemon, "flights_followed") == WORKERS - 1
    assert total(daemon, "flights_promoted") == 0
    # At once, and with an answer that comes at once: the ends of flights meet their beginnings.
    for name in map(str, range(20)):
        before = model.calls
        tasks, calls = crowd.ask(lambda i, name=name: infer(i, name)), callers.ask(name)
        assert all(right(answer, number) for number, answer in enumerate(await asyncio.gather(*tasks)))
        assert all(map(right_call, await asyncio.gather(*calls)))
        assert model.calls == before + 1
    crowd.close()
    await callers.close()


async def lead(daemon: Daemon, model: HeldModel, crowd: Crowd) -> tuple[int, list[asyncio.Task[Answer]]]:
    """The first client asks, then all others: the worker that leads, and their tasks."""
    first = asyncio.create_task(crowd.clients[0].ask(infer(0)))
    await until(lambda: model.calls == 1, "no call was made")
    tasks = crowd.ask(infer, but=0)
    await all_wait(daemon, len(crowd.clients))
    return crowd.owners[0] or 0, [first, *tasks]


async def test_the_leaders_worker_is_killed(start: Start, model: HeldModel) -> None:
    daemon = start(config(model))
    crowd, callers = Crowd(daemon, 500), Callers(daemon.port(), 50, 10)
    await crowd.connect()
    await callers.connect()
    leader, tasks = await lead(daemon, model, crowd)
    calls = callers.ask()
    await all_wait(daemon, 1000)
    os.kill(leader, signal.SIGKILL)
    await until(lambda: model.calls == 2, "nobody took over")
    model.release.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number in crowd.of(leader):
            assert isinstance(answer, (OSError, EOFError))
        else:
            assert isinstance(answer, Answer)
            assert right(answer, number)
    told = await asyncio.gather(*calls, return_exceptions=True)
    lost = {i // 10 for i, each in enumerate(told) if isinstance(each, BaseException)}
    assert len(lost) < 50
    for i, each in enumerate(told):
        if i // 10 in lost:  # of a connection of that worker's
            assert isinstance(each, grpc.aio.AioRpcError)
            assert each.code() == grpc.StatusCode.UNAVAILABLE
        else:
            assert right_call(each)
    assert model.calls == 2
    assert total(daemon, "flights_promoted") == 1
    await callers.close()
    await until_in_thread(lambda: leader not in daemon.worker_pids(), "the worker was not replaced")
    # The worker's next process takes part in flights again.
    model.release.clear()
    again = Crowd(daemon, 60)
    await until_in_thread(lambda: None not in daemon.worker_pids(), "the new worker")
    await again.connect()
    tasks = again.ask(lambda i: infer(i, "other"))
    await all_wait(daemon, 60)
    model.release.set()
    assert all(right(answer, number) for number, answer in enumerate(await asyncio.gather(*tasks)))
    assert model.calls == 3
    crowd.close()
    again.close()


async def test_every_leader_is_killed(start: Start, model: HeldModel) -> None:
    """Whoever takes over is killed, too, as long as anybody waits."""
    daemon = start(config(model))
    crowd = Crowd(daemon, 120)
    await crowd.connect()
    _, tasks = await lead(daemon, model, crowd)
    victims: set[int] = set()
    for calls in range(1, WORKERS):
        await until(lambda calls=calls: model.calls == calls, "nobody took over")
        leaders = set(await asyncio.to_thread(asking, daemon, model)) - victims
        assert len(leaders) == 1
        victims |= leaders
        os.kill(*leaders, signal.SIGKILL)
    await until(lambda: model.calls == WORKERS, "nobody took over")
    model.release.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        if crowd.owners[number] in victims:
            assert isinstance(answer, (OSError, EOFError))
        else:
            assert isinstance(answer, Answer)
            assert right(answer, number)
    assert model.calls == WORKERS
    crowd.close()


def asking(daemon: Daemon, model: HeldModel) -> list[int]:
    """The workers that are connected with the model server."""
    port = int(model.address.rpartition(":")[2])
    return [pid for pid in daemon.worker_pids() if port in peers(pid)]


async def test_a_leaders_worker_that_hangs_loses_the_flight_with_its_lease(start: Start, model: HeldModel) -> None:
    daemon = start(config(model))
    crowd = Crowd(daemon, 120)
    await crowd.connect()
    leader, tasks = await lead(daemon, model, crowd)
    os.kill(leader, signal.SIGSTOP)
    try:
        await until(lambda: model.calls == 2, "nobody took over")
        model.release.set()
        others = [task for number, task in enumerate(tasks) if number not in crowd.of(leader)]
        assert {answer.status for answer in await asyncio.gather(*others)} == {200}
    finally:
        os.kill(leader, signal.SIGCONT)
    answers = await asyncio.gather(*tasks)
    assert all(right(answer, number) for number, answer in enumerate(answers))
    assert model.calls == 2
    crowd.close()


async def test_the_leaders_client_leaves(start: Start, model: HeldModel) -> None:
    daemon = start(config(model))
    crowd = Crowd(daemon, 60)
    await crowd.connect()
    _, tasks = await lead(daemon, model, crowd)
    crowd.clients[0].close()
    await until(lambda: model.calls == 2, "nobody took over")
    await until(lambda: model.given_up == 1, "the call of the leader goes on")
    model.release.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], (OSError, EOFError))
    assert all(isinstance(a, Answer) and right(a, number) for number, a in enumerate(answers) if number)
    assert model.calls == 2
    crowd.close()


async def test_workers_do_not_wait_for_one_failure_after_the_other(start: Start, model: HeldModel) -> None:
    """The second that asks has waited. When that fails, too, all others ask at once."""
    model.failing = 2
    daemon = start(config(model))
    crowd = Crowd(daemon, 40)
    await crowd.connect()
    clients = [crowd.clients[crowd.of(worker)[0]] for worker in sorted(set(map(int, filter(None, crowd.owners))))]
    assert len(clients) == WORKERS
    tasks = [asyncio.create_task(clients[0].ask(infer(0)))]
    await until(lambda: model.calls == 1, "no call was made")
    tasks += [asyncio.create_task(client.ask(infer(0))) for client in clients[1:]]
    await all_wait(daemon, WORKERS)
    model.release.set()
    await until(lambda: model.calls == 2, "nobody asked once more")
    model.release.set()
    await until(lambda: model.calls == WORKERS, "they did not all ask")
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(answer.status for answer in answers) == [200, 200, 500, 500]
    assert answers[0].status == 500
    assert all(right(answer, 0) for answer in answers if answer.status == 200)
    crowd.close()


async def test_a_reload_during_a_flight(start: Start, model: HeldModel) -> None:
    description = config(model)
    daemon = start(description)
    crowd = Crowd(daemon, 60)
    await crowd.connect()
    _, tasks = await lead(daemon, model, crowd)
    description["pools"]["others"] = {"protocol": "oip", "endpoints": [model.address]}
    description["listeners"]["web"]["routes"].append(route("/other/", "others"))
    outcome = await asyncio.to_thread(daemon.reload, description)
    assert outcome["ok"], outcome
    late = Crowd(daemon, 60)
    await late.connect()
    tasks += late.ask(infer)
    await all_wait(daemon, 120)
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert all(right(answer, number % 60) for number, answer in enumerate(answers))
    assert model.calls == 1
    crowd.close()
    late.close()
