"""Identical inferences that come to several workers at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from datapath import SECOND, Gate, Site, settle, sharing
from infer_site import Held, error_of, gate_to
from msgspec.structs import replace
from oip_site import INFER, Answer, ask, echo, failing, floats, plain, request, tensor
from test_grpc_cache import inference, stub, tell

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.plan.caching import FreshnessPlan

WORKERS = 3
COLLAPSED = "tidegate; fwd=miss; collapsed"
STORED = "tidegate; fwd=miss; stored"


class Workers:
    """Data paths of one daemon in the test's own process; each has a port of its own."""

    def __init__(self, gates: list[Gate], fds: list[int]) -> None:
        self.gates = gates
        self.fds = fds

    def __getitem__(self, worker: int) -> Gate:
        return self.gates[worker]

    def stats(self) -> dict[str, int]:
        return ResultCache(self[0].segment, 1 << 20).stats()

    def busy(self) -> int:
        return sum(gate.proxy.busy() for gate in self.gates)

    async def idle(self) -> None:
        await settle(lambda: self.busy() == 0 and self[0].in_flight() == 0, "an exchange is left")

    async def together(self, model: Held, counts: list[int], **members: Any) -> list[asyncio.Task[Answer]]:
        """So many requests to each worker, the first of all to the first worker that has any."""
        tasks: list[asyncio.Task[Answer]] = []
        before, arrived = len(model.requests), 0
        for gate, count in zip(self.gates, counts, strict=True):
            tasks += [asyncio.create_task(ask(gate, plain(id=str(i), **members))) for i in range(count)]
            arrived += count
            await settle(lambda wanted=arrived: self.busy() == wanted, "the requests did not arrive")
            await settle(lambda: len(model.requests) == before + 1, "no call was made")
        return tasks


@contextlib.asynccontextmanager
async def workers_to(site: Site, model: Held, **options: Any) -> AsyncIterator[Workers]:
    make = partial(gate_to, site, model, cached=True, **options)
    async with sharing(site, WORKERS, make) as gates:
        yield Workers(gates, [site.descriptors[gate.port] for gate in gates])


async def leader_of(gate: Gate, model: Held, **members: Any) -> asyncio.StreamWriter:
    """A client whose request is with the model server."""
    before = len(model.requests)
    _, leader = await gate.connect()
    leader.write(request("POST", INFER, json.dumps(plain(**members)).encode()))
    await settle(lambda: len(model.requests) == before + 1, "no call was made")
    return leader


async def test_identical_requests_to_all_workers_are_one_call(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [20, 20, 20])
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert sorted(a.cache or "" for a in answers) == [COLLAPSED] * 59 + [STORED]
        assert [a.json["id"] for a in answers] == [str(i) for i in range(20)] * 3
        assert all(a.json["outputs"][0]["data"] == [1.5, -2.0] for a in answers)
        assert len(model.requests) == 1
        assert [(await ask(gate, plain())).cache for gate in workers.gates] == ["tidegate; hit"] * 3
        assert workers[0].total(2)["cache.collapsed"] == 59
        stats = workers.stats()
        assert (stats["flights_followed"], stats["flights_promoted"], stats["flights_unshared"]) == (2, 0, 0)
        await workers.idle()


async def test_a_leader_that_leaves_hands_over_within_its_worker_first(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        leader = await leader_of(workers[1], model)
        tasks = [asyncio.create_task(ask(gate, plain())) for gate in workers.gates for _ in range(3)]
        await settle(lambda: workers.busy() == 10, "the requests did not arrive")
        leader.close()
        await settle(lambda: len(model.requests) == 2, "no follower took over")
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.cache for a in answers[3:6]] == [STORED, COLLAPSED, COLLAPSED]
        assert [a.cache for a in answers[:3] + answers[6:]] == [COLLAPSED] * 6
        assert len(model.requests) == 2
        await workers.idle()


