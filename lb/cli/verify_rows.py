"""`tidegate cache verify-rows`: tries whether a model treats each row of a batch apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from lb.cli.admin import AdminClient
from lb.config.schema.base import listed
from lb.errors import TidegateError
from lb.health.check import CheckFailed
from lb.health.checks.grpc_connection import CallFailed, GrpcConnection, Status, grpc_connection
from lb.inference.row_check import (
    KINDS,
    Answer,
    Input,
    NotRows,
    answer_of,
    difference,
    random_row,
    request_of,
    rows_of,
)
from lb.wire import grpc_service_pb2 as wire

_SERVICE = "/inference.GRPCInferenceService/"
_TIMEOUT = 60.0  # s, for one answer
_SIZES = (8, 3, 1, 16, 32, 64, 128, 224, 256)  # of dimensions that the model leaves open, but for the first
_VARIANTS = 3  # of these sizes that are tried
_LARGE = 20_000  # elements of a row; of larger ones there are fewer
_FEWEST = 4  # rows that a trial needs
_MOST_ROWS = 16  # of a batch
_MOST_ANSWER = 3 << 20  # bytes; the connection takes 4 MiB


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model is: a model server, and the pool that it belongs to, "" if that is not known."""

    pool: str
    server: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the trial found. `difference` is the largest relative one of floats; `reason` says why the model is not
    row-wise, or is ""."""

    model: str
    version: str
    server: str
    pool: str
    row_wise: bool
    batches: int
    rows: int  # that the batches had
    distinct_rows: int
    refused_rows: int  # that the model does not take alone
    difference: float
    reason: str


class CannotTry(TidegateError):
    """The model cannot be tried."""


Shapes = dict[str, tuple[int, ...]]


def verify_rows(
    places: Sequence[Place], model: str, version: str, requests: int, seed: int, shapes: Shapes, as_json: bool
) -> int:
    """Prints what was found; 0 if the model is row-wise as far as the trial saw, else 1. Raises CannotTry."""
    verdict = asyncio.run(try_rows(places, model, version, requests, Random(seed), shapes))  # noqa: S311
    if as_json:
        print(json.dumps(asdict(verdict), indent=2))
    else:
        print("\n".join(_lines(verdict)))
    return 0 if verdict.row_wise else 1


def places_of(client: AdminClient, pool: str) -> list[Place]:
    """The model servers of the daemon's pools, or of one, those that are up first. Raises TidegateError."""
    pools = [one for one in client.status()["pools"] if one["protocol"] == "oip"]
    names = [one["name"] for one in pools]
    if pool and pool not in names:
        raise CannotTry(f"there is no pool {pool!r} of protocol oip; there are {listed(names)}")
    found = []
    for one in pools:
        if pool in ("", one["name"]):
            endpoints = sorted(one["endpoints"], key=lambda endpoint: endpoint["health"] != "up")
            found += [Place(one["name"], endpoint["address"]) for endpoint in endpoints]
    if not found:
        raise CannotTry("no pool of protocol oip has an endpoint" if not pool else f"pool {pool} has no endpoint")
    return found


def _lines(verdict: Verdict) -> list[str]:
    version = f" version {verdict.version}" if verdict.version else ""
    lines = [f"model {verdict.model}{version} at {verdict.server}"]
    if verdict.refused_rows:
        lines.append(f"{verdict.refused_rows} rows of random values were refused alone, and left out")
    if not verdict.row_wise:
        return [*lines, f"not row-wise: {verdict.reason}"]
    how = "exactly"
    if verdict.difference:
        how = f"within the noise of floating point: the largest difference is {verdict.difference:.2g} of the value"
    return [
        *lines,
        f"row-wise as far as {verdict.batches} batches show ({verdict.rows} rows, {verdict.distinct_rows} distinct): "
        f"rows among others answer as they do alone, {how}",
        "to cache its rows:",
        "",
        "pools:",
        f"  {verdict.pool or 'NAME'}:",
        "    cache:",
        f"      rows: [{json.dumps(verdict.model)}]",
    ]


async def try_rows(
    places: Sequence[Place], model: str, version: str, requests: int, random: Random, shapes: Shapes
) -> Verdict:
    """Tries `requests` batches at the one place that has the model. Raises CannotTry."""
    found: list[tuple[Place, wire.ModelMetadataResponse]] = []
    failures = []
    for place in places:
        if any(place.pool == other.pool for other, _ in found):
            continue
        try:
            async with asyncio.timeout(_TIMEOUT), grpc_connection(place.server, None) as connection:
                question = wire.ModelMetadataRequest(name=model, version=version).SerializeToString()
                answer = await connection.unary(_SERVICE + "ModelMetadata", question)
                found.append((place, wire.ModelMetadataResponse.FromString(answer)))
        except (CheckFailed, TimeoutError) as failure:
            failures.append(f"{place.server}: {failure or 'no answer'}")
    if not found:
        raise CannotTry(f"no server has a model {model!r}: {'; '.join(failures)}")
    if len(found) > 1:
        raise CannotTry(f"more than one pool has a model {model!r}; --pool says which: "
                        + ", ".join(sorted(place.pool for place, _ in found)))  # fmt: skip
    place, metadata = found[0]
    try:
        async with grpc_connection(place.server, None) as connection:
            trial = _Trial(connection, model, version, metadata, random)
            await trial.run(requests, shapes)
    except (CheckFailed, TimeoutError) as failure:
        raise CannotTry(f"{place.server}: {failure or f'no answer within {_TIMEOUT:g} s'}") from None
    return Verdict(
        model=model, version=trial.version, server=place.server, pool=place.pool, row_wise=not trial.reason,
        batches=trial.batches, rows=trial.rows, distinct_rows=trial.distinct, refused_rows=trial.refused,
        difference=trial.difference, reason=trial.reason,
    )  # fmt: skip


