"""Counters of one model, as the ModelStatistics call reports them. Durations are nanoseconds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from lb.wire import grpc_service_pb2 as wire


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def message(self) -> Any:
        return wire.StatisticDuration(count=self.count, ns=self.ns)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """The three phases of one run of a model on `rows` rows."""

    rows: int
    compute_input: int
    compute_infer: int
    compute_output: int


def _phases() -> dict[str, Duration]:
    return {"compute_input": Duration(), "compute_infer": Duration(), "compute_output": Duration()}


@dataclass(slots=True)
class Statistics:
    """Filled on the event loop only, so no lock is needed. Time of a shared run counts for each of its requests."""

    last_inference_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    phases: dict[str, Duration] = field(default_factory=_phases)
    batches: dict[int, dict[str, Duration]] = field(default_factory=lambda: defaultdict(_phases))

    def ran(self, times: RunTimes, wall_ms: int) -> None:
        """One run of the model has ended well."""
        self.last_inference_ms = wall_ms
        self.executions += 1
        for name, duration in self.batches[times.rows].items():
            duration.add(getattr(times, name))

    def succeeded(self, rows: int, total_ns: int, queue_ns: int, times: RunTimes) -> None:
        """One request of `rows` rows was answered."""
        self.inferences += rows
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        for name, duration in self.phases.items():
            duration.add(getattr(times, name))

    def failed(self, total_ns: int) -> None:
        self.fail.add(total_ns)

    def message(self, name: str, version: str) -> Any:
        return wire.ModelStatistics(
            name=name,
            version=version,
            last_inference=self.last_inference_ms,
            inference_count=self.inferences,
            execution_count=self.executions,
            inference_stats=wire.InferStatistics(
                success=self.success.message(),
                fail=self.fail.message(),
                queue=self.queue.message(),
                **{name: duration.message() for name, duration in self.phases.items()},
            ),
            batch_stats=[
                wire.InferBatchStatistics(
                    batch_size=rows, **{name: duration.message() for name, duration in phases.items()}
                )
                for rows, phases in sorted(self.batches.items())
            ],
        )
