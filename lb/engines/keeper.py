"""Keeps the number of a pool's replicas on one engine: looks, reports drift, changes the number by fresh looks only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from lb.clock import Clock
from lb.config.units import SECOND, format_duration
from lb.discovery.pauses import Pauses
from lb.engines.engine import Engine, Seen
from lb.engines.membership import Membership
from lb.platforms.error import ConflictError, PlatformError

log = logging.getLogger("tidegate.scaling")

TIMEOUT = 10 * SECOND  # of a look or a change
LAST_RETRY = 30 * SECOND
SETTLE = SECOND  # from a change to the look that confirms it
FRESH_LOOKS = 3  # intervals for which a look counts


class Limits(Struct, frozen=True):
    """Between which numbers the scaler may choose now, and why it is less than the configuration says ("": it is
    not)."""

    minimum: int
    maximum: int
    held: str = ""


class Keeper:
    """`run` works for ever. `wanted` is what the engine is to have: at first what it has, within the limits, so that a
    daemon that starts changes nothing. Only a daemon that leads changes the number; on the others `wanted` follows it.

    What is decided of a look is decided by `observe`, `fail` and `to_change`, which wait for nothing.
    """

    def __init__(
        self,
        engine: Engine,
        minimum: int,
        maximum: int,
        clock: Clock,
        membership: Membership | None = None,
        after_look: Callable[[], Any] | None = None,
    ) -> None:
        self.engine = engine
        self.membership = membership
        self._limits = (minimum, maximum)
        self._clock = clock
        self._after_look = after_look
        self._wanted: int | None = None
        self._seen: Seen | None = None
        self._seen_at = 0  # when the look was asked for, monotonic ns: what it says is as old as that
        self._taken: int | None = None  # what the engine was told since that look
        self._agreed: int | None = None  # what was wanted when the engine had that number last
        self._drift_since: int | None = None
        self._drift_told: tuple[int, int] | None = None
        self._error = ""
        self._pauses = Pauses(LAST_RETRY)
        self._looks = self._failures = self._changes = self._conflicts = self._drifts = 0
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Keeper {self.engine.pool} {self.engine.describe()} wanted={self.wanted} seen={self._seen}>"

    @property
    def wanted(self) -> int:
        """Replicas that there are to be."""
        return self._limits[0] if self._wanted is None else self._wanted

    def scale_to(self, n: int) -> None:
        """Want `n` replicas from now on, as far as `limits` allows it at this moment."""
        if n < 0:
            raise ValueError(f"a pool cannot have {n} replicas")
        allowed = self.limits(self._clock.now())
        n = max(allowed.minimum, min(n, allowed.maximum))
        if self._wanted is not None and n != self._wanted:
            self._wanted = n
            self._drift_since = self._drift_told = self._agreed = None
            self._wake.set()

    def reconfigure(self, minimum: int, maximum: int) -> None:
        """Other limits from now on."""
        self._limits = (minimum, maximum)
        self.scale_to(self._within(self.wanted))

    @property
    def failing(self) -> bool:
        """Whether no replica can be had at the moment: the engine has none, as far as is known, nor was it told to have
        any, and the last look, or the change after it, failed."""
        number = self._taken if self._taken is not None else self._seen.number if self._seen is not None else 0
        return bool(self._error) and number == 0

    def leads(self, now: int) -> bool:
        """Whether this daemon is the one that changes the number."""
        return self.membership is None or self.membership.leads(now)

    def fresh(self, now: int) -> Seen | None:
        """The last look, as long as it counts: three intervals."""
        return self._seen if self._seen is not None and now - self._seen_at <= self._fresh_for else None

    def limits(self, now: int) -> Limits:
        """What a scaler may choose from now: nothing by stale data, and nobody is removed by half of the load."""
        wanted = self.wanted
        if self._seen is None:
            return Limits(wanted, wanted, f"nothing is known of {self.engine.describe()} yet")
        if self.fresh(now) is None:
            age = format_duration((now - self._seen_at) // SECOND * SECOND)
            return Limits(wanted, wanted, f"what is known of {self.engine.describe()} is {age} old")
        if not self.leads(now):
            assert self.membership is not None
            return Limits(wanted, wanted, f"{self.membership.holder or 'nobody'} scales it")
        missing = "" if self.membership is None else self.membership.missing(now)
        minimum, maximum = self._limits
        if missing:
            return Limits(min(max(minimum, wanted), maximum), maximum, f"nothing is removed: {missing}")
        return Limits(minimum, maximum)

    def observe(self, seen: Seen, at: int) -> None:
        """Takes a look that was asked for at `at` (monotonic ns)."""
        self._looks += 1
        self._pauses.reset()
        if self._error:
            log.info("pool %s: %s answers again", self.engine.pool, self.engine.describe())
        self._error = ""
        self._seen, self._seen_at, self._taken = seen, at, None
        if self._wanted is None or not self.leads(at):
            self._wanted = self._within(seen.number)
        elif self._within(self._wanted) != self._wanted:  # other limits came while nothing was known
            self.scale_to(self._within(self._wanted))
        self._note_drift(seen, at)

    def to_change(self, now: int) -> int | None:
        """The number that the engine is to be told now; None where it has it, or it is not known or not ours."""
        seen = self.fresh(now)
        if seen is None or self._wanted is None or self._wanted == seen.number or not self.leads(now):
            return None
        return self._wanted

    def told(self, number: int) -> None:
        """The engine has taken `number`."""
        self._taken = number
        self._changes += 1
        log.info("pool %s: %s is to have %d replicas", self.engine.pool, self.engine.describe(), number)

    def fail(self, error: PlatformError) -> int:
        """Takes a failure; returns the pause until the next look, ns."""
        if isinstance(error, ConflictError):
            # Somebody was faster: that is no fault, and what is so now is one look away.
            self._conflicts += 1
            return 0 if self._conflicts % 5 else SECOND
        self._failures += 1
        text = str(error)
        if text != self._error:
            log.warning("pool %s: %s: %s", self.engine.pool, self.engine.describe(), text)
            self._error = text
        return self._pauses.next()

    def status(self, now: int) -> dict[str, Any]:
        """For status and metrics; durations in s."""
        seen, limits = self._seen, self.limits(now)
        state = "waiting" if seen is None else "current" if self.fresh(now) and not self._error else "stale"
        return {
            "target": self.engine.describe(),
            "state": state,
            "wanted": self.wanted,
            "number": seen.number if seen else None,
            "running": seen.running if seen else None,
            "detail": (seen.detail or None) if seen else None,
            "drift": seen.number - self.wanted if seen else None,
            "drift_s": None if self._drift_since is None else round((now - self._drift_since) / SECOND, 3),
            "drifts": self._drifts,
            "age_s": round((now - self._seen_at) / SECOND, 3) if seen else None,
            "leads": self.leads(now),
            "held": limits.held or None,
            "looks": self._looks,
            "failures": self._failures,
            "changes": self._changes,
            "conflicts": self._conflicts,
            "error": self._error or None,
            "lease": None if self.membership is None else self.membership.status(now),
        }

    async def run(self) -> None:
        """Looks and changes until it is cancelled; then the number of replicas stays as it is."""
        try:
            while True:
                self._wake.clear()
                pause = await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause / SECOND):
                        await self._wake.wait()
        finally:
            await self.engine.close()

    async def _round(self) -> int:
        """One look, and a change if one is due; returns the pause until the next, ns."""
        try:
            await self._look()
            number = self.to_change(self._clock.now())
            if number is None:
                return self.engine.interval
            await self._change(number)
            return SETTLE
        except PlatformError as error:
            return self.fail(error)
        except Exception as error:
            # A defect of ours or of a library's: the number stays as it is, and the next look may do better.
            log.exception("pool %s: %s failed in an unforeseen way", self.engine.pool, self.engine.describe())
            return self.fail(PlatformError(f"{type(error).__name__}: {error}"))

    async def _look(self) -> None:
        at = self._clock.now()
        self.observe(await _timely(self.engine.look(), TIMEOUT), at)
        if self._after_look is not None:
            await self._after_look()

    async def _change(self, number: int) -> None:
        assert self._seen is not None
        limit = TIMEOUT
        if self.membership is not None:
            # A change that arrives after the lease has passed on would undo the next leader's.
            await _timely(self.membership.confirm(), TIMEOUT)
            limit = min(limit, self.membership.left(self._clock.now()))
        await _timely(self.engine.change(number, self._seen), limit)
        self.told(number)

    def _note_drift(self, seen: Seen, now: int) -> None:
        wanted = self.wanted
        if seen.number == wanted:
            self._drift_since = self._drift_told = None
            self._agreed = wanted
            return
        if self._drift_since is None:
            self._drift_since = now
        if self._agreed == wanted and self._drift_told != (wanted, seen.number):
            self._drift_told = (wanted, seen.number)
            self._drifts += 1
            log.warning(
                "pool %s: wanted are %d replicas, and %s says %d: somebody else changed it; it is set again",
                self.engine.pool, wanted, self.engine.describe(), seen.number,
            )  # fmt: skip

    @property
    def _fresh_for(self) -> int:
        return FRESH_LOOKS * self.engine.interval

    def _within(self, number: int) -> int:
        return max(self._limits[0], min(number, self._limits[1]))


async def _timely(work: Any, limit: int) -> Any:
    try:
        async with asyncio.timeout(max(limit, 0) / SECOND):
            return await work
    except TimeoutError:
        raise PlatformError(f"no answer within {format_duration(limit)}") from None
