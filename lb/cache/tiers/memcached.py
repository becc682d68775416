"""A tier in Memcached, from 1.6 on, by its meta protocol: one connection to each server, which carries all requests.

    mg NAME v O1           VA 5 O1 / hello      EN
    ms NAME 5 T60 O2       HD O2                NS O2
    hello

Answers come in the order of the requests. The opaque number that comes back with them (`O`) tells that a connection is
not a step behind. Keys are spread over the servers by ketama. A server that is down is not replaced by its neighbours,
which would have the generations of another time: what has to do with it is a miss.
Source: memcached, doc/protocol.txt, "Meta Commands".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from lb.cache.tiers.breaker import Breaker
from lb.cache.tiers.ketama import Ketama
from lb.cache.tiers.keys import claim_name, entry_name, short_tag_name
from lb.cache.tiers.store import GENERATION_TTL, AwayError, TierError, TierStore
from lb.config.address import UnixPath, parse_address
from lb.config.plan.tier import TierPlan
from lb.config.units import MIB, SECOND

log = logging.getLogger("tidegate.cache")

_MOST = 1024 * MIB  # the largest item that a server can be told to take
_LINE = 8 * 1024


class Reply(Struct, frozen=True):
    """One answer: `status` is HD, VA, EN, NS, … or an error's line, `value` that of VA."""

    status: bytes
    flags: tuple[bytes, ...] = ()
    value: bytes | None = None


