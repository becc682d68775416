"""How figures are written, the same in every form of the report."""

from __future__ import annotations

from bench.report.analysis import Verdict, Versus
from bench.results import Metric
from bench.stats import Summary

NOTHING = "-"


def number(value: float, metric: Metric) -> str:
    return f"{value:,.{metric.digits}f}"


def spread(found: Summary) -> str:
    """`±5%`, the farthest run's distance from the median; "" for a single run."""
    return f"±{found.spread:.0%}" if found.count > 1 else ""


def value(found: Summary | None, metric: Metric) -> str:
    """`12.34 ±5%`; `1 (0 to 2)` for a count, of which a share says little; or a dash."""
    if found is None:
        return NOTHING
    middle = number(found.median, metric)
    if metric.ratio or found.count == 1:
        return f"{middle} {spread(found)}".rstrip()
    return f"{middle} ({number(found.low, metric)} to {number(found.high, metric)})"


def times(ratio: float) -> str:
    """A ratio to two places, or to three significant digits where that says more."""
    return f"{ratio:.2f}" if 0.1 <= ratio < 100 else f"{ratio:.3g}"


def ratio(found: Versus) -> str:
    """`0.91x`, or a dash for a metric without ratios."""
    return f"{times(found.ratio.median)}x" if found.ratio else NOTHING


def interval(found: Summary | None) -> str:
    """`0.67 to 0.98`, the 99 % interval; "" for a single run, of which none is claimed."""
    return f"{times(found.lower)} to {times(found.upper)}" if found and found.count > 1 else ""


def full_ratio(found: Versus) -> str:
    """`0.91x (0.67 to 0.98)`."""
    between = interval(found.ratio)
    return ratio(found) + (f" ({between})" if between else "")


def aside(found: Verdict | None, headline: Metric) -> str:
    """The metric of a limit that is not about the headline: `p99.9 ms`; else ""."""
    return found.metric.title if found is not None and found.metric != headline else ""


def wanted(found: Verdict) -> str:
    """The limit: `at most 0.7x haproxy, nginx or envoy`, `at least 97.0`."""
    limit = found.limit
    bound = f"at {'most' if found.metric.better == 'lower' else 'least'}"
    if not limit.peers:
        return f"{bound} {number(limit.bound, found.metric)}"
    *others, last = limit.peers
    return f"{bound} {limit.bound:g}x {' or '.join([', '.join(others), last] if others else [last])}"


def wanted_beside(found: Verdict, headline: Metric) -> str:
    """The limit where the headline is told already: `at most 0.7x nginx`, `p99.9 ms at most 0.8x nginx`."""
    return f"{aside(found, headline)} {wanted(found)}".lstrip()


def reached(found: Verdict) -> str:
    """What stands against the limit: `0.66x nginx`, `1,075`, or a dash."""
    if found.found is None:
        return NOTHING
    if found.peer:
        return f"{times(found.found.median)}x {found.peer}"
    return number(found.found.median, found.metric)


def against_limit(found: Verdict) -> str:
    """`CPU µs/request at most 1x nginx: met (0.91x nginx)`."""
    tail = f" ({reached(found)})" if found.found else ""
    return f"{found.metric.title} {wanted(found)}: {met(found)}{tail}"


def met(found: Verdict | None) -> str:
    """`met`, `missed`, `not measured`, or `none` where there is no limit."""
    return "none" if found is None else {True: "met", False: "missed", None: "not measured"}[found.met]


def direction(metric: Metric) -> str:
    return f"{metric.better} is better"