class _Trial:
    """Batches of random rows, against the same rows alone."""

    def __init__(
        self, connection: GrpcConnection, model: str, version: str, metadata: wire.ModelMetadataResponse, random: Random
    ) -> None:
        self._connection = connection
        self._model = model
        self._asked_version = version
        self._metadata = metadata
        self._random = random
        self.version = version
        self.batches = self.rows = self.distinct = self.refused = 0
        self.difference = 0.0
        self.reason = ""

    async def run(self, requests: int, shapes: Shapes) -> None:
        """Raises CannotTry, CheckFailed, TimeoutError."""
        fixed = [
            f"'{one.name}' has the shape {list(one.shape)}" for one in self._tensors if list(one.shape)[:1] != [-1]
        ]
        if fixed or not self._metadata.inputs:
            self.reason = f"no batch of any size: {fixed[0]}" if fixed else "it has no inputs"
            return
        most = await self._most_rows()
        if most < 2:
            self.reason = "its configuration allows one row at a time"
            return
        try:
            variants = await self._variants(shapes)
            for at, (inputs, rows, alone) in enumerate(variants):
                size = max(sum(len(output.raw) for output in answer.outputs.values()) for answer in alone)
                largest = min(most, _MOST_ANSWER // max(size, 1))
                if largest < 2:
                    raise CannotTry(f"an answer to one row has {size} bytes: too many to compare batches of them")
                for number in range(at, requests, len(variants)):
                    await self._batch(inputs, rows, alone, largest, number)
        except NotRows as found:
            self.reason = str(found)

    @property
    def _tensors(self) -> list[Any]:
        return [*self._metadata.inputs, *self._metadata.outputs]

    async def _most_rows(self) -> int:
        asked = wire.ModelConfigRequest(name=self._model, version=self._asked_version).SerializeToString()
        try:
            answer = await self._ask("ModelConfig", asked)
        except CallFailed as failure:
            if not failure.told:
                raise
            return _MOST_ROWS  # KServe and MLServer have no configurations
        limit = int(wire.ModelConfigResponse.FromString(answer).config.max_batch_size)
        return min(limit, _MOST_ROWS) if limit > 0 else _MOST_ROWS

    async def _ask(self, method: str, message: bytes) -> bytes:
        async with asyncio.timeout(_TIMEOUT):
            return await self._connection.unary(_SERVICE + method, message)

    async def _infer(self, inputs: Sequence[Input], rows: Sequence[dict[str, bytes]]) -> Answer:
        """Raises CallFailed and NotRows."""
        request = request_of(self._model, self._asked_version, inputs, rows)
        reply = wire.ModelInferResponse.FromString(await self._ask("ModelInfer", request.SerializeToString()))
        self.version = reply.model_version
        return answer_of(reply)

    async def _variants(self, shapes: Shapes) -> list[tuple[list[Input], list[dict[str, bytes]], list[Answer]]]:
        """For some sizes of what the model leaves open: the inputs, rows that the model takes, and its answers to them
        alone."""
        found = []
        failure = ""
        open_ = any(-1 in one.shape[1:] for one in self._metadata.inputs if one.name not in shapes)
        for size in _SIZES if open_ else _SIZES[:1]:
            inputs = self._inputs(size, shapes)
            small = max(one.count for one in inputs) < _LARGE
            rows: list[dict[str, bytes]] = []
            alone: list[Answer] = []
            refused = 0
            for kind in [*range(KINDS), *(range(KINDS) if small else ())]:
                row = random_row(inputs, self._random, kind)
                try:
                    answer = await self._infer(inputs, [row])
                    again = await self._infer(inputs, [row])
                except CallFailed as refusal:
                    if not refusal.told or refusal.code in (Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED):
                        raise
                    failure = failure or str(refusal)
                    refused += 1
                    if not rows and refused == _FEWEST:
                        break  # not a size for this model
                    continue
                rows_of(answer, 1)
                if answer != again:
                    raise NotRows("the same row has two answers, one after the other")
                rows.append(row)
                alone.append(answer)
            if len(rows) >= _FEWEST:
                found.append((inputs, rows, alone))
                self.distinct += len(rows)
                self.refused += refused
            if len(found) == _VARIANTS:
                break
        if not found:
            raise CannotTry(f"the model takes too few rows of random values ({failure}); --shape says what it takes")
        return found

    def _inputs(self, size: int, shapes: Shapes) -> list[Input]:
        made = []
        names = {one.name for one in self._metadata.inputs}
        for name in shapes:
            if name not in names:
                raise CannotTry(f"--shape {name}: the model's inputs are {', '.join(sorted(names))}")
        for one in self._metadata.inputs:
            given = shapes.get(one.name)
            shape = given if given is not None else tuple(size if n == -1 else n for n in one.shape[1:])
            made.append(Input(one.name, one.datatype, shape))
        return made

    async def _batch(
        self, inputs: list[Input], rows: list[dict[str, bytes]], alone: list[Answer], most: int, number: int
    ) -> None:
        """Raises NotRows."""
        count = 2 + number % (most - 1)
        chosen = [self._random.randrange(len(rows)) for _ in range(count)]
        if number % 10 == 9:
            chosen = chosen[:1] * count  # a batch of equal rows
        try:
            together = await self._infer(inputs, [rows[at] for at in chosen])
        except CallFailed as refusal:
            if not refusal.told or refusal.code == Status.UNAVAILABLE:
                raise
            raise NotRows(f"{count} rows together are refused, which are taken alone: {refusal}") from None
        self.batches += 1
        self.rows += count
        self.difference = max(self.difference, difference([alone[at] for at in chosen], together))
