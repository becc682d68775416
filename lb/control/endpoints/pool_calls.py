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

    async def answer(self, pool: str, method: str, request: bytes) -> Answer:
        """The pool's answer to `request`, the message of `method`. What it says is no older than the call."""
        if method != STATISTICS:
            return Answer(_UNIMPLEMENTED, f"{method} is no call of a whole pool", b"")
        try:
            return await self._pool(pool).answer(request)
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
            return [Answer(_UNAVAILABLE, f"no endpoint of pool {self._pool} is available", b"")] * len(requests)
        found = await asyncio.gather(*(self._ask(endpoint, requests) for endpoint in endpoints))
        said = {endpoint.address: answers for endpoint, answers in zip(endpoints, found, strict=True)}
        return [self._sum({a: answers[i] for a, answers in said.items()}) for i in range(len(requests))]

    def _sum(self, said: dict[str, bytes | CallFailed]) -> Answer:
        """Of those that answer; where none does, an error of theirs."""
        from google.protobuf.message import DecodeError

        from lb.inference.management import clearer
        from lb.inference.statistics import PoolStatistics
        from lb.wire import grpc_service_pb2 as wire

        answers, errors = {}, []
        for address, answer in said.items():
            if not isinstance(answer, bytes):
                unimplemented = answer.code == _UNIMPLEMENTED
                text = clearer(f"{_SERVICE}{STATISTICS}".encode(), answer.details) if unimplemented else answer.details
                errors.append(Answer(answer.code, text, b""))
                continue
            try:
                answers[address] = wire.ModelStatisticsResponse.FromString(answer)
            except DecodeError:
                errors.append(Answer(_INTERNAL, f"{address}: the answer is not a ModelStatisticsResponse", b""))
        if not answers:  # a server's word says more than that there is no talking to another
            return next((error for error in errors if error.status != _UNAVAILABLE), errors[0])
        if self._sums is None:
            self._sums = PoolStatistics()
        made = self._sums.take(answers)
        self._sums.follow(said.keys())
        return Answer(0, "", made.SerializeToString())

    async def _ask(self, endpoint: Asked, requests: Sequence[bytes]) -> Sequence[bytes | CallFailed]:
        """Its answers, in order; where there is no talking to it, the same error for each."""
        from lb.health.checks.grpc_connection import CallFailed, Status, grpc_connection

        try:
            async with asyncio.timeout(self._timeout), grpc_connection(endpoint.address, endpoint.tls) as connection:
                answers = await connection.unaries(f"{_SERVICE}{STATISTICS}", requests)
        except (CheckFailed, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            if endpoint.address not in self._silent:
                self._silent.add(endpoint.address)
                log.warning(
                    "pool %s: no statistics from endpoint %s, its last known ones count: %s",
                    self._pool, endpoint.address, reason,
                )  # fmt: skip
            code = error.code if isinstance(error, CallFailed) else Status.UNAVAILABLE
            return [CallFailed(code, f"{endpoint.address}: {reason}")] * len(requests)
        self._silent.discard(endpoint.address)
        return answers
