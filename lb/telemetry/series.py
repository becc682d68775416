"""The words of a counter series by name: the Python side of enum tg_series_word in segment.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")
BOUNDS_US = (
    100, 250, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 25_000, 50_000, 75_000, 100_000, 150_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
)  # fmt: skip
# The counters behind the codes, in the order of the enum.
_COUNTERS = (
    "started", "finished", "bytes_in", "bytes_out", "retries", "connect_errors", "response_errors", "timeouts",
    "rejected", "cache_hit", "cache_miss", "cache_stored", "cache_collapsed", "cache_bypass", "connections",
    "duration_ns", "retries_refused", "hedges", "hedges_won", "hedges_lost", "hedges_refused",
)  # fmt: skip
_HISTOGRAM = 32
_GRPC = 56
_FAULTS = 73
WORDS = 80
# By gRPC's numbers, as grpc-prometheus and Envoy write them.
GRPC_CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
    "DataLoss", "Unauthenticated",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Series:
    """The totals of a series over all workers. `buckets` are counts per bucket, the last without bound; `grpc` are
    answers by gRPC status, `faults` those of any protocol that are the server's fault."""

    codes: tuple[int, ...]
    started: int
    finished: int
    bytes_in: int
    bytes_out: int
    retries: int
    connect_errors: int
    response_errors: int
    timeouts: int
    rejected: int
    cache_hit: int
    cache_miss: int
    cache_stored: int
    cache_collapsed: int
    cache_bypass: int
    connections: int
    duration_ns: int
    retries_refused: int
    hedges: int
    hedges_won: int
    hedges_lost: int
    hedges_refused: int
    buckets: tuple[int, ...]
    grpc: tuple[int, ...]
    faults: int

    @classmethod
    def of(cls, words: list[int]) -> Series:
        """From `Segment.series_total`."""
        if len(words) != WORDS:
            raise ValueError(f"a series has {WORDS} words, not {len(words)}")
        counters: dict[str, Any] = dict(zip(_COUNTERS, words[len(CODES) : len(CODES) + len(_COUNTERS)], strict=True))
        return cls(
            codes=tuple(words[: len(CODES)]),
            buckets=tuple(words[_HISTOGRAM : _HISTOGRAM + len(BOUNDS_US) + 1]),
            grpc=tuple(words[_GRPC : _GRPC + len(GRPC_CODES)]),
            faults=words[_FAULTS],
            **counters,
        )

    def __add__(self, other: Series) -> Series:
        """Both together, word by word."""
        return Series.of([a + b for a, b in zip(self.words(), other.words(), strict=True)])

    def words(self) -> list[int]:
        """What `of` takes."""
        counters = [getattr(self, name) for name in _COUNTERS]
        before = [*self.codes, *counters, *[0] * (_HISTOGRAM - len(CODES) - len(counters)), *self.buckets]
        return [*before, *self.grpc, self.faults, *[0] * (WORDS - _FAULTS - 1)]

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: (upper bound in seconds, count at or below it), ending with +Inf."""
        rows, count = [], 0
        for bound, n in zip((*BOUNDS_US, None), self.buckets, strict=True):
            count += n
            rows.append(("+Inf" if bound is None else repr(bound / 1e6), float(count)))
        return rows
