"""Requests that are weighed: what they cost is on their endpoint's account while they are there; policies see it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import grpc
import pytest
from compiled.exchange import price
from datapath import SECOND, Gate, Site, settle
from oip_site import OIP, Behaviour, ModelServer, ask, echo, failing, plain, request, tensor

from lb.config.plan.plan import CostPlan, PolicyPlan, QueuePlan
from lb.config.plan.routes import HedgePlan
from lb.shared.costs import Costs
from lb.upstream.load.cost import PoolCosts
from lb.wire import grpc_service_pb2 as wire

BATCH = CostPlan("batch", False)
LEARNED = CostPlan("batch", True)
BYTES = CostPlan("bytes", False)


class Held:
    """A model server that answers when it is let to, with the batches that it has."""

    def __init__(self, behave: Behaviour = echo) -> None:
        self.server = ModelServer(self._serve)
        self.behave = behave
        self.open = asyncio.Event()
        self.batches: list[int] = []

    async def _serve(self, message: Any, context: grpc.aio.ServicerContext) -> Any:
        batch = int(message.inputs[0].shape[0])
        self.batches.append(batch)
        try:
            await self.open.wait()
        finally:
            self.batches.remove(batch)
        return await self.behave(message, context)


def batch_of(size: int) -> bytes:
    return plain(tensor([0.5] * size, shape=[size, 1]))


def outstanding(gate: Gate) -> list[float]:
    return [gate.segment.outstanding(e.slot) for e in gate.plan.pools[0].endpoints]


async def gate_to(site: Site, *servers: ModelServer, cost: CostPlan = BATCH, **options: Any) -> Gate:
    addresses = [await site.model(server) for server in servers]
    policy = options.pop("policy", "least_request")
    pool = {**OIP, "policy": PolicyPlan(policy), "cost": cost, **options.pop("pool", {})}
    return await site.gate(addresses, pool=pool, **options)


async def over(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "an exchange is left")
    assert outstanding(gate) == [0] * len(outstanding(gate))


async def warm(gate: Gate, held: list[Held], size: int, times: int = 40) -> None:
    """The mean of what requests cost comes to that of a batch of `size`."""
    for one in held:
        one.open.set()
    for _ in range(times):
        assert (await ask(gate, batch_of(size))).status == 200
    for one in held:
        one.open.clear()


async def spread(site: Site, cost: CostPlan | None, policy: str) -> list[int]:
    """The work at each of two endpoints, of large requests and small ones in turn."""
    held = [Held(), Held()]
    gate = await gate_to(site, *(one.server for one in held), cost=cost, policy=policy)  # type: ignore[arg-type]
    await warm(gate, held, 8)
    asked = []
    for n in range(16):
        asked.append(asyncio.create_task(ask(gate, batch_of(32 if n % 2 == 0 else 1))))
        await settle(lambda n=n: len(held[0].batches) + len(held[1].batches) == n + 1, "it did not come")
    work = [sum(one.batches) for one in held]
    for one in held:
        one.open.set()
    await asyncio.gather(*asked)
    await over(gate)
    return work


async def test_large_and_small_batches_are_even_by_their_work(site: Site) -> None:
    assert sorted(await spread(site, None, "least_request")) == [8, 256], "counted, all large ones come to one"
    work = await spread(site, BATCH, "least_request")
    assert abs(work[0] - work[1]) <= 32


async def test_two_choices_see_what_requests_cost(site: Site) -> None:
    work = await spread(site, BATCH, "power_of_two")
    assert abs(work[0] - work[1]) <= 32


async def test_the_average_request_costs_one(site: Site) -> None:
    held = [Held()]
    gate = await gate_to(site, held[0].server)
    await warm(gate, held, 16, times=400)
    first = asyncio.create_task(ask(gate, batch_of(16)))
    await settle(lambda: gate.in_flight() == 1, "it did not come")
    assert outstanding(gate)[0] == pytest.approx(1, rel=0.02)
    second = asyncio.create_task(ask(gate, batch_of(64)))
    await settle(lambda: gate.in_flight() == 2, "it did not come")
    assert outstanding(gate)[0] == pytest.approx(5, rel=0.05)
    held[0].open.set()
    await asyncio.gather(first, second)
    await over(gate)


# A model's cost.


def slow_model(name: str, seconds: float) -> Behaviour:
    """A server that works on one request after another, and takes `seconds` for each unit of the model `name`, a
    tenth of it for those of others."""
    lock = asyncio.Lock()

    async def behave(message: Any, context: grpc.aio.ServicerContext) -> Any:
        async with lock:
            each = seconds if message.model_name == name else seconds / 10
            await asyncio.sleep(each * message.inputs[0].shape[0])
        return await echo(message, context)

    return behave


def relative(gate: Gate, model: str) -> float:
    rows = Costs(gate.segment).rows()
    return rows[f"pool|{model}"][0] / rows["pool"][0]


async def test_a_model_that_takes_ten_times_as_long_is_learned(site: Site) -> None:
    gate = await gate_to(site, *(ModelServer(slow_model("slow", 0.02)) for _ in range(2)), cost=LEARNED)

    async def client(n: int) -> None:
        for i in range(24):
            model = "slow" if (n + i) % 4 == 0 else "quick"
            assert (await ask(gate, batch_of(1 + (n + i) % 2), path=f"/v2/models/{model}/infer")).status == 200

    await asyncio.gather(*(client(n) for n in range(4)))
    assert relative(gate, "slow") > 1.5 * relative(gate, "quick")
    await over(gate)


async def test_of_grpc_that_is_passed_on_too(site: Site) -> None:
    gate = await gate_to(site, ModelServer(slow_model("slow", 0.03)), cost=LEARNED)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}")
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    for i in range(24):
        message = wire.ModelInferRequest(model_name=("slow", "quick")[i % 2])
        message.inputs.add(name="x", datatype="FP32", shape=[2])
        message.raw_input_contents.append(b"\0" * 8)
        await infer(message.SerializeToString())
    assert relative(gate, "slow") > 1.5 * relative(gate, "quick")
    await channel.close()
    await over(gate)


async def test_models_that_nobody_answers_for_are_not_put_in(site: Site) -> None:
    gate = await gate_to(site, ModelServer(failing(grpc.StatusCode.NOT_FOUND, "no such model")), cost=LEARNED)
    for n in range(20):
        assert (await ask(gate, batch_of(2), path=f"/v2/models/m{n}/infer")).status == 404
    assert set(Costs(gate.segment).rows()) <= {"pool"}
    await over(gate)


async def test_what_was_learned_outlives_a_reload(site: Site) -> None:
    gate = await gate_to(site, ModelServer(slow_model("m", 0.005)), cost=LEARNED)
    for _ in range(10):
        await ask(gate, batch_of(2))
    before = Costs(gate.segment).rows()
    site.reload_pool(gate, retries=5)
    assert Costs(gate.segment).rows() == before
    await ask(gate, batch_of(2))
    assert Costs(gate.segment).rows()["pool|m"][1] == before["pool|m"][1] + 1


# The cost of a gRPC request is in its message.


@pytest.mark.parametrize("whole", [True, False])
async def test_the_batch_of_grpc_is_known_before_the_tensors(site: Site, whole: bool) -> None:
    held = Held()
    gate = await gate_to(site, held.server)
    await warm(gate, [held], 4, times=300)
    message = wire.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=[40, 1000])
    message.raw_input_contents.append(b"\0" * 160_000)
    body = message.SerializeToString() if whole else message.SerializeToString()[:-1] + b"\1"
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}")
    asked = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(body)
    await settle(lambda: held.batches == [40], "it did not come")
    assert outstanding(gate)[0] == pytest.approx(10, rel=0.1)
    held.open.set()
    await asked
    await channel.close()
    await over(gate)


# Bytes.


async def test_bytes_that_are_announced_count_before_they_come(site: Site) -> None:
    seen: list[bytes] = []
    open_ = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head)
            if b"chunked" in head:
                await reader.readuntil(b"0\r\n\r\n")
            else:
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
            await open_.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    gate = await site.gate([await site.endpoint(serve)], pool={"policy": PolicyPlan("least_request"), "cost": BYTES})
    open_.set()
    for _ in range(300):
        await gate.exchange(request("POST", "/", b"x" * 1024))
    open_.clear()
    reader, writer = await gate.connect()
    writer.write(request("POST", "/", b"")[:-4].replace(b"Content-Length: 0", b"Content-Length: 19456") + b"\r\n\r\n")
    await settle(lambda: gate.in_flight() == 1, "it did not come")
    assert outstanding(gate)[0] == pytest.approx(10, rel=0.1), "1 KiB and 19, of 2 on average"
    writer.write(b"x" * 19456)
    await settle(lambda: len(seen) == 301, "it did not come")
    open_.set()
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await over(gate)


# Nothing is left, whatever becomes of a request.


async def test_clients_that_leave_leave_nothing(site: Site) -> None:
    held = [Held(), Held()]
    gate = await gate_to(site, *(one.server for one in held))
    asked = [asyncio.create_task(ask(gate, batch_of(1 + n % 7))) for n in range(20)]
    await settle(lambda: gate.in_flight() == 20, "not all came")
    assert sum(outstanding(gate)) > 0
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await over(gate)


async def test_retries_take_their_cost_along(site: Site) -> None:
    gone = ModelServer(failing(grpc.StatusCode.UNAVAILABLE, "going away"))
    held = Held()
    held.open.set()
    gate = await gate_to(site, gone, held.server, pool={"retries": 2})
    statuses = Counter([(await ask(gate, batch_of(1 + n % 9))).status for n in range(30)])
    assert statuses == {200: 30}
    assert gone.requests, "nothing was tried there"
    await over(gate)


@pytest.mark.parametrize("winner", ["first", "hedge"])
async def test_a_hedge_has_its_own_account(site: Site, winner: str) -> None:
    held = [Held(), Held()]
    gate = await gate_to(site, *(one.server for one in held), route={"hedge": HedgePlan(0, SECOND // 50, 1, 100, 1000)})
    asked = asyncio.create_task(ask(gate, batch_of(5)))
    await settle(lambda: all(one.batches == [5] for one in held), "there was no hedge")
    assert min(outstanding(gate)) > 0
    held[0 if winner == "first" else 1].open.set()
    assert (await asked).status == 200
    await over(gate)


async def test_those_who_wait_are_weighed_when_it_is_their_turn(site: Site) -> None:
    held = Held()
    queue = QueuePlan(20, 100, 10 * SECOND, 10 * SECOND, 1.0)
    gate = await gate_to(site, held.server, pool={"queue": queue}, cap=1)
    asked = [asyncio.create_task(ask(gate, batch_of(size))) for size in (2, 4, 8)]
    await settle(lambda: gate.in_flight() == 1 and len(gate.proxy.queues["pool"]) == 2, "they do not wait")
    held.open.set()
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3
    await over(gate)


async def test_who_waits_does_not_lead_the_mean(site: Site) -> None:
    held = Held()
    queue = QueuePlan(20, 100, 10 * SECOND, 10 * SECOND, 1.0)
    gate = await gate_to(site, held.server, pool={"queue": queue}, cap=1)
    await warm(gate, [held], 4)
    asked = [asyncio.create_task(ask(gate, batch_of(size))) for size in (4, 64)]
    await settle(lambda: gate.in_flight() == 1 and len(gate.proxy.queues["pool"]) == 1, "it does not wait")
    await asyncio.sleep(0.3)  # in which it is looked for its turn a dozen times
    assert price(PoolCosts(BATCH, "pool", gate.segment), 4, b"", 1) > 200
    held.open.set()
    await asyncio.gather(*asked)
    await over(gate)


async def test_a_stream_whose_endpoint_speaks_first(site: Site) -> None:
    async def greet(messages: Any, context: grpc.aio.ServicerContext) -> Any:
        yield b"hello"
        async for message in messages:
            yield message

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.stream_stream_rpc_method_handler(greet)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Y", {"Z": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    gate = await site.gate([f"127.0.0.1:{port}"], pool={"protocol": "grpc", "cost": BYTES})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.stream_stream("/x.Y/Z")()
        assert await call.read() == b"hello"
        await call.write(b"x" * 5000)
        assert await call.read() == b"x" * 5000
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    await over(gate)
    await server.stop(0)


async def test_nothing_is_left_whatever_becomes_of_requests(site: Site) -> None:
    """Endpoints that answer, fail, hang or go away, hedges, retries, a queue, and clients that leave, all at random."""
    dice = random.Random(4)

    async def moody(message: Any, context: grpc.aio.ServicerContext) -> Any:
        mood = dice.random()
        await asyncio.sleep(dice.random() * 0.03)
        if mood < 0.2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        if mood < 0.3:
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        if mood < 0.4:
            await asyncio.sleep(0.2)
        return await echo(message, context)

    queue = QueuePlan(20, 50, 10 * SECOND, 10 * SECOND, 1.0)
    gate = await gate_to(
        site, *(ModelServer(moody) for _ in range(3)), cost=LEARNED, cap=6, pool={"queue": queue, "retries": 2},
        route={"hedge": HedgePlan(0, SECOND // 100, 1, 100, 1000)},
    )  # fmt: skip

    async def client() -> None:
        for _ in range(12):
            with contextlib.suppress(TimeoutError):
                path = f"/v2/models/m{dice.randrange(3)}/infer"
                await asyncio.wait_for(ask(gate, batch_of(dice.choice((1, 2, 40))), path=path), dice.choice((0.02, 20)))

    await asyncio.gather(*(client() for _ in range(30)))
    assert gate.total(2)["retries"], "nothing was tried again"
    await over(gate)


async def test_a_request_gives_back_to_the_plan_that_it_came_by(site: Site) -> None:
    held = Held()
    gate = await gate_to(site, held.server)
    first = asyncio.create_task(ask(gate, batch_of(3)))
    await settle(lambda: held.batches == [3], "it did not come")
    for generation, cost in ((2, None), (3, LEARNED), (4, BYTES)):
        site.reload_pool(gate, generation=generation, cost=cost)
    second = asyncio.create_task(ask(gate, batch_of(9)))
    await settle(lambda: sorted(held.batches) == [3, 9], "it did not come")
    assert outstanding(gate)[0] > 0
    held.open.set()
    await asyncio.gather(first, second)
    await over(gate)
