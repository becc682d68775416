"""What share of a pool's requests each level of its priorities gets, and within it the daemon's own zone: a decision.

Envoy's priority levels (its documentation, "Priority levels" and "Panic threshold"): what a level can carry is the
healthy part of its weight times an overprovisioning factor, at most all; each takes as much as it can of what those
before it left over. Where all together cannot carry everything, each gets its part of what they can, and one with too
few healthy endpoints is in a panic. Shares are of any size, where Envoy's are whole percents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from lb.health.shares import WHOLE


class Candidate(Struct, frozen=True):
    """An endpoint: its group (2 * level, and 1 more for the other zones), its weight, whether an operator lets it take
    requests, and whether it is up and not ejected."""

    group: int
    weight: int
    enabled: bool
    healthy: bool

    @property
    def allowed(self) -> bool:
        """Whether it may have requests: a weight of 0 keeps them away as an operator does."""
        return self.enabled and self.weight > 0

    @property
    def carries(self) -> bool:
        """Whether it can have requests."""
        return self.allowed and self.healthy


class Rules(Struct, frozen=True):
    """`spill`: as PrioritiesConfig has it; the factors are percentages."""

    spill: bool = True
    overprovisioning: int = 140
    zone_overprovisioning: int = 140
    panic_threshold: int = 0  # percent; 0 = never


class Level(Struct, frozen=True):
    """A level: `carries` is the part of all requests that it could take (0 to 1), `share` and `own` are thousandths of
    the requests that it gets, and those of them that are for the own zone. `split`: zones have a say."""

    carries: float
    share: int
    own: int
    panic: bool
    split: bool
    healthy: int
    endpoints: int

    @property
    def other(self) -> int:
        """Thousandths for the other zones."""
        return self.share - self.own


def decide_levels(candidates: Sequence[Candidate], rules: Rules) -> tuple[Level, ...]:
    """The levels of `candidates`, which leave none out; nobody gets anything where nobody can be had."""
    count = max(candidate.group for candidate in candidates) // 2 + 1
    members = [[c for c in candidates if c.group // 2 == level] for level in range(count)]
    carries = [_carries(level, rules) for level in members]
    total = sum(carries)
    panic = [False] * count
    shares = [0.0] * count
    if total >= 1:
        left = 1.0
        for i, part in enumerate(carries):
            shares[i] = min(part, left)
            left -= shares[i]
    else:
        panic = [_too_few(level, rules.panic_threshold) for level in members]
        if any(panic) and all(panic[i] or not any(c.allowed for c in members[i]) for i in range(count)):
            # What is known of their health means little by now.
            shares = _by_weight(members)
        elif total > 0:
            shares = [part / total for part in carries]
    return tuple(
        _level(level, part, share, panicking, rules)
        for level, part, share, panicking in zip(members, carries, _thousandths(shares), panic, strict=True)
    )


def _carries(level: Sequence[Candidate], rules: Rules) -> float:
    healthy, total = sum(c.weight for c in level if c.carries), sum(c.weight for c in level)
    if not healthy:
        return 0.0
    return min(1.0, rules.overprovisioning * healthy / (100 * total)) if rules.spill else 1.0


def _enabled(level: Sequence[Candidate]) -> int:
    return sum(c.weight for c in level if c.enabled)


def _too_few(level: Sequence[Candidate], threshold: int) -> bool:
    counted = [c for c in level if c.allowed]
    return bool(counted) and 100 * sum(c.healthy for c in counted) < threshold * len(counted)


def _by_weight(members: Sequence[Sequence[Candidate]]) -> list[float]:
    weights = [_enabled(level) for level in members]
    total = sum(weights)
    return [weight / total if total else 0.0 for weight in weights]


def _thousandths(shares: Sequence[float]) -> list[int]:
    """Rounded so that what is whole stays whole."""
    marks = [0, *(round(WHOLE * sum(shares[: i + 1])) for i in range(len(shares)))]
    return [after - before for before, after in pairwise(marks)]


def _level(level: Sequence[Candidate], carries: float, share: int, panic: bool, rules: Rules) -> Level:
    own, other = ([c for c in level if c.group % 2 == part] for part in (0, 1))
    if panic:  # a zone that is lost must not get everything because nobody's health counts
        part = _enabled(own) / max(_enabled(level), 1)
    elif not any(c.carries for c in other):
        part = 1.0 if own else 0.0
    else:
        healthy, total = sum(c.weight for c in own if c.carries), sum(c.weight for c in own)
        part = min(1.0, rules.zone_overprovisioning * healthy / (100 * total)) if total else 0.0
    return Level(
        carries,
        share,
        round(share * part),
        panic,
        bool(own and other),
        sum(c.carries for c in level),
        len(level),
    )
