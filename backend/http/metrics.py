"""`/metrics` in Prometheus' text format, with the names of Triton (docs "Metrics" of Triton Inference Server)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lb.wire import grpc_service_pb2 as wire

# Name, type, meaning, and where it is in a ModelStatistics message.
_FAMILIES: tuple[tuple[str, str, str, Callable[[Any], int]], ...] = (
    (
        "nv_inference_request_success",
        "counter",
        "Requests that were answered, all batch sizes.",
        lambda s: s.inference_stats.success.count,
    ),
    (
        "nv_inference_request_failure",
        "counter",
        "Requests that failed, were refused, or were given up by their clients.",
        lambda s: s.inference_stats.fail.count,
    ),
    ("nv_inference_count", "counter", "Rows that were inferred.", lambda s: s.inference_count),
    ("nv_inference_exec_count", "counter", "Runs of the model.", lambda s: s.execution_count),
    (
        "nv_inference_request_duration_us",
        "counter",
        "Time of answered requests, from their arrival to the end of their run, in microseconds.",
        lambda s: s.inference_stats.success.ns // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "counter",
        "Time that answered requests waited in the queue, in microseconds.",
        lambda s: s.inference_stats.queue.ns // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "counter",
        "Time in which inputs were put together, counted for each request of a batch, in microseconds.",
        lambda s: s.inference_stats.compute_input.ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "counter",
        "Time in which the model ran, counted for each request of a batch, in microseconds.",
        lambda s: s.inference_stats.compute_infer.ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "counter",
        "Time in which outputs were taken, counted for each request of a batch, in microseconds.",
        lambda s: s.inference_stats.compute_output.ns // 1000,
    ),
)


def text(models: Iterable[tuple[bytes, int]]) -> str:
    """`models` are the ModelStatistics messages of the served models, with the requests that wait for each."""
    found = [(wire.ModelStatistics.FromString(statistics), waiting) for statistics, waiting in models]
    lines = []
    for name, kind, meaning, value in _FAMILIES:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(statistics)} {value(statistics)}" for statistics, _ in found]
    name = "nv_inference_pending_request_count"
    lines += [f"# HELP {name} Requests that wait for a run now.", f"# TYPE {name} gauge"]
    lines += [f"{name}{_labels(statistics)} {waiting}" for statistics, waiting in found]
    return "\n".join(lines) + "\n"


def _labels(statistics: Any) -> str:
    return f'{{model="{_escaped(statistics.name)}",version="{_escaped(statistics.version)}"}}'


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
