"""What a request counts for where endpoints' loads are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from lb.config.plan.plan import CostPlan
from lb.config.schema.base import Boolean, Model


class CostConfig(Model):
    """What a request counts for where endpoints' loads are compared. `max_in_flight` goes on counting requests."""

    unit: Literal["requests", "batch", "bytes"]
    """`requests`: each counts 1. `batch`: its batch, the first dimension of its first input; without one it is 1. Only
    for `oip`, and for models whose first dimension is one. `bytes`: its body's bytes, as they are announced, and 1 KiB
    for the rest of it. Of a body that does not say its length what is there when an endpoint is chosen counts, of gRPC
    the first message."""
    learn: Boolean | None = None
    """Whether a unit of one model counts for more than of another, by what endpoints take for it: learned from their
    answers, for all workers, over reloads. `oip` only. Default: `true` for `oip` unless the unit is `requests`."""


def expand_cost(value: Any) -> Any:
    """The short form, a unit's name, as the mapping that it stands for."""
    return {"unit": value} if isinstance(value, str) else value


def cost_plan(cost: CostConfig, protocol: str) -> CostPlan | None:
    """None: a request is a request."""
    if cost.unit == "requests":
        return None
    return CostPlan(cost.unit, protocol == "oip" if cost.learn is None else cost.learn)


def check_cost(path: str, cost: CostConfig, protocol: str) -> Iterator[tuple[str, str]]:
    """What does not go together, as (path, message)."""
    if cost.unit == "batch" and protocol != "oip":
        yield f"{path}.unit", f"batch is only for protocol oip: {protocol} has no batches"
    if cost.unit == "bytes" and protocol in ("tcp", "udp"):
        yield f"{path}.unit", f"bytes is not for protocol {protocol}: nobody knows how many will come"
    if cost.learn and protocol != "oip":
        yield f"{path}.learn", "only for protocol oip: elsewhere there are no models to tell apart"
    elif cost.learn and cost.unit == "requests":
        yield f"{path}.learn", "has no effect on requests; the unit must be batch or bytes"
