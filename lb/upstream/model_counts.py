"""Inferences that a worker has seen, by model: what stands in for the statistics of model servers that have none."""

from __future__ import annotations

import time

MOST_MODELS = 1024  # of a pool; names come from clients, so only a success puts one in

# What is counted of a model, in this order. Times are in ns, `last` in ms since 1970.
FIELDS = (
    "success", "success_ns", "fail", "fail_ns", "waited_ns", "rows", "runs", "hits", "hits_ns", "misses", "misses_ns",
    "last",
)  # fmt: skip
SUCCESS, SUCCESS_NS, FAIL, FAIL_NS, WAITED_NS, ROWS, RUNS, HITS, HITS_NS, MISSES, MISSES_NS, LAST = range(len(FIELDS))


class ModelCounts:
    """Those of one pool."""

    def __init__(self) -> None:
        self._models: dict[bytes, list[int]] = {}

    def add(self, model: bytes, ok: bool, took: int, waited: int, rows: int, cached: str) -> None:
        """An inference of `rows` rows that took so many ns, of which it `waited` for an endpoint. `cached`: "hit" was
        answered from the result cache, "miss" might have been; "" no cache was asked."""
        counts = self._models.get(model)
        if counts is None:
            if not ok or len(self._models) >= MOST_MODELS:
                return
            counts = self._models[model] = [0] * len(FIELDS)
        if not ok:
            counts[FAIL] += 1
            counts[FAIL_NS] += took
            return
        counts[SUCCESS] += 1
        counts[SUCCESS_NS] += took
        counts[LAST] = time.time_ns() // 1_000_000
        if cached == "hit":
            counts[HITS] += 1
            counts[HITS_NS] += took
            return
        counts[WAITED_NS] += waited
        counts[ROWS] += rows
        counts[RUNS] += 1
        if cached == "miss":
            counts[MISSES] += 1
            counts[MISSES_NS] += took

    def rows(self) -> list[tuple[str, list[int]]]:
        """(model, what was counted: FIELDS)."""
        return [(name.decode("utf-8", "replace"), list(counts)) for name, counts in self._models.items()]
