"""The last half hour of the traffic: every 5 s a sample of each series, from the counters of the shared segment.

A sample of a series is what happened between two looks: rates by status class, requests in flight, and p50, p95 and p99
of the durations, interpolated inside of their bucket as Prometheus' histogram_quantile does. Workers have no part in
it. A series has room for its samples (19 KiB) from its first request on; the number of series with room is bounded.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise
from operator import add, sub
from typing import Any

from msgspec import Struct

from lb.config.plan.plan import Plan
from lb.control.counters import series_of
from lb.shared.words import BOUNDS_US, ENDPOINT, LISTENER, MODEL, QUEUE, ROUTE, SIZE, UDP_ENDPOINT, UDP_LISTENER, Kind

INTERVAL = 5.0  # seconds between two samples
KEPT = 360  # samples: half an hour
_MOST = 4000  # series with samples of their own; the others are part of the totals alone
FIELDS = ("rate", "errors", "in_flight", "p50", "p95", "p99", "2xx", "3xx", "4xx", "429", "5xx", "other", "refused")
_WIDTH = len(FIELDS)
_NONE = math.nan
_CLASSES = ("2xx", "3xx", "4xx", "429", "5xx")

# ("total",), ("listener", name), ("route", name), ("pool", name), ("endpoint", pool, address) or ("model", pool, name)
Key = tuple[str, ...]


class _Layout(Struct, frozen=True):
    """Where the words of a kind are; -1 where it has none."""

    started: int
    finished: int
    buckets: tuple[int, int]
    values: dict[str, int]
    counted: tuple[tuple[str, int], ...]  # what the totals count by kind, with its name


def _layout(kind: Kind, requests: str, duration: str, counted: Sequence[str]) -> _Layout:
    at, word = kind.find(requests) if requests else (-1, None)
    values = {labels[-1]: at + i for i, labels in enumerate(word.values)} if word is not None else {}
    first, histogram = kind.find(duration) if duration else (-1, None)
    rows = [(f"{kind.name}.{name}", kind.find(name)) for name in counted]
    places = [
        (f"{name}.{labels[-1]}" if labels else name, place + i)
        for name, (place, each) in rows
        for i, labels in enumerate(each.values or ((),))
    ]
    return _Layout(
        kind.place("started"),
        kind.place("finished"),
        (first + 1, first + histogram.size) if histogram is not None else (0, 0),
        values,
        tuple(places),
    )


_LAYOUTS = {
    LISTENER.name: _layout(LISTENER, "", "session_duration", ["rejected", "timeouts", "rejected_requests"]),
    UDP_LISTENER.name: _layout(UDP_LISTENER, "", "", ["dropped"]),
    ROUTE.name: _layout(
        ROUTE,
        "requests",
        "request_duration",
        ["requests", "grpc", "timeouts", "rejected", "client_aborts", "retries", "cache"],
    ),
    ENDPOINT.name: _layout(
        ENDPOINT,
        "requests",
        "request_duration",
        ["errors", "timeouts", "connect_errors", "local_connect_errors", "response_errors"],
    ),
    MODEL.name: _layout(MODEL, "requests", "request_duration", []),
    UDP_ENDPOINT.name: _layout(UDP_ENDPOINT, "", "", []),
    QUEUE.name: _layout(QUEUE, "", "wait", ["ended"]),
}
_ERRORS = {kind.name: kind.place("errors") for kind in (ROUTE, ENDPOINT, MODEL)}
_REFUSED = {ROUTE.name: ROUTE.place("rejected"), MODEL.name: MODEL.place("failures.refused")}
_NOTHING = array("Q", bytes(8 * SIZE))
_HITS = ("hit", "collapsed", "stale", "revalidated", "stale_if_error", "negative")


def quantile(buckets: Sequence[int], q: float) -> float:
    """Seconds below which the part `q` of the durations is, from the counts by BOUNDS_US; NaN where there are none."""
    whole = sum(buckets)
    if whole <= 0:
        return _NONE
    left, low = q * whole, 0.0
    for bound, n in zip(BOUNDS_US, buckets, strict=False):
        if n and left <= n:
            return (low + (bound - low) * left / n) / 1e6
        left -= n
        low = bound
    return low / 1e6  # above the last bound: at least that


class _Track:
    """The ring of one series: sample `n` is at `n % KEPT`."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = array("f", [_NONE]) * (_WIDTH * KEPT)

    def put(self, at: int, sample: Iterable[float]) -> None:
        self.values[at * _WIDTH : (at + 1) * _WIDTH] = array("f", sample)

    def get(self, at: int) -> list[float]:
        return self.values[at * _WIDTH : (at + 1) * _WIDTH].tolist()


