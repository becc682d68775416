"""Calls of the Open Inference Protocol whose answer is the pool's rather than one endpoint's.

Workers pass them on to the master (lb.control.workers.fleet), where what has to be known of all answers so far lives:
one state for all workers, which outlives them and reloads and ends with the daemon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lb.health.check import CheckFailed

if TYPE_CHECKING:
    from lb.health.checks.grpc_connection import CallFailed
    from lb.health.checks.tls import CheckTls
    from lb.inference.statistics import PoolStatistics

log = logging.getLogger("tidegate.master")

STATISTICS = "ModelStatistics"
DESCRIPTIONS = ("ModelMetadata", "ModelConfig")
TIMEOUT = 2.0  # seconds for one endpoint to answer
MOST_WAITING = 1024  # different requests of a pool; more are refused
_AT_ONCE = 64  # different requests that one round asks
_SERVICE = "/inference.GRPCInferenceService/"
_RESOURCE_EXHAUSTED, _UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE = 8, 12, 13, 14  # statuses of gRPC


class Answer(NamedTuple):
    """A gRPC status, its message and the reply's bytes."""

    status: int
    message: str
    reply: bytes


class Asked(NamedTuple):
    """An endpoint that is asked; `tls` as in its health checks."""

    address: str
    tls: CheckTls | None = None


class PoolCalls:
    """`endpoints(pool)` gives those of a pool that take requests or finish what they have; () of an unknown pool.
    Everything on the loop."""

    def __init__(self, endpoints: Callable[[str], Sequence[Asked]], timeout: float = TIMEOUT) -> None:
        self._endpoints = endpoints
        self._timeout = timeout
        self._pools: dict[str, _Statistics] = {}
        self._running: dict[tuple[str, str, bytes], asyncio.Task[Answer]] = {}

    async def answer(self, pool: str, method: str, request: bytes) -> Answer:
        """The pool's answer to `request`, the message of `method`: of ModelStatistics the sum over its endpoints, of
        ModelMetadata and ModelConfig that of any endpoint. What it says is no older than the call, or than one that
        was under way."""
        try:
            if method == STATISTICS:
                return await self._pool(pool).answer(request)
            if method in DESCRIPTIONS:
                return await self._shared(pool, method, request)
            return Answer(_UNIMPLEMENTED, f"{method} is no call of a whole pool", b"")
        except Exception as error:  # one that nobody foresaw must not leave the client without an answer
            log.exception("pool %s: %s was not answered", pool, method)
            return Answer(_INTERNAL, f"internal error: {error!r}", b"")

    def ended(self, pool: str, address: str) -> None:
        """The process behind an endpoint has ended: what it counted is kept."""
        if pool in self._pools:
            self._pools[pool].ended(address)

    def follow(self, pools: Sequence[str]) -> None:
        """These pools are left; of others everything is forgotten."""
        for name in self._pools.keys() - set(pools):
            del self._pools[name]

    async def _shared(self, pool: str, method: str, request: bytes) -> Answer:
        """Of equal calls one asks, and the others wait for its answer."""
        key = pool, method, request
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MOST_WAITING:
                return Answer(_RESOURCE_EXHAUSTED, f"pool {pool}: too many calls of {method}", b"")
            running = self._running[key] = asyncio.create_task(self._any(pool, method, request))
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(running)

    async def _any(self, pool: str, method: str, request: bytes) -> Answer:
        """The answer of the first endpoint that has one; else an error of theirs."""
        errors = []
        for endpoint in self._endpoints(pool):
            (answer,) = await ask(endpoint, method, [request], self._timeout)
            if isinstance(answer, bytes):
                return Answer(0, "", answer)
            errors.append(_error(method, answer))
        return _worst(pool, errors)

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
                return Answer(_RESOURCE_EXHAUSTED, f"pool {self._pool}: too many calls for statistics", b"")
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
            return [_worst(self._pool, [])] * len(requests)
        found = await asyncio.gather(*(self._ask(endpoint, requests) for endpoint in endpoints))
        said = {endpoint.address: answers for endpoint, answers in zip(endpoints, found, strict=True)}
        return [self._sum({a: answers[i] for a, answers in said.items()}) for i in range(len(requests))]

    def _sum(self, said: dict[str, bytes | CallFailed]) -> Answer:
        """Of those that answer; where none does, an error of theirs."""
        from google.protobuf.message import DecodeError

        from lb.inference.statistics import PoolStatistics
        from lb.wire import grpc_service_pb2 as wire

        answers, errors = {}, []
        for address, answer in said.items():
            if not isinstance(answer, bytes):
                errors.append(_error(STATISTICS, answer))
                continue
            try:
                answers[address] = wire.ModelStatisticsResponse.FromString(answer)
            except DecodeError:
                errors.append(Answer(_INTERNAL, f"{address}: the answer is not a ModelStatisticsResponse", b""))
        if not answers:
            return _worst(self._pool, errors)
        if self._sums is None:
            self._sums = PoolStatistics()
        made = self._sums.take(answers)
        self._sums.follow(said.keys())
        return Answer(0, "", made.SerializeToString())

    async def _ask(self, endpoint: Asked, requests: Sequence[bytes]) -> Sequence[bytes | CallFailed]:
        answers = await ask(endpoint, STATISTICS, requests, self._timeout)
        silent = [answer for answer in answers if not isinstance(answer, bytes) and answer.code == _UNAVAILABLE]
        if not silent:
            self._silent.discard(endpoint.address)
        elif endpoint.address not in self._silent:
            self._silent.add(endpoint.address)
            log.warning(
                "pool %s: no statistics from endpoint %s, its last known ones count: %s",
                self._pool, endpoint.address, silent[0].details,
            )  # fmt: skip
        return answers


async def ask(endpoint: Asked, method: str, requests: Sequence[bytes], seconds: float) -> Sequence[bytes | CallFailed]:
    """What an endpoint answers to each, in order, within `seconds`; where there is no talking to it, UNAVAILABLE
    for all."""
    from lb.health.checks.grpc_connection import CallFailed, Status, grpc_connection

    try:
        async with asyncio.timeout(seconds), grpc_connection(endpoint.address, endpoint.tls) as connection:
            return await connection.unaries(f"{_SERVICE}{method}", requests)
    except CallFailed as error:
        return [error] * len(requests)
    except (CheckFailed, TimeoutError) as error:
        reason = f"{endpoint.address}: {str(error) or 'no answer in time'}"
        return [CallFailed(Status.UNAVAILABLE, reason)] * len(requests)


def _error(method: str, failure: CallFailed) -> Answer:
    from lb.inference.management import clearer

    path = f"{_SERVICE}{method}".encode()
    text = clearer(path, failure.details) if failure.code == _UNIMPLEMENTED else failure.details
    return Answer(failure.code, text, b"")


def _worst(pool: str, errors: Sequence[Answer]) -> Answer:
    """The one to tell of: a server's word says more than that there is no talking to another."""
    if not errors:
        return Answer(_UNAVAILABLE, f"no endpoint of pool {pool} is available", b"")
    return next((error for error in errors if error.status != _UNAVAILABLE), errors[0])
