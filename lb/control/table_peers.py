"""Tables that daemons share: each interval the master appends what was counted here to a stream of Redis, and adds
what the other daemons have appended.

A stream for each table, named by the table and by what its counts mean; a message has the rows of one sender, encrypted
by the secret that all have in common. All read a stream in the one order that it has, so the last `gpt0` is the same
everywhere. A message that may or may not have arrived is sent again under its number, and counted once.
Sources: Redis documentation, "Redis Streams", XADD, XREAD; HAProxy, "Peers" (doc/peers-v2.0.txt).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from lb.clock import Clock
from lb.config.plan.tables import COUNTERS
from lb.config.regular_file import without_bom
from lb.config.schema.file import Config
from lb.config.schema.tables import LEAST_SECRET, PeersConfig
from lb.config.units import DAY, MILLISECOND, MINUTE, SECOND
from lb.control.tables import SharedTable, TableKeeper
from lb.control.upgrade.handover import SharedTableHandover
from lb.errors import TidegateError
from lb.shared.stick_updates import StickUpdates

if TYPE_CHECKING:
    import redis.asyncio

log = logging.getLogger("tidegate.peers")

ROWS = 500  # of a message
BATCHES = 4  # messages of one table in one exchange
KEPT = 1000  # messages of a stream, about: what a daemon that starts finds
READ = 50  # messages that are asked for at a time
TURNS = 20  # questions in one exchange
TIMEOUT = 2  # s, of one command
HANDOVER = 5  # s that an upgrade waits for an exchange
LARGEST = 1 << 20  # bytes of a message
FIELD = b"m"  # of a message, that has all of it
SENDERS = 1000  # whose last message is known
_LONGEST_PAUSE = 30  # s
_OLDEST_MS = 365 * DAY // MILLISECOND
_NONCE = 12  # bytes

_Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Numbers = Annotated[list[_Number], Meta(min_length=len(COUNTERS), max_length=len(COUNTERS))]


class Row(Struct, frozen=True, array_like=True):
    """What one daemon has counted of a key since its message before."""

    key: Annotated[bytes, Meta(min_length=1, max_length=88)]
    counts: _Numbers  # of each of COUNTERS
    recent: _Numbers  # how much of it in the window of its rate
    gpt0: _Number | None  # None: it has not changed


class Message(Struct, frozen=True, array_like=True):
    """Rows of the daemon `sender`, with a number that grows."""

    sender: Annotated[bytes, Meta(min_length=16, max_length=16)]
    number: _Number
    rows: Annotated[list[Row], Meta(max_length=ROWS)]


class Sealer:
    """AES-256-GCM under a key of the secret; the name of the stream is authenticated as well."""

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(blake2b(secret, digest_size=32, person=b"tidegate peers").digest())
        self._decoder = msgspec.msgpack.Decoder(Message)

    def seal(self, stream: str, message: Message) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode(message), stream.encode())

    def open(self, stream: str, data: object) -> Message | None:
        """The message; None for anything that no daemon with the secret has sent on this stream."""
        from cryptography.exceptions import InvalidTag

        if not isinstance(data, bytes) or not _NONCE < len(data) <= LARGEST:
            return None
        try:
            return self._decoder.decode(self._cipher.decrypt(data[:_NONCE], data[_NONCE:], stream.encode()))
        except (InvalidTag, msgspec.DecodeError):
            return None


class PeersError(TidegateError):
    """The server cannot be asked."""


class RefusedError(PeersError):
    """The server refuses what concerns one stream."""


class _Stream:
    """Of one table."""

    def __init__(self, name: str, shared: SharedTable, sender: bytes) -> None:
        self.name = name
        self.shared = shared
        self.sender = sender  # of what is counted here
        self.position = b"0-0"  # of the last message that was read
        self.numbers: dict[bytes, int] = {}  # sender: its last message
        self.dropped = 0  # rows of peers
        self._pending: tuple[int, list[Any]] | None = None  # a message that may not have arrived
        if shared.before is not None:
            self._go_on(shared.before)

    def _go_on(self, before: SharedTableHandover) -> None:
        """As the program before, whose counts the table has."""
        self.sender, self.numbers = before.sender, dict(before.numbers)
        if before.stream == self.name:
            self.position = before.position
        if before.pending is not None:
            number, rows = before.pending
            self._pending = number, self.shared.updates.located(rows)

    def handover(self) -> SharedTableHandover:
        """For the next program."""
        known = self.shared.updates.dump()
        return SharedTableHandover(
            self.shared.name, self.name, self.sender, self.position, self.numbers, self._pending, known
        )

    def news(self, number: int) -> tuple[int, list[Any]] | None:
        """A message to send, with its number; the one before where that may not have arrived, whose rates are over."""
        if self._pending is not None:
            before, rows = self._pending
            self._pending = before, [(*row[:5], [0] * len(COUNTERS), row[6]) for row in rows]
        else:
            rows = self.shared.updates.take(ROWS)
            self._pending = (number, rows) if rows else None
        return self._pending

    def arrived(self) -> None:
        """What `news` gave is on the stream."""
        if self._pending is not None:
            self.shared.updates.taken(self._pending[1])
            self._pending = None

    def add(self, message: Message, age_ns: int, own: bool) -> bool:
        """Counts a message; False: it was counted before."""
        if message.number <= self.numbers.get(message.sender, -1):
            return False
        self.numbers.pop(message.sender, None)  # those who were silent longest are forgotten first
        self.numbers[message.sender] = message.number
        if len(self.numbers) > SENDERS:
            del self.numbers[next(iter(self.numbers))]
        for row in message.rows:
            taken = self.shared.updates.receive(row.key, row.counts, row.recent, row.gpt0, age_ns, own)
            self.dropped += not (taken or own)
        return True


class TablePeers:
    """Of the tables of `tables` that the configuration shares."""

    def __init__(self, tables: TableKeeper, config: Callable[[], Config], clock: Clock, number: int = 0) -> None:
        """`number`: of the last message of the program before."""
        self._tables = tables
        self._config = config
        self._clock = clock
        self._sender = os.urandom(16)
        self._number = number
        self._busy = asyncio.Lock()
        self._known: Config | None = None  # for which `_sealer` and `_client` were made
        self._peers: PeersConfig | None = None
        self._sealer: Sealer | None = None
        self._client: redis.asyncio.Redis | None = None
        self._streams: dict[str, _Stream] = {}  # by table
        self._connected = False
        self._trouble = ""
        self._sent = self._received = self._ignored = self._dropped = self._failures = 0
        self._lag_ns = 0  # of the last message of a peer
        self._exchanged: int | None = None  # when all was sent and received last

    async def run(self) -> None:
        """Until it is cancelled."""
        failures = 0
        while True:
            peers = self._config().peers
            pause = (peers.interval if peers is not None else SECOND) / SECOND
            if failures:
                pause = max(pause, min(2.0 ** (failures - 1), _LONGEST_PAUSE))
            await asyncio.sleep(pause)
            # A stop waits for an exchange that has begun: threads of it look at the segment.
            failures = 0 if await asyncio.shield(self.exchange()) else failures + 1

    async def exchange(self) -> bool:
        """Sends and receives once. False: there was trouble, which is logged once."""
        async with self._busy:
            try:
                peers = await self._follow()
                if peers is None:
                    return True
                await self._exchange()
            except Exception as error:  # also one that nobody foresaw: the next exchange has to come
                foreseen = isinstance(error, PeersError | OSError)
                if self._trouble != str(error):
                    said = "peers: %s; each daemon counts alone until this is over"
                    log.warning(said, error, exc_info=not foreseen)
                self._connected, self._trouble = False, str(error)
                self._failures += 1
                return False
            if not self._connected:
                log.info("peers: tables are shared by %s", _server(peers))
            self._connected, self._trouble, self._exchanged = True, "", self._clock.now()
            return True

    @contextlib.asynccontextmanager
    async def handed_over(self) -> AsyncIterator[tuple[tuple[SharedTableHandover, ...], int]]:
        """What the next program goes on with, and the number of the last message: nothing is sent or received
        meanwhile. Nothing where the server takes too long: the next program begins with its stream then."""
        try:
            async with asyncio.timeout(HANDOVER):
                await self._busy.acquire()
        except TimeoutError:
            log.warning("peers: no answer within %d s; shared tables begin with what the peers have", HANDOVER)
            yield (), self._number
            return
        try:
            streams = [stream for stream in self._streams.values() if stream.shared.updates in self._in_force()]
            yield tuple(stream.handover() for stream in streams), self._number
        finally:
            self._busy.release()

    def _in_force(self) -> list[StickUpdates]:
        return [table.updates for table in self._tables.shared()]

    async def close(self) -> None:
        """Sends what was counted last, once an exchange that has begun is over."""
        async with self._busy:
            connected = self._connected
        if connected:
            await self.exchange()
        await self._disconnect()

    def status(self) -> dict[str, Any] | None:
        """{server, connected, trouble, sent, received, ignored, dropped, failures, lag_s, exchanged_s}: messages, rows
        of peers that found no room, failed exchanges, the age that the last message of a peer had when it was counted,
        and the time since the last whole exchange; None where no table is shared."""
        peers = self._peers
        if peers is None or not self._tables.shared():
            return None
        return {
            "server": _server(peers),
            "connected": self._connected,
            "trouble": self._trouble or None,
            "sent": self._sent,
            "received": self._received,
            "ignored": self._ignored,
            "dropped": self._dropped,
            "failures": self._failures,
            "lag_s": self._lag_ns / SECOND,
            "exchanged_s": None if self._exchanged is None else (self._clock.now() - self._exchanged) / SECOND,
        }

    async def _follow(self) -> PeersConfig | None:
        """Follows reloads."""
        config = self._config()
        peers, wanted = config.peers, self._tables.shared()
        self._peers = peers
        if config is not self._known:
            await self._disconnect()
            self._sealer = None
            if peers is not None and wanted:
                secret = without_bom(await asyncio.to_thread(peers.secret_file.read_bytes)).strip()
                if len(secret) < LEAST_SECRET:
                    raise PeersError(f"{peers.secret_file} has {len(secret)} bytes; {LEAST_SECRET} are the least")
                self._sealer = Sealer(secret)
            self._known = config
        if peers is None or self._sealer is None:
            self._streams, self._connected, self._trouble = {}, False, ""
            return None
        streams = {}
        for table in wanted:
            name = f"{peers.prefix}table:{table.name}:{table.meaning[:16]}"
            known = self._streams.get(table.name)
            if known is None or known.shared.updates is not table.updates:
                known = _Stream(name, table, self._sender)
            elif known.name != name:  # what was read elsewhere is known by its number
                known.name, known.position = name, b"0-0"
            known.shared = table
            streams[table.name] = known
        self._streams = streams
        return peers

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):  # of a connection that is broken anyhow
                await client.aclose()

    async def _exchange(self) -> None:
        """Raises PeersError; a refusal of one stream is raised once all had their turn."""
        refused = None
        for stream in self._streams.values():
            try:
                await self._send(stream)
                await self._receive(stream)
            except RefusedError as error:
                refused = error
        if refused is not None:
            raise refused

    async def _send(self, stream: _Stream) -> None:
        assert self._sealer is not None
        kept = max(stream.shared.expire_ns, MINUTE) // MILLISECOND
        for _ in range(BATCHES):
            self._number += 1
            news = await asyncio.to_thread(stream.news, self._number)
            if news is None:
                return
            number, rows = news
            message = Message(stream.sender, number, [Row(*row[3:]) for row in rows])
            data = self._sealer.seal(stream.name, message)
            added = ("XADD", stream.name, "MAXLEN", "~", KEPT, "*", FIELD, data)
            made, _ = await self._ask(added, ("PEXPIRE", stream.name, kept))
            stream.arrived()
            self._sent += 1
            if _made_ms(made) < _made_ms(stream.position):
                stream.position = b"0-0"  # it is another stream: what was read before is known by its number
            if len(rows) < ROWS:
                return

    async def _receive(self, stream: _Stream) -> None:
        assert self._sealer is not None
        for _ in range(TURNS):
            answer, time = await self._ask(("XREAD", "COUNT", READ, "STREAMS", stream.name, stream.position), ("TIME",))
            found = _messages(answer)
            for name, data in found:
                age = _age_ns(time, name)
                message = self._sealer.open(stream.name, data)
                stream.position = name
                if message is None:
                    if not self._ignored:
                        log.warning("peers: %s has messages that were not written with our secret", stream.name)
                    self._ignored += 1
                    continue
                own = message.sender == stream.sender
                if await asyncio.to_thread(stream.add, message, age, own) and not own:
                    self._received += 1
                    self._lag_ns = age
                self._dropped += stream.dropped
                stream.dropped = 0
            if len(found) < READ:
                return

    async def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The answers to commands that are sent together. Raises PeersError."""
        try:
            if self._client is None:
                self._client = self._connect()
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute())
        except PeersError:
            raise
        except Exception as error:  # a server that speaks another protocol makes the client raise anything
            # The address stays out of it, for it may have a password.
            kind = RefusedError if type(error).__name__ == "ResponseError" else PeersError
            raise kind(" ".join(str(error).split())[:200].rstrip(".") or type(error).__name__) from None

    def _connect(self) -> redis.asyncio.Redis:
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        assert self._peers is not None
        # A command that is repeated by the client would count twice: `pending` is what is sent again.
        return redis.asyncio.Redis.from_url(
            self._peers.redis.url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )


def _messages(answer: Any) -> list[tuple[bytes, object]]:
    """Names and contents of the messages of an answer to XREAD of one stream; None for a message of others."""
    try:
        ((_, messages),) = answer or ((b"", ()),)
        return [(name, (fields or {}).get(FIELD)) for name, fields in messages]
    except (TypeError, ValueError, AttributeError):
        raise PeersError("the answer to XREAD is no list of messages") from None


def _made_ms(name: bytes) -> int:
    """When a message was appended, by the clock of the server: Unix time, ms. Raises PeersError."""
    try:
        return int(name.partition(b"-")[0])
    except (ValueError, AttributeError, TypeError):
        raise PeersError(f"{name!r} is no name of a message") from None


def _age_ns(time: Any, name: bytes) -> int:
    """Age of a message at an answer to TIME. Raises PeersError."""
    try:
        seconds, micros = time
        now = int(seconds) * 1000 + int(micros) // 1000
    except (TypeError, ValueError):
        raise PeersError("the answer to TIME is no time") from None
    return min(max(0, now - _made_ms(name)), _OLDEST_MS) * MILLISECOND


def _server(peers: PeersConfig) -> str:
    """The address of the server, without its password."""
    url = urlsplit(peers.redis.url)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
