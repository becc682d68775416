"""An endpoint as a choice saw it, for people and programs that want to know why."""

from __future__ import annotations

from msgspec import Struct


class Candidate(Struct):
    """Of the endpoint `index` of a set; `why_not` says why it takes no new request, "" where it does."""

    index: int
    address: str
    why_not: str
    ready: bool  # whether the models that were asked for are, as far as anybody knows
    weight: int  # as it was set, whether or not it takes requests
    share: float  # of its weight, what it gets: less during slow start, or where priorities and zones hold it back
    ejection_state: str  # well | ejected | probation
    in_flight: int  # requests, over all workers
    max_in_flight: int  # 0 = no limit
    latency_ns: float  # the average that the pool's policy keeps; 0 = nothing is known
    failing: float = 0.0  # the share of its recent attempts that failed
    turns: float = 1.0  # the part of its turns that it takes: less while recent attempts failed
    full: bool = False  # it takes requests, but has as many as it may