class Events(Struct, frozen=True):
    """What was counted between two samples, of all series together, by kind and word: {"route.timeouts": 2, …}."""

    at: float  # Unix seconds
    seconds: float
    counts: Counter[str]
    waiting: int  # requests in the queues of all pools

    @property
    def hit_ratio(self) -> float:
        """The part of the requests that a cache answered, of those it was asked for; NaN where there were none."""
        hits = sum(self.counts[f"route.cache.{name}"] for name in _HITS)
        asked = hits + self.counts["route.cache.miss"]
        return hits / asked if asked else _NONE


class History:
    """Rings of samples. `sample` is called every INTERVAL or so with monotonic ns and Unix seconds."""

    def __init__(self) -> None:
        self.number = 0  # of samples so far
        self.events: deque[Events] = deque(maxlen=KEPT)
        self._times: deque[float] = deque(maxlen=KEPT)
        self._tracks: dict[Key, _Track] = {}
        self._before: dict[tuple[str, Key, int], array[int]] = {}
        self._at: int | None = None

    def sample(
        self,
        plan: Plan,
        read: Callable[[int], Sequence[int] | bytes],
        now: int,
        wall: float,
        models: Iterable[tuple[Kind, Key, int]] = (),
    ) -> None:
        """Takes one. `read` gives the words of a series (Segment.series_bytes), `models` are the series of models
        (lb.control.counters.models_of)."""
        seconds = (now - self._at) / 1e9 if self._at is not None else 0.0
        self._at = now
        words = {
            (kind.name, labels, number): array("Q", read(number))
            for kind, labels, number in chain(series_of(plan), models)
            if kind.name in _LAYOUTS
        }
        if seconds > 0:
            self._compare(words, seconds, wall)
        self._before = words

    def _compare(self, words: dict[tuple[str, Key, int], array[int]], seconds: float, wall: float) -> None:
        at = self.number % KEPT
        counts: Counter[str] = Counter()
        sums: dict[Key, tuple[str, list[int], int]] = {}
        seen: set[Key] = {("total",)}
        waiting = 0
        for series, now in words.items():
            name, labels, _ = series
            layout = _LAYOUTS[name]
            # A model has its series from its first request on: there was nothing before.
            before = self._before.get(series, _NOTHING if name == MODEL.name else None)
            running = max(0, now[layout.started] - now[layout.finished])
            change = _change(now, before) if before is not None and now != before else None
            if change is not None:
                for counted, place in layout.counted:
                    if change[place] > 0:
                        counts[counted] += change[place]
            waiting += running if name == QUEUE.name else 0
            if name in (QUEUE.name, UDP_ENDPOINT.name, UDP_LISTENER.name):
                continue
            key = (name, *labels)
            seen.add(key)
            self._keep(key, at, name, change, running, seconds)
            whole: Key | None = ("total",) if name == "route" else ("pool", labels[0]) if name == "endpoint" else None
            if whole is not None:
                seen.add(whole)
                _, known, busy = sums.get(whole, (name, [], 0))
                if change is not None:
                    known = list(map(add, known, change)) if known else change
                sums[whole] = (name, known, busy + running)
        for key, (name, change, running) in sums.items():
            self._keep(key, at, name, change or None, running, seconds)
        for key in [key for key in self._tracks if key not in seen]:
            del self._tracks[key]
        self._times.append(wall)
        self.events.append(Events(wall, seconds, counts, waiting))
        self.number += 1

    def _keep(self, key: Key, at: int, name: str, change: list[int] | None, running: int, seconds: float) -> None:
        track = self._tracks.get(key)
        if track is None:
            if change is None and not running and key != ("total",):
                return  # nothing has ever happened there
            if len(self._tracks) >= _MOST and key[0] in ("route", "endpoint", "model"):
                return
            track = self._tracks[key] = _Track()
        if change is None:
            track.put(at, (0.0, 0.0, float(running), _NONE, _NONE, _NONE, *(0.0,) * (_WIDTH - 6)))
            return
        layout = _LAYOUTS[name]
        classes = [change[layout.values[c]] / seconds if layout.values else 0.0 for c in _CLASSES]
        every = sum([change[place] for place in layout.values.values()]) if layout.values else None
        rate = (change[layout.started] if every is None else every) / seconds
        buckets = change[slice(*layout.buckets)]
        errors = change[_ERRORS[name]] / seconds if name in _ERRORS else 0.0
        track.put(
            at,
            (
                rate, errors, float(running), *(quantile(buckets, q) for q in (0.5, 0.95, 0.99)), *classes,
                max(0.0, rate - sum(classes)) if every is not None else 0.0,
                change[_REFUSED[name]] / seconds if name in _REFUSED else 0.0,
            ),
        )  # fmt: skip

    def keys(self, kind: str) -> list[Key]:
        """The series of a kind that have samples."""
        return [key for key in self._tracks if key[0] == kind]

    def last(self, key: Key) -> dict[str, float] | None:
        """The newest sample of a series; None where it has none."""
        track = self._tracks.get(key)
        if track is None or self.number == 0:
            return None
        return dict(zip(FIELDS, track.get((self.number - 1) % KEPT), strict=True))

    def mean(self, key: Key, field: str, samples: int) -> float:
        """The mean of a field over the last samples of a series; NaN where it has none."""
        track = self._tracks.get(key)
        if track is None:
            return _NONE
        column = FIELDS.index(field)
        first = max(0, self.number - min(samples, KEPT))
        values = [track.values[(n % KEPT) * _WIDTH + column] for n in range(first, self.number)]
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else _NONE

    def counted(self, seconds: float) -> tuple[dict[str, int], float]:
        """What all series together counted in the last `seconds`, by kind and word, and how long that really is."""
        found: Counter[str] = Counter()
        spent = 0.0
        for events in reversed(self.events):
            if spent >= seconds:
                break
            spent += events.seconds
            found.update(events.counts)
        return dict(found), spent

    def series(self, key: Key, after: int = 0, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        """{number, times, field: [value, …], …} of the samples with a number above `after`, oldest first; NaN is no
        value. A series without samples has none of the fields. The total also has `waiting` and `hit_ratio`."""
        first = max(after, self.number - len(self._times))
        numbers = range(first, self.number)
        times = list(self._times)[len(self._times) - len(numbers) :] if len(numbers) else []
        found: dict[str, Any] = {"number": self.number, "times": times}
        track = self._tracks.get(key)
        if track is not None:
            for field in fields:
                column = FIELDS.index(field)
                found[field] = [track.values[(n % KEPT) * _WIDTH + column] for n in numbers]
        if key == ("total",):
            events = list(self.events)[len(self.events) - len(numbers) :] if len(numbers) else []
            found["waiting"] = [event.waiting for event in events]
            found["hit_ratio"] = [event.hit_ratio for event in events]
        return found

    def heat(self, pool: str, cells: int) -> dict[str, Any]:
        """The half hour in `cells` columns, by endpoint of a pool: rate and errors are means, p99 the worst.
        {times, endpoints: {address: {rate, errors, p99}}}."""
        have = len(self._times)
        edges = sorted({self.number - have + have * i // cells for i in range(cells + 1)})
        spans = list(pairwise(edges))
        times = list(self._times)
        base = self.number - have
        rows: dict[str, dict[str, list[float]]] = {}
        for key in self.keys("endpoint"):
            if key[1] == pool:
                values = self._tracks[key].values
                rows[key[2]] = {
                    field: [_joined(values, FIELDS.index(field), a, b, join) for a, b in spans]
                    for field, join in (("rate", _mean), ("errors", _mean), ("p99", max))
                }
        return {"times": [times[b - 1 - base] for _, b in spans], "endpoints": rows}


def _change(now: array[int], before: array[int]) -> list[int]:
    """What was counted between two looks. A word that fell is another series' now: nothing is known of it."""
    found = list(map(sub, now, before))
    return found if min(found) >= 0 else [max(0, n) for n in found]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _joined(values: array[float], column: int, first: int, end: int, join: Callable[[Sequence[float]], float]) -> float:
    known = [v for n in range(first, end) if not math.isnan(v := values[(n % KEPT) * _WIDTH + column])]
    return join(known) if known else _NONE
