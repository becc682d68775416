"""Whether counts agree with what they should be, without a statistics package."""

from __future__ import annotations

import math
from collections.abc import Sequence


def chi_square_limit(degrees: int) -> float:
    """The value that a chi-square statistic exceeds once in a million times (Wilson and Hilferty 1931)."""
    z = 4.753  # the normal distribution's 1 - 1e-6 quantile
    part = 2 / (9 * degrees)
    return degrees * (1 - part + z * math.sqrt(part)) ** 3


def agrees(counts: Sequence[int], expected: Sequence[float]) -> bool:
    """Whether `counts` can come from shares in proportion to `expected`. Zero must be met exactly."""
    scale = sum(counts) / sum(expected)
    if any(count for count, share in zip(counts, expected, strict=True) if share == 0):
        return False
    terms = [
        (count - share * scale) ** 2 / (share * scale) for count, share in zip(counts, expected, strict=True) if share
    ]
    return len(terms) == 1 or sum(terms) < chi_square_limit(len(terms) - 1)
