"""Families of metrics, from rows of label values and a number. Their names all begin with `tidegate_`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from lb.telemetry.series import Series

Rows = Iterable[tuple[Sequence[str], float]]


class _Totals(Protocol):
    def __add__(self, other: Any, /) -> Any: ...


T = TypeVar("T", bound=_Totals)


def counter(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """Of what only grows."""
    return _filled(CounterMetricFamily(f"tidegate_{name}", text, labels=labels), rows)


def gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """Of what goes up and down."""
    return _filled(GaugeMetricFamily(f"tidegate_{name}", text, labels=labels), rows)


def durations(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Series]]) -> Metric:
    """A histogram of the durations of series, in seconds."""
    family = HistogramMetricFamily(f"tidegate_{name}", text, labels=labels)
    for values, series in rows:
        family.add_metric(values, series.cumulative(), series.duration_ns / 1e9)
    return family


def by_pool(endpoints: Mapping[tuple[str, str], T]) -> dict[tuple[str, ...], T]:
    """Totals of the pools, from those of their endpoints, (pool, address)."""
    pools: dict[tuple[str, ...], T] = {}
    for (pool, _), series in endpoints.items():
        pools[(pool,)] = pools[(pool,)] + series if (pool,) in pools else series
    return pools


def _filled(family: CounterMetricFamily | GaugeMetricFamily, rows: Rows) -> Metric:
    for values, value in rows:
        family.add_metric(values, value)
    return family
