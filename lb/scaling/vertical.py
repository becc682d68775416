"""How much of a machine one server needs, by what it has used: cores and memory. Pure; time is an argument.

The rule of the Kubernetes Vertical Pod Autoscaler: a histogram of what was used, in which a sample's weight halves with
each half-life; the target is the 90th percentile with a margin of 15 %; what a server has stays while it is between a
lower and an upper bound (the 50th and the 95th percentile with the margin), which are wide while little was seen and
come closer with time. Memory goes by the peaks of intervals, since what was needed once is needed again.

Source: kubernetes/autoscaler, vertical-pod-autoscaler, pkg/recommender (logic/recommender.go, logic/estimator.go,
model/aggregations_config.go, util/decaying_histogram.go).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct, field

from lb.config.units import DAY, MIB, MINUTE

MARGIN = 1.15
TARGET, LOWER, UPPER = 0.90, 0.50, 0.95
SETTLED, WORTH = DAY // 2, 0.1  # as VPA's updater: age of a size, and the part of it by which another has to differ
PEAKS = DAY  # interval of which the highest memory use counts, once
LEAST_CORES, LEAST_MEMORY = 0.025, 250 * MIB
KILLED_FACTOR, KILLED_STEP = 1.2, 100 * MIB  # what a server that was killed for its memory is given more, at least
_RATIO = 1.05  # of the size of a bucket to that of the one before
_FIRST_CORES, _FIRST_MEMORY = 0.01, 10_000_000.0
_MOST_BUCKETS = 400


class Histogram(Struct):
    """Weights of buckets that grow by 5 % each, from `first` on. A weight at time t counts 2 ** (t / half-life), so
    that older ones halve without being touched; the reference of time moves on before that grows too large."""

    first: float
    half_life: int  # ns
    reference: int = 0
    weights: dict[int, float] = field(default_factory=dict)

    def add(self, value: float, weight: float, at: int) -> None:
        """A sample at `at` (ns); a negative weight takes one back."""
        if (at - self.reference) / self.half_life > 50:
            self._move(at)
        bucket = self._bucket(value)
        left = self.weights.get(bucket, 0.0) + weight * 2.0 ** ((at - self.reference) / self.half_life)
        self.weights[bucket] = max(left, 0.0)

    def percentile(self, share: float) -> float:
        """The end of the bucket below which at least this share of the weight lies; 0 without any."""
        total = math.fsum(self.weights.values())
        if total <= 0:
            return 0.0
        reached = 0.0
        for bucket in sorted(self.weights):
            reached += self.weights[bucket]
            if reached >= share * total * (1 - 1e-12):
                break
        return self._begin(bucket + 1)

    def _bucket(self, value: float) -> int:
        if value < self.first:
            return 0
        return min(int(math.log(value * (_RATIO - 1) / self.first + 1) / math.log(_RATIO) + 1e-9), _MOST_BUCKETS - 1)

    def _begin(self, bucket: int) -> float:
        return self.first * (_RATIO**bucket - 1) / (_RATIO - 1)

    def _move(self, at: int) -> None:
        factor = 2.0 ** ((self.reference - at) / self.half_life)
        self.weights = {bucket: weight * factor for bucket, weight in self.weights.items() if weight * factor > 1e-12}
        self.reference = at


class Peak(Struct):
    """The highest memory use of one server in the interval under way."""

    since: int
    value: float


class Advice(Struct, frozen=True):
    """What one server is to have. Within `lower` and `upper` cores it may keep what it has."""

    cores: float
    lower: float
    upper: float
    memory: float  # bytes
    samples: int
    days: float  # of experience


class Vertical:
    """Learns from the servers of one pool, which are alike. Times are ns of any one clock."""

    def __init__(self, half_life: int = DAY) -> None:
        self._cores = Histogram(_FIRST_CORES, half_life)
        self._memory = Histogram(_FIRST_MEMORY, half_life)
        self._peaks: dict[str, Peak] = {}
        self._first = 0
        self._samples = 0

    def see(self, now: int, cores: Mapping[str, float], memory: Mapping[str, float]) -> None:
        """Cores in use and bytes of memory, by server; once a minute."""
        for used in cores.values():
            # As VPA: a busy server says more than an idle one.
            self._cores.add(used, max(used, 0.1), now)
            self._first = self._first or now
            self._samples += 1
        for name, used in memory.items():
            self._see_memory(name, used, now)
        for name in self._peaks.keys() - memory.keys():
            del self._peaks[name]  # it has ended; its peak stays in the histogram

    def killed(self, memory: float, now: int) -> None:
        """A server was killed for its memory, at this use."""
        self._memory.add(max(memory * KILLED_FACTOR, memory + KILLED_STEP), 1.0, now)

    def advise(self, now: int) -> Advice | None:
        """None before anything was seen."""
        if self._samples == 0:
            return None
        days = max(min((now - self._first) / DAY, self._samples * MINUTE / DAY), 1e-6)
        target, lower, upper = (max(self._cores.percentile(p) * MARGIN, LEAST_CORES) for p in (TARGET, LOWER, UPPER))
        return Advice(
            target,
            min(target, lower * (1 + 0.001 / days) ** -2),
            max(target, upper * (1 + 1 / days)),
            max(self._memory.percentile(TARGET) * MARGIN, LEAST_MEMORY),
            self._samples,
            days,
        )

    def _see_memory(self, name: str, used: float, now: int) -> None:
        """Only the highest use of an interval is in the histogram."""
        peak = self._peaks.get(name)
        if peak is None or now - peak.since >= PEAKS:
            self._peaks[name] = Peak(now, used)
            self._memory.add(used, 1.0, now)
        elif used > peak.value:
            self._memory.add(peak.value, -1.0, peak.since)
            self._memory.add(used, 1.0, peak.since)
            peak.value = used


def whole_cores(advice: Advice, current: int, age: int, least: int, most: int) -> int:
    """The number of cores, or threads, for a server that has had `current` for `age` ns: as it is while that is within
    the bounds, after half a day only while it differs by less than a tenth from what is needed."""
    within = math.ceil(advice.lower) <= current <= math.ceil(advice.upper)
    settled = age >= SETTLED and abs(advice.cores - current) >= WORTH * current
    if within and not settled and least <= current <= most:
        return current
    return min(max(math.ceil(advice.cores - 1e-9), least), most)
