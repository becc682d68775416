"""The rule `hpa`: the Kubernetes HorizontalPodAutoscaler's algorithm as one pure function, and the scaler around it.

Each metric proposes a number of replicas (`lb.scaling.propose`); the largest proposal is stabilised over a window,
limited by the step policies and clamped. The order is HPA's own, and so are the defaults of `ScalingConfig`; its
published examples are tests.

Source: Kubernetes documentation, "Horizontal Pod Autoscaling" (algorithm details, configurable scaling behavior).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from lb.config.schema.file import BehaviorConfig, ScalingConfig, StepConfig
from lb.scaling.plan import is_stale, latest
from lb.scaling.propose import Proposal, Reading, propose
from lb.scaling.scaler import Decision, Look
from lb.scaling.windows import Meter


class Sample(Struct, frozen=True):
    """A number at a time (monotonic ns): a recommendation, or replicas added (positive) or removed (negative)."""

    at: int
    value: int


class ScalerState(Struct, frozen=True):
    """What one decision leaves to the next: recommendations and changes that windows and periods still reach."""

    recommendations: tuple[Sample, ...] = ()
    changes: tuple[Sample, ...] = ()


class Observation(Struct, frozen=True):
    """What was seen: the present wish, its limits, a reading per metric name (an absent or empty one is missing)."""

    replicas: int
    minimum: int
    maximum: int
    readings: Mapping[str, Reading] = field(default_factory=dict)


class Outcome(Struct, frozen=True):
    """How many replicas from now on, and why; `recommended` is before windows, steps and limits."""

    replicas: int
    recommended: int
    reason: str
    proposals: tuple[Proposal, ...]
    state: ScalerState


class Hpa:
    """A Scaler. Measures are averaged from decision to decision, as metrics-server does over its window."""

    name = "hpa"

    def __init__(self, settings: ScalingConfig) -> None:
        self.interval = settings.interval
        self._settings = settings
        self._meters = {metric.signal: Meter(metric.level) for metric in settings.metrics}
        self._state = ScalerState()
        self._look: Look | None = None

    def see(self, look: Look) -> None:
        self._look = look
        for signal, meter in self._meters.items():
            meter.add(look.readings.get(signal))

    def decide(self, now: int) -> Decision:
        look = latest(self._look)
        readings = {signal: meter.take() for signal, meter in self._meters.items()}
        if is_stale(look, now):
            readings = {}
        observation = Observation(
            look.wanted, look.minimum, look.maximum, {name: r for name, r in readings.items() if r is not None}
        )
        outcome = decide(self._state, observation, self._settings, now)
        self._state = outcome.state
        detail = {
            p.metric: {"target": p.target, "average": p.average, "replicas": p.replicas} for p in outcome.proposals
        }
        return Decision(outcome.replicas, outcome.recommended, outcome.reason, detail)

    def learned(self) -> Mapping[str, Any]:
        recent = [sample.value for sample in self._state.recommendations]
        return {"highest_in_window": max(recent), "lowest_in_window": min(recent)} if recent else {}

    def memory(self) -> bytes:
        """Nothing: after a restart the replicas that run are the first recommendation."""
        return b""

    def restore(self, memory: bytes) -> None:
        if memory:
            raise ValueError("the rule hpa keeps nothing")


def decide(state: ScalerState, observation: Observation, settings: ScalingConfig, now: int) -> Outcome:
    """The number of replicas for `observation` at `now` (monotonic ns); pass the outcome's `state` to the next call.

    Guarantees: the result lies within minimum..maximum; a larger load never gives fewer replicas; nothing is removed
    that a recommendation within the `down` window still asked for, nothing added that one within the `up` window did
    not.
    """
    current = observation.replicas
    proposals = tuple(
        propose(m, current, observation.readings.get(m.signal), settings.tolerance) for m in settings.metrics
    )
    if not observation.minimum <= current <= observation.maximum:
        # The limits were changed under us. HPA does not rate-limit this either: the operator asked for it.
        bounded = _clamp(current, observation.minimum, observation.maximum)
        reason = f"{current} is outside the limits {observation.minimum} to {observation.maximum}"
        kept = _remember(state.recommendations, state.changes, bounded - current, settings, now)
        return Outcome(bounded, bounded, reason, proposals, kept)

    recommended, reason = _combine(current, proposals)
    # A scaler without history must not shrink at once: what runs now counts as the first recommendation.
    history = (*(state.recommendations or (Sample(now, current),)), Sample(now, recommended))
    wanted, held = _stabilise(current, history, settings, now)
    allowed, limit = _limit(current, wanted, state.changes, settings, now)
    result = _clamp(allowed, observation.minimum, observation.maximum)

    notes = [reason]
    if held and wanted != recommended:
        notes.append(f"{held} holds it at {wanted}")
    if allowed != wanted:
        notes.append(f"{limit} to {allowed}")
    if result != allowed:
        notes.append(f"limited by {'max' if result < allowed else 'min'} to {result}")
    kept = _remember(history, state.changes, result - current, settings, now)
    return Outcome(result, recommended, "; ".join(notes), proposals, kept)


def _combine(current: int, proposals: Sequence[Proposal]) -> tuple[int, str]:
    """The largest proposal; while any metric is missing, nothing is removed (it might be the one that needs them)."""
    valid = [p for p in proposals if p.replicas is not None]
    missing = [p for p in proposals if p.replicas is None]
    if not valid:
        return current, "; ".join(p.reason for p in missing) or "no metrics"
    best = max(valid, key=lambda p: p.replicas or 0)
    replicas = best.replicas or 0
    if missing and replicas < current:
        return current, f"{best.reason}; not reduced: {'; '.join(p.reason for p in missing)}"
    return replicas, best.reason


def _stabilise(current: int, history: Sequence[Sample], settings: ScalingConfig, now: int) -> tuple[int, str]:
    """Up only as far as the lowest recommendation of the up window, down only to the highest of the down window."""
    lowest_up = min(_within(history, settings.up.window, now))
    highest_down = max(_within(history, settings.down.window, now))
    if current < lowest_up:
        return lowest_up, "the scale-up window"
    if current > highest_down:
        return highest_down, "the scale-down window"
    return current, "the scale-up window" if history[-1].value > current else "the scale-down window"


def _within(history: Sequence[Sample], window: int, now: int) -> list[int]:
    """Recommendations younger than the window; the newest always counts."""
    return [s.value for s in history[:-1] if s.at > now - window] + [history[-1].value]


def _limit(current: int, wanted: int, changes: Sequence[Sample], settings: ScalingConfig, now: int) -> tuple[int, str]:
    """What the step policies allow of the way from `current` to `wanted`."""
    if wanted > current:
        limit = _step_limit(current, changes, settings.up, +1, now)
        return min(wanted, max(limit, current)), _limit_name("scale-up", settings.up)
    if wanted < current:
        limit = _step_limit(current, changes, settings.down, -1, now)
        return max(wanted, min(limit, current)), _limit_name("scale-down", settings.down)
    return current, ""


def _limit_name(direction: str, behavior: BehaviorConfig) -> str:
    return f"{direction} is disabled: held" if behavior.select == "disabled" else f"{direction} steps limit it"


def _step_limit(current: int, changes: Sequence[Sample], behavior: BehaviorConfig, sign: int, now: int) -> int:
    """The furthest number of replicas that the selected policy permits now, in the direction `sign`."""
    if behavior.select == "disabled":
        return current
    limits = [_one_step(current, changes, step, sign, now) for step in behavior.policies]
    # "max" is the policy that permits the largest change, so downwards it is the one with the smallest number.
    largest_change = (behavior.select == "max") == (sign > 0)
    return max(limits) if largest_change else min(limits)


def _one_step(current: int, changes: Sequence[Sample], step: StepConfig, sign: int, now: int) -> int:
    """A policy counts from the replicas there were when its period began, so that changes within it add up."""
    start = current - sum(c.value for c in changes if c.at > now - step.period)
    if step.type == "replicas":
        return start + sign * step.value
    # In whole numbers, because 0.9 is not a binary fraction. The number added or removed is rounded up.
    percent = 100 + sign * step.value
    return -(-start * percent // 100) if sign > 0 else start * max(percent, 0) // 100


def _clamp(replicas: int, minimum: int, maximum: int) -> int:
    return max(minimum, min(replicas, maximum))


def _remember(
    history: tuple[Sample, ...], changes: tuple[Sample, ...], change: int, settings: ScalingConfig, now: int
) -> ScalerState:
    if change:
        changes = (*changes, Sample(now, change))
    reach = max(settings.up.window, settings.down.window)
    period = max((s.period for s in (*settings.up.policies, *settings.down.policies)), default=0)
    return ScalerState(_pruned(history, now - reach), _pruned(changes, now - period))


def _pruned(samples: tuple[Sample, ...], after: int) -> tuple[Sample, ...]:
    """Those that still count, and the newest in any case: a history once begun never looks empty again."""
    return tuple(s for i, s in enumerate(samples) if s.at > after or i == len(samples) - 1)
