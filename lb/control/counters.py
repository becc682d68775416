"""The counter series of a plan, read: for a scrape, and for the status document."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from lb.config.plan.plan import Plan
from lb.shared.model_table import ModelTable
from lb.shared.segment import Segment
from lb.shared.words import (
    BOUNDS_US,
    ENDPOINT,
    HISTOGRAM,
    LISTENER,
    MODEL,
    OTHER_MODEL,
    QUEUE,
    ROUTE,
    SESSIONS,
    STATE,
    UDP_ENDPOINT,
    UDP_LISTENER,
    Kind,
)
from lb.telemetry.series import Series, Totals

_REQUESTS = (MODEL.place("requests"), MODEL.find("requests")[1].size)  # first word and number of words


def series_of(plan: Plan) -> Iterator[tuple[Kind, tuple[str, ...], int]]:
    """(kind, the labels of its first view, number) of every series of the plan."""
    for listener in plan.listeners:
        yield LISTENER, (listener.name,), listener.series
        for route, number in listener.route_series():
            yield ROUTE, (route,), number
        if listener.udp is not None:
            yield UDP_LISTENER, (listener.name,), listener.udp.series
    for pool in plan.pools:
        if pool.queue is not None:
            yield QUEUE, (pool.name,), pool.queue.series
        if pool.learn is not None:
            yield SESSIONS, (pool.name,), pool.learn.series
        for endpoint in pool.endpoints:
            yield ENDPOINT, (pool.name, endpoint.address), endpoint.series
            if endpoint.datagrams >= 0:
                yield UDP_ENDPOINT, (pool.name, endpoint.address), endpoint.datagrams


def models_of(plan: Plan, segment: Segment) -> Iterator[tuple[Kind, tuple[str, ...], int]]:
    """The same of the models that clients of the plan's pools ask for, which workers give their series
    (lb.shared.model_table); an empty pool is that of models that found no room."""
    pools = {"", *(pool.name for pool in plan.pools)}
    for pool, model, number in ModelTable(segment).rows():
        if pool in pools and (model != OTHER_MODEL or segment.series_sum(number, *_REQUESTS)):
            yield MODEL, (pool, model), number


def read(plan: Plan, segment: Segment) -> Totals:
    """What all of them say now."""
    found: dict[Kind, dict[tuple[str, ...], Series]] = {}
    for kind, labels, number in (*series_of(plan), *models_of(plan, segment)):
        found.setdefault(kind, {})[labels] = Series(kind, segment.series_total(number))
    return found


def describe(totals: Totals) -> dict[str, list[dict[str, Any]]]:
    """The counters of the status document: by kind a row for each series, with its labels."""

    def row(kind: Kind, key: tuple[str, ...], series: Series) -> dict[str, Any]:
        return {**dict(zip(kind.views[0].labels, key, strict=True)), **series.describe()}

    return {kind.name: [row(kind, key, series) for key, series in rows.items()] for kind, rows in totals.items()}


def words(plan: Plan, segment: Segment) -> dict[str, Any]:
    """All counters as they are in the segment, for readers that take differences: a fraction of the work of `describe`.

        {at_ns, bounds_us, routes: {listener: [name]},
         kinds: {name: {labels: [...], words: {name: [first, "histogram" | values | None]},
                        rows: [[[label], [number]]]}}}

    `at_ns` is the monotonic time of the reading. A histogram's first number is its sum in ns, then come its counts by
    `bounds_us` and of what is above the last. A word of several values has a number for each.
    """
    kinds: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    at = time.monotonic_ns()
    for kind, labels, number in (*series_of(plan), *models_of(plan, segment)):
        if kind.name not in kinds:
            kinds[kind.name] = {"labels": kind.views[0].labels, "words": _places(kind), "rows": []}
            sizes[kind.name] = kind.size
        kinds[kind.name]["rows"].append((labels, segment.series_total(number)[: sizes[kind.name]]))
    routes = {listener.name: [name for name, _ in listener.route_series()] for listener in plan.listeners}
    return {"at_ns": at, "bounds_us": BOUNDS_US, "routes": routes, "kinds": kinds}


def _places(kind: Kind) -> dict[str, tuple[int, Any]]:
    """Where each word begins, and what it is; words that workers tell each other are left out."""
    found: dict[str, tuple[int, Any]] = {}
    for at, _, word in kind.rows():
        if word.type != STATE:
            values = [labels[-1] for labels in word.values] or None
            found[word.name] = at, HISTOGRAM if word.type == HISTOGRAM else values
    return found