class MemcachedStore(TierStore):
    """Connections are made on use and kept."""

    def __init__(self, plan: TierPlan) -> None:
        self._plan = plan
        self._prefix = plan.prefix.encode()
        self._ketama = Ketama(plan.servers)
        self._servers = [_Server(server, plan) for server in plan.servers]

    def describe(self) -> str:
        return f"memcached {', '.join(self._plan.servers)}"

    async def fetch(self, key: bytes, tags: Sequence[bytes]) -> tuple[bytes | None, list[bytes | None]]:
        names = [entry_name(self._prefix, key), *(short_tag_name(self._prefix, tag) for tag in tags)]
        value, *generations = await asyncio.gather(*(self._ask(name, b"mg", b"v") for name in names))
        return _value(value), [_value(generation) for generation in generations]

    async def begin(self, tag: bytes, generation: bytes) -> bytes | None:
        name = short_tag_name(self._prefix, tag)
        added = await self._ask(name, b"ms", b"T%d ME" % GENERATION_TTL, generation)
        if added.status == b"HD":
            return generation
        return _value(await self._ask(name, b"mg", b"v"))

    async def renew(self, tag: bytes, generation: bytes) -> None:
        reply = await self._ask(short_tag_name(self._prefix, tag), b"ms", b"T%d" % GENERATION_TTL, generation)
        if reply.status != b"HD":
            raise TierError(f"a generation was refused: {reply.status.decode('latin-1')}")

    async def keep(self, items: Sequence[tuple[bytes, bytes, int]]) -> int:
        # Whole seconds, up: the entry itself says when it is over. At least one, for 0 is for ever.
        return sum(await asyncio.gather(*(self._keep(key, value, -(-ttl // 1000)) for key, value, ttl in items)))

    async def _keep(self, key: bytes, value: bytes, seconds: int) -> bool:
        try:
            reply = await self._ask(entry_name(self._prefix, key), b"ms", b"T%d" % seconds, value)
        except AwayError:
            return False
        return reply.status == b"HD"

    async def claim(self, key: bytes, seconds: int) -> bool:
        reply = await self._ask(claim_name(self._prefix, key), b"ms", b"T%d ME" % seconds, b"1")
        return reply.status != b"NS"

    async def ping(self) -> None:
        """Returns when one server has answered: the others are left alone by themselves."""
        failed = await asyncio.gather(*(server.probe() for server in self._servers))
        if all(failed):
            raise TierError(failed[0])

    async def close(self) -> None:
        for server in self._servers:
            server.close("closed")

    async def _ask(self, name: bytes, verb: bytes, flags: bytes, value: bytes | None = None) -> Reply:
        try:
            return await self._servers[self._ketama.server(name)].ask(verb, name, flags, value)
        except AwayError as error:
            if all(server.away for server in self._servers):  # that is the tier's own breaker's matter
                raise TierError(str(error)) from None
            raise


def _value(reply: Reply) -> bytes | None:
    return reply.value if reply.status == b"VA" else None


class _Server:
    """One server with the connection to it, and a breaker of its own: a server that is down costs the keys that it has,
    and no others."""

    def __init__(self, address: str, plan: TierPlan) -> None:
        self._address, self._plan = address, plan
        self._breaker = Breaker(plan.timeout_ns // 2)
        self._mending: asyncio.Task[None] | None = None
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    @property
    def away(self) -> bool:
        """Whether the server is left alone for now."""
        return self._breaker.state != "closed"

    async def ask(self, verb: bytes, name: bytes, flags: bytes, value: bytes | None = None) -> Reply:
        """Raises AwayError while the server is left alone."""
        if self.away:
            raise AwayError(f"{self._address} is left alone for now")
        started = time.monotonic_ns()
        # Requests wait for gets only; what they do not wait for has the connection's own limit.
        limit = self._plan.timeout_ns / SECOND if verb == b"mg" else None
        try:
            async with asyncio.timeout(limit):
                reply = await self._exchange(verb, name, flags, value)
        except (TierError, TimeoutError) as error:
            why = str(error) or f"{self._address}: no answer in time"
            if self._breaker.failed(time.monotonic_ns()):
                self._left_alone(why)
            raise TierError(why) from None
        now = time.monotonic_ns()
        if self._breaker.succeeded(now, now - started):
            self._left_alone(f"{self._address}: most answers are slow")
        return reply

    async def probe(self) -> str:
        """Asks the server whatever its breaker says. Returns what is wrong, "" for nothing."""
        self._breaker.probe()
        try:
            # `mn` has no opaque number, and any answer to a key that is not there is as good.
            await self._exchange(b"mg", self._plan.prefix.encode() + b"ping", b"v", None)
        except TierError as error:
            self._breaker.probe_failed(time.monotonic_ns())
            self._mend()
            return str(error)
        self._breaker.probe_succeeded(time.monotonic_ns())
        return ""

    def _left_alone(self, why: str) -> None:
        if len(self._plan.servers) > 1:  # else the tier says it
            log.warning("cache tier memcached: one of its servers is not used for now: %s", why)
        self._mend()

    def _mend(self) -> None:
        if self._mending is None or self._mending.done():
            self._mending = asyncio.get_running_loop().create_task(self._probing())

    async def _probing(self) -> None:
        while self._breaker.state != "closed":
            await asyncio.sleep(max(0, self._breaker.retry_at - time.monotonic_ns()) / SECOND)
            await self.probe()
        if len(self._plan.servers) > 1:
            log.info("cache tier memcached: %s is used again", self._address)

    async def _exchange(self, verb: bytes, name: bytes, flags: bytes, value: bytes | None) -> Reply:
        connection = self._connection
        if connection is None or connection.broken:
            connection = await self._connect()
        return await connection.ask(verb, name, flags, value)

    async def _connect(self) -> _Connection:
        """One attempt for all who wait. Who is cancelled leaves it to the others."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._open())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._connection = await asyncio.shield(self._connecting)
        return self._connection

    async def _open(self) -> _Connection:
        plan, address = self._plan, parse_address(self._address)
        limit = (plan.timeout_ns + plan.connect_timeout_ns) / SECOND
        try:
            async with asyncio.timeout(plan.connect_timeout_ns / SECOND):
                tls = _context(plan)
                if isinstance(address, UnixPath):
                    reader, writer = await asyncio.open_unix_connection(address.path, limit=_LINE)
                else:
                    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_LINE, ssl=tls)
                connection = _Connection(reader, writer, limit)
                if plan.username or plan.password:
                    await connection.log_in(plan.username, plan.password)
        except (OSError, TimeoutError, ValueError) as error:
            text = "no connection in time" if isinstance(error, TimeoutError) else " ".join(str(error).split())
            raise TierError(f"{self._address}: {text}") from None
        return connection

    def close(self, why: str) -> None:
        for task in (self._connecting, self._mending):
            if task is not None:
                task.cancel()
        if self._connection is not None:
            self._connection.close(why)


def _context(plan: TierPlan) -> ssl.SSLContext | None:
    """Raises OSError for a file that cannot be read."""
    if plan.tls is None:
        return None
    context = ssl.create_default_context(cafile=plan.tls.ca_file or None)
    if plan.tls.cert:
        context.load_cert_chain(plan.tls.cert, plan.tls.key)
    if plan.tls.insecure_skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class _Connection:
    """Requests go out as they come; a task reads the answers and gives each to the request that is due."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float) -> None:
        """`limit`: a request without an answer for so long, s, ends the connection: what follows would come no
        sooner."""
        self.broken = ""
        self._reader, self._writer, self._limit = reader, writer, limit
        self._due: deque[tuple[bytes, asyncio.Future[Reply]]] = deque()
        self._opaque = 0
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def ask(self, verb: bytes, name: bytes, flags: bytes, value: bytes | None = None) -> Reply:
        self._opaque += 1
        opaque = b"O%d" % self._opaque
        if value is None:
            request = b"%b %b %b %b\r\n" % (verb, name, flags, opaque)
        else:
            request = b"".join((b"%b %b %d %b %b\r\n" % (verb, name, len(value), flags, opaque), value, b"\r\n"))
        return await self._exchange(request, opaque)

    async def log_in(self, username: str, password: bytes) -> None:
        """Text authentication (`memcached -Y FILE`): the first command of a connection."""
        secret = username.encode() + b" " + password
        reply = await self._exchange(b"set auth 0 0 %d\r\n%b\r\n" % (len(secret), secret), b"")
        if reply.status != b"STORED":
            self.close("the server does not take the password")
            raise TierError(self.broken)

    async def _exchange(self, request: bytes, opaque: bytes) -> Reply:
        if self.broken:
            raise TierError(self.broken)
        due: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._due.append((opaque, due))
        self._writer.write(request)
        try:
            async with asyncio.timeout(self._limit):
                return await due
        except TimeoutError:
            self.close("no answer in time")
            raise TierError(self.broken) from None

    async def _read(self) -> None:
        try:
            while True:
                reply = await self._reply()
                if not self._due:
                    raise ValueError("an answer that nobody asked for")
                opaque, due = self._due.popleft()
                # EN, the answer to a get of nothing, and errors come without flags.
                behind = opaque and reply.flags and opaque not in reply.flags
                if behind or reply.status.startswith((b"ERROR", b"CLIENT_ERROR")):
                    self._due.appendleft((opaque, due))
                    raise ValueError("answers are out of step" if behind else reply.status.decode("latin-1"))
                if not due.done():
                    due.set_result(reply)
        except (OSError, EOFError, ValueError) as error:
            self.close(" ".join(str(error).split())[:200] or "the server has closed the connection")

    async def _reply(self) -> Reply:
        """Raises ValueError for what is no answer of the protocol, EOFError when the connection ends within one."""
        line = await self._reader.readuntil(b"\r\n")
        if line.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
            return Reply(line.strip())
        status, *flags = line.split()
        if status == b"VA":
            if not flags or not flags[0].isdigit() or int(flags[0]) > _MOST:
                raise ValueError("an answer without a length")
            value = await self._reader.readexactly(int(flags[0]) + 2)
            if not value.endswith(b"\r\n"):
                raise ValueError("an answer of another length than it says")
            return Reply(status, tuple(flags[1:]), value[:-2])
        if status not in (b"HD", b"EN", b"NS", b"NF", b"EX", b"STORED"):
            raise ValueError("no answer of Memcached's meta protocol")
        return Reply(status, tuple(flags))

    def close(self, why: str) -> None:
        if self.broken:
            return
        self.broken = why
        with contextlib.suppress(Exception):  # of a transport that is closing anyhow
            self._writer.transport.abort()
        for _, due in self._due:
            if not due.done():
                due.set_exception(TierError(why))
                due.exception()  # read here, for who has left
        self._due.clear()
        self._reading.cancel()
