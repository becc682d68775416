"""A tier in Redis (from 6.0 on) or Valkey, by redis-py: one server, a cluster, or the master that Sentinel names.

A get is one pipeline of GETs, and writes nothing. Purges by others are heard by client-side caching in broadcasting
mode (`CLIENT TRACKING ON BCAST PREFIX …`, RESP3) on a connection of its own. The prefix is that of generations. What
is done to an entry says nothing about the copies in memory: each put would drop everybody else's copy.
Sources: Redis documentation, "Client-side caching", "SET", "Cluster specification".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from lb.cache.tiers.keys import TAG, claim_name, entry_name, tag_name
from lb.cache.tiers.store import GENERATION_TTL, Invalidated, TierError, TierStore
from lb.config.address import HostPort, UnixPath, parse_address
from lb.config.plan.tier import TierPlan
from lb.config.units import SECOND
from lb.tasks import end_tasks

_HEARTBEAT = 5  # s without a word from the server after which the listening connection asks it


class RedisStore(TierStore):
    """Connections are made on use and kept."""

    def __init__(self, plan: TierPlan) -> None:
        """Raises TierError when the package is missing."""
        try:
            import redis.asyncio
        except ImportError:
            raise TierError("a cache tier in Redis needs the package redis: pip install 'tidegate[redis]'") from None
        self._redis = redis.asyncio
        self._plan = plan
        self._prefix = plan.prefix.encode()
        self._made: Any = None

    def describe(self) -> str:
        return f"{self._plan.type} {', '.join(self._plan.servers)}"

    @property
    def _client(self) -> Any:
        """Made on the event loop that uses it."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> Any:
        plan = self._plan
        addresses = [parse_address(server) for server in plan.servers]
        options = self._options()
        if plan.sentinel:
            pairs = [(address.host, address.port) for address in addresses if isinstance(address, HostPort)]
            own = ("db", "username", "password")  # of the master, not of the Sentinels
            sentinels = {name: value for name, value in options.items() if name not in own}
            return self._redis.Sentinel(pairs, sentinel_kwargs=sentinels, **options).master_for(plan.sentinel)
        if plan.cluster:
            nodes = [
                self._redis.cluster.ClusterNode(address.host, address.port)
                for address in addresses
                if isinstance(address, HostPort)
            ]
            del options["db"]
            return self._redis.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
        (address,) = addresses
        if isinstance(address, UnixPath):
            return self._redis.Redis(unix_socket_path=address.path, **options)
        return self._redis.Redis(host=address.host, port=address.port, **options)

    def _options(self) -> dict[str, Any]:
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        plan = self._plan
        options: dict[str, Any] = {
            "db": plan.database,
            "username": plan.username or None,
            "password": plan.password.decode("utf-8", "surrogateescape") or None,
            "protocol": 3,
            "socket_connect_timeout": plan.connect_timeout_ns / SECOND,
            "socket_timeout": (plan.timeout_ns + plan.connect_timeout_ns) / SECOND,
            # The breaker decides what is tried again. A cluster's client counts redirections as tries, too.
            "retry": Retry(NoBackoff(), 2 if plan.cluster else 0),
        }
        if plan.tls is not None:
            options |= {
                "ssl": True,
                "ssl_ca_certs": plan.tls.ca_file or None,
                "ssl_certfile": plan.tls.cert or None,
                "ssl_keyfile": plan.tls.key or None,
                "ssl_cert_reqs": "none" if plan.tls.insecure_skip_verify else "required",
                "ssl_check_hostname": not plan.tls.insecure_skip_verify,
            }
        return options

    async def fetch(self, key: bytes, tags: Sequence[bytes]) -> tuple[bytes | None, list[bytes | None]]:
        names = [entry_name(self._prefix, key), *(tag_name(self._prefix, tag) for tag in tags)]
        value, *generations = await self._pipeline([("GET", name) for name in names])
        if isinstance(value, Exception) and not str(value).startswith("WRONGTYPE"):  # that is a foreign value, a miss
            raise TierError(_line(value))
        return _octets(value), [_octets(generation) for generation in generations]

    async def begin(self, tag: bytes, generation: bytes) -> bytes | None:
        name = tag_name(self._prefix, tag)
        commands = [("SET", name, generation, "NX", "EX", GENERATION_TTL), ("GET", name)]
        return _octets((await self._pipeline(commands))[1])

    async def renew(self, tag: bytes, generation: bytes) -> None:
        (answer,) = await self._pipeline([("SET", tag_name(self._prefix, tag), generation, "EX", GENERATION_TTL)])
        if isinstance(answer, Exception):  # full, read-only or not allowed: the purge has not happened
            raise TierError(_line(answer))

    async def keep(self, items: Sequence[tuple[bytes, bytes, int]]) -> int:
        commands = [("SET", entry_name(self._prefix, key), value, "PX", ttl) for key, value, ttl in items]
        return sum(not isinstance(answer, Exception) for answer in await self._pipeline(commands))

    async def claim(self, key: bytes, seconds: int) -> bool:
        (answer,) = await self._pipeline([("SET", claim_name(self._prefix, key), b"1", "NX", "EX", seconds)])
        return answer is not None  # a refusal is nobody else's claim

    async def ping(self) -> None:
        async with self._translated():
            if self._plan.cluster:
                await self._client.initialize()
                await self._client.ping(target_nodes="primaries")
            else:
                await self._client.ping()

    async def close(self) -> None:
        client, self._made = self._made, None
        if client is not None:
            with contextlib.suppress(Exception):  # of connections that are broken anyhow
                await client.aclose()

    async def watch(self, invalidated: Invalidated) -> None:
        async with self._translated():
            connections = await self._listening()
            deaf = len(connections)

            def listens() -> None:
                nonlocal deaf
                deaf -= 1
                if not deaf:
                    invalidated(None)

            waiting = [asyncio.ensure_future(self._listen(one, listens, invalidated)) for one in connections]
            try:
                await asyncio.gather(*waiting)  # ends with the first that does: purges of its node are not heard
            finally:
                await end_tasks(waiting)

    async def _listening(self) -> list[Any]:
        """A connection, not yet made, to each server that may hold generations."""
        if not self._plan.cluster:
            return [self._client.connection_pool.make_connection()]
        await self._client.initialize()
        nodes = self._client.get_primaries()
        return [node.connection_class(**node.connection_kwargs) for node in nodes]

    async def _listen(self, connection: Any, listens: Callable[[], None], invalidated: Invalidated) -> None:
        prefix = self._prefix + TAG
        told = False

        async def pushed(message: list[Any]) -> None:
            nonlocal told
            told = True
            names = message[1]
            for tag in [None] if names is None else [bytes(name)[len(prefix) :] for name in names]:
                invalidated(tag)

        asked = False
        try:
            await connection.connect()
            # As redis-py's own caching client does; there is no public way to a connection's pushes.
            connection._parser.set_invalidation_push_handler(pushed)
            await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
            await connection.read_response()
            listens()
            while True:
                # A push is handled on the way. What comes back is the answer to a PING, or None: for a push, too.
                told = False
                answer = await connection.read_response(timeout=_HEARTBEAT, push_request=True)
                if told:
                    continue
                if answer is None and asked:
                    raise TierError("the server says nothing any more")
                asked = answer is None
                if asked:
                    await connection.send_command("PING")
        finally:
            await connection.disconnect(nowait=True)

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to commands that are sent together; a refusal is an exception among them."""
        import redis

        async with self._translated():
            pipeline = self._client.pipeline(transaction=False) if not self._plan.cluster else self._client.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            answers = list(await pipeline.execute(raise_on_error=False))
            for answer in answers:
                # A refusal that only some commands meet, such as that of a full server, is theirs.
                if isinstance(answer, Exception) and not isinstance(answer, redis.exceptions.ResponseError):
                    raise answer
            return answers

    @contextlib.asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """The border: a server that speaks another protocol, or half an answer, makes the parser raise anything."""
        try:
            yield
        except TierError:
            raise
        except Exception as error:
            raise TierError(_line(error)) from None


def _octets(answer: Any) -> bytes | None:
    """A value; None for no value, a refusal, or anything else that is none."""
    return answer if isinstance(answer, bytes) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
