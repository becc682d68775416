"""Shares of requests by weights that are any numbers, spread evenly, at a constant cost whatever the weights.

gRPC's static stride scheduler (gRFC A58): a sequence number names an endpoint (its remainder by their number) and a
generation (the quotient). The endpoint is taken in as many of 65,535 generations as its weight, scaled so that the
largest weight is 65,535, and passed over in the others; which ones follows from the number alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_FULL = 65_535
_OFFSET = 32_767
# Weights above or below these multiples of the mean count as those: so that few numbers are passed over.
_MOST = 10.0
_LEAST = 0.01


class Stride:
    """Turns among `size` endpoints; `sequence` is the number of the first turn. All weights are equal until `fill`."""

    def __init__(self, size: int, sequence: int = 0) -> None:
        self.size = size
        self.sequence = sequence
        self.weights = array("i", (_FULL,)) * size

    def fill(self, weights: Sequence[float]) -> bool:
        """Take `weights` of all endpoints; 0 stands for the mean of the others. Of fewer than two weights nothing
        can be said: False, and all are equal."""
        known = [weight for weight in weights if weight > 0]
        if len(known) < 2:
            for i in range(self.size):
                self.weights[i] = _FULL
            return False
        mean = sum(known) / len(known)
        top = min(max(known), _MOST * mean)
        least = max(round(_FULL * mean / top * _LEAST), 1)
        for i, weight in enumerate(weights):
            share = min(weight, top) if weight > 0 else mean
            self.weights[i] = max(round(_FULL * share / top), least)
        return True

    def next(self) -> int:
        """The endpoint whose turn it is, of `size` of at least 1."""
        while True:
            index = self.step()
            if index >= 0:
                return index

    def step(self) -> int:
        """The next number: the endpoint that it names, or -1 where that one is passed over."""
        index = self.sequence % self.size
        generation = self.sequence // self.size
        self.sequence += 1
        weight = self.weights[index]
        at = (weight * (generation % _FULL) + index * _OFFSET) % _FULL
        return index if at >= _FULL - weight else -1