async def test_a_leader_that_leaves_alone_hands_over_to_another_worker(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        leader = await leader_of(workers[0], model)
        tasks = [asyncio.create_task(ask(gate, plain())) for gate in workers.gates[1:] for _ in range(3)]
        await settle(lambda: workers.busy() == 7, "the requests did not arrive")
        leader.close()
        await settle(lambda: len(model.requests) == 2, "no follower took over")
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert sorted(a.cache or "" for a in answers) == [COLLAPSED] * 5 + [STORED]
        assert len(model.requests) == 2
        await workers.idle()


async def test_the_last_follower_of_a_worker_that_leaves_harms_nobody(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [1, 0, 1])
        _, leaving = await workers[1].connect()
        leaving.write(request("POST", INFER, json.dumps(plain()).encode()))
        await settle(lambda: workers[1].proxy.busy() == 1, "the request did not arrive")
        leaving.close()
        await settle(lambda: workers[1].proxy.busy() == 0, "it was not noticed")
        tasks += [asyncio.create_task(ask(workers[1], plain())) for _ in range(2)]
        await settle(lambda: workers.busy() == 4, "the requests did not arrive")
        model.release.set()
        assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 4
        assert len(model.requests) == 1
        await workers.idle()


async def test_the_requests_own_fault_costs_each_worker_one_call(site: Site) -> None:
    model = Held()
    model.then = failing(grpc.StatusCode.INVALID_ARGUMENT, "wrong")
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [5, 5, 5])
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [(a.status, error_of(a)) for a in answers] == [(400, "wrong")] * 15
        assert len(model.requests) == WORKERS
        assert workers.stats()["flights_unshared"] == 1
        await workers.idle()


async def test_a_fault_of_the_server_is_not_shared(site: Site) -> None:
    model = Held()
    broken = failing(grpc.StatusCode.INTERNAL, "broken")

    async def first_fails(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        return await (broken if sent is model.requests[0] else echo)(sent, context)

    model.then = first_fails
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [1, 4, 4])
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.status for a in answers] == [500] + [200] * 8
        assert len(model.requests) == 2
        await workers.idle()


async def test_what_is_not_kept_costs_each_worker_one_call(site: Site) -> None:
    model = Held()
    async with workers_to(site, model, route={"freshness": FreshnessPlan(ttl_ns=0)}) as workers:
        tasks = await workers.together(model, [4, 4, 4])
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.status for a in answers] == [200] * 12
        assert sorted(a.cache or "" for a in answers) == ["tidegate; fwd=miss"] * 3 + [COLLAPSED] * 9
        assert len(model.requests) == WORKERS
        await workers.idle()


async def test_a_follower_keeps_its_own_deadline(site: Site) -> None:
    """In the leader's worker and in another."""
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [2, 2, 0])
        late = [
            await ask(gate, plain(parameters={"timeout": 100_000}), headers=None)  # µs
            for gate in workers.gates
        ]
        assert [a.status for a in late] == [504] * 3
        assert [a.cache for a in late] == [None] * 3
        model.release.set()
        assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 4
        assert len(model.requests) == 1
        await workers.idle()


