"""Which shares are likely, given how many of so many answers had a property: bounds that hold however often one looks.

A test that is made for one look finds a difference sooner or later where there is none, when it is repeated with each
answer. These bounds do not: the chance that a bound is wrong at any time is at most `ALPHA`/(1 - `ALPHA`). They are by
Ville's inequality for the mixture of all shares with Jeffreys' prior, Beta(1/2, 1/2), against one share (Robbins 1970,
"Statistical methods related to the law of the iterated logarithm"; the mixture is the estimator of Krichevsky and
Trofimov 1981). A share is excluded when the mixture explains the answers 1/`ALPHA` times better.
"""

from __future__ import annotations

from math import inf, lgamma, log, pi

ALPHA = 0.001
_ENOUGH = -log(ALPHA)
_STEPS = 40  # of the bisection: the bounds are exact to 1e-12
_LOG_PI = log(pi)  # of the Beta function at (1/2, 1/2)


def lower_bound(found: int, count: int) -> float:
    """The least share that `found` of `count` answers leave possible; 0 for no answers."""
    if not 0 <= found <= count:
        raise ValueError(f"{found} of {count}")
    if found == 0:
        return 0.0
    return _bound(found, count, 0.0, found / count)


def upper_bound(found: int, count: int) -> float:
    """The largest share that `found` of `count` answers leave possible; 1 for no answers."""
    return 1.0 - lower_bound(count - found, count)


def _bound(found: int, count: int, excluded: float, likely: float) -> float:
    """Between a share that is excluded and one that is not, the first that is not."""
    mixture = lgamma(found + 0.5) + lgamma(count - found + 0.5) - lgamma(count + 1.0) - _LOG_PI
    for _ in range(_STEPS):
        middle = (excluded + likely) / 2
        if mixture - _likelihood(found, count, middle) >= _ENOUGH:
            excluded = middle
        else:
            likely = middle
    return excluded


def _likelihood(found: int, count: int, share: float) -> float:
    """The logarithm of the chance of these answers, in their order, where each has the property with the chance
    `share`."""
    if share <= 0.0:
        return 0.0 if found == 0 else -inf
    if share >= 1.0:
        return 0.0 if found == count else -inf
    return found * log(share) + (count - found) * log(1.0 - share)
