"""How many replicas one metric asks for: HPA's ratio formula with its care for missing and not yet ready replicas."""

from __future__ import annotations

import math

from msgspec import Struct

from lb.config.schema.file import MetricConfig

# Sums of floats land a few units in the last place above a whole number; that must not cost a replica.
EPSILON = 1e-9


class Reading(Struct, frozen=True):
    """One metric over a pool's replicas, in the unit of its target.

    `values` are those of ready replicas, `missing` counts ready replicas without a value, `unready` those that are
    wanted but do not serve yet.
    """

    values: tuple[float, ...] = ()
    missing: int = 0
    unready: int = 0


class Proposal(Struct, frozen=True):
    """What a metric asks for; `replicas` is None when it cannot tell."""

    metric: str
    target: float
    replicas: int | None
    average: float | None
    reason: str


def propose(metric: MetricConfig, current: int, reading: Reading | None, tolerance: float) -> Proposal:
    """`ceil(current * average / target)` of HPA, taken over the replicas that report.

    Replicas that do not report are assumed to be at their target when the load falls and idle when it rises, those not
    yet ready idle when it rises, so that doubt always damps. If that turns the direction around, nothing changes.
    """
    if reading is None or not reading.values:
        return Proposal(metric.signal, metric.target, None, None, f"{metric.signal} is missing")
    total = math.fsum(reading.values)
    count = len(reading.values)
    average = total / count
    ratio = average / metric.target
    seen = f"{metric.signal} {average:.4g}{'' if metric.level else ' per replica'}, target {metric.target:.4g}"

    rises = ratio > 1.0
    unready = reading.unready if rises else 0
    if not rises:
        total += reading.missing * metric.target
    if _tolerated(total / (count + reading.missing + unready) / metric.target, tolerance):
        replicas = current
    else:
        replicas = round_up(total / metric.target)
        # What damps may turn the direction around, and fewer may report than are wanted: neither is a reason to go the
        # other way.
        replicas = max(replicas, current) if rises else min(replicas, current)
    return Proposal(metric.signal, metric.target, replicas, average, f"{seen}: {replicas}")


def _tolerated(ratio: float, tolerance: float) -> bool:
    return 1.0 - tolerance - EPSILON <= ratio <= 1.0 + tolerance + EPSILON


def round_up(value: float) -> int:
    """The next whole number, where noise of floats counts for nothing."""
    return math.ceil(value - EPSILON)
