"""A worker takes a plan bit by bit: what comes between the bits, and what comes of frames meanwhile."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from waiting import until

from lb.clock import MonotonicClock
from lb.config.plan.plan import AccessLogPlan, Plan
from lb.control.workers.adoption import SLICE_NS, Adoption
from lb.control.workers.channel import Channel, Message
from lb.control.workers.worker import Ask, Wake, Worker
from lb.errors import StartError
from lb.shared.segment import Segment
from lb.upstream.start import Start


class SlowPath:
    """A data path that takes a plan when `steps` says so; plan 13 it refuses, on 14 it breaks."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.sockets: dict[str, int] = {}
        self.steps = 0  # that are still to be made
        self.begun: list[int] = []
        self.given_up: list[int] = []
        self.state = "serving"

    def connect(self, ask: Ask, wake: Wake) -> None:
        self.ask, self.wake = ask, wake

    def tell_start(self, pool: str, start: Start) -> None: ...

    def adopt(self, plan: Plan, sockets: dict[str, int]) -> Iterator[None]:
        self.begun.append(plan.generation)
        try:
            while self.steps:
                time.sleep(2 * SLICE_NS / 1e9)
                yield
        except GeneratorExit:
            self.given_up.append(plan.generation)
            raise
        if plan.generation == 13:
            raise StartError("unlucky")
        if plan.generation == 14:
            raise RuntimeError("broken")
        self.plan, self.sockets = plan, sockets

    def stop_accepting(self, replaced: bool = False) -> None: ...
    def end_datagrams(self) -> None: ...
    def drain(self) -> None:
        self.state = "draining"

    def busy(self) -> int:
        return 0

    def model_counts(self, pool: str) -> list[tuple[str, list[int]]]:
        return []

    def stats(self) -> dict[str, int]:
        return {}

    def comparisons(self) -> list[dict[str, Any]]:
        return []

    def tier_status(self) -> dict[str, Any] | None:
        return None

    def close(self) -> None:
        self.state = "closed"

    @property
    def generation(self) -> int:
        return self.plan.generation if self.plan else 0


@dataclass
class Bed:
    """A worker in this process, with the master's end of its channel."""

    path: SlowPath
    worker: Worker
    master: Channel
    answers: list[tuple[int, str]] = field(default_factory=list)  # generation, error
    asked: list[Message] = field(default_factory=list)

    def send(self, kind: str, generation: int = 0, **more: Any) -> None:
        self.master.send({"type": kind, "generation": generation, **more})

    def plan(self, generation: int) -> None:
        plan = Plan(generation, 1, (), (), None, AccessLogPlan(""), 0)
        self.send("plan", generation, plan=plan.to_wire(), sockets={}, log_level="info")

    async def until(self, condition: Any) -> None:
        await until(condition)

    async def running(self, generation: int) -> None:
        """Has `generation` in force, and the next adoption hold still."""
        self.plan(generation)
        self.send("commit", generation)
        await self.until(lambda: (generation, "") in self.answers)
        self.path.steps = 1

    async def held(self, generation: int) -> None:
        await self.until(lambda: generation in self.path.begun)


@asynccontextmanager
async def bed() -> AsyncIterator[Bed]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    path = SlowPath()
    worker = Worker(loop, 0, theirs, path, -1, Segment.create(1))

    def heard(message: Message, fds: list[int]) -> None:
        if message["type"] == "applied":
            made.answers.append((message["generation"], message["error"]))
        elif message["type"] == "ask":
            made.asked.append(message)

    made = Bed(path, worker, Channel(loop, ours, heard, lambda reason: None))
    yield made
    path.steps = 0
    made.master.close()
    await made.until(lambda: path.state == "closed")


async def test_the_loop_turns_between_the_slices() -> None:
    turns = 0
    seen: list[int] = []
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    def steps() -> Iterator[None]:
        for _ in range(5):
            seen.append(turns)
            time.sleep(2 * SLICE_NS / 1e9)
            yield

    done: asyncio.Future[Exception | None] = loop.create_future()
    turn()
    Adoption(loop, MonotonicClock(), steps(), done.set_result)
    assert not seen  # nothing is done before the loop's next turn
    assert await done is None
    assert len(set(seen)) == 5


async def test_short_steps_share_a_slice_and_no_garbage_is_collected_meanwhile() -> None:
    loop = asyncio.get_running_loop()
    enabled: list[bool] = []

    def steps() -> Iterator[None]:
        for _ in range(3):
            enabled.append(gc.isenabled())
            yield
        raise StartError("no")

    done: asyncio.Future[Exception | None] = loop.create_future()
    Adoption(loop, MonotonicClock(), steps(), done.set_result)
    error = await done
    assert isinstance(error, StartError)
    assert enabled == [False, False, False]
    assert gc.isenabled()


