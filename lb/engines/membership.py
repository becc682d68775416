"""This daemon among those that share a pool: whether it leads, and what the others say of their load.

The rhythm is that of client-go's leader election: with a lease of 15 s it is renewed every 2 s, a leader that could not
renew it for 10 s stops leading, and another takes it when it was silent for 15 s. What has been published is judged by
when it changed on this daemon's clock, never by another's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from lb.clock import Clock
from lb.config.units import SECOND, format_duration
from lb.engines.lease import Lease, Standing
from lb.engines.load import Load, decode, encode
from lb.platforms.error import ConflictError, PlatformError

log = logging.getLogger("tidegate.scaling")

FRESH_PERIODS = 3  # a load that was not renewed for so long is stale
FORGET = 40  # durations of the lease after which a silent daemon is taken to be gone for good


class Peer(Struct):
    """Another daemon: what it said last, and when (monotonic ns)."""

    text: str
    load: Load
    at: int


class Membership:
    """`run` works for ever. `load()` gives this daemon's load, of which only the sequence is filled in here.

    What a renewal means is decided by `observe`, which waits for nothing.
    """

    def __init__(self, pool: str, lease: Lease, duration: int, load: Callable[[], Load], clock: Clock) -> None:
        self.pool = pool
        self.holder = ""
        self.token = 0
        self._lease = lease
        self._duration = duration
        self._period = duration * 2 // 15
        self._load = load
        self._clock = clock
        self._sequence = 0
        self._until: int | None = None  # until when this daemon leads, monotonic ns
        self._led = False
        self._peers: dict[str, Peer] = {}
        self._renewed_at: int | None = None
        self._error = ""
        self._failures = self._terms = 0

    @property
    def identity(self) -> str:
        return self._lease.identity

    def leads(self, now: int) -> bool:
        """Whether this daemon scales the pool."""
        return self._until is not None and now < self._until

    def left(self, now: int) -> int:
        """For how long it leads at least, ns."""
        return max(0, (self._until or 0) - now)

    def in_flight(self, address: str) -> float:
        """Requests of the other daemons at an endpoint, as they said last."""
        return sum(peer.load.in_flight.get(address, 0) for peer in self._peers.values())

    def waiting(self) -> float:
        """Requests in the queues of the other daemons, as they said last."""
        return sum(peer.load.waiting for peer in self._peers.values())

    def loads(self, now: int) -> tuple[Load | None, ...]:
        """Of each other daemon, its load; None where it is stale."""
        return tuple(peer.load if self._is_fresh(peer, now) else None for peer in self._peers.values())

    def missing(self, now: int) -> str:
        """Which daemons' loads are stale; "" while none is."""
        stale = [(name, peer) for name, peer in sorted(self._peers.items()) if not self._is_fresh(peer, now)]
        ages = (f"{name} ({format_duration((now - peer.at) // SECOND * SECOND)})" for name, peer in stale)
        return f"no news of the load of {', '.join(ages)}" if stale else ""

    async def confirm(self) -> None:
        """Raises PlatformError unless this daemon has the lease at this moment."""
        if not self.leads(self._clock.now()):
            raise ConflictError("this daemon does not lead any more")
        await self._lease.confirm(self.token)

    def observe(self, standing: Standing, at: int) -> list[str]:
        """Takes a renewal that was asked for at `at`; returns the daemons that are gone for good."""
        if self._error:
            log.info("pool %s: %s answers again", self.pool, self._lease.describe())
        self._error, self._renewed_at = "", at
        self.holder, self.token = standing.holder, standing.token
        # From when it was asked for: the others count from when the answer was made, which is later.
        self._until = at + self._duration * 2 // 3 if standing.holder == self.identity else None
        for gone in self._peers.keys() - standing.said.keys():
            del self._peers[gone]
        for name, text in standing.said.items():
            self._hear(name, text, at)
        self._note_lead(at)
        lost = [name for name, peer in self._peers.items() if at - peer.at > FORGET * self._duration]
        for name in lost:
            log.warning("pool %s: daemon %s was silent for too long: its load counts no more", self.pool, name)
            del self._peers[name]
        return lost if self.leads(at) else []

    def fail(self, error: PlatformError, now: int) -> None:
        """Takes a failed renewal."""
        self._failures += 1
        if str(error) != self._error:
            self._error = str(error)
            log.warning("pool %s: %s: %s", self.pool, self._lease.describe(), error)
        self._note_lead(now)

    def status(self, now: int) -> dict[str, Any]:
        """For status; durations in s."""
        return {
            "lease": self._lease.describe(),
            "identity": self.identity,
            "holder": self.holder or None,
            "leads": self.leads(now),
            "token": self.token,
            "terms": self._terms,
            "renewed_s": None if self._renewed_at is None else round((now - self._renewed_at) / SECOND, 3),
            "failures": self._failures,
            "error": self._error or None,
            "daemons": {
                name: {
                    "in_flight": sum(peer.load.in_flight.values()),
                    "waiting": peer.load.waiting,
                    "age_s": round((now - peer.at) / SECOND, 3),
                    "fresh": self._is_fresh(peer, now),
                }
                for name, peer in sorted(self._peers.items())
            },
        }

    async def run(self) -> None:
        """Renews until it is cancelled; then says goodbye, so that another takes over at once."""
        try:
            while True:
                await self._renew()
                await asyncio.sleep(self._period / SECOND)
        finally:
            self._until = None
            await self._goodbye()

    async def _renew(self) -> None:
        at = self._clock.now()
        self._sequence += 1
        try:
            load = replace(self._load(), sequence=self._sequence)
            async with asyncio.timeout(self._duration / 3 / SECOND):
                standing = await self._lease.renew(encode(load))
            for name in self.observe(standing, at):
                await self._lease.forget(name)
        except TimeoutError:
            self.fail(PlatformError("no answer in time"), self._clock.now())
        except PlatformError as error:
            self.fail(error, self._clock.now())
        except Exception as error:
            log.exception("pool %s: %s failed in an unforeseen way", self.pool, self._lease.describe())
            self.fail(PlatformError(f"{type(error).__name__}: {error}"), self._clock.now())

    async def _goodbye(self) -> None:
        try:
            async with asyncio.timeout(self._duration / 3 / SECOND):
                await self._lease.resign()
        except (PlatformError, TimeoutError) as error:
            log.warning("pool %s: the lease was not given up: %s", self.pool, error or "no answer in time")
        finally:
            await self._lease.close()

    def _hear(self, name: str, text: str, at: int) -> None:
        known = self._peers.get(name)
        if known is not None and known.text == text:
            return
        try:
            self._peers[name] = Peer(text, decode(text), at)
        except ValueError as error:
            log.warning("pool %s: daemon %s: %s", self.pool, name, error)
            if known is None:
                # There is one, and nothing is known of its load.
                self._peers[name] = Peer(text, Load(), at - FRESH_PERIODS * self._period - 1)

    def _is_fresh(self, peer: Peer, now: int) -> bool:
        return now - peer.at <= FRESH_PERIODS * self._period

    def _note_lead(self, now: int) -> None:
        leads = self.leads(now)
        if leads and not self._led:
            self._terms += 1
            log.info("pool %s: this daemon (%s) scales it from now on", self.pool, self.identity)
        elif self._led and not leads:
            log.info("pool %s: this daemon scales it no more; %s does", self.pool, self.holder or "nobody")
        self._led = leads
