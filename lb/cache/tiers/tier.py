"""A cache tier as the data path has it: gets that end in time, puts that nobody waits for, purges that are not lost.

A tier is never the reason of an error. While it is down or slow, `available` is False, and a get is a miss without
waiting.

    get     one round trip; a miss also tells the generations of the request's tags, which the later put has to bring
    put     to a queue of limited size; what does not fit is dropped and counted
    purge   a new generation for the tag. Until the server has it, requests with the tag are misses here, and it is
            tried again after every outage
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from lb.cache.tiers.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker, State
from lb.cache.tiers.entry import Codec, Entry
from lb.cache.tiers.store import AwayError, Invalidated, TierError, TierStore
from lb.clock import Clock, MonotonicClock
from lb.config.units import MIB, MILLISECOND, SECOND
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.cache")

QUEUE = 16 * MIB  # of values that wait to be put
MOST_IN_FLIGHT = 64  # gets at a time
_BATCH = 32  # puts in one round trip
_AWAY = 1  # s after which a purge is tried again whose server is away
_NOBODYS = bytes(32)  # no request has this digest
CLAIM = 5  # s in which one daemon refreshes a stale entry


class Found(Struct, frozen=True):
    """What a get has found. `generations` are those of the tags that were asked about, for an Entry that is put later;
    None where they are not known, and nothing can be put."""

    entry: Entry | None = None
    generations: tuple[tuple[bytes, bytes], ...] | None = None


NOTHING = Found()


class Counts(Struct):
    """Since the start. A get is exactly one of the first six."""

    hits: int = 0
    misses: int = 0
    invalid: int = 0  # something is kept, but it is no entry of ours: torn, foreign or of another layout
    timeouts: int = 0
    errors: int = 0
    skipped: int = 0  # not asked: the breaker is open, or too many gets are in flight
    stored: int = 0
    dropped: int = 0  # puts that the queue or the server had no room for, or that a tier which is down did not get
    purges: int = 0
    invalidations: int = 0


class TierStatus(Struct, frozen=True):
    """For the admin API and metrics."""

    server: str
    state: State
    opened: int  # how often the breaker has
    slow_share: float
    last_error: str
    queued_bytes: int
    pending_purges: int
    counts: Counts
    down: bool  # it has failed, and has not been well since

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"counts": asdict(self.counts)}


class Tier:
    """Runs on one event loop, from `start` to `stop`."""

    def __init__(
        self,
        store: TierStore,
        codec: Codec,
        timeout: int,
        connect_timeout: int,
        ttl_max: int,
        invalidated: Invalidated | None = None,
        clock: Clock | None = None,
        wall: Callable[[], int] = time.time_ns,
        quiet: bool = False,
    ) -> None:
        """`timeout`, ns, is for a get; `connect_timeout` for a connection, and for what no request waits for.
        `invalidated` is told of purges by any daemon, where the servers tell us; None: nobody listens. `quiet`: another
        one logs how the tier is."""
        self.counts = Counts()
        self._store, self._codec, self._invalidated = store, codec, invalidated
        self._clock, self._wall = clock or MonotonicClock(), wall
        self._timeout, self._limit, self._ttl_max = timeout, (timeout + connect_timeout) / SECOND, ttl_max
        self._breaker = Breaker(timeout // 2)
        self._in_flight = 0
        self._queue: deque[tuple[bytes, Entry]] = deque()
        self._queued = 0  # bytes
        self._purging: dict[bytes, list[asyncio.Future[None]]] = {}
        self._work, self._mend = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._down_since: int | None = None
        self._said_down = False
        self._error = ""
        self._quiet = quiet
        self._stopped = False
        self._heard: set[bytes] = set()

    def start(self) -> None:
        self._mend.set()
        self._spawn(self._mending())
        self._spawn(self._working())
        if self._invalidated is not None:
            self._spawn(self._watching(self._invalidated))

    def halt(self) -> None:
        """As `stop`, for who cannot wait: nothing is asked any more, and every task ends."""
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()

    async def stop(self) -> None:
        """Puts that wait are dropped; purges that wait end with asyncio.CancelledError."""
        self._stopped = True
        while running := [task for task in self._tasks if not task.done()]:  # one that ends may begin another
            await end_tasks(running, again=0.1)
        for future in (future for waiting in self._purging.values() for future in waiting):
            future.cancel()
        await self._store.close()

    @property
    def available(self) -> bool:
        """Whether a get would ask the servers. False: it is a miss, at the cost of this look."""
        return self._breaker.state == "closed" and self._in_flight < MOST_IN_FLIGHT and not self._stopped

    @property
    def purging(self) -> list[bytes]:
        """The tags whose purges the servers do not know yet."""
        return list(self._purging)

    def status(self) -> TierStatus:
        breaker = self._breaker
        return TierStatus(
            self._store.describe(), breaker.state, breaker.opened, round(breaker.slow_share, 3), self._error,
            self._queued, len(self._purging), self.counts, self._said_down,
        )  # fmt: skip

    async def get(self, key: bytes, tags: Sequence[bytes] = ()) -> Found:
        """What is kept under `key` with every tag in its present generation. Ends within the timeout, never raises. An
        entry may be stale; it is never past its `stale_until`."""
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()

        def told(what: Found) -> None:
            if not found.done():
                found.set_result(what)

        return await found if self.ask(key, tags, told) else NOTHING

    def ask(self, key: bytes, tags: Sequence[bytes], told: Callable[[Found], None]) -> bool:
        """As `get`, for who cannot wait: `told` is called once, from the loop. False: nothing is asked, and nobody
        told."""
        if not self.available:
            self.counts.skipped += 1
            return False
        # The call goes on without us when it is late: a connection that is being made is of use to the next one.
        call = self._call(self._fetch(key, tags))

        def ended(_: object) -> None:
            timer.cancel()
            if not call.cancelled() and call.exception() is not None:
                log.error("cache tier %s: internal error", self._store.describe(), exc_info=call.exception())
            told(NOTHING if call.cancelled() or call.exception() is not None else call.result())

        def late() -> None:
            call.remove_done_callback(ended)
            self.counts.timeouts += 1
            self._failed("no answer in time")
            told(NOTHING)

        timer = asyncio.get_running_loop().call_later(self._timeout / SECOND, late)
        call.add_done_callback(ended)
        return True

    async def _fetch(self, key: bytes, tags: Sequence[bytes]) -> Found:
        started = self._clock.now()
        try:
            async with asyncio.timeout(self._limit):
                data, tokens = await self._store.fetch(key, tags)
                took = self._clock.now() - started
                for i, tag in enumerate(tags):
                    if not self._codec.is_generation(tag, tokens[i]):
                        data, tokens[i] = None, await self._first_generation(tag, tokens[i])
        except AwayError:
            self.counts.skipped += 1
            return NOTHING
        except (TierError, TimeoutError) as error:
            if self._clock.now() - started <= self._timeout:
                self.counts.errors += 1
                self._failed(str(error))
            return NOTHING
        if took > self._timeout:
            return NOTHING  # has been counted as a timeout
        if self._breaker.succeeded(self._clock.now(), took):
            self._opened("most answers are slow")
        return self._found(key, data, tags, tokens)

    async def _first_generation(self, tag: bytes, present: bytes | None) -> bytes | None:
        fresh = self._codec.new_generation(tag, purged=present is not None)
        if present is not None:  # nobody with our secret has written it
            await self._store.renew(tag, fresh)
            return fresh
        return await self._store.begin(tag, fresh)

    def _found(self, key: bytes, data: bytes | None, tags: Sequence[bytes], tokens: Sequence[bytes | None]) -> Found:
        generations = tuple((tag, token) for tag, token in zip(tags, tokens, strict=True) if token is not None)
        known = generations if len(generations) == len(tags) and not self._is_purging(tags) else None
        miss = Found(None, known)
        if data is None or known is None:
            self.counts.misses += 1
            return miss
        entry = self._codec.decode(key, data)
        if entry is None:
            self.counts.invalid += 1
            return miss
        if entry.stale_until <= self._wall() or set(entry.tags) != set(known):
            self.counts.misses += 1
            return miss
        self.counts.hits += 1
        return Found(entry, known)

    def _is_purging(self, tags: Sequence[bytes]) -> bool:
        return bool(self._purging) and any(tag in self._purging for tag in tags)

    async def claim(self, key: bytes) -> bool:
        """Whether this daemon is the one that refreshes the stale entry of `key`; the others go on with what they have.
        True where the tier does not answer: each daemon for itself then."""
        if not self.available:
            return True
        claimed: bool = await self._call(self._claim(key))
        return claimed

    async def _claim(self, key: bytes) -> bool:
        try:
            async with asyncio.timeout(self._limit):
                return await self._store.claim(key, CLAIM)
        except AwayError:
            return True
        except (TierError, TimeoutError) as error:
            self._failed(str(error))
            return True

    def put(self, key: bytes, entry: Entry) -> bool:
        """Queues an entry, whose tags have the generations of the get before. False: it is dropped."""
        size = len(entry.value)
        room = self._queued + size <= QUEUE and self._codec.fits(entry)
        if self._breaker.state != "closed" or self._stopped or not room or entry.stale_until <= self._wall():
            self.counts.dropped += 1
            return False
        self._queue.append((key, entry))
        self._queued += size
        self._work.set()
        return True

    def purge(self, tag: bytes) -> asyncio.Future[None]:
        """From now on nothing that was computed before counts for `tag`. The future is done when the server knows, and
        with it all daemons."""
        self.counts.purges += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A purge of the tag that is on its way may set its generation before the fill that this one is about begins.
        self._purging.setdefault(tag, []).append(future)
        self._work.set()
        return future

    # Tasks.

    async def _working(self) -> None:
        """Purges, then puts, one batch after the other, while the tier is up."""
        while not self._stopped:
            await self._work.wait()
            self._work.clear()
            while self._breaker.state == "closed" and (self._purging or self._queue) and not self._stopped:
                try:
                    away = await self._work_off()
                except (TierError, TimeoutError) as error:
                    self._failed(str(error) or "no answer in time")
                    continue
                if away and not self._queue:
                    self._work.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_AWAY):
                            await self._work.wait()

    async def _work_off(self) -> bool:
        """True: some purges have to wait, as their server is away."""
        away = False
        for tag in list(self._purging):
            covered = len(self._purging[tag])
            try:
                async with asyncio.timeout(self._limit):
                    await self._store.renew(tag, self._codec.new_generation(tag))
            except AwayError:
                away = True
                continue
            waiting = self._purging.pop(tag)
            if later := waiting[covered:]:
                self._purging[tag] = later
            for future in waiting[:covered]:
                if not future.done():
                    future.set_result(None)
        batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
        self._queued -= sum(len(entry.value) for _, entry in batch)
        self.counts.dropped += len(batch)  # unless the server says otherwise
        now = self._wall()
        items = [
            (key, self._codec.encode(key, entry), max(1, min(entry.stale_until - now, self._ttl_max) // MILLISECOND))
            for key, entry in batch
        ]
        if items:
            async with asyncio.timeout(self._limit):
                stored = await self._store.keep(items)
            self.counts.stored += stored
            self.counts.dropped -= stored
        return away

    async def _mending(self) -> None:
        """While the breaker is open: probes, which no request waits for."""
        while not self._stopped:
            await self._mend.wait()
            while self._breaker.state != "closed" and not self._stopped:
                await asyncio.sleep(max(0, self._breaker.retry_at - self._clock.now()) / SECOND)
                self._breaker.probe()
                try:
                    async with asyncio.timeout(self._limit):
                        await self._store.ping()
                except (TierError, TimeoutError) as error:
                    self._breaker.probe_failed(self._clock.now())
                    self._say_down(str(error) or "no answer in time")
                else:
                    self._breaker.probe_succeeded(self._clock.now())
            self._mend.clear()
            self._say_up()
            self._work.set()

    async def _watching(self, tell: Invalidated) -> None:
        """Hears of purges. What was missed while nobody listened may be any tag."""
        pause, missed = FIRST_PAUSE, False

        def invalidated(tag: bytes | None) -> None:
            nonlocal pause, missed
            pause = FIRST_PAUSE
            if tag is None:
                if missed:
                    self._told(tell, None)
                missed = True  # whatever comes until it listens again
                return
            if not self._heard:
                self._spawn(self._find_out(tell))
            self._heard.add(tag)  # also one that is being asked about: it may have got another one since

        while not self._stopped:
            with contextlib.suppress(TierError):
                await self._store.watch(invalidated)
            missed = True
            await asyncio.sleep(pause / SECOND * random.uniform(0.5, 1))  # noqa: S311 - it spreads load, it guards nothing
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _find_out(self, tell: Invalidated) -> None:
        """Which of the tags with a new generation were purged. Those that have their first one were not."""
        await asyncio.sleep(0)  # those that come together are asked about together
        tags, self._heard = list(self._heard), set()
        tokens: list[bytes | None] = [None] * len(tags)
        with contextlib.suppress(TierError, TimeoutError):
            async with asyncio.timeout(self._limit):
                _, tokens = await self._store.fetch(_NOBODYS, tags)
        for tag, token in zip(tags, tokens, strict=True):
            if not self._codec.is_first_generation(tag, token):
                self._told(tell, tag)

    def _told(self, tell: Invalidated, tag: bytes | None) -> None:
        self.counts.invalidations += 1
        tell(tag)

    def _call(self, run: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that counts as in flight until it ends."""

        def ended(_: object) -> None:
            self._in_flight -= 1

        self._in_flight += 1
        task = self._spawn(run)
        task.add_done_callback(ended)
        return task

    def _spawn(self, run: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(run)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # The breaker.

    def _failed(self, why: str) -> None:
        self._error = why or "no answer in time"
        if self._breaker.failed(self._clock.now()):
            self._opened(self._error)

    def _opened(self, why: str) -> None:
        self._say_down(why)
        self.counts.dropped += len(self._queue)
        self._queue.clear()
        self._queued = 0
        self._mend.set()

    def _say_down(self, why: str) -> None:
        self._error = why
        if not self._said_down:
            self._said_down, self._down_since = True, self._clock.now()
            if self._quiet:
                return
            log.warning("cache tier %s is not used for now: %s", self._store.describe(), why)

    def _say_up(self) -> None:
        if self._said_down and self._down_since is not None and not self._quiet:
            seconds = (self._clock.now() - self._down_since) / SECOND
            log.info("cache tier %s is used again, after %.1f s", self._store.describe(), seconds)
        self._said_down = False
