"""The lease of the daemons of a pool by Redis: `SET … NX PX` with a token that fences off leaders of before.

All keys of one lease have one hash tag, so that a cluster keeps them on one node; scripts make each step one step.
Sources: Redis documentation, "SET" and "Distributed Locks with Redis"; Kleppmann, "How to do distributed locking"
(fencing tokens).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lb.config.schema.pools.engine import RedisConfig
from lb.config.units import MILLISECOND
from lb.engines.lease import Lease, Standing, own_identity
from lb.engines.membership import FORGET
from lb.platforms.error import ConflictError, PlatformError

if TYPE_CHECKING:
    import redis.asyncio

TIMEOUT = 5  # s, of one command

# KEYS: leader, token, daemons, own load. ARGV: identity, ms of the lease, load, ms of the load.
# Gives: holder, token, and identity and load of every other daemon in turn.
_RENEW = """
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[4])
redis.call('SADD', KEYS[3], ARGV[1])
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  redis.call('INCR', KEYS[2])
elseif redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local answer = {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]) or '0'}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  local load = redis.call('GET', KEYS[3] .. ':' .. name)
  if not load then
    redis.call('SREM', KEYS[3], name)
  elseif name ~= ARGV[1] then
    table.insert(answer, name)
    table.insert(answer, load)
  end
end
return answer
"""

_CONFIRM = "return {redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[2]) or '0'}"

# KEYS: leader, daemons, load of the daemon. ARGV: identity.
_RESIGN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
"""


class RedisLease(Lease):
    """Keys `{NAME}:leader`, `{NAME}:token`, `{NAME}:daemons` and, for each daemon, `{NAME}:daemons:IDENTITY`, which
    expires once the daemon is gone for good."""

    def __init__(self, name: str, options: RedisConfig, duration: int, identity: str = "") -> None:
        self.identity = identity or own_identity()
        self._options = options
        self._leader, self._token, self._daemons = (f"{{{name}}}:{key}" for key in ("leader", "token", "daemons"))
        self._name = name
        self._duration = duration
        self._client: redis.asyncio.Redis | None = None

    async def renew(self, load: str) -> Standing:
        lease, kept = self._duration // MILLISECOND, FORGET * self._duration // MILLISECOND
        keys = [self._leader, self._token, self._daemons, self._load(self.identity)]
        holder, token, *said = await self._eval(_RENEW, keys, [self.identity, lease, load, kept])
        return Standing(holder or "", int(token), dict(zip(said[::2], said[1::2], strict=True)))

    async def confirm(self, token: int) -> None:
        holder, known = await self._eval(_CONFIRM, [self._leader, self._token], [])
        if holder != self.identity or int(known) != token:
            raise ConflictError(f"the lease {self._name} is {holder or 'nobody'}'s")

    async def resign(self) -> None:
        await self._eval(_RESIGN, [self._leader, self._daemons, self._load(self.identity)], [self.identity])

    async def forget(self, identity: str) -> None:
        await self._eval(_RESIGN, [self._leader, self._daemons, self._load(identity)], [identity])

    def describe(self) -> str:
        return f"redis lease {self._name}"

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _load(self, identity: str) -> str:
        return f"{self._daemons}:{identity}"

    async def _eval(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        try:
            import redis.asyncio
        except ImportError:
            raise PlatformError("a lease by Redis needs the package redis: pip install 'tidegate[redis]'") from None
        if self._client is None:
            self._client = redis.asyncio.Redis.from_url(
                self._options.url, decode_responses=True, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
            )
        try:
            return await self._client.eval(script, len(keys), *keys, *arguments)
        except (redis.RedisError, OSError, TimeoutError) as error:
            # The address stays out of it, for it may have a password.
            text = " ".join(str(error).split()) or type(error).__name__
            raise PlatformError(f"{self.describe()}: {text}") from None
