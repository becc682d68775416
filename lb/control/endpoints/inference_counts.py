"""Statistics of pools whose model servers have none: what the workers have counted, summed over them and their lives.

Workers count for a pool from the first call on that its servers do not know. Until then nothing is counted: that costs
something for every inference.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING

from lb.control.endpoints.asking import Answer
from lb.control.endpoints.asking import GrpcStatus as Status

if TYPE_CHECKING:
    from lb.inference.statistics import PoolStatistics

log = logging.getLogger("tidegate.master")

MOST_VERSIONS = 4096  # models of a pool whose version is remembered
Counts = Mapping[str, list[tuple[str, list[int]]]]  # worker -> model and what is counted of it


class InferenceCounts:
    """`counts(pool)` asks the workers; `begin(pool)` has them count, and returns when they do."""

    def __init__(self, counts: Callable[[str], Awaitable[Counts]], begin: Callable[[str], Awaitable[None]]) -> None:
        self._ask = counts
        self._begin = begin
        self._sums: dict[str, PoolStatistics] = {}
        self._versions: dict[tuple[str, str], str] = {}  # pool, model -> the version that is told

    def counting(self, pool: str) -> bool:
        """Whether workers are to count the inferences of a pool."""
        return pool in self._sums

    def follow(self, pools: Collection[str]) -> None:
        """These pools are left; of others everything is forgotten."""
        for name in self._sums.keys() - set(pools):
            del self._sums[name]
        for key in [key for key in self._versions if key[0] not in self._sums]:
            del self._versions[key]

    async def answer(self, pool: str, request: bytes, describe: Callable[[bytes], Awaitable[Answer]]) -> Answer:
        """A ModelStatisticsResponse for `request`; `describe` answers ModelMetadata, which tells what there is."""
        from google.protobuf.message import DecodeError

        from lb.inference.statistics import PoolStatistics
        from lb.inference.synthesis import statistics_of
        from lb.upstream.model_counts import FIELDS
        from lb.wire import grpc_service_pb2 as wire

        try:
            asked = wire.ModelStatisticsRequest.FromString(request)
        except DecodeError:
            return Answer(Status.INVALID_ARGUMENT, "the request is not a ModelStatisticsRequest", b"")
        if asked.version and not asked.name:
            return Answer(Status.INVALID_ARGUMENT, "a version without the name of a model", b"")
        if asked.name:
            known = await self._version(pool, asked.name, asked.version, describe)
            if isinstance(known, Answer):
                return known
        if pool not in self._sums:
            self._sums[pool] = PoolStatistics()
            log.info(
                "pool %s: its model servers have no statistics (ModelStatistics): from now on what the load balancer "
                "counts itself is told", pool,
            )  # fmt: skip
            await self._begin(pool)
        found = await self._ask(pool)
        models = {model for counts in found.values() for model, _ in counts} | ({asked.name} - {""})
        versions = {model: await self._version(pool, model, "", describe) for model in models}
        if asked.name and asked.version:
            versions[asked.name] = asked.version
        said = {model: version for model, version in versions.items() if isinstance(version, str)}
        answers = {}
        # One more, which has seen nothing: what is named is told, and what workers that are gone have counted of it.
        for who, counts in {**found, "": [(model, [0] * len(FIELDS)) for model in said]}.items():
            rows = [statistics_of(model, said[model], counted) for model, counted in counts if model in said]
            answers[who] = wire.ModelStatisticsResponse(model_stats=rows)
        sums = self._sums.get(pool)
        if sums is None:  # the pool has gone meanwhile
            return Answer(Status.UNAVAILABLE, f"there is no pool {pool} any more", b"")
        made = sums.take(answers)
        sums.follow(answers.keys())
        if asked.name:
            keep = [one for one in made.model_stats if one.name == asked.name]
            made = wire.ModelStatisticsResponse(model_stats=keep)
        return Answer(0, "", made.SerializeToString())

    async def _version(
        self, pool: str, model: str, version: str, describe: Callable[[bytes], Awaitable[Answer]]
    ) -> str | Answer:
        """The version of a model, or why there is none."""
        from google.protobuf.message import DecodeError

        from lb.inference.synthesis import version_of
        from lb.wire import grpc_service_pb2 as wire

        known = self._versions.get((pool, model))
        if known is not None and not version:
            return known
        answer = await describe(wire.ModelMetadataRequest(name=model, version=version).SerializeToString())
        if answer.status:
            return answer
        try:
            found = version or version_of(answer.reply)
        except DecodeError:
            return Answer(Status.INTERNAL, "the answer is not a ModelMetadataResponse", b"")
        if len(self._versions) < MOST_VERSIONS and not version:
            self._versions[pool, model] = found
        return found
