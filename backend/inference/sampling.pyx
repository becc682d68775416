"""Which inferences get spans: see sampling.pxd."""


cdef class Sampling:

    def __init__(self, on: bool, rate: int, count: int) -> None:
        """`count`: how many inferences whose caller has no trace get spans; -1: there is no end. Raises OverflowError
        for a `rate` that is not from 0 to 2**32 - 1."""
        self.on = on
        self.rate = rate
        self.left = count

    cdef bint takes(self) noexcept:
        if not self.on or self.rate == 0:
            return False
        self.passed += 1
        if self.passed < self.rate:
            return False
        self.passed = 0
        if self.left == 0:
            return False
        if self.left > 0:
            self.left -= 1
        return True
