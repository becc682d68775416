"""Families of metrics, from rows of label values and a number. Their names all begin with `tidegate_`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Rows = Iterable[tuple[Sequence[str], float]]


def counter(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """Of what only grows."""
    return _filled(CounterMetricFamily(f"tidegate_{name}", text, labels=labels), rows)


def gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """Of what goes up and down."""
    return _filled(GaugeMetricFamily(f"tidegate_{name}", text, labels=labels), rows)


def durations(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Sequence[tuple[str, float]], int]]
) -> Metric:
    """A histogram in seconds, from the values of the labels, the cumulative buckets, and the sum in ns."""
    family = HistogramMetricFamily(f"tidegate_{name}", text, labels=labels)
    for values, buckets, sum_ns in rows:
        family.add_metric(values, buckets, sum_ns / 1e9)
    return family


def _filled(family: CounterMetricFamily | GaugeMetricFamily, rows: Rows) -> Metric:
    for values, value in rows:
        family.add_metric(values, value)
    return family
