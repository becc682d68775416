"""Calls of the Open Inference Protocol whose answer is the pool's rather than one endpoint's.

Workers pass them on to the master (lb.control.workers.fleet), where what has to be known of all answers so far lives:
one state for all workers, which outlives them and reloads and ends with the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from lb.control.endpoints.asking import Answer, Asked, ask, error_of, worst
from lb.control.endpoints.asking import GrpcStatus as Status

if TYPE_CHECKING:
    from lb.control.endpoints.inference_counts import InferenceCounts
    from lb.control.endpoints.server_calls import ServerCalls
    from lb.health.checks.grpc_connection import CallFailed
    from lb.inference.statistics import PoolStatistics

log = logging.getLogger("tidegate.master")

STATISTICS, METADATA = "ModelStatistics", "ServerMetadata"
DESCRIPTIONS = ("ModelMetadata", "ModelConfig")
TIMEOUT = 2.0  # seconds for one endpoint to answer
MOST_WAITING = 1024  # different requests of a pool; more are refused
_AT_ONCE = 64  # different requests that one round asks


async def _never_woken(pool: str) -> str | None:
    return None


class PoolCalls:
    """`endpoints(pool)` gives those of a pool that take requests or finish what they have; () of an unknown pool.
    `server_calls` takes those that change them, `counts` has what stands in for statistics. `wake(pool)` waits until a
    pool on demand has an endpoint ("", or why it has none); None of another pool. Everything on the loop."""

    def __init__(
        self,
        endpoints: Callable[[str], Sequence[Asked]],
        server_calls: ServerCalls,
        counts: InferenceCounts,
        timeout: float = TIMEOUT,
        wake: Callable[[str], Awaitable[str | None]] = _never_woken,
    ) -> None:
        self._endpoints = endpoints
        self._wake = wake
        self._server_calls = server_calls
        self._counts = counts
        self._timeout = timeout
        self._pools: dict[str, _Statistics] = {}
        self._running: dict[tuple[str, str, bytes], asyncio.Task[Answer]] = {}

    async def answer(self, pool: str, method: str, request: bytes) -> Answer:
        """The pool's answer to `request`, the message of `method`: of ModelStatistics the sum over its endpoints, of
        ModelMetadata and ModelConfig that of any endpoint, of ServerMetadata what all have in common. What it says is
        no older than the call, or than one that was under way."""
        try:
            if method == STATISTICS:
                answer = await self._pool(pool).answer(request)
                if answer.status != Status.UNIMPLEMENTED:
                    return answer
                return await self._counts.answer(pool, request, lambda asked: self._described(pool, asked))
            if method == "ModelConfig":
                answer = await self._shared(pool, method, request)
                return await self._configured(pool, request) if answer.status == Status.UNIMPLEMENTED else answer
            if method in DESCRIPTIONS:
                return await self._shared(pool, method, request)
            if method == METADATA:
                return await self._shared(pool, method, b"")
            from lb.inference.server_calls import METHODS

            if method in METHODS:
                return await self._server_calls.answer(pool, method, request)
            return Answer(Status.UNIMPLEMENTED, f"{method} is no call of a whole pool", b"")
        except Exception:  # one that nobody foresaw must not leave the client without an answer
            log.exception("pool %s: %s was not answered", pool, method)
            return Answer(Status.INTERNAL, "internal error", b"")

    async def statistics(self, pool: str) -> Answer:
        """The pool's ModelStatistics of all models, for an operator: unlike `answer`, it wakes no pool on demand, and
        has no worker begin to count for servers that have no statistics."""
        if not self._endpoints(pool):
            return Answer(Status.UNAVAILABLE, f"pool {pool} has no endpoint that can be asked", b"")
        answer = await self._pool(pool).answer(b"")
        if answer.status == Status.UNIMPLEMENTED and self._counts.counting(pool):
            return await self.answer(pool, STATISTICS, b"")
        return answer

    async def _configured(self, pool: str, request: bytes) -> Answer:
        """A ModelConfig of servers that have none, by the model's metadata."""
        from google.protobuf.message import DecodeError

        from lb.inference.synthesis import config_of

        answer = await self._described(pool, request)
        if answer.status:
            return answer
        try:
            return Answer(0, "", config_of(answer.reply))
        except DecodeError:
            return Answer(Status.INTERNAL, "the answer is not a ModelMetadataResponse", b"")

    async def _described(self, pool: str, request: bytes) -> Answer:
        """ModelMetadata by a request of ModelConfig or ModelStatistics, whose fields are the same."""
        return await self._shared(pool, "ModelMetadata", request)

    def ended(self, pool: str, address: str) -> None:
        """The process behind an endpoint has ended: what it counted is kept."""
        if pool in self._pools:
            self._pools[pool].ended(address)

    def follow(self, pools: Sequence[str]) -> None:
        """These pools are left; of others everything is forgotten."""
        for name in self._pools.keys() - set(pools):
            del self._pools[name]
        self._counts.follow(pools)

    async def _shared(self, pool: str, method: str, request: bytes) -> Answer:
        """Of equal calls one asks, and the others wait for its answer."""
        key = pool, method, request
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MOST_WAITING:
                return Answer(Status.RESOURCE_EXHAUSTED, f"pool {pool}: too many calls of {method}", b"")
            asking = self._common(pool) if method == METADATA else self._any(pool, method, request)
            running = self._running[key] = asyncio.create_task(asking)
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(running)

    async def _any(self, pool: str, method: str, request: bytes) -> Answer:
        """The answer of the first endpoint that has one; else an error of theirs."""
        errors = []
        endpoints = self._endpoints(pool) or await self._woken(pool)
        if isinstance(endpoints, Answer):
            return endpoints
        for endpoint in endpoints:
            (answer,) = await ask(endpoint, method, [request], self._timeout)
            if isinstance(answer, bytes):
                return Answer(0, "", answer)
            errors.append(_told(method, answer))
        return worst(pool, errors)

    async def _common(self, pool: str) -> Answer:
        """The ServerMetadata of a pool: the first endpoint's name and version, and the extensions that all of those
        which answer have, or that are made up for."""
        from google.protobuf.message import DecodeError

        from lb.inference.synthesis import common_metadata

        endpoints = self._endpoints(pool) or await self._woken(pool)
        if isinstance(endpoints, Answer):
            return endpoints
        found = await asyncio.gather(*(ask(endpoint, METADATA, [b""], self._timeout) for endpoint in endpoints))
        said = [answer for (answer,) in found if isinstance(answer, bytes)]
        if not said:
            return worst(pool, [_told(METADATA, answer) for (answer,) in found if not isinstance(answer, bytes)])
        try:
            return Answer(0, "", common_metadata(said))
        except DecodeError:
            return Answer(Status.INTERNAL, "an endpoint's answer is not a ServerMetadataResponse", b"")

    async def _woken(self, pool: str) -> Sequence[Asked] | Answer:
        """The endpoints of a pool that had none, once one has been started; or why there is none."""
        trouble = await self._wake(pool)
        if trouble:
            return Answer(Status.UNAVAILABLE, f"no endpoint of pool {pool} is available: {trouble}", b"")
        return self._endpoints(pool)

    def _pool(self, name: str) -> _Statistics:
        if name not in self._pools:
            self._pools[name] = _Statistics(name, lambda: self._endpoints(name), self._timeout)
        return self._pools[name]


