"""What a daemon says of its part of a pool's load, and the sum over the daemons that share the pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from lb.scaling.scaler import Traffic


class Load(Struct, frozen=True):
    """`sequence` grows with every publication, so that a load that is not renewed is known by it; `in_flight` has the
    requests at each endpoint that has any, `waiting` those in the pool's queue; `traffic` is that of the last span."""

    sequence: int = 0
    in_flight: Mapping[str, float] = field(default_factory=dict)
    waiting: float = 0.0
    traffic: Traffic | None = None


def encode(load: Load) -> str:
    """As text, which every store takes."""
    return msgspec.json.encode(load).decode()


def decode(text: str) -> Load:
    """Raises ValueError for text that is no load; fields of a newer daemon are left out."""
    try:
        return msgspec.json.decode(text, type=Load)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it is no load: {error}") from None


def together(own: Traffic, others: Iterable[Traffic | None]) -> Traffic | None:
    """The traffic of all daemons in the span of `own`; None while that of any is unknown, since a part of the load
    would be taken for all. Counts of other spans are scaled to this one; means are those of moments, and only added."""
    total = own
    for other in others:
        if other is None or other.span <= 0:
            return None
        share = own.span / other.span
        counts = {name: getattr(total, name) + round(getattr(other, name) * share) for name in _COUNTS}
        means = {name: getattr(total, name) + getattr(other, name) for name in ("in_flight", "waiting")}
        total = replace(total, **counts, **means)
    return total


_COUNTS = ("arrived", "answered", "failed", "refused", "waited", "served")