async def test_a_leader_that_runs_out_of_time_hands_over(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        leader = asyncio.create_task(ask(workers[0], plain(parameters={"timeout": 600_000})))
        await settle(lambda: len(model.requests) == 1, "no call was made")
        tasks = [asyncio.create_task(ask(workers[1], plain())) for _ in range(3)]
        assert (await leader).status == 504
        await settle(lambda: len(model.requests) == 2, "no follower took over")
        model.release.set()
        assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 3
        assert len(model.requests) == 2
        await workers.idle()


async def test_a_purge_during_a_flight_begins_another(site: Site) -> None:
    """Who asked before gets the answer from before; who asks after the purge, in whatever worker, never does."""
    model = Held()
    async with workers_to(site, model) as workers:
        before = await workers.together(model, [2, 2, 0])
        ResultCache(workers[0].segment, 1 << 20).purge(tags.of_model("pool", "m").encode())
        after = [asyncio.create_task(ask(gate, plain())) for gate in workers.gates for _ in range(2)]
        await settle(lambda: workers.busy() == 10, "the requests did not arrive")
        await settle(lambda: len(model.requests) == 2, "the answer from before the purge is waited for")
        model.release.set()
        assert [a.status for a in await asyncio.gather(*before)] == [200] * 4
        answers = await asyncio.gather(*after)
        assert sorted(a.cache or "" for a in answers) == [COLLAPSED] * 5 + [STORED]
        assert [(await ask(gate, plain())).cache for gate in workers.gates] == ["tidegate; hit"] * 3
        # The first flight could not be shared: the other worker's part of it was asked anew, after the purge.
        assert len(model.requests) in (2, 3)
        await workers.idle()


async def test_clients_of_grpc_and_rest_share_the_flight_of_all_workers(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [3, 3, 0])
        async with stub(workers[1]) as second, stub(workers[2]) as third:
            calls = [asyncio.create_task(tell(call, inference())) for call in (second, third) for _ in range(3)]
            await settle(lambda: workers.busy() == 12, "the calls did not arrive")
            model.release.set()
            assert [told.cache for told in await asyncio.gather(*calls)] == [COLLAPSED] * 6
            assert all(told.values == floats(1.5, -2.0) for told in await asyncio.gather(*calls))
        assert sorted(a.cache or "" for a in await asyncio.gather(*tasks)) == [COLLAPSED] * 5 + [STORED]
        assert len(model.requests) == 1
        await workers.idle()


async def test_batches_by_rows_are_one_call(site: Site) -> None:
    model = Held()
    batch = tensor([1.0, 2.0, 3.0], shape=[3, 1])
    async with workers_to(site, model, pool={"cache_rows": ("m",)}) as workers:
        tasks = [asyncio.create_task(ask(gate, plain(batch))) for gate in workers.gates for _ in range(4)]
        await settle(lambda: workers.busy() == 12, "the requests did not arrive")
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.json["outputs"][0]["data"] for a in answers] == [[1.0, 2.0, 3.0]] * 12
        assert sorted(a.cache or "" for a in answers) == [COLLAPSED] * 11 + [STORED]
        assert len(model.requests) == 1
        # Another batch, of which a row is there: the two others are asked for once.
        model.release.clear()
        batch = tensor([4.0, 2.0, 5.0], shape=[3, 1])
        tasks = [asyncio.create_task(ask(gate, plain(batch))) for gate in workers.gates for _ in range(4)]
        await settle(lambda: workers.busy() == 12, "the requests did not arrive")
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.json["outputs"][0]["data"] for a in answers] == [[4.0, 2.0, 5.0]] * 12
        assert [list(sent.inputs[0].shape) for sent in model.requests] == [[3, 1], [2, 1]]
        await workers.idle()


async def test_a_cache_that_is_switched_off_leaves_nobody_waiting(site: Site) -> None:
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [2, 2, 2])
        plan = replace(workers[0].plan, generation=2, cache=None)
        for gate, fd in zip(workers.gates, workers.fds, strict=True):
            gate.proxy.apply(plan, {"web": fd})
        model.release.set()
        assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 6
        assert len(model.requests) == 1  # who has begun with the cache finishes with it
        # And on again.
        for gate, fd in zip(workers.gates, workers.fds, strict=True):
            gate.proxy.apply(replace(plan, generation=3, cache=workers[0].plan.cache), {"web": fd})
        model.release.clear()
        tasks = await workers.together(model, [2, 2, 2], parameters={"seed": 1})
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert sorted(a.cache or "" for a in answers) == [COLLAPSED] * 5 + [STORED]
        await workers.idle()


async def test_a_flight_outlasts_its_lease(site: Site) -> None:
    """Only who is dead or hangs loses a flight, not who waits for a slow model."""
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [1, 1, 1])
        await asyncio.sleep(2.5)
        assert len(model.requests) == 1
        model.release.set()
        assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 3
        assert len(model.requests) == 1
        await workers.idle()


async def test_a_wakeup_that_never_came_costs_a_moment(site: Site) -> None:
    """As when the leader's worker is killed after it has ended the flight."""
    model = Held()
    async with workers_to(site, model) as workers:
        tasks = await workers.together(model, [1, 2, 2])
        for gate in workers.gates:
            gate.proxy.wakeups.wakes.clear()
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.status for a in answers] == [200] * 5
        assert len(model.requests) == 1
        await workers.idle()


async def test_many_keys_at_once(site: Site) -> None:
    model = Held()
    async with workers_to(site, model, pool={"response_timeout_ns": 60 * SECOND}) as workers:
        tasks = [
            asyncio.create_task(ask(gate, plain(parameters={"seed": number})))
            for number in range(40)
            for gate in workers.gates
        ]
        await settle(lambda: workers.busy() == 120, "the requests did not arrive")
        await settle(lambda: len(model.requests) == 40, "not every key is asked for")
        model.release.set()
        answers = await asyncio.gather(*tasks)
        assert [a.status for a in answers] == [200] * 120
        assert len(model.requests) == 40
        await workers.idle()
