"""Latency histograms as they lie in samples: read, merged, and turned into the points of a percentile plot."""

from __future__ import annotations

import binascii
import math
import zlib
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

from bench.errors import BenchError

_PER_DECADE = 24
# What hdrh raises for text that is no histogram; its own errors have no common base.
_UNREADABLE = (ValueError, TypeError, IndexError, AttributeError, binascii.Error, zlib.error)


def merged(texts: Iterable[str], what: str) -> HdrHistogram | None:
    """All the histograms (base64 of HDR V2, in µs) as one; None for none.

    Raises BenchError, with `what` to say whose they are, if one cannot be read.
    """
    whole: HdrHistogram | None = None
    for text in texts:
        try:
            one = HdrHistogram.decode(text.encode())
        except Exception as error:
            if isinstance(error, _UNREADABLE) or type(error).__module__.startswith("hdrh"):
                raise BenchError(f"{what}: a latency histogram cannot be read: {error!r}") from error
            raise
        if whole is None:
            whole = one
        else:
            whole.add(one)
    return whole


def curve(histogram: HdrHistogram) -> tuple[list[float], list[float]]:
    """Points (1/(1-p), latency in µs) from the lowest value to the highest, evenly spaced on a logarithmic axis; the
    highest of n stands at n.

    The axis is that of HdrHistogram's own plotter (G. Tene): each decade is one more nine of the percentile.
    """
    count = histogram.get_total_count()
    if not count:
        return [], []
    steps = math.floor(math.log10(count) * _PER_DECADE)
    places = [10 ** (step / _PER_DECADE) for step in range(steps + 1)]
    if places[-1] < count:
        places.append(float(count))
    below = [float(histogram.get_value_at_percentile(100 * (1 - 1 / x))) for x in places[:-1]]
    return places, [*below, float(histogram.get_value_at_percentile(100))]