class _Statistics:
    """The statistics of a pool. One round at a time asks all endpoints for all that is waited for; who comes meanwhile
    waits for the next, since an answer must have what was counted before the call."""

    def __init__(self, pool: str, endpoints: Callable[[], Sequence[Asked]], timeout: float) -> None:
        self._pool = pool
        self._endpoints = endpoints
        self._timeout = timeout
        self._waiting: dict[bytes, asyncio.Future[Answer]] = {}
        self._rounds: asyncio.Task[None] | None = None
        self._sums: PoolStatistics | None = None
        self._silent: set[str] = set()  # addresses that did not answer last

    def ended(self, address: str) -> None:
        if self._sums is not None:
            self._sums.ended(address)

    async def answer(self, request: bytes) -> Answer:
        waiting = self._waiting.get(request)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING:
                return Answer(Status.RESOURCE_EXHAUSTED, f"pool {self._pool}: too many calls for statistics", b"")
            waiting = self._waiting[request] = asyncio.get_running_loop().create_future()
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._run(), name=f"statistics of {self._pool}")
        return await asyncio.shield(waiting)

    async def _run(self) -> None:
        while self._waiting:
            taken = {request: self._waiting.pop(request) for request in list(self._waiting)[:_AT_ONCE]}
            try:
                answers = await self._round(list(taken))
            except Exception as error:
                for waiting in taken.values():
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for waiting, answer in zip(taken.values(), answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)

    async def _round(self, requests: Sequence[bytes]) -> list[Answer]:
        endpoints = self._endpoints()
        if not endpoints:
            return [self._kept(request) for request in requests]
        found = await asyncio.gather(*(self._ask(endpoint, requests) for endpoint in endpoints))
        said = {endpoint.address: answers for endpoint, answers in zip(endpoints, found, strict=True)}
        return [self._sum({a: answers[i] for a, answers in said.items()}) for i in range(len(requests))]

    def _kept(self, request: bytes) -> Answer:
        """What is known of endpoints that are gone, as of a pool at zero, which is not woken for that."""
        from google.protobuf.message import DecodeError

        from lb.wire import grpc_service_pb2 as wire

        if self._sums is None:
            return worst(self._pool, [])
        try:
            asked = wire.ModelStatisticsRequest.FromString(request)
        except DecodeError:
            return Answer(Status.INVALID_ARGUMENT, "the request is not a ModelStatisticsRequest", b"")
        return Answer(0, "", self._sums.kept(asked.name, asked.version).SerializeToString())

    def _sum(self, said: dict[str, bytes | CallFailed]) -> Answer:
        """Of those that answer; where none does, an error of theirs."""
        from google.protobuf.message import DecodeError

        from lb.inference.statistics import PoolStatistics
        from lb.wire import grpc_service_pb2 as wire

        answers, errors = {}, []
        for address, answer in said.items():
            if not isinstance(answer, bytes):
                errors.append(_told(STATISTICS, answer))
                continue
            try:
                answers[address] = wire.ModelStatisticsResponse.FromString(answer)
            except DecodeError:
                errors.append(Answer(Status.INTERNAL, "an endpoint's answer is not a ModelStatisticsResponse", b""))
        if not answers:
            return worst(self._pool, errors)
        if self._sums is None:
            self._sums = PoolStatistics()
        made = self._sums.take(answers)
        self._sums.follow(said.keys())
        return Answer(0, "", made.SerializeToString())

    async def _ask(self, endpoint: Asked, requests: Sequence[bytes]) -> Sequence[bytes | CallFailed]:
        answers = await ask(endpoint, STATISTICS, requests, self._timeout)
        errors = [answer for answer in answers if not isinstance(answer, bytes)]
        silent = [error for error in errors if int(error.code) == Status.UNAVAILABLE]
        if not silent:
            self._silent.discard(endpoint.address)
        elif endpoint.address not in self._silent:
            self._silent.add(endpoint.address)
            log.warning(
                "pool %s: no statistics from endpoint %s, its last known ones count: %s",
                self._pool, endpoint.address, silent[0].details,
            )  # fmt: skip
        return answers


def _told(method: str, failure: CallFailed) -> Answer:
    """An endpoint's own error, for a client. Of an endpoint that gave none it is told no more than that: addresses and
    why there is no talking to them are for operators."""
    return error_of(method, failure) if failure.told else Answer(failure.code, "an endpoint did not answer", b"")