async def test_a_plan_is_in_force_and_answered_at_its_end_only() -> None:
    async with bed() as it:
        await it.running(1)
        it.plan(2)
        await it.held(2)
        assert (it.path.generation, it.answers) == (1, [(1, "")])
        it.path.steps = 0
        await it.until(lambda: (2, "") in it.answers)
        assert it.path.generation == 2


@pytest.mark.parametrize(("generation", "error"), [(13, "unlucky"), (14, "internal error: RuntimeError('broken')")])
async def test_a_plan_that_fails_leaves_the_one_before(generation: int, error: str) -> None:
    async with bed() as it:
        await it.running(1)
        it.path.steps = 0
        it.plan(generation)
        it.plan(15)
        await it.until(lambda: len(it.answers) == 3)
        assert it.answers == [(1, ""), (generation, error), (15, "")]
        assert it.path.generation == 15


async def test_plans_that_come_meanwhile_follow_in_order() -> None:
    async with bed() as it:
        await it.running(1)
        it.plan(2)
        await it.held(2)
        it.send("commit", 2)
        it.plan(3)
        await asyncio.sleep(0.02)
        assert it.path.begun == [1, 2]
        it.path.steps = 0
        await it.until(lambda: len(it.answers) == 3)
        assert it.answers == [(1, ""), (2, ""), (3, "")]
        it.send("revert", 3)
        await it.until(lambda: it.path.generation == 2)


async def test_a_revert_ends_the_adoption_of_its_plan() -> None:
    async with bed() as it:
        await it.running(1)
        it.plan(2)
        await it.held(2)
        it.send("revert", 2)
        await it.until(lambda: it.path.given_up == [2])
        it.path.steps = 0
        it.plan(3)
        await it.until(lambda: len(it.answers) == 2)
        assert it.answers == [(1, ""), (3, "")]  # nobody waits for an answer to what was taken back
        assert gc.isenabled()


async def test_a_revert_of_a_plan_in_force_goes_back_bit_by_bit() -> None:
    async with bed() as it:
        await it.running(1)
        it.path.steps = 0
        it.plan(2)
        await it.until(lambda: (2, "") in it.answers)
        it.path.steps = 1
        it.send("revert", 2)
        it.plan(3)
        await it.until(lambda: it.path.begun == [1, 2, 1])
        await asyncio.sleep(0.02)
        assert it.path.generation == 2  # until it is done
        it.path.steps = 0
        await it.until(lambda: (3, "") in it.answers)
        assert it.path.begun == [1, 2, 1, 3]


async def test_a_stop_ends_the_adoption_and_says_so() -> None:
    async with bed() as it:
        await it.running(1)
        it.plan(2)
        await it.held(2)
        it.plan(3)
        it.send("stop", drain_timeout_ns=0)
        await it.until(lambda: it.path.state == "closed")
        await it.until(lambda: len(it.answers) == 3)
        assert it.path.given_up == [2]
        assert it.answers[1:] == [(2, "the worker is draining"), (3, "the worker is draining")]
        assert it.worker.finished.done()


async def test_questions_to_the_master_are_answered_each_by_its_number() -> None:
    told: list[tuple[str, int, str, bytes]] = []

    def teller(name: str) -> Any:
        return lambda status, message, reply: told.append((name, status, message, reply))

    async with bed() as made:
        await made.running(1)
        for name in "abc":
            made.path.ask(name, "ModelStatistics", name.encode(), teller(name))
        await made.until(lambda: len(made.asked) == 3)
        assert [(m["pool"], m["method"], m["request"]) for m in made.asked] == [
            (name, "ModelStatistics", name.encode()) for name in "abc"
        ]
        made.path.steps = 1000
        made.plan(2)
        await made.held(2)
        made.master.send({"type": "told", "number": made.asked[1]["number"], "status": 0, "message": "", "reply": b"B"})
        made.master.send(
            {"type": "told", "number": made.asked[0]["number"], "status": 5, "message": "no", "reply": b""}
        )
        await made.until(lambda: len(told) == 2)  # while a plan is being adopted
        assert told == [("b", 0, "", b"B"), ("a", 5, "no", b"")]
        made.path.steps = 0
        made.master.close()
        await made.until(lambda: len(told) == 3)
        assert told[2] == ("c", 14, "the master is gone", b"")
        made.path.ask("d", "ModelStatistics", b"", teller("d"))
        assert told[3] == ("d", 14, "the master is gone", b"")
