"""Shares of requests by weights that are any numbers, spread evenly, at a constant cost whatever the weights.

gRPC's static stride scheduler (gRFC A58): a sequence number names an endpoint (its remainder by their number) and a
generation (the quotient). The endpoint is taken in as many of 65,535 generations as its weight, scaled so that the
largest weight is 65,535, and passed over in the others; which ones follows from the number alone.
"""

from array import array

from libc.stdint cimport uint64_t

cdef uint64_t FULL = 65_535
cdef uint64_t OFFSET = 32_767
# Weights above or below these multiples of the mean count as those: so that few numbers are passed over.
cdef double MOST = 10.0
cdef double LEAST = 0.01


cdef class Stride:
    """Turns among `size` endpoints; `sequence` is the number of the first turn. All weights are equal until `fill`."""

    def __init__(self, size: int, sequence: int = 0) -> None:
        self.size = size
        self.sequence = sequence
        self.weights = array("i", (FULL,)) * size

    cpdef bint fill(self, weights) except -1:
        """Take `weights` of all endpoints; 0 stands for the mean of the others. Of fewer than two weights nothing
        can be said: False, and all are equal."""
        cdef int i
        cdef double share, top, mean, least
        known = [weight for weight in weights if weight > 0]
        if len(known) < 2:
            for i in range(self.size):
                self.weights[i] = FULL
            return False
        mean = sum(known) / len(known)
        top = min(max(known), MOST * mean)
        least = max(round(FULL * mean / top * LEAST), 1)
        for i, weight in enumerate(weights):
            share = min(weight, top) if weight > 0 else mean
            self.weights[i] = max(round(FULL * share / top), least)
        return True

    cpdef int next(self) noexcept:
        """The endpoint whose turn it is, of `size` of at least 1."""
        cdef int index
        while True:
            index = self.step()
            if index >= 0:
                return index

    cdef int step(self) noexcept:
        """The next number: the endpoint that it names, or -1 where that one is passed over."""
        cdef uint64_t index = self.sequence % self.size
        cdef uint64_t generation = self.sequence // self.size
        cdef uint64_t weight, at
        self.sequence += 1
        weight = self.weights[index]
        at = (weight * (generation % FULL) + index * OFFSET) % FULL
        return index if at >= FULL - weight else -1
