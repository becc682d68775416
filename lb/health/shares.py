"""What each endpoint of a pool gets of its weight, and whether the pool is in a panic: a decision, and nothing else.

A panic is Envoy's (healthy_panic_threshold): where less than the threshold is healthy, nobody is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WHOLE = 1000  # TG_SHARE_WHOLE


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint: whether an operator lets it take requests, and whether it is up and not ejected."""

    enabled: bool
    healthy: bool


@dataclass(frozen=True, slots=True)
class Shares:
    """`thousandths` of its weight for each endpoint, and whether health and ejection are to be ignored there."""

    thousandths: tuple[int, ...]
    panic: tuple[bool, ...]


def decide_shares(members: Sequence[Member], panic_threshold: int) -> Shares:
    """The shares of `members`; `panic_threshold` in percent, 0: never. Those that an operator keeps away do not
    count."""
    counted = [member for member in members if member.enabled]
    panic = bool(counted) and 100 * sum(m.healthy for m in counted) < panic_threshold * len(counted)
    return Shares((WHOLE,) * len(members), (panic,) * len(members))
