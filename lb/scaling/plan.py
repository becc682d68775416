"""The end of every decision: what is left of a wish is put between the limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lb.scaling.scaler import Decision, Look
from lb.scaling.windows import STALE


def plan(
    look: Look, recommended: int, allowed: int, reason: str, held: str = "", detail: Mapping[str, Any] | None = None
) -> Decision:
    """The decision for `recommended` replicas, of which windows, delays and steps leave `allowed` by `held`."""
    notes = [reason]
    if allowed != recommended and held:
        notes.append(f"{held} holds it at {allowed}")
    replicas = max(look.minimum, min(allowed, look.maximum))
    if replicas != allowed:
        notes.append(f"limited by {'max' if replicas < allowed else 'min'} to {replicas}")
    return Decision(replicas, recommended, "; ".join(notes), detail or {})


def stay(look: Look, reason: str, detail: Mapping[str, Any] | None = None) -> Decision:
    """The decision to change nothing, where there is nothing to go by; the limits hold all the same."""
    return plan(look, look.wanted, look.wanted, reason, "", detail)


def latest(look: Look | None) -> Look:
    """The look that a decision is about. Raises ValueError before the first."""
    if look is None:
        raise ValueError("there was no look to decide on")
    return look


def is_stale(look: Look, now: int) -> bool:
    """Whether a look is too old to go by."""
    return now - look.at > STALE
