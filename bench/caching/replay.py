"""A trace through a policy: what of it is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.caching.policies import Policy
from bench.caching.traces import Trace

CHUNK = 512
HEAD = 88
WARM = 0.25
"""Of the trace, before anything is counted."""


@dataclass(frozen=True)
class Found:
    """Shares, from 0 to 1, of requests, of bytes and of the time that making the answers takes."""

    hits: float
    bytes: float
    compute: float


def chunks_of(size: int) -> int:
    return (HEAD + size + CHUNK - 1) // CHUNK


def replay(trace: Trace, make: Callable[[int], Policy], capacity: int) -> Found:
    """`capacity` is in bytes."""
    policy = make(capacity // CHUNK)
    begin = int(len(trace.accesses) * WARM)
    found = [0, 0, 0]
    all_ = [0, 0, 0]
    for at, access in enumerate(trace.accesses):
        hit = policy.access(access.key, chunks_of(access.size), access.cost)
        if at >= begin:
            for place, value in enumerate((1, access.size, access.cost)):
                all_[place] += value
                found[place] += value * hit
    return Found(*(part / whole if whole else 0.0 for part, whole in zip(found, all_, strict=True)))
