"""Models that become others behind our back: what endpoints say of their models is compared, and a change is told.

Of each endpoint of a cached pool that is up: which models and versions of the repository are ready (RepositoryIndex),
and the metadata of each (ModelMetadata: versions, platform, tensors). Of servers without an index, such as KServe's,
the models are asked about that the pool's checks name. A model of a pool is another one once the answers of its
endpoints, taken together, are others than before: an endpoint that joins or leaves changes nothing when its models are
those of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from lb.control.endpoints.asking import Asked, ask

log = logging.getLogger("tidegate.cache")

PAUSE = 5.0  # seconds between two looks
LEAST_PAUSE = 0.2  # the same where endpoints come up
TIMEOUT = 2.0  # seconds for an endpoint to answer
MOST_MODELS = 64  # of an endpoint, whose metadata is compared
_AT_ONCE = 16  # endpoints

Ask = Callable[[Asked, str, Sequence[bytes], float], Awaitable[Sequence[Any]]]
Said = Mapping[str, bytes]  # model -> a digest of what an endpoint says of it


class WatchedPool(Struct, frozen=True):
    """The endpoints of a pool that are up, all addresses that it has, and the models that its checks name."""

    up: Sequence[Asked]
    addresses: Sequence[str]
    models: Sequence[str] = ()


class ModelWatch:
    """`pools()` gives what is to be watched by the pools' names; `changed(pool, model)` is told of changes, and
    `looked` of each pool what its endpoints say together."""

    def __init__(
        self, pools: Callable[[], Mapping[str, WatchedPool]], changed: Callable[[str, str], None], asking: Ask = ask
    ) -> None:
        self._pools = pools
        self._changed = changed
        self._ask = asking
        self.looked: Callable[[str, Mapping[str, set[bytes]]], None] = lambda pool, models: None
        self._said: dict[str, dict[str, Said]] = {}  # pool -> address
        self._up = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def known(self) -> dict[str, dict[str, set[bytes]]]:
        """What the endpoints of each pool say together."""
        return {pool: _together(said) for pool, said in self._said.items()}

    def endpoint_up(self) -> None:
        """An endpoint may say something now that nobody has heard yet: answers from before a restart wait for it."""
        self._up.set()

    async def run(self) -> None:
        """Looks again and again, for ever."""
        while True:
            try:
                await self.look()
            except Exception:  # one that nobody foresaw must not be the last look
                log.exception("a look at the models of cached pools failed")
            await asyncio.sleep(LEAST_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE - LEAST_PAUSE):
                    await self._up.wait()
            self._up.clear()

    async def look(self) -> None:
        """One round over all pools."""
        pools = self._pools()
        for name in self._said.keys() - pools.keys():
            del self._said[name]
        await asyncio.gather(*(self._look_at(name, pool) for name, pool in pools.items()))

    async def _look_at(self, name: str, pool: WatchedPool) -> None:
        found = await asyncio.gather(*(self._describe(endpoint, pool.models) for endpoint in pool.up))
        before = self._said.get(name, {})
        # Of an endpoint that says nothing now, what it said last counts.
        after = {address: said for address, said in before.items() if address in pool.addresses}
        after |= {endpoint.address: said for endpoint, said in zip(pool.up, found, strict=True) if said is not None}
        self._said[name] = after
        was, now = _together(before), _together(after)
        for model in sorted(was):
            if was[model] != now.get(model):
                log.info("pool %s: model %s is another one, or gone: its cached answers are purged", name, model)
                self._changed(name, model)
        self.looked(name, now)

    async def _describe(self, endpoint: Asked, listed: Sequence[str]) -> Said | None:
        """None of an endpoint that does not answer."""
        from google.protobuf.message import DecodeError

        from lb.control.endpoints.asking import GrpcStatus
        from lb.wire import grpc_service_pb2 as wire

        async with self._slots:
            asked = wire.RepositoryIndexRequest().SerializeToString()
            (index,) = await self._ask(endpoint, "RepositoryIndex", [asked], TIMEOUT)
            versions: dict[str, list[str]] = {}
            if isinstance(index, bytes):
                try:
                    rows = wire.RepositoryIndexResponse.FromString(index).models
                except DecodeError:
                    return None
                for row in rows:
                    if row.state.rpartition(".")[2] in ("READY", ""):
                        versions.setdefault(row.name, []).append(row.version)
            elif int(index.code) == GrpcStatus.UNIMPLEMENTED:
                versions = {model: [] for model in listed}
            else:
                return None
            names = sorted(versions)[:MOST_MODELS]
            requests = [wire.ModelMetadataRequest(name=name).SerializeToString() for name in names]
            answers = await self._ask(endpoint, "ModelMetadata", requests, TIMEOUT) if requests else ()
        if any(not isinstance(answer, bytes) and int(answer.code) == GrpcStatus.UNAVAILABLE for answer in answers):
            return None
        return {
            name: _digest(versions[name], answer)
            for name, answer in zip(names, answers, strict=True)
            if isinstance(answer, bytes)
        }


def _together(said: Mapping[str, Said]) -> dict[str, set[bytes]]:
    """model -> the different digests of it."""
    found: dict[str, set[bytes]] = {}
    for models in said.values():
        for model, digest in models.items():
            found.setdefault(model, set()).add(digest)
    return found


def _digest(versions: Sequence[str], metadata: bytes) -> bytes:
    return blake2b("\0".join([*sorted(versions), ""]).encode() + metadata, digest_size=16).digest()
