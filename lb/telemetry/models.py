"""Metrics of models, from what their servers have counted (lb.control.admin.readings.models)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import Metric

from lb.telemetry.families import counter

_LABELS = ("pool", "model", "version")
_COUNTS = {
    "rows": ("model_rows", "Rows of the inferences that the model's servers computed"),
    "runs": ("model_runs", "Runs of the model, each with a batch of rows"),
}
_TIMES = {
    "success_ns": (
        "model_request_seconds",
        "Time that the model's servers took for inferences that succeeded, together",
    ),
    "fail_ns": ("model_failure_seconds", "Time that the model's servers took for inferences that failed, together"),
    "queue_ns": ("model_queue_seconds", "Time that inferences waited in the queues of the model's servers, together"),
    "compute_ns": (
        "model_compute_seconds",
        "Time that the model's servers computed, input and output included, together",
    ),
}


def families(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """The metrics of the models, if there are any. Sums of all servers of a pool, which never fall."""
    if not rows:
        return
    keys = [((row["pool"], row["model"], row["version"]), row) for row in rows]
    yield counter(
        "model_requests",
        "Inferences of the model, by result: success, failure",
        (*_LABELS, "result"),
        [
            ((*key, name), row[field])
            for key, row in keys
            for name, field in (("success", "success"), ("failure", "fail"))
        ],
    )
    for field, (name, text) in _COUNTS.items():
        yield counter(name, text, _LABELS, [(key, row[field]) for key, row in keys])
    for field, (name, text) in _TIMES.items():
        yield counter(name, text, _LABELS, [(key, row[field] / 1e9) for key, row in keys])
