"""Counting what happens to the requests of the measured time."""

from __future__ import annotations

from collections import Counter, defaultdict

from bench.load import histogram as histograms
from bench.load.exchange import Exchange
from bench.load.histogram import Recording
from bench.load.report import BIN_NS, Labelled, Report, Series


class _Label:
    """The requests with one label."""

    def __init__(self) -> None:
        self.sent = 0
        self.completed = 0
        self.failed = 0
        self.latency = Recording()

    def report(self) -> Labelled:
        return Labelled(self.sent, self.completed, self.failed, histograms.encode(self.latency.histogram()))


class Recorder:
    """Takes times in nanoseconds of CLOCK_MONOTONIC; `began` is the end of the warm-up. `deadline_s`: see `Spec`."""

    def __init__(self, began: int, deadline_s: float | None = None) -> None:
        self.began = began
        self._deadline = None if deadline_s is None else round(deadline_s * 1e9)
        self.sent = 0
        self.completed = 0
        self.dropped = 0
        self.retried = 0
        self.failed: Counter[str] = Counter()
        self.latency = Recording()
        self.service = Recording()
        self.lateness = Recording()
        self.failure = Recording()
        self.series = Series()
        self.labels: defaultdict[str, _Label] = defaultdict(_Label)

    def drop(self) -> None:
        self.dropped += 1

    def arrive(self, intended: int, now: int, label: str = "") -> None:
        """A request is taken on, `now` being when the generator got to it."""
        self.sent += 1
        self.lateness.record(now - intended)
        self.series.sent[self._bin(intended)] += 1
        if label:
            self.labels[label].sent += 1

    def finish(self, exchange: Exchange, now: int, failure: str | None) -> None:
        waited = now - exchange.intended
        at, series = self._bin(now), self.series
        label = exchange.request.label
        if failure is not None:
            self.failed[failure] += 1
            self.failure.record(waited)
            series.failed[at] += 1
            if label:
                self.labels[label].failed += 1
            return
        self.completed += 1
        self.latency.record(waited)
        self.service.record(now - exchange.sent)
        series.completed[at] += 1
        if self._deadline is not None and waited <= self._deadline:
            series.in_time[at] += 1
        if label:
            self.labels[label].completed += 1
            self.labels[label].latency.record(waited)
        us = waited // 1000
        series.sum_us[at] += us
        if us > series.max_us[at]:
            series.max_us[at] = us

    def _bin(self, at: int) -> int:
        index = max(0, at - self.began) // BIN_NS
        series = self.series
        if index >= len(series.sent):
            more = [0] * (index + 1 - len(series.sent))
            for values in (series.sent, series.completed, series.failed, series.max_us, series.sum_us):
                values.extend(more)
            if self._deadline is not None:
                series.in_time.extend(more)
        return index

    def report(self, duration_ns: int, cpu_ns: int, bytes_in: int, bytes_out: int, interrupted: bool) -> Report:
        return Report(
            sent=self.sent,
            completed=self.completed,
            failed=dict(self.failed),
            dropped=self.dropped,
            retried=self.retried,
            began_ns=self.began,
            duration_ns=duration_ns,
            cpu_ns=cpu_ns,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            latency=histograms.encode(self.latency.histogram()),
            service=histograms.encode(self.service.histogram()),
            lateness=histograms.encode(self.lateness.histogram()),
            failure=histograms.encode(self.failure.histogram()),
            series=self.series,
            interrupted=interrupted,
            labels={name: label.report() for name, label in self.labels.items()},
        )
