"""What each endpoint of a pool gets of its weight, and whether the pool is in a panic: a decision, and nothing else.

A panic is Envoy's (healthy_panic_threshold): where less than the threshold is healthy, nobody is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from lb.config.schema.pools.slow_start import SlowStartConfig

WHOLE = 1000  # TG_SHARE_WHOLE


class Member(Struct, frozen=True):
    """An endpoint: whether it is to take requests, whether it is up and not ejected, and the part of its share that it
    has grown into, above 0 and up to 1. One that is `awaited`, and so not enabled, is new and was never up: nobody
    misses it yet. One that is `certain` is down beyond doubt: it gets nothing in a panic either."""

    enabled: bool
    healthy: bool
    grown: float = 1.0
    awaited: bool = False
    certain: bool = False

    def panics(self, panic: bool) -> bool:
        """Whether it takes requests in a `panic` of its level whatever its health and its ejection state."""
        return panic and not self.awaited and not self.certain


class Shares(Struct, frozen=True):
    """`thousandths` of its weight for each endpoint, and whether health and ejection are to be ignored there."""

    thousandths: tuple[int, ...]
    panic: tuple[bool, ...]


def decide_shares(members: Sequence[Member], panic_threshold: int) -> Shares:
    """The shares of `members`; `panic_threshold` in percent, 0: never. Those that an operator keeps away do not
    count."""
    counted = [member for member in members if member.enabled]
    panic = bool(counted) and 100 * sum(m.healthy for m in counted) < panic_threshold * len(counted)
    return Shares(tuple(thousandths(member, panic) for member in members), (panic,) * len(members))


def threshold(members: Sequence[Member], panic_threshold: int) -> int:
    """The panic threshold, 0 where a panic would bring nobody back."""
    return panic_threshold if any(m.enabled and not m.healthy and not m.certain for m in members) else 0


def thousandths(member: Member, panic: bool) -> int:
    """The part of its share that `member` has grown into, which is never nothing. In a panic who is not healthy has all
    of it, as in Envoy: those who are would have most of the load again."""
    if panic and member.enabled and not member.healthy:
        return WHOLE
    return max(1, round(WHOLE * member.grown))


def grown(settings: SlowStartConfig, since: int, now: int) -> float:
    """The part of its share that an endpoint has grown into at `now`, having begun at `since` (both monotonic ns): as
    Envoy's slow start, never below the minimum."""
    passed = min(max(now - since, 0) / settings.window, 1.0)
    return max(settings.min_weight_percent / 100, float(passed ** (1 / settings.aggression)))
